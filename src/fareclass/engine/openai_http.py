"""Any server that speaks the OpenAI API over HTTP, as an engine: llama.cpp, vLLM, SGLang and others.

What is particular to one of them is in `upstream` (requests), `relay` (streams) and `probe`.
No header of a caller goes upstream but `traceparent` (R50).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from fareclass.core.limits import ANSWER_BYTES
from fareclass.core.usage import Usage
from fareclass.deadlines import SWEEP_S, Deadlines
from fareclass.engine.base import EngineFailed, EngineRefused, Isolation, Prompt, Traits
from fareclass.engine.counting import count_chat, count_text
from fareclass.engine.probe import Findings, find_traits
from fareclass.engine.refusals import read_refusal
from fareclass.engine.relay import Relay
from fareclass.engine.sequences import copies, counted_apart, gather, whole, width
from fareclass.engine.slots import Lease, SlotBook
from fareclass.engine.tools import check_tools
from fareclass.engine.upstream import GENERATING, Flavour, upstream_body
from fareclass.engine.wire_usage import usage_of_answer

_ERROR_BYTES: Final = 64 * 1024
_LOOK_S: Final = 3.0
_DRAIN_S: Final = 0.05
_LLAMA_TIMINGS: Final = b',"timings":{'
"""llama.cpp's private tail, the last key of a whole answer; inside a string its quotes would be escaped."""


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long an engine may take, in seconds.

    `connect_s` to accept a connection; `stall_s` between two signs of life of a stream, its
    headers included (prefill progress is one); `answer_s` for an answer that is not streamed.
    """

    connect_s: float = 5.0
    stall_s: float = 120.0
    answer_s: float = 900.0


class Stalls:
    """Looks over the calls under way once a second: cheaper than a timer for each of them."""

    def __init__(self) -> None:
        self._calls: dict[HttpCall, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: "HttpCall") -> None:
        """A call has begun."""
        self._calls[call] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def drop(self, call: "HttpCall") -> None:
        """A call is over."""
        self._calls.pop(call, None)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        for call in list(self._calls):
            call.check_stall(loop.time())
        self._timer = loop.call_later(SWEEP_S, self._sweep) if self._calls else None


class HttpCall:
    """One request under way on an HTTP engine; see `base.Call`."""

    def __init__(
        self, response: aiohttp.ClientResponse, relay: Relay, stall_s: float, stalls: Stalls, lease: Lease | None
    ) -> None:
        self._response = response
        self._content = response.content
        self._relay = relay
        self._stall_s = stall_s
        self._stalls = stalls
        self._time = asyncio.get_running_loop().time
        self._waiting_since: float | None = None
        self._stalled = False
        self._closed = False
        self._usage: Usage | None = None
        self._lease = lease
        stalls.add(self)

    @property
    def made_tokens(self) -> int:
        return self._usage.output if self._usage is not None else self._relay.made_tokens

    @property
    def usage(self) -> Usage | None:
        return self._usage or self._relay.usage

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        relay, content = self._relay, self._content
        while not relay.done:
            self._waiting_since = self._time()
            try:
                data = await content.readany()  # as `_read`, without a call that each token would pay for
            except (aiohttp.ClientError, OSError) as error:
                raise self._failure(error) from error
            finally:
                self._waiting_since = None
            if not data:
                break
            events = relay.feed(data)
            if events:
                return events
        if not relay.whole:
            raise EngineFailed("broken", "the engine ended the stream before the answer was whole")
        await self._drain()
        raise StopAsyncIteration

    async def body(self) -> bytes:
        if self._relay.apart:
            answer = await gather(self)
            self._usage = self._relay.usage
            return whole(answer, self._usage)
        body = await self._read()
        if len(body) != self._response.content_length:
            body = await self._rest(body)
        try:
            self._usage = usage_of_answer(body)
        except ValueError as error:
            raise EngineFailed("broken", f"the engine's answer is not JSON: {error}") from error
        cut = body.rfind(_LLAMA_TIMINGS)
        return body if cut < 0 else body[:cut] + b"}"

    async def _rest(self, first: bytes) -> bytes:
        parts = [first]
        size = len(first)
        while data := await self._read():
            parts.append(data)
            size += len(data)
            if size > ANSWER_BYTES:
                raise EngineFailed("broken", f"the engine's answer is larger than {ANSWER_BYTES} bytes")
        return b"".join(parts)

    async def close(self) -> None:
        self._closed = True
        self._stalls.drop(self)
        self._response.close()
        lease, self._lease = self._lease, None
        if lease is not None:
            taken = self._usage is not None
            lease.end(self._time(), begun=taken or self.made_tokens > 0, whole=taken or self._relay.whole)

    async def _read(self) -> bytes:
        """The next bytes, b"" at the end."""
        self._waiting_since = self._time()
        try:
            return await self._content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise self._failure(error) from error
        finally:
            self._waiting_since = None

    def _failure(self, error: Exception) -> EngineFailed:
        if self._stalled:
            return EngineFailed("stalled", f"the engine sent nothing for {self._stall_s:g} s")
        if self._closed:
            return EngineFailed("broken", "the call was closed")
        return EngineFailed("broken", f"the connection to the engine broke: {error or type(error).__name__}")

    def check_stall(self, now: float) -> None:
        """End a call that waits for its engine too long. A caller that is slow to take its bytes stalls nothing."""
        since = self._waiting_since
        if since is not None and now - since >= self._stall_s:
            self._stalled = True
            self._response.close()

    async def _drain(self) -> None:
        """Read up to the end of the response, which is due, so that its connection can be used again."""
        if self._content.at_eof():
            return
        try:
            async with asyncio.timeout(_DRAIN_S):
                while await self._content.readany():
                    pass
        except (aiohttp.ClientError, OSError):
            self._response.close()


class HttpEngine:
    """One replica behind a URL.

    `base_url` ends in `/v1`. The session is the caller's, shared by all engines; it should
    have no limit on connections, since the scheduler's slots are the limit. `call_opening`: as in `upstream_body`.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        upstream_model: str,
        *,
        api_key: str | None = None,
        pass_priority: bool = True,
        timeouts: Timeouts | None = None,
        call_opening: str = "",
    ) -> None:
        self._slots: SlotBook | None = None
        self._call_opening = call_opening
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._root_url = self._base_url.removesuffix("/v1")
        self._model = upstream_model
        self._pass_priority = pass_priority
        self._timeouts = timeouts or Timeouts()
        self._found = Findings()
        self._stalls = Stalls()
        self._deadlines = Deadlines()
        self._post_timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect_s)
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._stream_headers = {**self._headers, "Accept": "text/event-stream"}
        self._plain_headers = {**self._headers, "Accept": "application/json"}

    @property
    def traits(self) -> Traits:
        return self._found.traits

    async def open(self, prompt: Prompt) -> HttpCall:
        sign = self._found.priority_sign if self._pass_priority else 0
        traits = self._found.traits
        check_tools(prompt, traits)
        apart = counted_apart(prompt, traits.flavour)
        if apart:
            prompt = msgspec.structs.replace(prompt, stream=True)
        body = upstream_body(prompt, traits.flavour, self._model, sign, self._call_opening)
        headers = self._stream_headers if prompt.stream else self._plain_headers
        if prompt.traceparent:
            headers = {**headers, "traceparent": prompt.traceparent}
        wait_s = self._timeouts.stall_s if prompt.stream else self._timeouts.answer_s
        sequences = width(prompt.body)
        lease = None
        if self._slots is not None and prompt.path in GENERATING:
            lease = await self._slots.take(prompt, asyncio.get_running_loop().time(), sequences)
            body["cache_prompt"] = lease.reuse
            if lease.slot is not None:
                body["id_slot"] = lease.slot
        try:
            response = await self._post(self._base_url + prompt.path, msgspec.json.encode(body), headers, wait_s)
            if response.status != 200:
                raise await _refusal(response, prompt.body)
        except BaseException:
            if lease is not None:
                lease.end(asyncio.get_running_loop().time(), begun=False, whole=False)
            raise
        if lease is not None:
            lease.begun()
        relay = Relay(
            sequences,
            continues=bool(prompt.beginning or prompt.said),
            said=prompt.said,
            copies=copies(prompt.body) if apart else 0,
        )
        return HttpCall(response, relay, wait_s, self._stalls, lease)

    def forget(self, id: str) -> None:
        if self._slots is not None:
            self._slots.forget(id)

    def keep_slots(self, slots: int, folder: Path) -> None:
        """Send each call to a slot of its own choice: the server has so many, and keeps prompts nowhere else (R31)."""
        self._slots = SlotBook(slots, folder, self._act)

    async def _act(self, slot: int, action: str, file: str) -> int | None:
        path = f"/slots/{slot}?action={action}"
        try:
            status, answer = await self.look("POST", path, {"filename": file})
        except EngineFailed:
            # An idle connection may be closed by the engine at the moment it is used again; twice does no harm.
            try:
                status, answer = await self.look("POST", path, {"filename": file})
            except EngineFailed:
                return None
        if status != 200 or not isinstance(answer, dict):
            return None
        size = answer.get("n_written") or answer.get("n_read")
        return size if isinstance(size, int) else None

    async def healthy(self) -> bool:
        plain = self._found.traits.flavour == Flavour.OPENAI
        try:
            status, _ = await self.look("GET", "/v1/models" if plain else "/health")
        except EngineFailed:
            return False
        return status < 500 and status != 429 if plain else status == 200

    async def probe(self) -> Traits:
        found = await find_traits(self)
        if self._slots is not None:
            traits = msgspec.structs.replace(found.traits, caches=True, isolation=Isolation.SLOTS)
            found = msgspec.structs.replace(found, traits=traits)
        self._found = found
        return found.traits

    def assume(self, found: Findings) -> None:
        """Treat the replica as found so far; the probe does this to look through its own eyes."""
        self._found = found

    async def count_tokens(self, text: str) -> int | None:
        return await count_text(self.look, self._found.traits.flavour, self._model, text)

    async def count_prompt(self, body: Mapping[str, Any]) -> int | None:
        return await count_chat(self.look, self._found.traits.flavour, self._model, body)

    async def close(self) -> None:
        """Nothing is ours: the session belongs to who made it, and calls are closed by who opened them."""

    async def look(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """Ask a small question beside `/v1`: status and decoded JSON, or text where it is not JSON.

        Raises:
            EngineFailed: no answer within a few seconds.
        """
        url = self._root_url + path
        data = None if body is None else msgspec.json.encode(body)
        try:
            async with (
                asyncio.timeout(_LOOK_S),
                self._session.request(
                    method, url, data=data, headers=self._headers, timeout=_NO_TIMEOUT, allow_redirects=False
                ) as response,
            ):
                return response.status, _json_or_text(await _bounded(response, ANSWER_BYTES))
        except (aiohttp.ClientError, OSError) as error:
            raise EngineFailed("unreachable", f"{url}: {error or type(error).__name__}") from error

    async def _post(self, url: str, data: bytes, headers: Mapping[str, str], wait_s: float) -> aiohttp.ClientResponse:
        for attempt in (1, 2):
            try:
                with self._deadlines.within(wait_s):
                    return await self._session.post(
                        url,
                        data=aiohttp.BytesPayload(data),
                        headers=headers,
                        timeout=self._post_timeout,
                        allow_redirects=False,
                    )
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                raise EngineFailed("unreachable", f"can't connect to the engine: {error}") from error
            except TimeoutError as error:
                raise EngineFailed("timeout", f"the engine did not begin to answer within {wait_s:g} s") from error
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                # An idle connection may be closed by the engine at the moment it is used again.
                if attempt == 2:
                    raise EngineFailed("broken", f"the engine hung up: {error}") from error
            except aiohttp.ClientError as error:
                raise EngineFailed("broken", f"the engine does not speak HTTP: {error}") from error
        raise AssertionError


_NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None)


async def _refusal(response: aiohttp.ClientResponse, body: Mapping[str, Any]) -> EngineRefused | EngineFailed:
    """The error that an answer other than 200 is."""
    try:
        async with asyncio.timeout(_LOOK_S):
            answer = _json_or_text(await _bounded(response, _ERROR_BYTES))
    except (aiohttp.ClientError, OSError, TimeoutError):
        answer = ""
    finally:
        response.close()
    return read_refusal(response.status, answer, body)


async def _bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = b""
    while len(body) < limit and (data := await response.content.readany()):
        body += data
    return body[:limit]


def _json_or_text(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return body.decode("utf-8", "replace")
