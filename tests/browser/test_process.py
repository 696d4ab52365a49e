"""The console as `serve` starts it: beside the gateway, never in its way. And what it says when the gateway is gone."""

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.console import Console, Live, settings, until, visit
from tests.e2e.gateway import ADMIN_KEY, Process, runs, simulated


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A gateway that has a console of its own."""
    process = Process(tmp_path_factory.mktemp("served"), simulated() | {"console": "127.0.0.1:0"})
    yield process
    process.close()


def consoles(gateway: Process) -> list[psutil.Process]:
    """The console processes of a gateway that run."""
    found = []
    for one in psutil.Process(gateway.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # one that has just ended
            if "fareclass.console.process" in one.cmdline():
                found.append(one)
    return found


def link_of(gateway: Process, scheme: str = "http") -> str:
    """What it printed."""
    link = re.search(rf"Console +({scheme}://127\.0\.0\.1:\d+)\n", gateway.said)
    assert link
    return link[1]


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/login", timeout=5, verify=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_serve_starts_it_and_starts_it_again(served: Process):
    """Its process may die, and holds no secret of the gateway."""
    link = link_of(served)
    until(lambda: answers(link), 30)
    (first,) = consoles(served)
    assert not any("FARECLASS_ADMIN_KEY" in name for name in first.environ())
    first.kill()
    until(lambda: any(one.pid != first.pid for one in consoles(served)), 30)
    until(lambda: answers(link), 30)


def test_the_gateway_leads_to_it(served: Process):
    answer = httpx.get(f"{served.url}/console")
    assert (answer.status_code, answer.headers["location"].rstrip("/")) == (307, link_of(served))
    assert httpx.get(f"{served.url}/healthz").status_code == 200


def test_its_read_only_key_lies_beside_the_master_key(served: Process):
    """R51: 0600, and good for looking alone."""
    file = served.folder / "keys" / "read-only.key"
    assert file.stat().st_mode & 0o777 == 0o600
    key = file.read_text().strip()
    with httpx.Client(base_url=f"{served.url}/admin/v1", headers={"authorization": f"Bearer {key}"}) as client:
        assert client.get("/self").json() == {"role": "read_only"}
        assert client.get("/projects").status_code == 200
        refused = client.post("/projects", json={"name": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    admin = httpx.get(f"{served.url}/admin/v1/self", headers={"authorization": f"Bearer {ADMIN_KEY}"})
    assert admin.json() == {"role": "admin"}


def test_a_taken_port_is_told_and_the_gateway_serves(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        gateway = Process(tmp_path, simulated() | {"console": place})
        try:
            assert f"No console: can't listen on {place}: another program uses it" in gateway.said
            assert httpx.get(f"{gateway.url}/healthz").status_code == 200
            answer = httpx.get(f"{gateway.url}/console")
            assert answer.status_code == 404
            assert consoles(gateway) == []
        finally:
            gateway.close()


def test_it_ends_with_the_gateway(served: Process):
    """However the gateway ends."""
    until(lambda: bool(consoles(served)), 10)
    (console,) = consoles(served)
    served.close()  # a kill
    until(lambda: not runs(console), 20)


def test_with_a_certificate_both_speak_tls(tmp_path: Path):
    """R51: the console has the gateway's certificate, trusts that one alone, and its cookie goes over TLS only."""
    data = Path(__file__).parents[1] / "data"
    tls = {"cert": str(data / "tls-cert.pem"), "key": str(data / "tls-key.pem")}
    gateway = Process(tmp_path, simulated() | {"console": "127.0.0.1:0", "tls": tls})
    try:
        link = link_of(gateway, "https")
        with httpx.Client(base_url=link, headers={"origin": link}, verify=False, timeout=20) as client:
            until(lambda: answers(link), 30)
            answer = client.post("/login", data={"key": ADMIN_KEY})
            assert answer.status_code == 303, answer.text
            assert "; secure" in answer.headers["set-cookie"].lower()
            assert client.get("/projects").status_code == 200
    finally:
        gateway.close()


def test_a_gateway_that_is_gone_is_told_and_found_again(browser: Browser, tmp_path: Path):
    """A page keeps what it showed, says what is wrong, and goes on by itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    gateway = Process(tmp_path, settings(listen=f"127.0.0.1:{port}"))
    console = Console(gateway.url, tmp_path)
    live = Live(gateway, console, browser)
    try:
        context = live.context(console.log_in())
        page = context.new_page()
        visit(page, live, "/pools")
        alert = page.get_by_role("alert").locator("visible=true")
        gateway.close()
        expect(alert).to_contain_text(f"The gateway at {gateway.url} can't be reached", timeout=15_000)
        expect(page.get_by_text("slots in use").first).to_be_visible()
        page.goto(f"{console.url}/projects")
        expect(alert).to_contain_text("can't be reached")
        with console.http() as client:
            refused = client.post("/login", data={"key": ADMIN_KEY})
            assert refused.status_code == 502 and "can&#x27;t be reached" in refused.text
        page.goto(f"{console.url}/pools")
        expect(alert).to_contain_text("can't be reached")
        gateway = Process(tmp_path)
        expect(alert).to_have_count(0, timeout=15_000)
        expect(page.get_by_text("slots in use").first).to_be_visible()
        context.close()
    finally:
        live.close()
        console.close()
        gateway.close()
