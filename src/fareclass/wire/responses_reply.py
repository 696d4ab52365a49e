"""Answers and refusals of the Responses API (R4)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from fareclass.core.outcomes import Refusal
from fareclass.core.request import Request
from fareclass.core.usage import Usage
from fareclass.flow.reply import Served
from fareclass.wire import chat_events, sse
from fareclass.wire import responses_fields as fields
from fareclass.wire.errors import Headers, openai_error
from fareclass.wire.limit_headers import openai_limits
from fareclass.wire.openai_reply import tier_word
from fareclass.wire.responses_stream import Output
from fareclass.wire.responses_words import own_words

PROMISES: Final = 2
"""Events of a background response that come before its run: created and queued."""

_encode = msgspec.json.Encoder().encode


class Answered(msgspec.Struct, frozen=True):
    """An answer to be stored: the response as its caller got it, and all that it answers, as JSON."""

    id: str
    status: str
    body: bytes
    input: bytes


class Asked(msgspec.Struct, frozen=True):
    """What the answer repeats of the request. `keep` takes the answer once it is there; None where it isn't stored.

    `raw` is the caller's body, of a call that is to run in the background; `places` are where the messages of the chat
    stand in it. `created_us` is the time of day when the response was asked for.
    """

    body: fields.Responses
    tools: msgspec.Raw
    input: Sequence[fields.Item]
    keep: Callable[[Answered], None] | None
    raw: bytes
    places: Sequence[str]
    created_us: int


def response_id(request_id: str) -> str:
    """A response is named after the request that made it."""
    return f"resp_{request_id.removeprefix('req_')}"


def response_object(
    request: Request,
    tier: str,
    status: str,
    *,
    output: Sequence[Mapping[str, Any]] = (),
    usage: Usage | None = None,
    **more: Any,
) -> bytes:
    """The Response object as JSON; `more` stands in for what is null in most of them."""
    assert isinstance(request.asked, Asked)
    asked = request.asked.body
    return _encode(
        {
            "id": response_id(request.id),
            "object": "response",
            "created_at": request.asked.created_us // 1_000_000,
            "status": status,
            "background": bool(asked.background),
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "max_tool_calls": asked.max_tool_calls,
            "metadata": asked.metadata or {},
            "model": request.model,
            "output": output,
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": asked.previous_response_id,
            "prompt_cache_key": asked.prompt_cache_key,
            "reasoning": asked.reasoning or fields.Reasoning(),
            "safety_identifier": asked.safety_identifier,
            "service_tier": tier,
            "store": request.asked.keep is not None,
            "temperature": asked.temperature,
            "text": {
                "format": (asked.text and asked.text.format) or fields.FreeText(),
                "verbosity": asked.text and asked.text.verbosity,
            },
            "tool_choice": asked.tool_choice or "auto",
            "tools": request.asked.tools,
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage),
            "user": asked.user,
            **more,
        }
    )


def failed_object(request: Request, tier: str, refusal: Refusal, output: Sequence[Mapping[str, Any]] = ()) -> bytes:
    """The Response object of an answer that failed."""
    error = msgspec.json.decode(openai_error(refusal)[1])["error"]
    return response_object(
        request, tier, "failed", output=output, error={"code": error["code"], "message": error["message"]}
    )


def _usage(usage: Usage) -> dict[str, Any]:
    """`input_tokens` has the cached ones in it. What of the output was reasoning is not counted apart."""
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write_5m + usage.cache_write_1h,
        },
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt + usage.output,
    }


class ResponsesDialect:
    """Implements `dialect.Dialect`: one response, as events that build it up, or whole."""

    __slots__ = ("_output", "_request", "_tier", "_whole")

    stream_headers = sse.HEADERS
    comment = sse.COMMENT

    def __init__(self, request: Request | None) -> None:
        """`request` is None for what was refused before it was understood."""
        self._request = request
        self._tier = ""
        self._whole = False
        background = request is not None and isinstance(request.asked, Asked) and request.asked.body.background
        suffix = "" if request is None else request.id.removeprefix("req_")
        self._output = Output(suffix, PROMISES if background else 0)

    def headers(self, served: Served) -> Headers:
        return [] if served.allowances is None else openai_limits(served.allowances)

    def begin(self, served: Served) -> bytes:
        request = self._asked()
        self._tier = tier_word(served, request)
        response = {"response": msgspec.Raw(response_object(request, self._tier, "in_progress"))}
        created = b"" if self._output.number else self._output.event("response.created", response)
        return created + self._output.event("response.in_progress", response)

    def events(self, events: bytes) -> bytes:
        add = self._output.add
        return b"".join([add(choice, choice.delta) for choice in chat_events.choices(events)])

    def continued(self) -> None:
        """Nothing of a response tells one upstream call from another."""

    def cut(self, choices: Sequence[int]) -> bytes:
        self._output.finish_reason = "length"
        return b""

    def end(self, usage: Usage) -> bytes:
        """The last event."""
        last = self._output.close()
        body = self._finished(usage)
        return last + self._output.event(f"response.{self._status}", {"response": msgspec.Raw(body)})

    def whole(self, served: Served, body: bytes, usage: Usage) -> tuple[Headers, bytes]:
        self._tier = tier_word(served, self._asked())
        choice = chat_events.whole(body)
        self._output.add(choice, choice.message)
        self._output.close()
        self._whole = True
        return [], self._finished(usage)

    def refused(self, refusal: Refusal, served: Served | None) -> tuple[int, Headers, bytes]:
        if self._request is not None and isinstance(self._request.asked, Asked):
            refusal = own_words(refusal, self._request.asked.places)
        if self._whole:  # it is withheld after all, so it is not to be fetched either
            self._keep("failed", failed_object(self._asked(), self._tier, refusal))
        status, body = openai_error(refusal, None if served is None else served.served)
        return status, [], body

    def broken(self, refusal: Refusal, served: Served | None) -> bytes:
        """The response failed; what there is of it is in its output."""
        last = self._output.close()
        body = failed_object(self._asked(), self._tier, refusal, self._output.items)
        self._keep("failed", body)
        return last + self._output.event("response.failed", {"response": msgspec.Raw(body)})

    @property
    def _status(self) -> str:
        return "incomplete" if self._output.incomplete else "completed"

    def _finished(self, usage: Usage) -> bytes:
        why = self._output.incomplete
        more: dict[str, Any] = {"incomplete_details": {"reason": why}} if why else {}
        body = response_object(self._asked(), self._tier, self._status, output=self._output.items, usage=usage, **more)
        self._keep(self._status, body)
        return body

    def _keep(self, status: str, body: bytes) -> None:
        asked = self._asked().asked
        assert isinstance(asked, Asked)
        if asked.keep is not None:
            asked.keep(Answered(response_id(self._asked().id), status, body, _encode(asked.input)))

    def _asked(self) -> Request:
        if self._request is None:
            raise ValueError("an answer needs the request that it answers")
        return self._request
