"""OpenAI's Batches: its line format, its words for states, its calls (R37, R38)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw
from starlette.responses import Response

from fareclass.core.limits import BATCH_NAME_CHARS
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Job
from fareclass.core.snapshot import Key
from fareclass.flow.batch_job import EXPIRED_BATCH
from fareclass.flow.batch_lines import Answer, BadLine, Line
from fareclass.flow.batch_progress import EXPIRED
from fareclass.flow.batches import CHECKING, FINALIZING, RUNNING, Batches, NewBatch
from fareclass.flow.files import Files
from fareclass.store.ids import BATCH, new_id
from fareclass.store.objects import BatchRow
from fareclass.wire.batch_answers import hear
from fareclass.wire.calls import Calls
from fareclass.wire.dialect import Endpoint
from fareclass.wire.files import check_expiry, listing
from fareclass.wire.project_plane import Call, Operation, json_answer, not_there

API = "openai"
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
_WINDOW_S = 86_400
_STATES = {CHECKING: "validating", RUNNING: "in_progress", FINALIZING: "finalizing"}
_EXPIRED = (
    b'{"code":"batch_expired","message":"This request could not be executed before the completion window expired."}'
)


class _Input(msgspec.Struct):
    custom_id: Annotated[str, Meta(min_length=1, max_length=BATCH_NAME_CHARS)]
    url: str
    body: Raw
    method: Literal["POST"] = "POST"


class _Body(msgspec.Struct):
    model: str = ""
    stream: bool | None = None
    background: bool | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    """As chat, completions and embeddings have it, and as Responses does."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Answered(msgspec.Struct):
    usage: _Usage | None = None


