"""The console as `serve` starts it: beside the gateway, never in its way."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest

from fareclass.console.settings import ChildSettings, Settings
from tests.browser.console import until
from tests.e2e.gateway import ADMIN_KEY, Process, runs, simulated


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A gateway that has a console of its own, and a certificate."""
    data = Path(__file__).parents[1] / "data"
    tls = {"cert": str(data / "tls-cert.pem"), "key": str(data / "tls-key.pem")}
    process = Process(tmp_path_factory.mktemp("served"), simulated() | {"console": "127.0.0.1:0", "tls": tls})
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


def link_of(gateway: Process) -> str:
    """What it printed."""
    link = re.search(r"Console +(https://127\.0\.0\.1:\d+)\n", gateway.said)
    assert link
    return link[1]


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/login", timeout=5, verify=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_no_signal_but_a_kill_ends_it(served: Process):
    """Ctrl-C in the gateway's terminal or a stop of its whole group: the gateway decides, after its drain."""
    link = link_of(served)
    until(lambda: answers(link), 30)
    (console,) = consoles(served)
    assert os.getsid(console.pid) != os.getsid(served.pid)
    status = Path(f"/proc/{console.pid}/status").read_text()
    ignored = int(re.search(r"SigIgn:\t(\w+)", status)[1], 16)  # type: ignore[index]
    for number in (signal.SIGINT, signal.SIGTERM):
        console.send_signal(number)
        assert ignored >> (number - 1) & 1, number.name
    assert answers(link)
    assert consoles(served) == [console]


def test_both_speak_tls(served: Process):
    """R51: the console has the gateway's certificate, trusts that one alone, and its cookie goes over TLS only."""
    link = link_of(served)
    until(lambda: answers(link), 30)
    with httpx.Client(base_url=link, headers={"origin": link}, verify=False, timeout=20) as client:
        answer = client.post("/login", data={"key": ADMIN_KEY})
        assert answer.status_code == 303, answer.text
        assert "; secure" in answer.headers["set-cookie"].lower()
        assert client.get("/projects").status_code == 200


def test_the_gateway_leads_to_it(served: Process):
    answer = httpx.get(f"{served.url}/console", verify=False)
    assert (answer.status_code, answer.headers["location"].rstrip("/")) == (307, link_of(served))
    assert httpx.get(f"{served.url}/healthz", verify=False).status_code == 200


def test_its_read_only_key_lies_beside_the_master_key(served: Process):
    """R51: 0600, and good for looking alone."""
    file = served.folder / "keys" / "read-only.key"
    assert file.stat().st_mode & 0o777 == 0o600
    with httpx.Client(base_url=f"{served.url}/admin/v1", verify=False) as client:
        client.headers["authorization"] = f"Bearer {file.read_text().strip()}"
        assert client.get("/self").json() == {"role": "read_only"}
        assert client.get("/projects").status_code == 200
        refused = client.post("/projects", json={"name": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
        client.headers["authorization"] = f"Bearer {ADMIN_KEY}"
        assert client.get("/self").json() == {"role": "admin"}


@pytest.mark.slow
def test_serve_starts_it_again(served: Process):
    """Its process may die, and holds no secret of the gateway."""
    link = link_of(served)
    until(lambda: answers(link), 30)
    (first,) = consoles(served)
    assert not any("FARECLASS_ADMIN_KEY" in name for name in first.environ())
    first.kill()
    until(lambda: any(one.pid != first.pid for one in consoles(served)), 30)
    until(lambda: answers(link), 30)


def test_it_ends_with_the_gateway(served: Process):
    """However the gateway ends."""
    until(lambda: bool(consoles(served)), 10)
    (console,) = consoles(served)
    served.close()  # a kill
    until(lambda: not runs(console), 20)


def test_it_ends_with_the_gateway_while_it_still_loads():
    """What it was told to listen on is none: it would say so if it had come so far."""
    told = ChildSettings(settings=Settings(gateway="http://127.0.0.1:1"), fd=999)
    words = [sys.executable, "-P", "-m", "fareclass.console.process"]
    done = subprocess.run(words, input=msgspec.json.encode(told) + b"\n", capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


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
