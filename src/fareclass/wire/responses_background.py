"""Responses in the background: promised at once, run inside this process, polled, followed, cancelled (R35).

A promise is in the database before anybody hears of it, and what an end of the gateway has interrupted is run again at
the next start, under the same request id: the ledger keeps one entry of it.
"""

import asyncio
import logging
import re
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from fareclass.core.limits import BACKGROUND_RUNS, BACKGROUND_S, RESPONSE_BYTES, SSE_COMMENT_S
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Key, Snapshot
from fareclass.flow.clock import now_us
from fareclass.flow.stored_responses import StoredResponses
from fareclass.store.responses import UNFINISHED, ResponseRow
from fareclass.wire import sse
from fareclass.wire.arrival import Message
from fareclass.wire.calls import Calls
from fareclass.wire.http_reply import HttpReply
from fareclass.wire.recording import Recording
from fareclass.wire.responses import ResponsesEndpoint
from fareclass.wire.responses_reply import Answered, Asked, response_id, response_object
from fareclass.wire.responses_stream import Output

_log = logging.getLogger(__name__)
_RETRY_S = 2.0
_LIMIT_RETRY_MS = 10_000
_NUMBER = re.compile(rb'"sequence_number":([0-9]+)')
_EVENT = re.compile(rb"^event: ", re.MULTILINE)
_encode = msgspec.json.Encoder().encode


