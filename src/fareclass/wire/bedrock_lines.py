"""The lines of Bedrock's model-invocation jobs: records in, records with their answers out."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw

from fareclass.core.limits import BATCH_NAME_CHARS
from fareclass.core.request import Job
from fareclass.core.snapshot import Key
from fareclass.flow.batch_carrying import numbered
from fareclass.flow.batch_lines import Answer, BadLine, Line
from fareclass.flow.batch_progress import EXPIRED
from fareclass.wire.batch_answers import hear
from fareclass.wire.bedrock import ConverseEndpoint, model_name
from fareclass.wire.bedrock_invoke import InvokeEndpoint
from fareclass.wire.calls import Calls

CONVERSE: Final = "Converse"
INVOKE: Final = "InvokeModel"
_COUNTS: Final = tuple(
    b"x-amzn-bedrock-%b-token-count" % kind for kind in (b"input", b"cache-read-input", b"cache-write-input", b"output")
)
_INVALID: Final = 400

_encode = msgspec.json.Encoder().encode


class _Record(msgspec.Struct, rename="camel"):
    model_input: Raw
    record_id: Annotated[str, Meta(max_length=BATCH_NAME_CHARS)] | None = None


class _Usage(msgspec.Struct, rename="camel"):
    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    output_tokens: int = 0


class _Answered(msgspec.Struct):
    usage: _Usage


class _Refused(msgspec.Struct):
    message: str


class RecordLines:
    """Implements `flow.batch_lines.LineFormat`; `terms["asked"]` has the model and how it is called."""

    unique_names = False
    tells = frozenset([EXPIRED])

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._decode_line = msgspec.json.Decoder(_Record).decode
        self._decode_answer = msgspec.json.Decoder(_Answered).decode
        self._decode_refusal = msgspec.json.Decoder(_Refused).decode

    def read(self, raw: bytes, number: int, terms: Mapping[str, Any]) -> Line:
        try:
            record = self._decode_line(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadLine(number, "invalid_record", f"The line is no record: {error}.") from None
        asked = terms["asked"]
        name = f"REC{number + 1:08d}" if record.record_id is None else record.record_id
        model = model_name(asked["model"])
        return Line(number=number, name=name, model=model, path=asked["type"], body=bytes(record.model_input))

    def bad(self, error: BadLine, batch: str) -> bytes:
        name = error.name or f"REC{error.line:08d}"
        return numbered(error.line - 1, _output({"recordId": name, "error": _error(_INVALID, error.message)}))

    def left(self, line: Line, batch: str, kind: int) -> bytes:
        message = "The record was not processed before the job's time was over."
        return _failed(line, 408, message)

    async def run(self, line: Line, key: Key, id: str, job: Job) -> Answer:
        converse = line.path == CONVERSE
        kind = ConverseEndpoint if converse else InvokeEndpoint
        heard = await hear(self._calls, kind(line.model, stream=False), line.body, key, id, job)
        if not heard.succeeded:
            text = _failed(line, heard.status, self._decode_refusal(heard.body).message)
            return Answer(succeeded=False, text=text, again_ms=heard.again_ms, ours=heard.ours, ran_s=heard.ran_s)
        answer = {"recordId": line.name, "modelInput": Raw(line.body), "modelOutput": Raw(heard.body)}
        if converse:
            usage = self._decode_answer(heard.body).usage
            counts = (
                usage.input_tokens,
                usage.cache_read_input_tokens,
                usage.cache_write_input_tokens,
                usage.output_tokens,
            )
        else:
            counts = tuple(int(heard.headers.get(name, 0)) for name in _COUNTS)  # type: ignore[assignment]
        read, cached, written, output = counts
        return Answer(
            succeeded=True,
            text=numbered(line.number, _output(answer)),
            tokens=(read + cached + written, cached, output, 0),
            ran_s=heard.ran_s,
        )


def _failed(line: Line, status: int, message: str) -> bytes:
    record = {"recordId": line.name, "modelInput": Raw(line.body), "error": _error(status, message)}
    return numbered(line.number, _output(record))


def _error(status: int, message: str) -> dict[str, Any]:
    return {"errorCode": status, "errorMessage": message}


def _output(record: Mapping[str, Any]) -> bytes:
    return _encode(record) + b"\n"
