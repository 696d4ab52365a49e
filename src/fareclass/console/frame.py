"""What is around every page: header, navigation, theme, keys, and the banner that says what is wrong."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from html import escape
from typing import NamedTuple

from nicegui import ui

from fareclass.console.client import ControlPlane, Trouble
from fareclass.console.session import Session
from fareclass.console.temporary import TemporaryKeys

THEME_COOKIE = "fareclass_theme"
READ_ONLY = "You are logged in with the read-only key: changes need the admin key."


class Page(NamedTuple):
    """One page: its path, its title in the navigation, its icon, and the key that leads to it after `g`."""

    path: str
    title: str
    icon: str
    key: str
    build: "Builder"


class Desk:
    """What a page works with: the control plane as the session's key opens it, the parameters of its address, and where
    trouble is told. `admin` says whether the session may change anything; `temporary` makes keys for the playground.
    """

    def __init__(
        self, control: ControlPlane, session: Session, params: Mapping[str, str], temporary: TemporaryKeys
    ) -> None:
        self.control = control
        self.temporary = temporary
        self.params = params
        self.admin = session.role == "admin"
        self._banner: ui.element | None = None
        self._text: ui.label | None = None

    def place_banner(self) -> None:
        """Where this page tells of trouble."""
        with ui.element("div").classes("banner").props("role=alert") as banner:
            ui.icon("error_outline")
            self._text = ui.label()
        banner.set_visibility(False)
        self._banner = banner

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Around what reads for the page: trouble is shown above it until the next time that there is none."""
        try:
            yield
        except Trouble as trouble:
            self._tell(trouble)
        else:
            if self._banner is not None:
                self._banner.set_visibility(False)

    def _tell(self, trouble: Trouble) -> None:
        if trouble.code in {"logged_out", "unauthenticated"}:
            ui.navigate.to("/login")
            return
        if self._banner is not None and self._text is not None:
            more = " What is shown is from before; it is tried again." if not trouble.reached else ""
            self._text.set_text(trouble.message + more)
            self._banner.set_visibility(True)

    async def live(self, refresh: Callable[[], Awaitable[None]], every_s: float) -> None:
        """Draw something now, and again and again while the page is open."""

        async def look() -> None:
            async with self.looking():
                await refresh()

        await look()
        ui.timer(every_s, look, immediate=False)

    async def attempt(self, action: Awaitable[object], done: str) -> bool:
        """Do something that was asked for; says that it is done, or why it is not. Whether it is."""
        try:
            await action
        except Trouble as trouble:
            ui.notify(trouble.message, type="negative", timeout=8000, close_button="Close", multi_line=True)
            return False
        ui.notify(done, type="positive")
        return True


Builder = Callable[[Desk], Awaitable[None]]


def frame(pages: Sequence[Page], active: Page, desk: Desk, theme: str | None) -> None:
    """Draw what is around a page; what is drawn next is the page."""
    dark = ui.dark_mode({"dark": True, "light": False}.get(theme or ""))
    ui.colors(primary="#2f5bd8", positive="#1b7f4b", negative="#b3261e", warning="#8a5a00")
    ui.add_body_html('<a class="skip" href="#main">Skip to the page</a>')
    with ui.left_drawer(value=False).classes("nav") as drawer:
        drawer.props('show-if-above width=210 breakpoint=1023 role=navigation aria-label="Pages"')
        for page in pages:
            _nav_link(page, current=page is active)
    with ui.header(elevated=False).classes("bar"):
        ui.button(icon="menu", on_click=lambda: drawer.run_method("toggle")).props(
            'flat dense round size=md color=inherit aria-label="Menu"'
        )
        ui.label("Fareclass").classes("brand")
        ui.label(desk.control.url).classes("where")
        ui.element("div").classes("grow")
        if not desk.admin:
            with ui.label("read-only").classes("chip warn"):
                ui.tooltip(READ_ONLY)
        _theme_button(dark)
        with ui.element("form").props("method=post action=/logout"):
            ui.button(icon="logout").props('flat dense round size=md color=inherit type=submit aria-label="Log out"')
    ui.add_body_html(f"<script>{_keys(pages)}</script>")
    ui.html('<span id="main" tabindex="-1"></span>', sanitize=False).classes("aside")


def _nav_link(page: Page, *, current: bool) -> None:
    link = ui.link(target=page.path).props(f"data-key={page.key}")
    if current:
        link.props("aria-current=page")
    with link:
        ui.icon(page.icon).props("aria-hidden=true")
        ui.label(page.title)
        ui.html(f"<kbd>g {page.key}</kbd>", sanitize=False).classes("wide-only").style("margin-left:auto").props(
            "aria-hidden=true"
        )


def _theme_button(dark: ui.dark_mode) -> None:
    """By the system's preference until it is toggled; kept in a cookie that holds no more than a word."""

    async def toggle() -> None:
        is_dark = await ui.run_javascript("document.body.classList.contains('body--dark')")
        dark.value = not is_dark
        word = "light" if is_dark else "dark"
        ui.run_javascript(f"document.cookie = '{THEME_COOKIE}={word}; path=/; max-age=31536000; SameSite=Strict'")

    ui.button(icon="contrast", on_click=toggle).props(
        'flat dense round size=md color=inherit aria-label="Dark or light"'
    )


def _keys(pages: Sequence[Page]) -> str:
    """`g` and a letter lead to a page, `/` to its first filter; nothing happens where one types."""
    paths = json.dumps({page.key: page.path for page in pages})
    return f"""
    (() => {{
      const paths = {paths};
      let went = 0;
      document.addEventListener('keydown', (event) => {{
        const at = event.target;
        if (event.ctrlKey || event.metaKey || event.altKey || at.isContentEditable) return;
        if (/^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName) || document.querySelector('.q-dialog')) return;
        if (event.key === '/') {{
          const field = document.querySelector('.nicegui-content input');
          if (field) {{ event.preventDefault(); field.focus(); }}
        }} else if (event.key === 'g') went = Date.now();
        else if (Date.now() - went < 1500 && paths[event.key]) location.href = paths[event.key];
        else went = 0;
      }});
    }})();
    """


def heading(title: str, lead: str) -> ui.element:
    """A page's title and what it answers; more may be put beside it."""
    with ui.element("div").classes("head"):
        with ui.element("div").classes("grow"):
            ui.html(f"<h1>{escape(title)}</h1>", sanitize=False)
            ui.label(lead).classes("lead")
        return ui.element("div")
