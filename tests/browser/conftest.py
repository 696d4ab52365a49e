"""A real Chromium: the system's, or Debian's where it may be installed. Where neither can be, these tests say so."""

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.browser.console import COOKIE, Live

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
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def live(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A gateway and a console for all these files. What a test makes there has a name of its own, and what it changes
    it puts back.
    """
    live = Live(tmp_path_factory.mktemp("console"))
    yield live
    live.close()


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One window for the tests of a file, whoever they are: what pages are made of is fetched once for a context."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(15_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, live: Live) -> Iterator[Page]:
    """A page of the admin. No script of it may fail."""
    yield from _page(context, live, live.admin)


@pytest.fixture
def phone(page: Page) -> Page:
    """A page on the admin's phone."""
    page.set_viewport_size({"width": 390, "height": 844})
    return page


@pytest.fixture
def reader(context: BrowserContext, live: Live) -> Iterator[Page]:
    """A page of somebody who may only look."""
    yield from _page(context, live, live.reader)


@pytest.fixture
def stranger(context: BrowserContext, live: Live) -> Iterator[Page]:
    """A page of somebody who has not logged in."""
    yield from _page(context, live, None)


def _page(context: BrowserContext, live: Live, token: str | None) -> Iterator[Page]:
    context.clear_cookies()
    if token is not None:
        context.add_cookies([{"name": COOKIE, "value": token, "url": live.console.url, "httpOnly": True}])
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    page.close()
    assert faults == []