class _Work:
    """One response in the making. `row` is how it stands; `recording` are its events, where it is a stream."""

    def __init__(self, row: ResponseRow, key: Key, *, streamed: bool) -> None:
        self.row = row
        self.key = key
        self.recording = Recording() if streamed else None
        self.task: asyncio.Task[None] | None = None
        self.answered: Answered | None = None
        self._refused = b""
        self._status = 0

    def promise(self) -> None:
        """The first events."""
        if self.recording is not None:
            self.recording.add({"type": "http.response.start", "status": 200, "headers": sse.HEADERS})
        response = {"response": msgspec.Raw(self.row.body)}
        output = Output("")
        self._record(output.event("response.created", response) + output.event("response.queued", response))

    def keep(self, answered: Answered) -> None:
        """It is answered."""
        self.answered = answered

    async def send(self, message: Message) -> None:
        """Its response over HTTP, which nobody but this hears."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            if self._status == 200:
                self.stands("in_progress")
        elif self._status == 200:
            self._record(message.get("body", b""))
        else:
            self._refused += message.get("body", b"")

    def stands(self, status: str, **more: Any) -> None:
        """From now on."""
        body = _encode(msgspec.json.decode(self.row.body) | {"status": status, **more})
        self.row = msgspec.structs.replace(self.row, status=status, body=body)

    def conclude(self, otherwise: str) -> None:
        """How it ended; `otherwise` where nothing has been said of that."""
        if self.answered is not None:
            self.row = msgspec.structs.replace(self.row, status=self.answered.status, body=self.answered.body)
        else:
            self._fail(otherwise)
        recording = self.recording
        events = None if recording is None else zlib.compress(recording.body, 1)
        self.row = msgspec.structs.replace(self.row, asked=None, events=events)
        if self.row.size_bytes > RESPONSE_BYTES:
            self.row = msgspec.structs.replace(self.row, events=None)
        if self.row.size_bytes > RESPONSE_BYTES:
            self.stands("failed", output=[], error=_error("server_error", "The answer is too large to be stored."))
        if recording is not None:
            recording.close()

    def _fail(self, otherwise: str) -> None:
        """It ended without an answer: why, and the last of its events."""
        error = None
        if self._refused:
            found = msgspec.json.decode(self._refused)["error"]
            otherwise, error = "failed", _error(found["code"], found["message"])
        elif otherwise == "failed":
            error = _error("server_error", "The gateway failed to answer. Try again.")
        self.stands(otherwise, error=error)
        number = 0 if self.recording is None else len(_EVENT.findall(self.recording.body))
        self._record(Output("", number).event(f"response.{otherwise}", {"response": msgspec.Raw(self.row.body)}))

    def _record(self, body: bytes) -> None:
        if self.recording is not None and body:
            self.recording.add({"type": "http.response.body", "body": body, "more_body": True})


class Background:
    """All of them. `snapshot` returns the Snapshot in force."""

    def __init__(self, calls: Calls, stored: StoredResponses, snapshot: Callable[[], Snapshot]) -> None:
        self._calls = calls
        self._stored = stored
        self._snapshot = snapshot
        self._works: dict[str, _Work] = {}
        self._promises: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Run again what the last end of the gateway has interrupted."""
        for row in await self._stored.unfinished():
            key = self._snapshot().keys.get(row.key)
            if key is not None and row.asked and now_us() - row.created_us < BACKGROUND_S * 1_000_000:
                self._start(_Work(row, key, streamed=bool(msgspec.json.decode(row.asked).get("stream"))))
            else:
                why = "Its key was revoked." if key is None else "The gateway was down for too long. Send it again."
                await self._stored.add(_lost(row, why))

    async def close(self) -> None:
        """Leave them as they are: they are run again at the next start."""
        await asyncio.gather(*self._promises, return_exceptions=True)
        tasks = [work.task for work in self._works.values() if work.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def begin(self, request: Request, reply: HttpReply) -> None:
        """Promise an answer; a stream is followed to its end.

        Raises:
            Refusal: `throttled`: the project has too many; `invalid`: its input is too long; `shed`: no database.
        """
        work = await self._promise(request)
        own = (b"x-request-id", request.id.encode())
        if work.recording is None:
            body = work.row.body
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), own]
            await reply.pass_on({"type": "http.response.start", "status": 200, "headers": headers})
            await reply.pass_on({"type": "http.response.body", "body": body})
            return
        await reply.pass_on({"type": "http.response.start", "status": 200, "headers": [*sse.HEADERS, own]})
        async for events in follow(work.recording, -1):
            await reply.pass_on({"type": "http.response.body", "body": events, "more_body": True})
        await reply.pass_on({"type": "http.response.body", "body": b""})

    def find(self, project: str, id: str) -> ResponseRow | None:
        """How one stands that is not over, or was so a moment ago."""
        work = self._works.get(id)
        return work.row if work is not None and work.row.project == project else None

    def recording(self, project: str, id: str) -> Recording | None:
        """Its events, as they come."""
        work = self._works.get(id)
        return work.recording if work is not None and work.row.project == project else None

    async def cancel(self, project: str, id: str) -> ResponseRow | None:
        """End one, if it is under way: how it stands now."""
        work = self._works.get(id)
        if work is None or work.task is None or work.row.project != project:
            return None
        work.task.cancel()
        await asyncio.wait([work.task])
        if id in self._works:
            await self._conclude(work, "cancelled")
        return work.row

    async def _promise(self, request: Request) -> _Work:
        asked, project = request.asked, request.key.project.id
        assert isinstance(asked, Asked)
        if sum(work.row.project == project for work in self._works.values()) >= BACKGROUND_RUNS:
            raise Refusal(
                Outcome.THROTTLED,
                f"This project has {BACKGROUND_RUNS} responses waiting or running in the background; wait for some.",
                code="background_limit",
                retry_after_ms=_LIMIT_RETRY_MS,
            )
        row = ResponseRow(
            id=response_id(request.id),
            project=project,
            key=request.key.id,
            status="queued",
            background=True,
            created_us=request.arrived_us,
            body=response_object(request, request.tier_word or "auto", "queued"),
            input=_encode(asked.input),
            asked=_encode(msgspec.json.decode(asked.raw) | {"input": asked.input}),
        )
        if row.size_bytes > RESPONSE_BYTES:
            raise Refusal(
                Outcome.INVALID,
                f"In the background `input` takes at most {RESPONSE_BYTES // 2**21} MiB.",
                param="input",
            )
        work = self._works[row.id] = _Work(row, request.key, streamed=bool(asked.body.stream))
        promise = asyncio.get_running_loop().create_task(self._keep(work))
        self._promises.add(promise)
        promise.add_done_callback(self._promises.discard)
        try:
            await asyncio.shield(promise)  # who hangs up meanwhile would leave a promise that nobody keeps
        except SQLAlchemyError as error:
            said = "The response can't be promised at the moment, for want of the database."
            raise Refusal(Outcome.SHED, said, retry_after_ms=_LIMIT_RETRY_MS, cause=str(error)) from None
        return work

    async def _keep(self, work: _Work) -> None:
        """The promise: in the database first, then begun."""
        try:
            await self._stored.add(work.row)
        finally:
            del self._works[work.row.id]
        self._start(work)

    def _start(self, work: _Work) -> None:
        self._works[work.row.id] = work
        work.promise()
        work.task = asyncio.get_running_loop().create_task(self._run(work))

    async def _run(self, work: _Work) -> None:
        row = work.row
        assert row.asked is not None
        request_id = f"req_{row.id.removeprefix('resp_')}"
        endpoint = ResponsesEndpoint(keep=work.keep, created_us=row.created_us)
        await self._calls.run(endpoint, row.asked, work.key, work.send, id=request_id)
        await self._conclude(work, "failed")

    async def _conclude(self, work: _Work, otherwise: str) -> None:
        """Write down how it ended, however long the database takes; until then it is found here."""
        if work.row.status in UNFINISHED:
            work.conclude(otherwise)
        while True:
            try:
                await self._stored.add(work.row)
                break
            except SQLAlchemyError as error:
                _log.error("a response waits for the database", extra={"response": work.row.id, "cause": str(error)})
                await asyncio.sleep(_RETRY_S)
        self._works.pop(work.row.id, None)


def _lost(row: ResponseRow, why: str) -> ResponseRow:
    body = msgspec.json.decode(row.body) | {"status": "failed", "error": _error("server_error", why)}
    return msgspec.structs.replace(row, status="failed", body=_encode(body), asked=None)


def _error(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message}


async def follow(recording: Recording, after: int) -> AsyncIterator[bytes]:
    """Its events numbered beyond `after`, with a comment where it is silent for long."""
    seen = 0
    while True:
        for message in recording.messages[seen:]:
            seen += 1
            if body := beyond(message.get("body", b""), after):
                yield body
        if recording.done and seen == len(recording.messages):
            return
        try:
            async with asyncio.timeout(SSE_COMMENT_S):
                await recording.wait(seen)
        except TimeoutError:
            yield sse.COMMENT


def beyond(events: bytes, after: int) -> bytes:
    """The events among these that are numbered beyond `after`."""
    if after < 0:
        return events
    kept = [event for event in events.split(b"\n\n") if (number := _NUMBER.search(event)) and int(number[1]) > after]
    return b"".join(event + b"\n\n" for event in kept)
