"""httpx transports that watch the answers of an API in OpenAI's form, and raise the tier of the next requests."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import httpx

from fareclass_client.meter import Meter
from fareclass_client.rules import Escalation, Rules

_PATHS: Final = ("/completions", "/responses")
_THROTTLED: Final = (429, 503)
_NOT_FOR_US: Final = (400, 403)
"""A raised request that gets one of these is sent again as it was: no rule may break what works without it."""


class _Watch:
    """One request: how it is sent, and what its answer teaches. `request` is what goes out."""

    def __init__(self, escalation: Escalation, request: httpx.Request) -> None:
        self.request = request
        self.raised = False
        self._stream = False
        self._escalation = escalation
        self._began_s = time.monotonic()
        self._meter: Meter | None = None
        self._hold = 0
        body = _body(request)
        rules = escalation.rules
        tier = "" if body is None else body.get("service_tier") or "auto"
        self._counts = isinstance(tier, str) and tier in rules.from_tiers and tier != rules.to
        if body is None or not self._counts:
            return
        self._hold = rules.cost(*Meter.bound(request.content, body))
        if escalation.take(self._hold):
            self.raised, self._counts = True, False
            self.request = _as_tier(request, body, rules.to)
            if rules.pico_per_day is not None:
                self._meter = Meter(request.content)
                self.request.headers["accept-encoding"] = "identity"  # so that the usage can be read as it passes

    def unwanted(self, response: httpx.Response) -> bool:
        """Whether the better tier was refused; then the request goes as it was."""
        if not self.raised or response.status_code not in _NOT_FOR_US:
            return False
        self._escalation.refused()
        self._settle(0)
        self.raised = False
        return True

    def head(self, response: httpx.Response) -> bool:
        """Status and headers are there; whether the body is to be watched."""
        if response.status_code in _THROTTLED and self._counts:
            if response.headers.get("x-should-retry") != "false":
                self._escalation.throttled()
        elif response.is_success and (self._counts or self.raised):
            self._stream = response.headers.get("content-type", "").startswith("text/event-stream")
            return True
        self._settle(0)
        return False

    def chunk(self, data: bytes) -> None:
        if self._meter is not None:
            self._meter.feed(data)
        if self._counts and self._stream and b"data:" in data:
            self._answered()

    def whole(self) -> None:
        if self._counts:
            self._answered()

    def ended(self) -> None:
        """The body is read, or the caller has closed it."""
        if self._meter is not None:
            self._settle(self._escalation.rules.cost(*self._meter.tokens(stream=self._stream)))

    def failed(self, error: BaseException) -> None:
        """No answer came. A caller who gave up counts with the time that he waited, and is taken to have been billed."""
        gave_up = isinstance(error, httpx.ReadTimeout) or not isinstance(error, httpx.HTTPError)
        if gave_up and self._counts:
            self._answered()
        self._settle(self._hold if gave_up else 0)

    def _answered(self) -> None:
        self._counts = False
        self._escalation.answered(time.monotonic() - self._began_s)

    def _settle(self, cost_pico: int) -> None:
        if self._meter is not None:
            self._meter = None
            self._escalation.settle(self._hold, cost_pico)


class EscalatingTransport(httpx.BaseTransport):
    """For `openai.OpenAI(http_client=httpx.Client(transport=EscalatingTransport(rules)))`.

    `inner` does the sending. Changed is the `service_tier` in bodies of POSTs to completions and responses, nothing else.
    """

    def __init__(self, rules: Rules | None = None, inner: httpx.BaseTransport | None = None) -> None:
        self._escalation = Escalation(rules or Rules())
        self._inner = inner or httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        watch = _Watch(self._escalation, request)
        try:
            response = self._inner.handle_request(watch.request)
            if watch.unwanted(response):
                response.close()
                response = self._inner.handle_request(request)
        except BaseException as error:
            watch.failed(error)
            raise
        if watch.head(response):
            assert isinstance(response.stream, httpx.SyncByteStream)
            response.stream = _Watched(response.stream, watch)
        return response

    def close(self) -> None:
        self._inner.close()


class AsyncEscalatingTransport(httpx.AsyncBaseTransport):
    """For `openai.AsyncOpenAI(http_client=httpx.AsyncClient(transport=AsyncEscalatingTransport(rules)))`."""

    def __init__(self, rules: Rules | None = None, inner: httpx.AsyncBaseTransport | None = None) -> None:
        self._escalation = Escalation(rules or Rules())
        self._inner = inner or httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        watch = _Watch(self._escalation, request)
        try:
            response = await self._inner.handle_async_request(watch.request)
            if watch.unwanted(response):
                await response.aclose()
                response = await self._inner.handle_async_request(request)
        except BaseException as error:
            watch.failed(error)
            raise
        if watch.head(response):
            assert isinstance(response.stream, httpx.AsyncByteStream)
            response.stream = _AsyncWatched(response.stream, watch)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Watched(httpx.SyncByteStream):
    """The same bytes, with somebody looking on."""

    def __init__(self, stream: httpx.SyncByteStream, watch: _Watch) -> None:
        self._stream = stream
        self._watch = watch

    def __iter__(self) -> Iterator[bytes]:
        try:
            for data in self._stream:
                self._watch.chunk(data)
                yield data
        except httpx.ReadTimeout as error:
            self._watch.failed(error)
            raise
        self._watch.whole()

    def close(self) -> None:
        self._watch.ended()
        self._stream.close()


class _AsyncWatched(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, watch: _Watch) -> None:
        self._stream = stream
        self._watch = watch

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for data in self._stream:
                self._watch.chunk(data)
                yield data
        except httpx.ReadTimeout as error:
            self._watch.failed(error)
            raise
        self._watch.whole()

    async def aclose(self) -> None:
        self._watch.ended()
        await self._stream.aclose()


def _body(request: httpx.Request) -> dict[str, Any] | None:
    """The JSON body of a request that may be raised."""
    wanted = request.method == "POST" and request.url.path.endswith(_PATHS)
    if not wanted or not request.headers.get("content-type", "").startswith("application/json"):
        return None
    try:
        body = json.loads(request.content)
    except (ValueError, httpx.RequestNotRead):
        return None
    return body if isinstance(body, dict) and isinstance(body.get("model"), str) else None


def _as_tier(request: httpx.Request, body: dict[str, Any], tier: str) -> httpx.Request:
    """The same request on another tier."""
    headers = request.headers.copy()
    del headers["content-length"]
    content = json.dumps({**body, "service_tier": tier}, ensure_ascii=False, separators=(",", ":")).encode()
    return httpx.Request(request.method, request.url, headers=headers, content=content, extensions=request.extensions)
