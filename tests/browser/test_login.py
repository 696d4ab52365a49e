"""Who may come in and how one gets around, what of the console a browser gets to hold, and what other sites can do with it (R51)."""

import json
import re
import socket

import httpx
import pytest
from playwright.sync_api import Page, expect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from fareclass.core.limits import HEAD_BYTES
from tests.browser.console import COOKIE, Live, row_of, usable_on_a_phone, visit
from tests.e2e.gateway import ADMIN_KEY

OUT_OF_SIGHT = """row => [...row.querySelectorAll('td')].filter(one => {
    const box = one.getBoundingClientRect();
    return box.right > 390 || one.scrollWidth > one.clientWidth || box.bottom > row.getBoundingClientRect().bottom + 1;
}).map(one => one.textContent)"""
"""The cells of a row that are not seen whole on a phone."""


def log_in(page: Page, key: str) -> None:
    page.get_by_label("Admin key or read-only key").fill(key)
    page.keyboard.press("Enter")


def test_in_and_out_again(live: Live, stranger: Page):
    """R51: a wrong key is told, the right one leads on to what was asked for. The browser never holds it: no storage,
    no cookie that a script can read, no address, no page. Nothing comes from elsewhere: all works without a network but
    that to the console. Who logs out is out in the other tabs too.
    """
    page, context, addresses = stranger, stranger.context, []
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(f"{live.console.url}/reservations")
    log_in(page, "not-the-key")
    expect(page.get_by_role("alert")).to_have_text("The gateway does not know this key.")
    page.goto(f"{live.console.url}/reservations")
    log_in(page, ADMIN_KEY)
    expect(page.get_by_role("heading", level=1)).to_have_text("Reservations")
    held = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
    assert ADMIN_KEY not in held + page.content() + " ".join(addresses)
    assert COOKIE not in held
    cookie = next(one for one in context.cookies() if one["name"] == COOKIE)
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and ADMIN_KEY not in cookie["value"]
    other = context.new_page()
    other.on("request", lambda request: addresses.append(request.url))
    visit(other, live, "/tiers")
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(f"{live.console.url}/login")
    expect(other).to_have_url(f"{live.console.url}/login")
    answer = httpx.get(f"{live.console.url}/pools", cookies={COOKIE: cookie["value"]}, headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/pools")
    assert {httpx.URL(address).host for address in addresses} == {"127.0.0.1"}
    other.close()


def changes_nothing(reader: Page, live: Live, path: str) -> None:
    visit(reader, live, path)
    for name in ("New", "Change", "Set"):
        expect(reader.get_by_role("button", name=name)).to_have_count(0)


def test_the_read_only_key_shows_everything_and_changes_nothing(live: Live, reader: Page):
    live.project("seen")
    changes_nothing(reader, live, "/projects")
    expect(reader.get_by_text("read-only", exact=True)).to_be_visible()
    expect(reader.get_by_role("link", name="seen")).to_be_visible()
    changes_nothing(reader, live, "/projects/seen")
    changes_nothing(reader, live, "/pools")
    visit(reader, live, "/playground")
    expect(reader.get_by_role("button", name="Send on each tier")).to_be_disabled()
    expect(reader.get_by_text("changes need the admin key")).to_be_visible()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/reservations", "/workloads", "/routes"])
def test_nor_does_it_on_another_page(live: Live, reader: Page, path: str):
    changes_nothing(reader, live, path)


# How one gets around


def test_two_pages_on_a_phone(live: Live, phone: Page):
    """Nothing scrolls sideways, everything has a name; the navigation folds."""
    visit(phone, live, "/reservations")
    usable_on_a_phone(phone)
    visit(phone, live, "/pools")
    usable_on_a_phone(phone)
    link = phone.get_by_role("link", name="Audit")
    expect(link).not_to_be_in_viewport()
    phone.get_by_role("button", name="Menu").click()
    link.click()
    expect(phone.get_by_role("heading", level=1)).to_have_text("Audit")


def test_a_list_on_a_phone_cuts_nothing(live: Live, phone: Page):
    """Each value stands whole, with its column's name."""
    project = live.project("with-a-name-that-is-rather-long")
    live.api.put(f"/budgets/{project['id']}", json={"usd": "2.50", "per": "day"}).raise_for_status()
    visit(phone, live, "/audit")
    row = row_of(phone, "budget.set")
    expect(row).to_contain_text("project name with-a-name-that-is-rather-long, budget $2.50 / day")
    assert row.evaluate(OUT_OF_SIGHT) == []
    assert row.locator("td").nth(2).evaluate("one => getComputedStyle(one, '::before').content") == '"What"'
    visit(phone, live, f"/projects/{project['id']}")
    assert row_of(phone, "$2.50").evaluate(OUT_OF_SIGHT) == []


def test_keys_lead_everywhere_in_light_and_dark(live: Live, page: Page):
    """Dark or light by the system's preference until somebody chooses, and then for good."""
    page.emulate_media(color_scheme="dark")
    visit(page, live, "/pools")
    expect(page.locator("body")).to_have_class(re.compile("body--dark"))
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
    page.get_by_role("button", name="Dark or light").click()
    expect(page.locator("body")).to_have_class(re.compile("body--light"))
    page.wait_for_function("document.cookie.includes('fareclass_theme=light')")
    page.keyboard.press("g")
    page.keyboard.press("a")
    expect(page.get_by_role("heading", level=1)).to_have_text("Audit")
    expect(page.locator("body")).to_have_class(re.compile("body--light"))
    page.keyboard.press("/")
    expect(page.get_by_label("Find")).to_be_focused()
    page.keyboard.type("g p")
    expect(page.get_by_role("heading", level=1)).to_have_text("Audit")


# What others may try, by plain HTTP


def connected(live: Live) -> socket.socket:
    url = httpx.URL(live.console.url)
    return socket.create_connection((url.host, url.port), timeout=20)


def test_the_cookie_is_strict(live: Live):
    with live.console.http() as client:
        answer = client.post("/login", data={"key": ADMIN_KEY})
    words = {word.strip().lower() for word in answer.headers["set-cookie"].split(";")}
    assert {"httponly", "samesite=strict", "path=/"} <= words
    assert ADMIN_KEY not in str(answer.headers)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", None, "http://127.0.0.1:1"])
@pytest.mark.parametrize("path", ["/login", "/logout"])
def test_a_post_from_another_site_does_nothing(live: Live, origin: str | None, path: str):
    headers = {} if origin is None else {"origin": origin}
    cookies = {COOKIE: live.admin}
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


def test_the_socket_is_for_its_own_pages_alone(live: Live, page: Page):
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

    assert refused("https://evil.example", live.admin)
    assert refused(None, live.admin)
    assert refused(own, None)
    assert refused(own, "guessed")
    assert refused(own, live.reader), "another's page"
    assert refused(own, live.admin, address.replace("client_id=", "other="))
    assert not refused(own, live.admin)


def test_polling_is_no_way_around_the_socket(live: Live):
    answer = httpx.get(
        f"{live.console.url}/_nicegui_ws/socket.io/?EIO=4&transport=polling", cookies={COOKIE: live.admin}
    )
    assert answer.status_code == 400


def test_an_endless_head_is_cut_off(live: Live):
    with connected(live) as raw:
        raw.sendall(b"GET /login HTTP/1.1\r\nx-much: " + b"x" * HEAD_BYTES)
        assert raw.recv(1_000).startswith(b"HTTP/1.1 431 ")


def test_an_address_at_which_nothing_is(live: Live):
    with httpx.Client(base_url=live.console.url, cookies={COOKIE: live.admin}, follow_redirects=True) as client:
        for path in ("/nowhere", "/_nicegui/nowhere", "/projects/a/b"):
            answer = client.get(path)
            assert answer.status_code == 404 and "There is nothing at this address." in answer.text
        assert client.get("/pools/").status_code == 200


def test_the_log_is_lines_of_json_and_no_line_for_what_is_asked_in_vain(live: Live):
    """R51."""
    before = live.console.log.stat().st_size
    with httpx.Client(base_url=live.console.url, cookies={COOKIE: live.admin}) as client:
        assert client.get("/secret-path").status_code == 404
        assert client.get("/_nicegui/x/static/secret-path").status_code == 404
    with connected(live) as raw:
        raw.sendall(b"no HTTP\r\n\r\n")
        raw.recv(1_000)
    (line,) = live.console.log.read_bytes()[before:].splitlines()
    told = json.loads(line)
    assert (told["level"], told["message"]) == ("warning", "Invalid HTTP request received.")


def test_an_endless_form_is_cut_off(live: Live):
    with live.console.http() as client:
        assert client.post("/login", data={"key": "x" * 100_000}).status_code == 400
        assert client.post("/login", data={"key": "é"}).status_code == 400


def test_guessing_is_bounded(live: Live):
    """From one address: nobody logs in from there for a while, and who comes from another is not kept out."""
    with live.console.http(source="127.0.0.9") as client:
        seen = [client.post("/login", data={"key": f"guess-{number}"}).status_code for number in range(12)]
        assert seen[0] == 401 and seen[-1] == 429
        assert client.post("/login", data={"key": ADMIN_KEY}).status_code == 429
    assert live.console.log_in()
