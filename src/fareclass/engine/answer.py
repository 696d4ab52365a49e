"""Reading an answer back from the events that were relayed: only done when somebody needs it.

A continuation needs the text so far (R11); a request that is not streamed runs streamed
upstream, so that it can be continued too, and is put together from its events at the end.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from fareclass.engine.base import EngineFailed

_MATCHED = ("stop_reason", "matched_stop")
_HEAD = ("id", "created", "model", "system_fingerprint", "service_tier")
_REASONING = ("reasoning_content", "reasoning")
_INSTEAD_OF_TEXT = ("tool_calls", "function_call", "refusal", "audio")


class Choice(msgspec.Struct, kw_only=True):
    """One sequence of an answer. `message` holds the merged deltas, or `text` for `/completions`; `matched` what
    the engine says of the stop string that ended it.
    """

    message: dict[str, Any] = {}
    tool_calls: dict[int, dict[str, Any]] = {}
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None
    matched: dict[str, Any] = {}


class Answer(msgspec.Struct, kw_only=True):
    """What a stream said, as far as it went; of several calls that continue each other, `head` is the first's.

    `blank_tail` counts the pieces of text at its end that are nothing but white space.
    """

    chat: bool = True
    head: dict[str, Any] = {}
    choices: dict[int, Choice] = {}
    blank_tail: int = 0

    @property
    def text(self) -> str:
        """The text of the first choice: what a continuation is given as its beginning."""
        return str(self._first.message.get("content" if self.chat else "text") or "")

    @property
    def reasoning_begun(self) -> bool:
        """Whether the first choice has any reasoning."""
        return any(self._first.message.get(key) for key in _REASONING)

    @property
    def tool_call_begun(self) -> bool:
        """Whether the first choice has begun to call a tool."""
        return bool(self._first.tool_calls) or "function_call" in self._first.message

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended; None if it has not."""
        return self._first.finish_reason

    @property
    def _first(self) -> Choice:
        return self.choices.get(0) or Choice()


def read_answer(blocks: Iterable[bytes], so_far: Answer | None = None) -> Answer:
    """The answer in these relayed blocks, each of one or more whole events; they go on with `so_far`, if given.

    Raises:
        EngineFailed: what the engine sent is not of this API; it was relayed without being decoded.
    """
    answer = so_far or Answer()
    try:
        for block in blocks:
            for event in block.split(b"\n\n"):
                if event.startswith(b"data:"):
                    _add(answer, msgspec.json.decode(event[5:]))
    except (msgspec.MsgspecError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise EngineFailed("broken", f"the engine sent a chunk that is not of the OpenAI API: {error}") from error
    return answer


def clean_cut(text: str, stops: Sequence[str], *, blank_ok: bool) -> bool:
    """Whether an answer that has come so far may be ended here and continued from exactly there (R11).

    Not inside a character, not inside what may become a stop string, and after white space only if `blank_ok`.
    """
    if not text:
        return True
    if text.endswith("\ufffd") or (text[-1].isspace() and not blank_ok):
        return False
    return not any(text.endswith(stop[:length]) for stop in stops for length in range(1, len(stop)))


def assemble(answer: Answer, usage: Mapping[str, Any]) -> bytes:
    """The body of an answer that is not streamed; `usage` goes in as it is."""
    body = {
        **answer.head,
        "object": "chat.completion" if answer.chat else "text_completion",
        "choices": [_whole(index, answer.choices[index], chat=answer.chat) for index in sorted(answer.choices)],
        "usage": usage,
    }
    return msgspec.json.encode(body)


def _add(answer: Answer, chunk: dict[str, Any]) -> None:
    for key in _HEAD:
        if key in chunk:
            answer.head.setdefault(key, chunk[key])
    for part in chunk.get("choices") or ():
        choice = answer.choices.setdefault(part.get("index", 0), Choice())
        if part.get("finish_reason"):
            choice.finish_reason = part["finish_reason"]
            choice.matched = {name: part[name] for name in _MATCHED if part.get(name) is not None}
        if isinstance(part.get("logprobs"), dict):
            choice.logprobs = _joined_lists(choice.logprobs or {}, part["logprobs"])
        if "text" in part:
            answer.chat = False
            _merge(choice.message, {"text": part["text"]})
        delta = dict(part.get("delta") or {})
        piece = delta.get("content") or part.get("text")
        if piece and isinstance(piece, str):
            answer.blank_tail = answer.blank_tail + 1 if piece.isspace() else 0
        for number, call in enumerate(delta.pop("tool_calls", None) or ()):
            _merge_call(choice.tool_calls.setdefault(call.get("index", number), {}), call)
        _merge(choice.message, delta)


def _merge(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Strings grow; everything else is replaced."""
    for key, value in delta.items():
        if isinstance(value, str) and key != "role":
            message[key] = (message.get(key) or "") + value
        elif key == "function_call" and value:
            _merge(message.setdefault(key, {}), value)
        elif value is not None or key not in message:
            message[key] = value


def _merge_call(call: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for key, value in delta.items():
        if key == "function" and isinstance(value, dict):
            _merge(call.setdefault("function", {}), value)
        elif key != "index" and value is not None:
            call[key] = value


def _joined_lists(so_far: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in more.items():
        so_far[key] = (so_far.get(key) or []) + value if isinstance(value, list) else value
    return so_far


def _whole(index: int, choice: Choice, *, chat: bool) -> dict[str, Any]:
    end = {"index": index, "logprobs": choice.logprobs, "finish_reason": choice.finish_reason, **choice.matched}
    if not chat:
        return {"text": choice.message.get("text") or "", **end}
    message = {"role": "assistant", "content": None, **choice.message}
    if choice.tool_calls:
        message["tool_calls"] = [choice.tool_calls[number] for number in sorted(choice.tool_calls)]
    if message["content"] is None and not any(message.get(key) for key in _INSTEAD_OF_TEXT):
        message["content"] = ""
    return {"message": message, **end}
