"""The console's calls to the gateway: it is a client of the control plane like any other."""

import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from fareclass.console.session import Session
from fareclass.console.settings import Settings
from fareclass.core.limits import CONSOLE_ROWS, PAGE, PLAN_S

_TIMEOUT_S = 15.0
_PLAN_TIMEOUT_S = PLAN_S + 30


class Trouble(Exception):
    """Why a call was not done, in a sentence for the operator: the control plane's own where it gave one.

    `field` is the path of the field at fault; `available` what of a refused reservation would fit; `reached` is False
    where the gateway did not answer at all.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        field: str | None = None,
        available: Mapping[str, int] | None = None,
        reached: bool = True,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.field = field
        self.available = available
        self.reached = reached


class Gateway:
    """Where the gateway is, and the connections to it."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.gateway
        self._http = httpx.AsyncClient(
            base_url=settings.gateway, verify=_trust(settings), timeout=_TIMEOUT_S, trust_env=False
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def role(self, key: str) -> str:
        """What this key may do.

        Raises:
            Trouble: nothing, or the gateway does not say.
        """
        role: str = _decoded(await self.call(key, "GET", ("self",))).get("role", "")
        return role

    async def call(
        self,
        key: str,
        method: str,
        path: tuple[str, ...],
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> bytes:
        """One command of the control plane; returns the body of its answer.

        Raises:
            Trouble: it was not done.
        """
        address = "/admin/v1/" + "/".join(quote(part, safe="") for part in path)
        timeout = _PLAN_TIMEOUT_S if path[0] == "plan" else _TIMEOUT_S
        try:
            response = await self._http.request(
                method, address, json=body, params=_given(params), headers=_bearer(key), timeout=timeout
            )
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if response.is_error:
            raise _refusal(_decoded(response.content), response.status_code)
        return response.content

    async def stream(
        self, key: str, body: Mapping[str, Any]
    ) -> AsyncIterator[tuple[Mapping[str, str], dict[str, Any]]]:
        """A streamed chat completion: the answer's headers, and each event as it comes. The first event is empty.

        Raises:
            Trouble: it was refused, or broke off.
        """
        try:
            async with self._http.stream(
                "POST",
                "/v1/chat/completions",
                json=body,
                headers=_bearer(key),
                timeout=httpx.Timeout(_TIMEOUT_S, read=600),
            ) as response:
                if response.is_error:
                    await response.aread()
                    raise _refusal(_decoded(response.content), response.status_code)
                yield response.headers, {}
                async for line in response.aiter_lines():
                    data = line.removeprefix("data: ")
                    if data not in {line, "[DONE]"}:
                        event = _decoded(data.encode())
                        if "error" in event:
                            raise _refusal(event, 502)
                        yield response.headers, event
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: httpx.HTTPError) -> Trouble:
        why = str(error) or type(error).__name__
        return Trouble(f"The gateway at {self.url} can't be reached ({why}).", reached=False)


class ControlPlane:
    """The gateway's control plane, called with the key of one session."""

    def __init__(self, gateway: Gateway, session: Session) -> None:
        self._gateway = gateway
        self._session = session

    @property
    def url(self) -> str:
        return self._gateway.url

    def lasting(self) -> "ControlPlane":
        """The same with the key as it is now, for what must be done though the login ends meanwhile."""
        held = self._session
        kept = Session(held.id, held.key, held.role, held.ends_at)
        kept.over = held.over
        return ControlPlane(self._gateway, kept)

    async def get(self, *path: str, **params: Any) -> dict[str, Any]:
        """Raises:
        Trouble: it was not answered.
        """
        return await self.send("GET", *path, params=params)

    async def has(self, *path: str) -> bool:
        """Whether there is such a thing.

        Raises:
            Trouble: it was not answered.
        """
        try:
            await self.get(*path)
        except Trouble as trouble:
            if trouble.code == "not_found":
                return False
            raise
        return True

    async def send(
        self, method: str, *path: str, body: Mapping[str, Any] | None = None, params: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Raises:
        Trouble: it was not done.
        """
        return _decoded(await self._call(method, path, body, params))

    async def csv(self, *path: str, **params: Any) -> bytes:
        """A report as CSV.

        Raises:
            Trouble: it was not answered.
        """
        return await self._call("GET", path, None, params | {"format": "csv"})

    async def _call(
        self, method: str, path: tuple[str, ...], body: Mapping[str, Any] | None, params: Mapping[str, Any] | None
    ) -> bytes:
        if self._session.over:
            raise Trouble("You are logged out: log in again.", code="logged_out")
        return await self._gateway.call(self._session.key, method, path, body, params)

    async def rows(self, *path: str, **params: Any) -> list[dict[str, Any]]:
        """What stands in a list that comes at once.

        Raises:
            Trouble: it was not answered.
        """
        data: list[dict[str, Any]] = (await self.get(*path, **params))["data"]
        return data

    async def pages(self, *path: str, most: int = CONSOLE_ROWS, **params: Any) -> list[dict[str, Any]]:
        """A long list, page by page, of `most` rows and a page more.

        Raises:
            Trouble: it was not answered.
        """
        found: list[dict[str, Any]] = []
        after: str | None = ""
        while after is not None and len(found) < most:
            answer = await self.get(*path, **params, limit=min(PAGE, most), after=after or None)
            found += answer["data"]
            after = answer["next"]
        return found

    def chat(self, key: str, body: Mapping[str, Any]) -> AsyncIterator[tuple[Mapping[str, str], dict[str, Any]]]:
        """See `Gateway.stream`."""
        return self._gateway.stream(key, body)


def _trust(settings: Settings) -> ssl.SSLContext:
    """The system's authorities or, for the gateway on this machine, the very certificate that it was given alone."""
    if settings.trusted is None:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it is for the name that callers use, and we come by the loopback address
    context.load_verify_locations(cadata=_first_certificate(Path(settings.trusted)))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _first_certificate(file: Path) -> str:
    """The server's own: those of authorities that follow it would vouch for whomever they have signed."""
    _, begin, rest = file.read_text("latin-1").partition("-----BEGIN CERTIFICATE-----")
    body, end, _ = rest.partition("-----END CERTIFICATE-----")
    return begin + body + end


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def _given(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if params is None else {name.rstrip("_"): value for name, value in params.items() if value is not None}


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        return dict(msgspec.json.decode(raw))
    except (msgspec.DecodeError, TypeError, ValueError):
        return {"error": {"message": "The gateway's answer can't be read."}}


def _refusal(answer: Any, status: int) -> Trouble:
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        return Trouble(f"The gateway answered with status {status}.", code="unknown")
    return Trouble(
        str(error.get("message") or f"status {status}"),
        code=str(error.get("code") or ""),
        field=error.get("field"),
        available=error.get("available"),
    )
