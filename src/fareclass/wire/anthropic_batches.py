"""Anthropic's Message Batches: requests come in the call that makes one, results go out as one stream (R37, R38)."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw
from starlette.responses import Response

from fareclass.core.limits import MESSAGE_BATCH_BYTES, UPLOAD_S
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Job
from fareclass.core.snapshot import Key
from fareclass.flow.batch_lines import Answer, BadLine, Line
from fareclass.flow.batch_progress import CANCELLED, EXPIRED
from fareclass.flow.batch_split import SplitError, split
from fareclass.flow.batches import Batches, NewBatch, check_key, file_of
from fareclass.flow.files import Files, Upload
from fareclass.store.ids import new_id
from fareclass.store.objects import ENDED, BatchRow
from fareclass.wire.anthropic import ENDPOINT, PATH
from fareclass.wire.batch_answers import hear
from fareclass.wire.calls import Calls
from fareclass.wire.errors import anthropic_error
from fareclass.wire.openai import invalid_field
from fareclass.wire.project_plane import Call, Operation, Streamed, json_answer, moment, not_there

API: Final = "anthropic"
_BATCHES: Final = f"{PATH}/batches"
_SPLITS: Final = 2
"""Bodies that are taken apart at once, each in a process with up to 512 MiB."""
_KIND: Final = "msgbatch"
_WINDOW_S: Final = 86_400
_BLOCK: Final = 2**18
_LEFT: Final = {EXPIRED: b'{"type":"expired"}', CANCELLED: b'{"type":"canceled"}'}
_JSONL: Final = {"content-type": "application/x-jsonl"}


class _Line(msgspec.Struct):
    custom_id: str
    params: Raw


class _Params(msgspec.Struct):
    model: str = ""
    stream: bool | None = None


class _Usage(msgspec.Struct):
    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0


class _Answered(msgspec.Struct):
    usage: _Usage


class MessageLines:
    """Implements `flow.batch_lines.LineFormat`."""

    unique_names = True
    tells = frozenset([EXPIRED, CANCELLED])

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._decode_line = msgspec.json.Decoder(_Line).decode
        self._decode_params = msgspec.json.Decoder(_Params).decode
        self._decode_answer = msgspec.json.Decoder(_Answered).decode

    def read(self, raw: bytes, number: int, terms: Mapping[str, Any]) -> Line:
        line = self._decode_line(raw)
        try:
            params = self._decode_params(line.params)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadLine(number, "invalid_request_error", f"`params`: {error}.", name=line.custom_id) from None
        if params.stream:
            message = "`stream` can't be used in a batch."
            raise BadLine(number, "invalid_request_error", message, name=line.custom_id, param="stream")
        return Line(number=number, name=line.custom_id, model=params.model, path=PATH, body=bytes(line.params))

    def bad(self, error: BadLine, batch: str) -> bytes:
        refusal = Refusal(Outcome.INVALID, error.message, param=error.param)
        return _failed(error.name or "", anthropic_error(refusal, f"{batch}_{error.line - 1}")[1])

    def left(self, line: Line, batch: str, kind: int) -> bytes:
        return _result(line.name, _LEFT[kind])

    async def run(self, line: Line, key: Key, id: str, job: Job) -> Answer:
        heard = await hear(self._calls, ENDPOINT, line.body, key, id, job)
        return Answer(
            succeeded=heard.succeeded,
            text=_result(line.name, b'{"type":"succeeded","message":%b}' % heard.body)
            if heard.succeeded
            else _failed(line.name, heard.body),
            tokens=self._tokens(heard.body) if heard.succeeded else (0, 0, 0, 0),
            again_ms=heard.again_ms,
            ours=heard.ours,
            ran_s=heard.ran_s,
        )

    def _tokens(self, body: bytes) -> tuple[int, int, int, int]:
        usage = self._decode_answer(body).usage
        read = usage.cache_read_input_tokens
        return usage.input_tokens + usage.cache_creation_input_tokens + read, read, usage.output_tokens, 0


def _failed(name: str, error: bytes) -> bytes:
    return _result(name, b'{"type":"errored","error":%b}' % error)


def _result(name: str, result: bytes) -> bytes:
    return b'{"custom_id":%b,"result":%b}\n' % (msgspec.json.encode(name), result)


class _Page(msgspec.Struct):
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 20
    after_id: str | None = None
    before_id: str | None = None


class MessageBatchCalls:
    """The six calls."""

    def __init__(self, batches: Batches, files: Files) -> None:
        self._batches = batches
        self._files = files
        self._splitting = asyncio.Semaphore(_SPLITS)

    def operations(self) -> list[Operation]:
        one = _BATCHES + "/{batch}"
        found = [
            ("POST", _BATCHES, self.create),
            ("GET", _BATCHES, self.list),
            ("GET", one, self.get),
            ("DELETE", one, self.delete),
            ("POST", one + "/cancel", self.cancel),
            ("GET", one + "/results", self.results),
        ]
        return [Operation(*each, anthropic_error) for each in found]

    async def create(self, call: Call) -> Response:
        check_key(call.key)
        batch = new_id(_KIND)
        body = await self._files.begin(call.key.project.id)
        try:
            await _take(call, body)
            lines = await self._files.begin(call.key.project.id)
            try:
                async with self._splitting:
                    total = await split(body.path, lines.path)
                file = await lines.finish(f"{batch}.jsonl", "batch", None, id=file_of(batch, "i"))
            finally:
                lines.drop()
        except SplitError as error:
            raise invalid_field(str(error)) if error.of_field else Refusal(Outcome.INVALID, str(error)) from None
        finally:
            body.drop()
        try:
            made = NewBatch(id=batch, terms={}, window_s=_WINDOW_S, total=total)
            row = await self._batches.create(call.key, API, made)
        except Refusal:
            await self._files.delete(file)
            raise
        return json_answer(shown(row, call))

    async def list(self, call: Call) -> Response:
        page = call.query(_Page)
        if page.after_id is not None and page.before_id is not None:
            raise Refusal(Outcome.INVALID, "`after_id` and `before_id` can't both be given.", param="before_id")
        found = await self._batches.listed(
            call.key.project.id, API, after=page.after_id, before=page.before_id, limit=page.limit + 1
        )
        data = found[-page.limit :] if page.before_id is not None else found[: page.limit]
        return json_answer(
            {
                "data": [shown(row, call) for row in data],
                "has_more": len(found) > page.limit,
                "first_id": data[0].id if data else None,
                "last_id": data[-1].id if data else None,
            }
        )

    async def get(self, call: Call) -> Response:
        return json_answer(shown(await self._find(call), call))

    async def cancel(self, call: Call) -> Response:
        return json_answer(shown(await self._batches.cancel(await self._find(call)), call))

    async def delete(self, call: Call) -> Response:
        row = await self._find(call)
        if not await self._batches.delete(row):
            raise Refusal(Outcome.INVALID, f"`{row.id}` has not ended: cancel it first.", code="batch_not_ended")
        return json_answer({"id": row.id, "type": "message_batch_deleted"})

    async def results(self, call: Call) -> Response:
        row = await self._find(call)
        if row.state != ENDED:
            raise Refusal(Outcome.INVALID, f"`{row.id}` has not ended, so that it has no results yet.")
        made = [row.result.get(name) for name in ("output_file", "errors_file")] if row.result else []
        blocks = _read([self._files.path(file) for file in made if file])
        try:
            await asyncio.to_thread(next, blocks)
        except FileNotFoundError:
            message = f"The results of `{row.id}` are gone: a file that they were in was deleted, or has expired."
            raise Refusal(Outcome.NOT_FOUND, message, code="not_found") from None
        return Streamed(blocks, _JSONL, call.deadlines)

    async def _find(self, call: Call) -> BatchRow:
        row = await self._batches.find(call.key.project.id, API, call.part("batch"))
        if row is None:
            raise not_there("The batch")
        return row


async def _take(call: Call, body: Upload) -> None:
    """The whole body, on disk."""
    try:
        async with asyncio.timeout(UPLOAD_S):
            async for part in call.stream():
                await body.write(part)
                if body.size_bytes > MESSAGE_BATCH_BYTES:
                    raise Refusal(Outcome.INVALID, f"The body is larger than {MESSAGE_BATCH_BYTES // 2**20} MiB.")
            await body.flush()
    except TimeoutError:
        message = f"The body took longer than {UPLOAD_S:.0f} s to arrive."
        raise Refusal(Outcome.INVALID, message, code="request_timeout") from None


def _read(paths: Sequence[Path]) -> Iterator[bytes]:
    """Nothing at first, once all are open: what is deleted after that is still read to its end."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb", buffering=0)) for path in paths]
        yield b""
        for file in files:
            while block := file.read(_BLOCK):
                yield block


def shown(row: BatchRow, call: Call) -> dict[str, Any]:
    """Anthropic's MessageBatch. Its counts move while it runs, which theirs do not."""
    ended = row.state == ENDED
    state = "ended" if ended else "canceling" if row.cancelling_us is not None else "in_progress"
    _, errored, expired, canceled = (row.result or {}).get("counts") or (0, row.failed, 0, 0)
    done = row.succeeded + errored + expired + canceled
    return {
        "id": row.id,
        "type": "message_batch",
        "processing_status": state,
        "request_counts": {
            "processing": max(0, row.total - done),
            "succeeded": row.succeeded,
            "errored": errored,
            "canceled": canceled,
            "expired": expired,
        },
        "created_at": moment(row.created_us),
        "expires_at": moment(row.deadline_us),
        "ended_at": moment(row.ended_us),
        "cancel_initiated_at": moment(row.cancelling_us),
        "archived_at": None,
        "results_url": f"{call.base_url}{_BATCHES}/{row.id}/results" if ended else None,
    }
