"""A real Chromium: the system's, or Debian's where it may be installed. Where neither can be, these tests say so."""

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.browser.console import Console, Live, settings
from tests.e2e.gateway import Process

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_INSTALL_S = 300


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium."""
    found = _found()
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        for words in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
            done = subprocess.run(["apt-get", *words], capture_output=True, text=True, timeout=_INSTALL_S, check=False)
            if done.returncode:
                pytest.skip(f"no Chromium, and `apt-get {words[0]}` failed: {done.stderr.strip()[-300:]}")
        found = _found()
    if found is None:
        pytest.skip("no Chromium on this machine, and it can't be installed from here: install Debian's `chromium`")
    return found


def _found() -> str | None:
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """One browser for the tests of a file; each has contexts of its own. Its event loop must be over for other files'."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def live(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A gateway and a console for the tests of one file."""
    folder = tmp_path_factory.mktemp("console")
    gateway = Process(folder, settings())
    try:
        console = Console(gateway.url, folder)
        try:
            yield (made := Live(gateway, console, browser))
            made.close()
        finally:
            console.close()
    finally:
        gateway.close()


@pytest.fixture(scope="module")
def admin_token(live: Live) -> str:
    """The cookie of somebody who logged in with the admin key."""
    return live.console.log_in()


@pytest.fixture(scope="module")
def reader_token(live: Live) -> str:
    """The cookie of somebody who logged in with the read-only key."""
    return live.console.log_in(live.read_only_key)


# What a page is made of is fetched once for a context, so the tests of a file share theirs.


@pytest.fixture(scope="module")
def admin_context(live: Live, admin_token: str) -> Iterator[BrowserContext]:
    """A browser in which the admin is logged in."""
    context = live.context(admin_token)
    yield context
    context.close()


@pytest.fixture(scope="module")
def reader_context(live: Live, reader_token: str) -> Iterator[BrowserContext]:
    """A browser in which somebody is who may only look."""
    context = live.context(reader_token)
    yield context
    context.close()


@pytest.fixture(scope="module")
def phone_context(live: Live, admin_token: str) -> Iterator[BrowserContext]:
    """The admin's phone."""
    context = live.context(admin_token, viewport={"width": 390, "height": 844})
    yield context
    context.close()


@pytest.fixture
def page(admin_context: BrowserContext) -> Iterator[Page]:
    """A page of the admin. No script of it may fail."""
    yield from _page(admin_context)


@pytest.fixture
def reader(reader_context: BrowserContext) -> Iterator[Page]:
    """A page of somebody who may only look."""
    yield from _page(reader_context)


@pytest.fixture
def phone(phone_context: BrowserContext) -> Iterator[Page]:
    """A page on the admin's phone."""
    yield from _page(phone_context)


def _page(context: BrowserContext) -> Iterator[Page]:
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    page.close()
    assert faults == []
