"""What stands before every page of the console: the login, whose cookie may do what, and from where (R51).

A page that some other site shows or sends can do nothing here: the cookie is SameSite=Strict, and the socket and
every POST must come with the Origin of the console itself.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from fareclass.console.client import ControlPlane, Gateway, Trouble
from fareclass.console.login import login_page, nowhere_page
from fareclass.console.session import Attempts, Role, Session, Sessions
from fareclass.console.temporary import TemporaryKeys
from fareclass.core.limits import CONSOLE_FORM_BYTES, CONSOLE_SESSION_S, HEAD_READ_S

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "fareclass_console"
SESSION = "fareclass.session"
"""Where a request's scope holds its session."""
_SOCKETS = "/_nicegui_ws/"
_SOCKET = "/_nicegui_ws/socket.io/"
"""The one path at which a page's live connection is."""
_LOGIN, _LOGOUT = "/login", "/logout"
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""Nothing from elsewhere, and in nobody's frame. Vue makes its templates into functions, hence unsafe-eval."""
_HEADERS = (
    ("content-security-policy", _POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),
)


class Gate:
    """The ASGI application of the console; what it lets through goes to `app`.

    `known` says whether the app has anything at a request's path; `home` is the path of the page that one comes to;
    `secure`: it is served by TLS.
    """

    def __init__(
        self,
        app: ASGIApp,
        gateway: Gateway,
        sessions: Sessions,
        temporary: TemporaryKeys,
        known: Callable[[Scope], bool],
        *,
        home: str,
        secure: bool,
    ) -> None:
        self.app = app
        self._temporary = temporary
        self._known = known
        self._home = home
        self._gateway = gateway
        self._sessions = sessions
        self._attempts = Attempts()
        self._secure = secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        session = self._sessions.find(_token(headers))
        if scope["type"] == "websocket":
            right = scope["path"] == _SOCKET and _own_origin(headers)
            if session is None or not right or not _own_page(scope, session):
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        response = await self._answer(scope, receive, headers, session)
        if response is not None:
            await response(scope, receive, _with_headers(send))
            return
        scope[SESSION] = session
        await self.app(scope, receive, _with_headers(send))

    async def _answer(
        self, scope: Scope, receive: Receive, headers: Headers, session: Session | None
    ) -> Response | None:
        """What is answered here; None lets the request through."""
        path, method = scope["path"], scope["method"]
        if method not in {"GET", "HEAD"} and not (path in {_LOGIN, _LOGOUT} and method == "POST"):
            return PlainTextResponse("method not allowed", 405)
        if method == "POST" and not _own_origin(headers):
            return PlainTextResponse("This does not come from a page of the console.", 403)
        if path.startswith(_SOCKETS):
            return PlainTextResponse("The console needs a WebSocket.", 400)
        if path == "/":
            return RedirectResponse(self._home, 303)
        if path == _LOGIN:
            if method == "POST":
                return await self._log_in(scope, receive)
            return RedirectResponse("/", 303) if session else self._login_page(_next(scope))
        if path == _LOGOUT:
            return self._log_out(session) if method == "POST" else RedirectResponse("/", 303)
        if session is None:
            if "text/html" in headers.get("accept", ""):
                return RedirectResponse(f"{_LOGIN}?next={quote(path)}", 303)
            return PlainTextResponse("Log in first.", 401)
        # Of a path that it does not know the app would make a page, which counts among nobody's.
        return None if self._known(scope) else HTMLResponse(nowhere_page(), 404)

    async def _log_in(self, scope: Scope, receive: Receive) -> Response:
        peer = (scope.get("client") or ("",))[0]
        wait_s = self._attempts.wait_s(peer)
        if wait_s:
            return self._login_page("/", f"Too many failed logins: try again in {wait_s:.0f} s.", 429)
        try:
            async with asyncio.timeout(HEAD_READ_S):
                form = await _form(receive)
        except TimeoutError:
            return PlainTextResponse("The form did not arrive in time.", 408, {"connection": "close"})
        if form is None:
            return self._login_page("/", "That is too long to be a key.", 400)
        key, onward = form.get("key", "").strip(), _local(form.get("next", "/"))
        if not key or not key.isascii() or not key.isprintable():
            return self._login_page(onward, "Give the gateway's admin key, or its read-only key.", 400)
        self._attempts.begun(peer)
        try:
            role = await self._gateway.role(key)
        except Trouble as trouble:
            if trouble.code == "unauthenticated":
                return self._login_page(onward, "The gateway does not know this key.", 401)
            self._attempts.passed(peer)
            return self._login_page(onward, trouble.message, 502)
        self._attempts.passed(peer)
        response = RedirectResponse(onward, 303)
        known: Role = "admin" if role == "admin" else "read_only"
        token = self._sessions.begin(key, known)
        self._set_cookie(response, token, int(CONSOLE_SESSION_S))
        session = self._sessions.find(token)
        if session is not None and known == "admin":
            self._temporary.sweep_soon(ControlPlane(self._gateway, session))
        return response

    def _log_out(self, session: Session | None) -> Response:
        if session is not None:
            self._sessions.end(session)
        response = RedirectResponse(_LOGIN, 303)
        self._set_cookie(response, "", 0)
        return response

    def _login_page(self, onward: str, trouble: str = "", status: int = 200) -> Response:
        return HTMLResponse(login_page(self._gateway.url, onward, trouble), status)

    def _set_cookie(self, response: Response, token: str, max_age: int) -> None:
        response.set_cookie(
            COOKIE, token, max_age=max_age, path="/", secure=self._secure, httponly=True, samesite="strict"
        )


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS:
                headers[name] = value
            if "text/html" in headers.get("content-type", ""):
                headers["cache-control"] = "no-store"
        await send(message)

    return sending


def _token(headers: Headers) -> str | None:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return None if morsel is None else morsel.value


def _own_origin(headers: Headers) -> bool:
    """Whether a page of this console sends it: its Origin is the host that is asked."""
    host = headers.get("host")
    return bool(host) and headers.get("origin") in {f"http://{host}", f"https://{host}"}


def _own_page(scope: Scope, session: Session) -> bool:
    """Whether the socket is for a page that was made for this session."""
    named = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("client_id", [])
    return len(named) == 1 and named[0] in session.pages


def _next(scope: Scope) -> str:
    return _local(parse_qs(scope.get("query_string", b"").decode("latin-1")).get("next", ["/"])[0])


def _local(path: str) -> str:
    """A path of the console itself, never another site's address."""
    right = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isascii() and path.isprintable()
    return path if right else "/"


async def _form(receive: Receive) -> dict[str, str] | None:
    """The fields of a small form; None where it is too large."""
    raw = bytearray()
    more = True
    while more:
        message = await receive()
        raw += message.get("body", b"")
        more = message.get("more_body", False) and message["type"] == "http.request"
        if len(raw) > CONSOLE_FORM_BYTES:
            return None
    return {name: values[0] for name, values in parse_qs(raw.decode("utf-8", "replace")).items()}
