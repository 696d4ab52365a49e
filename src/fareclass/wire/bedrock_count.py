"""Bedrock's `POST /model/{id}/count-tokens`."""

from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import Response

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.wire import bedrock_invoke
from fareclass.wire.anthropic_input import read
from fareclass.wire.bedrock import model_name, prompt_of
from fareclass.wire.bedrock_fields import Strict, Union
from fareclass.wire.bedrock_reply import error_headers
from fareclass.wire.json_checks import decode_object
from fareclass.wire.openai_fields import Object
from fareclass.wire.project_plane import Call, Operation, bedrock_refused, json_answer

_INVOKED = "input.invokeModel.body"


class InvokeModel(Strict):
    """A body of InvokeModel, in base64."""

    body: str


class Input(Union):
    """What is to be counted."""

    converse: Object | None = None
    invoke_model: InvokeModel | None = None


class Counting(Strict):
    """`POST /model/{id}/count-tokens`."""

    input: Input


def count_operation(count: Callable[[Request], Awaitable[int]]) -> Operation:
    """The call; `count` asks the model's tokenizer."""

    async def answer(call: Call) -> Response:
        raw = await call.body()
        request = _prompt(model_name(call.part("model")), decode_object(raw), len(raw), call)
        return json_answer({"inputTokens": await count(request)})

    return Operation("POST", "/model/{model:path}/count-tokens", answer, bedrock_refused, error_headers)


def _prompt(model: str, body: dict[str, Any], size_bytes: int, call: Call) -> Request:
    given = read(body, Counting).input
    if given.converse is not None and given.invoke_model is None:
        return prompt_of(model, given.converse, size_bytes, call.arrival, call.key)
    if given.invoke_model is None or given.converse is not None:
        raise Refusal(Outcome.INVALID, "`input` must have exactly one of `converse`, `invokeModel`.", param="input")
    try:
        raw = b64decode(given.invoke_model.body, validate=True)
    except ValueError:
        raise Refusal(Outcome.INVALID, f"`{_INVOKED}` is not base64.", param=_INVOKED) from None
    return bedrock_invoke.prompt_of(model, decode_object(raw), size_bytes, call.arrival, call.key)
