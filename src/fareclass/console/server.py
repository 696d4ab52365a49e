"""The console's process: NiceGUI behind the gate, on one listening socket."""

import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nicegui
import uvicorn
from fastapi import FastAPI, Request
from nicegui import Client, ui
from starlette.routing import Match

from fareclass.console.client import ControlPlane, Gateway
from fareclass.console.frame import THEME_COOKIE, Desk, Page, frame
from fareclass.console.gate import SESSION, Gate, Scope
from fareclass.console.pages import PAGES
from fareclass.console.session import Session, Sessions
from fareclass.console.settings import Settings
from fareclass.console.temporary import TemporaryKeys
from fareclass.core.limits import CONSOLE_PAGES
from fareclass.telemetry.logs import log_as_json
from fareclass.wire.bounded_http import BoundedHttp

_SWEEP_S = 30.0
_PAGE_S = 60.0
"""A page that takes longer to draw is given up: longer than the few calls that one makes may take, one after the other."""
_STOP_S = 2
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#2f5bd8"/>'
    '<path d="M8 22h16M8 16h11M8 10h6" stroke="#fff" stroke-width="3.4" stroke-linecap="round"/></svg>'
)


class _Unstopped(uvicorn.Server):
    """uvicorn, which leaves signals as they are set."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _configure(settings: Settings) -> uvicorn.Config:
    """The server of a console with these settings, to be run once in this process: NiceGUI knows one application."""
    _log_as_json()
    gateway, temporary = Gateway(settings), TemporaryKeys()
    sessions = Sessions(_send_away)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    for page in PAGES:
        _register(page, gateway, temporary)
    style = (Path(__file__).parent / "style.css").read_text("utf-8")
    ui.add_head_html(f"<style>{style}</style>", shared=True)
    nicegui.app.timer(_SWEEP_S, sessions.sweep)
    nicegui.app.on_shutdown(gateway.close)
    ui.run_with(
        app, title="Fareclass", dark=None, tailwind=False, favicon=_ICON, show_welcome_message=False,
        reconnect_timeout=5.0,
    )  # fmt: skip
    gate = Gate(app, gateway, sessions, temporary, _known, home=PAGES[0].path, secure=settings.cert is not None)
    return uvicorn.Config(
        gate,
        http=BoundedHttp,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_STOP_S,
        ssl_certfile=settings.cert,
        ssl_keyfile=settings.key,
    )


def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve on this socket until a signal comes."""
    uvicorn.Server(_configure(settings)).run(sockets=[listener])


def serve_to_the_end(settings: Settings, listener: socket.socket) -> None:
    """Serve on this socket until the process ends."""
    _Unstopped(_configure(settings)).run(sockets=[listener])


def _log_as_json() -> None:
    log_as_json(logging.WARNING)
    for name in ("engineio.server", "socketio.server"):
        logging.getLogger(name).handlers.clear()  # they print plain text beside what is logged


def _known(scope: Scope) -> bool:
    """Whether anything is at this path, with or without a slash at its end."""
    place = {**scope, "path": scope["path"].rstrip("/")}
    return any(route.matches(place)[0] is not Match.NONE for route in nicegui.app.routes)


def _register(page: Page, gateway: Gateway, temporary: TemporaryKeys) -> None:
    """Make a page's route. The page belongs to the session that asked for it, and to its socket alone."""

    async def build(request: Request) -> None:
        session: Session = request.scope[SESSION]
        client = ui.context.client
        _own(session, client)
        params = {**request.query_params, **request.path_params}
        desk = Desk(ControlPlane(gateway, session), session, params, temporary)
        frame([each for each in PAGES if each.key], page, desk, request.cookies.get(THEME_COOKIE))
        desk.place_banner()
        await page.build(desk)

    title = f"{page.title} · Fareclass"
    made: Callable[[Callable[[Request], Awaitable[None]]], object] = ui.page(
        page.path, title=title, response_timeout=_PAGE_S
    )
    made(build)


def _own(session: Session, client: Client) -> None:
    while len(session.pages) >= CONSOLE_PAGES:
        oldest = min(session.pages, key=_made_at)
        session.pages.discard(oldest)
        if oldest in Client.instances:
            Client.instances[oldest].delete()
    session.pages.add(client.id)
    client.on_delete(lambda: session.pages.discard(client.id))


def _made_at(page: str) -> float:
    client = Client.instances.get(page)
    return 0.0 if client is None else client.created


def _send_away(session: Session) -> None:
    """What is open of a session that is over goes to the login."""
    for page in list(session.pages):
        client = Client.instances.get(page)
        if client is not None:
            client.open("/login")
    session.pages.clear()
