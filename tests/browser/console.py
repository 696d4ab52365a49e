"""A console under test, as a process of its own before a real gateway, and its pages in a real Chromium."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.e2e.gateway import ADMIN_KEY, PRICE, Process

COOKIE = "fareclass_console"
MODEL, OTHER = "m", "slow"
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

    def http(self) -> httpx.Client:
        """A client that keeps cookies, as a browser on the console's own pages does."""
        return httpx.Client(base_url=self.url, headers={"origin": self.url}, timeout=30)

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
    """A gateway and its console, for the tests of one file."""

    def __init__(self, gateway: Process, console: Console, browser: Browser) -> None:
        self.gateway = gateway
        self.console = console
        self.browser = browser
        self.admin = httpx.Client(
            base_url=f"{gateway.url}/admin/v1", headers={"authorization": f"Bearer {ADMIN_KEY}"}, timeout=30
        )

    @property
    def read_only_key(self) -> str:
        return (self.gateway.folder / "keys" / "read-only.key").read_text().strip()

    def context(self, token: str | None, **more: Any) -> BrowserContext:
        """A browser of its own, logged in by this cookie."""
        context = self.browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | more))
        context.set_default_timeout(15_000)
        if token is not None:
            context.add_cookies([{"name": COOKIE, "value": token, "url": self.console.url, "httpOnly": True}])
        return context

    def project(self, name: str) -> dict[str, Any]:
        made: dict[str, Any] = self.admin.post("/projects", json={"name": name}).raise_for_status().json()
        return made

    def close(self) -> None:
        self.admin.close()


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
