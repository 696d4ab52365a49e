"""`POST /v1/messages/count_tokens`."""

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.responses import Response

from fareclass.core.request import Request
from fareclass.wire.anthropic import PATH, prompt_of
from fareclass.wire.errors import anthropic_error
from fareclass.wire.json_checks import decode_object
from fareclass.wire.project_plane import Call, Operation, json_answer

COUNT_PATH: Final = f"{PATH}/count_tokens"


def count_operation(count: Callable[[Request], Awaitable[int]]) -> Operation:
    """The call; `count` asks the model's tokenizer."""

    async def answer(call: Call) -> Response:
        raw = await call.body()
        request = prompt_of(decode_object(raw), len(raw), call.arrival, call.key)
        return json_answer({"input_tokens": await count(request)})

    return Operation("POST", COUNT_PATH, answer, anthropic_error)