class OpenAILines:
    """Implements `flow.batch_lines.LineFormat`; `endpoints` are the generating calls by path."""

    unique_names = True
    tells = frozenset([EXPIRED])

    def __init__(self, calls: Calls, endpoints: Mapping[str, Endpoint]) -> None:
        self._calls = calls
        self._endpoints = endpoints
        self._decode_line = msgspec.json.Decoder(_Input).decode
        self._decode_body = msgspec.json.Decoder(_Body).decode
        self._decode_answer = msgspec.json.Decoder(_Answered).decode

    def read(self, raw: bytes, number: int, terms: Mapping[str, Any]) -> Line:
        try:
            line = self._decode_line(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadLine(number, "invalid_json_line", f"The line is no request of a batch: {error}.") from None
        if line.url != terms["endpoint"]:
            message = f"`url` must be the batch's endpoint, `{terms['endpoint']}`."
            raise BadLine(number, "invalid_url", message, name=line.custom_id, param="url")
        try:
            body = self._decode_body(line.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadLine(number, "invalid_request", f"`body`: {error}.", name=line.custom_id, param="body") from None
        for name in ("stream", "background"):
            if getattr(body, name):
                message = f"`{name}` can't be used in a batch."
                raise BadLine(number, "invalid_request", message, name=line.custom_id, param=f"body.{name}")
        return Line(number=number, name=line.custom_id, model=body.model, path=line.url, body=bytes(line.body))

    def bad(self, error: BadLine, batch: str) -> bytes:
        told = {"code": error.code, "message": error.message, "param": error.param, "line": error.line}
        return _output(batch, error.line - 1, error.name, b"null", msgspec.json.encode(told))

    def left(self, line: Line, batch: str, kind: int) -> bytes:
        return _output(batch, line.number, line.name, b"null", _EXPIRED)

    async def run(self, line: Line, key: Key, id: str, job: Job) -> Answer:
        heard = await hear(self._calls, self._endpoints[line.path], line.body, key, id, job)
        response = b'{"status_code":%d,"request_id":"%b","body":%b}' % (heard.status, id.encode(), heard.body)
        return Answer(
            succeeded=heard.succeeded,
            text=_output(id.rpartition("_")[0], line.number, line.name, response, b"null"),
            tokens=self._tokens(heard.body) if heard.succeeded else (0, 0, 0, 0),
            again_ms=heard.again_ms,
            ours=heard.ours,
            ran_s=heard.ran_s,
        )

    def _tokens(self, body: bytes) -> tuple[int, int, int, int]:
        usage = self._decode_answer(body).usage
        if usage is None:
            return 0, 0, 0, 0
        read = usage.prompt_tokens_details or usage.input_tokens_details or _Details()
        thought = usage.completion_tokens_details or usage.output_tokens_details or _Details()
        return (
            usage.prompt_tokens or usage.input_tokens or 0,
            read.cached_tokens or 0,
            usage.completion_tokens or usage.output_tokens or 0,
            thought.reasoning_tokens or 0,
        )


def _output(batch: str, number: int, name: str | None, response: bytes, error: bytes) -> bytes:
    line = b'{"id":"batch_req_%b_%d","custom_id":%b,"response":%b,"error":%b}\n'
    return line % (batch.removeprefix("batch_").encode(), number + 1, msgspec.json.encode(name), response, error)


class _Expiry(msgspec.Struct):
    anchor: str
    seconds: int


_Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]


class _Made(msgspec.Struct):
    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: _Metadata | None = None
    output_expires_after: _Expiry | None = None


class _Page(msgspec.Struct):
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    after: str | None = None


class BatchCalls:
    """The four calls."""

    def __init__(self, batches: Batches, files: Files) -> None:
        self._batches = batches
        self._files = files

    def operations(self) -> list[Operation]:
        one = "/v1/batches/{batch}"
        return [
            Operation("POST", "/v1/batches", self.create),
            Operation("GET", "/v1/batches", self.list),
            Operation("GET", one, self.get),
            Operation("POST", one + "/cancel", self.cancel),
        ]

    async def create(self, call: Call) -> Response:
        made = await call.read(_Made)
        if made.endpoint not in PATHS:
            raise Refusal(Outcome.INVALID, f"`endpoint` must be one of {', '.join(PATHS)}.", param="endpoint")
        if made.completion_window != "24h":
            raise Refusal(Outcome.INVALID, "`completion_window` must be `24h`.", param="completion_window")
        terms: dict[str, Any] = {"endpoint": made.endpoint, "metadata": made.metadata}
        if (expiry := made.output_expires_after) is not None:
            terms["output_expires_s"] = check_expiry(expiry.anchor, expiry.seconds, "output_expires_after")
        file = await self._files.find(call.key.project.id, made.input_file_id)
        if file is None or file.purpose != "batch":
            message = "`input_file_id` must be a file of this project, uploaded with purpose `batch`."
            raise Refusal(Outcome.INVALID, message, param="input_file_id", code="file_not_found")
        asked = NewBatch(id=new_id(BATCH), input=file.id, terms=terms, window_s=_WINDOW_S)
        return json_answer(shown(await self._batches.create(call.key, API, asked)))

    async def list(self, call: Call) -> Response:
        page = call.query(_Page)
        found = await self._batches.listed(call.key.project.id, API, after=page.after, limit=page.limit + 1)
        return listing([shown(row) for row in found], page.limit)

    async def get(self, call: Call) -> Response:
        return json_answer(shown(await self._find(call)))

    async def cancel(self, call: Call) -> Response:
        return json_answer(shown(await self._batches.cancel(await self._find(call))))

    async def _find(self, call: Call) -> BatchRow:
        row = await self._batches.find(call.key.project.id, API, call.part("batch"))
        if row is None:
            raise not_there("The batch")
        return row


def shown(row: BatchRow) -> dict[str, Any]:
    """OpenAI's Batch."""
    result = row.result or {}
    outcome = result.get("outcome") if row.ended_us is not None else None
    state = outcome or ("cancelling" if row.cancelling_us is not None else _STATES[row.state])
    errors = result.get("errors")
    return {
        "id": row.id,
        "object": "batch",
        "endpoint": row.terms["endpoint"],
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": row.input,
        "completion_window": "24h",
        "status": state,
        "output_file_id": result.get("output_file"),
        "error_file_id": result.get("errors_file"),
        "created_at": _seconds(row.created_us),
        "in_progress_at": _seconds(row.started_us),
        "expires_at": _seconds(row.deadline_us),
        "finalizing_at": _seconds(row.finalizing_us),
        "completed_at": _seconds(row.ended_us) if outcome == "completed" else None,
        "failed_at": _seconds(row.ended_us) if outcome == "failed" else None,
        "expired_at": _seconds(row.ended_us) if outcome == EXPIRED_BATCH else None,
        "cancelling_at": _seconds(row.cancelling_us),
        "cancelled_at": _seconds(row.ended_us) if outcome == "cancelled" else None,
        "request_counts": {"total": row.total, "completed": row.succeeded, "failed": row.failed},
        "usage": _usage(result.get("tokens")) if outcome else None,
        "metadata": row.terms["metadata"],
    }


def _seconds(us: int | None) -> int | None:
    return None if us is None else us // 1_000_000


def _usage(tokens: list[int] | None) -> dict[str, Any]:
    read, cached, written, thought = tokens or (0, 0, 0, 0)
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": read + written,
    }
