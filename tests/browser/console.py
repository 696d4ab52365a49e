"""A console under test, as a process of its own before a real gateway, and its pages in a real Chromium."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, expect

from tests.browser.front import MODEL, Front
from tests.e2e.gateway import ADMIN_KEY, PRICE, Process, chat

COOKIE = "fareclass_console"
OTHER = "slow"
RESERVED = {"input": "0.021", "output": "0.084"}


def settings(**more: Any) -> dict[str, Any]:
    """A fleet without a model: one pool that can be reserved, and a slow one whose capacity nobody knows."""
    engine = {"kind": "simulated", "replicas": 2, "slots": 4, "base_us": 4_000, "sequence_us": 500}
    capacity = {"input_tpm": 1_000_000, "output_tpm": 100_000}
    models = {
        MODEL: {"engine": engine, "price": PRICE, "reserved_price": RESERVED, "capacity": capacity},
        OTHER: {"engine": {"kind": "simulated", "slots": 8, "base_us": 1_000_000}, "price": PRICE},
    }
    return {"models": models, **more}


class Console:
    """`fareclass console` before a gateway."""

    def __init__(self, gateway: str, folder: Path) -> None:
        words = [sys.executable, "-m", "fareclass", "console", "--url", gateway, "--listen", "127.0.0.1:0"]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        self.log = folder / "console.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, env=environ)
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith("Console of "), line + self.log.read_text()
        self.url = line.split()[-1]

    def http(self, source: str = "127.0.0.1") -> httpx.Client:
        """A client at this address that keeps cookies, as a browser on the console's own pages does."""
        transport = httpx.HTTPTransport(local_address=source)
        return httpx.Client(base_url=self.url, headers={"origin": self.url}, timeout=30, transport=transport)

    def log_in(self, key: str = ADMIN_KEY) -> str:
        """The cookie of a new session."""
        with self.http() as client:
            answer = client.post("/login", data={"key": key})
            assert answer.status_code == 303, answer.text
            return str(client.cookies[COOKIE])

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        if self.process.stdout is not None:
            self.process.stdout.close()


class Live:
    """A gateway, its console, and what stands between them. `admin` and `reader` are the cookies of two who logged in."""

    def __init__(self, folder: Path) -> None:
        with ExitStack() as stack:
            self.gateway = Process(folder, settings())
            stack.callback(self.gateway.close)
            self.api = httpx.Client(base_url=f"{self.gateway.url}/admin/v1", headers=bearer(ADMIN_KEY), timeout=30)
            stack.callback(self.api.close)
            self.front = Front(self.gateway.url, self.api.get("/projects/default").json()["id"])
            stack.callback(self.front.close)
            self.console = Console(self.front.url, folder)
            stack.callback(self.console.close)
            self.admin = self.console.log_in()
            self.reader = self.console.log_in((folder / "keys" / "read-only.key").read_text().strip())
            self._stack = stack.pop_all()

    def project(self, name: str) -> dict[str, Any]:
        """A new one."""
        made: dict[str, Any] = self.api.post("/projects", json={"name": name}).raise_for_status().json()
        return made

    def ask(self, **fields: object) -> httpx.Response:
        """A request of the first project."""
        url = f"{self.gateway.url}/v1/chat/completions"
        return httpx.post(url, json=chat(**fields), headers=bearer(self.gateway.key), timeout=60)

    def close(self) -> None:
        self._stack.close()


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


NAMELESS = """[...document.querySelectorAll('input, textarea, button, a[href]')].filter(one => {
    if (one.type === 'hidden' || one.closest('[aria-hidden=true]')) return false;
    const label = one.getAttribute('aria-label') || (one.labels && one.labels[0] && one.labels[0].textContent);
    return !(label || one.textContent || '').trim();
}).map(one => one.outerHTML.slice(0, 200))"""
"""What can be used on a page and has no name to read out."""


def visit(page: Page, live: Live, path: str, title: str | None = None) -> Page:
    """Go to a page, and wait until it is there and its socket is open."""
    page.goto(live.console.url + path)
    expect(page.get_by_role("heading", level=1, name=title) if title else page.locator("h1")).to_be_visible()
    page.wait_for_function("window.socket && window.socket.connected")
    return page


def choose(page: Page, label: str, option: str) -> None:
    """Choose in a select, by the keyboard as far as that goes."""
    field = page.get_by_role("combobox", name=label, exact=True).last
    field.focus()
    field.press("ArrowDown")
    page.get_by_role("option", name=option, exact=True).click()
    expect(page.get_by_role("listbox")).to_have_count(0)


def row_of(page: Page, text: str) -> Any:
    """The first row of a table that has this text."""
    return page.locator("tbody tr", has_text=text).first


def until(check: Callable[[], bool], within_s: float) -> None:
    """Wait until something holds."""
    ends = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < ends, f"not within {within_s} s"
        time.sleep(0.05)


def usable_on_a_phone(page: Page) -> None:
    """Nothing scrolls sideways but tables in themselves; every field and button has a name that can be read out."""
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(NAMELESS) == []


def planned(page: Page, live: Live) -> Page:
    """The plan page, with a plan."""
    visit(page, live, "/plan")
    page.get_by_role("button", name="Make a plan").click()
    expect(page.get_by_role("heading", name="What if we reserved at")).to_be_visible(timeout=30_000)
    return page
