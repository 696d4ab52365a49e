"""Who may come in, what of the console a browser gets to hold, and what other sites can do with it (R51)."""

import httpx
import pytest
from playwright.sync_api import Page, expect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.browser.console import COOKIE, Live, visit
from tests.e2e.gateway import ADMIN_KEY


def test_a_wrong_key_is_told_and_the_right_one_leads_on(live: Live):
    context = live.context(None)
    page = context.new_page()
    page.goto(f"{live.console.url}/reservations")
    page.get_by_label("Admin key or read-only key").fill("not-the-key")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The gateway does not know this key.")
    page.goto(f"{live.console.url}/reservations")
    page.get_by_label("Admin key or read-only key").fill(ADMIN_KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Reservations")
    context.close()


def test_the_browser_never_holds_the_key(live: Live):
    """R51: no storage, no cookie that a script can read, no address, no page."""
    context = live.context(None)
    page = context.new_page()
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(f"{live.console.url}/login")
    page.get_by_label("Admin key or read-only key").fill(ADMIN_KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Pools")
    held = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
    assert ADMIN_KEY not in held + page.content() + " ".join(addresses)
    assert COOKIE not in held
    cookie = next(one for one in context.cookies() if one["name"] == COOKIE)
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and ADMIN_KEY not in cookie["value"]
    context.close()


def test_nothing_comes_from_elsewhere(live: Live, page: Page):
    """It works without a network but that to the console."""
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(httpx.URL(request.url).host))
    visit(page, live, "/tiers")
    visit(page, live, "/costs")
    assert hosts == {"127.0.0.1"}


def test_logging_out_ends_the_session_and_the_other_tabs(live: Live):
    token = live.console.log_in()
    context = live.context(token)
    one, other = context.new_page(), context.new_page()
    visit(one, live, "/pools")
    visit(other, live, "/projects")
    one.get_by_role("button", name="Log out").click()
    expect(one).to_have_url(f"{live.console.url}/login")
    expect(other).to_have_url(f"{live.console.url}/login")
    answer = httpx.get(f"{live.console.url}/pools", cookies={COOKIE: token}, headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/pools")
    context.close()


def test_the_read_only_key_shows_everything_and_changes_nothing(live: Live, reader: Page):
    live.project("seen")
    visit(reader, live, "/projects")
    expect(reader.get_by_text("read-only", exact=True)).to_be_visible()
    expect(reader.get_by_role("link", name="seen")).to_be_visible()
    for path in ("/projects", "/projects/seen", "/reservations", "/pools", "/workloads", "/routes"):
        visit(reader, live, path)
        expect(reader.get_by_role("button", name="New")).to_have_count(0)
        expect(reader.get_by_role("button", name="Change")).to_have_count(0)
        expect(reader.get_by_role("button", name="Set")).to_have_count(0)
    visit(reader, live, "/playground")
    expect(reader.get_by_role("button", name="Send on each tier")).to_be_disabled()
    expect(reader.get_by_text("changes need the admin key")).to_be_visible()


# What others may try, by plain HTTP


def test_the_cookie_is_strict(live: Live):
    with live.console.http() as client:
        answer = client.post("/login", data={"key": ADMIN_KEY})
    words = {word.strip().lower() for word in answer.headers["set-cookie"].split(";")}
    assert {"httponly", "samesite=strict", "path=/"} <= words
    assert ADMIN_KEY not in str(answer.headers)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", None, "http://127.0.0.1:1"])
@pytest.mark.parametrize("path", ["/login", "/logout"])
def test_a_post_from_another_site_does_nothing(live: Live, admin_token: str, origin: str | None, path: str):
    headers = {} if origin is None else {"origin": origin}
    cookies = {COOKIE: admin_token}
    answer = httpx.post(f"{live.console.url}{path}", data={"key": ADMIN_KEY}, headers=headers, cookies=cookies)
    assert answer.status_code == 403
    assert httpx.get(f"{live.console.url}/pools", cookies=cookies).status_code == 200


def test_strangers_see_the_login_alone(live: Live):
    with httpx.Client(base_url=live.console.url) as client:
        for path in ("/pools", "/projects/x", "/_nicegui/x/static/nicegui.js", "/nowhere"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"cookie": f"{COOKIE}=guessed"}).status_code == 401
        page = client.get("/login?next=https://evil.example")
    assert page.status_code == 200 and "evil" not in page.text
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-frame-options"] == "DENY" and page.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "onward", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
)
def test_a_login_leads_nowhere_else(live: Live, onward: str):
    with live.console.http() as client:
        answer = client.post("/login", data={"key": ADMIN_KEY, "next": onward})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_the_socket_is_for_its_own_pages_alone(live: Live, page: Page, admin_token: str, reader_token: str):
    """R51: by Origin, by cookie, and by the page that it is for."""
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    visit(page, live, "/pools")
    address = sockets[0]
    own = live.console.url

    def refused(origin: str | None, token: str | None, url: str = address) -> bool:
        headers = {} if token is None else {"cookie": f"{COOKIE}={token}"}
        try:
            with connect(url, origin=origin, additional_headers=headers):  # type: ignore[arg-type]
                return False
        except InvalidStatus as error:
            return error.response.status_code == 403

    assert refused("https://evil.example", admin_token)
    assert refused(None, admin_token)
    assert refused(own, None)
    assert refused(own, "guessed")
    assert refused(own, reader_token), "another's page"
    assert refused(own, admin_token, address.replace("client_id=", "other="))
    assert not refused(own, admin_token)


def test_polling_is_no_way_around_the_socket(live: Live, admin_token: str):
    answer = httpx.get(
        f"{live.console.url}/_nicegui_ws/socket.io/?EIO=4&transport=polling", cookies={COOKIE: admin_token}
    )
    assert answer.status_code == 400


def test_an_endless_form_is_cut_off(live: Live):
    with live.console.http() as client:
        assert client.post("/login", data={"key": "x" * 100_000}).status_code == 400
        assert client.post("/login", data={"key": "é"}).status_code == 400


def test_guessing_is_bounded(live: Live):
    """Last in this file: from this address nobody logs in for a while."""
    with live.console.http() as client:
        seen = [client.post("/login", data={"key": f"guess-{number}"}).status_code for number in range(12)]
        assert seen[0] == 401 and seen[-1] == 429
        assert client.post("/login", data={"key": ADMIN_KEY}).status_code == 429
