"""The answer of a Messages stream: pieces of a chat become content blocks, and the events that build them up."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.wire.chat_events import Choice, Said, ToolCall

TEXT, THINKING, CALL = "text", "thinking", "tool_use"
INVALID_JSON: Final = "INVALID_JSON"
"""The one key of a call's input, in a whole answer, where the model's arguments are no JSON object."""
SIGNATURE: Final = "unsigned"
"""Of thinking: a client that gives it back needs one, and nobody here checks it."""
_REASONS: Mapping[str, str] = MappingProxyType(
    {"length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use", "content_filter": "refusal"}
)
_DELTAS: Mapping[str, bytes] = MappingProxyType(
    {
        TEXT: b'"text_delta","text"',
        THINKING: b'"thinking_delta","thinking"',
        CALL: b'"input_json_delta","partial_json"',
    }
)

_encode = msgspec.json.Encoder().encode


def event(name: str, fields: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode({"type": name, **fields}))


class Blocks:
    """The content blocks of one answer, and why it ended; events are given back as bytes.

    An API that has such blocks too, but writes them otherwise, says how: `started`, `said`, `stopped` and `block`.
    """

    __slots__ = (
        "_call", "_called", "_count", "_finish_reason", "_head", "_kind", "_pieces", "_refused", "content", "matched",
    )  # fmt: skip

    def __init__(self) -> None:
        self.content: list[dict[str, Any]] = []
        self.matched: str | None = None
        self._count = 0
        self._finish_reason: str | None = None
        self._refused = False
        self._called = False
        self._kind = ""
        self._call: ToolCall | None = None
        self._head = b""
        self._pieces: list[str] = []

    @property
    def stop_reason(self) -> str:
        """Why the answer ended, in this API's words."""
        reason = _REASONS.get(self._finish_reason or "")
        if self._refused:
            return "refusal"
        if reason is None and self._called:
            return "tool_use"
        return reason or ("end_turn" if self.matched is None else "stop_sequence")

    def add(self, choice: Choice, said: Said) -> bytes:
        """A piece of the answer.

        Raises:
            Refusal: `upstream_failed`: a piece of a call that is over.
        """
        if choice.finish_reason is not None:
            self._finish_reason = choice.finish_reason
            self.matched = choice.matched
        if said.content and not (said.refusal or said.thought or said.tool_calls):  # what nearly every token is
            return self._piece(TEXT, said.content)
        made = b""
        if said.thought:
            made += self._piece(THINKING, said.thought)
        if said.content:
            made += self._piece(TEXT, said.content)
        if said.refusal:
            self._refused = True
            made += self._piece(TEXT, said.refusal)
        for call in said.tool_calls or ():
            made += self._call_piece(call)
        return made

    def cut(self) -> None:
        """The answer ends here as if `max_tokens` were reached."""
        self._finish_reason = "length"

    def close(self) -> bytes:
        """The end of the block that is open."""
        if not self._kind:
            return b""
        kind, self._kind = self._kind, ""
        self.content.append(self.block(kind, "".join(self._pieces), self._call))
        return self.stopped(kind, self._count - 1)

    def _piece(self, kind: str, text: str) -> bytes:
        opening = b"" if self._kind is kind else self._open(kind)
        self._pieces.append(text)
        return opening + self.said(self._head, text)

    def _call_piece(self, call: ToolCall) -> bytes:
        opening = b""
        if self._kind is not CALL or self._call is None or self._call.index != call.index:
            if not call.function.name:
                raise Refusal(Outcome.UPSTREAM_FAILED, "The engine's tool calls came mixed up.")
            opening = self._open(CALL, call)
        text = call.function.arguments
        return opening + self._piece(CALL, text) if text else opening

    def _open(self, kind: str, call: ToolCall | None = None) -> bytes:
        closing = self.close()
        index, self._count = self._count, self._count + 1
        self._kind, self._call, self._pieces = kind, call, []
        self._called = self._called or kind is CALL
        start, self._head = self.started(kind, index, call)
        return closing + start

    def started(self, kind: str, index: int, call: ToolCall | None) -> tuple[bytes, bytes]:
        """What opens a block, and what each piece of it begins with."""
        start = self.block(kind, "", call)
        if kind is THINKING:
            start["signature"] = ""
        head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%b:'
        return event("content_block_start", {"index": index, "content_block": start}), head % (index, _DELTAS[kind])

    def said(self, head: bytes, text: str) -> bytes:
        """A piece of the open block."""
        return b"%b%b}}\n\n" % (head, _encode(text))

    def stopped(self, kind: str, index: int) -> bytes:
        """What ends a block."""
        signed = b""
        if kind == THINKING:
            delta = {"type": "signature_delta", "signature": SIGNATURE}
            signed = event("content_block_delta", {"index": index, "delta": delta})
        return signed + event("content_block_stop", {"index": index})

    def block(self, kind: str, text: str, call: ToolCall | None) -> dict[str, Any]:
        """A content block with what was said of it."""
        if kind == TEXT:
            return {"type": TEXT, "text": text}
        if kind == THINKING:
            return {"type": THINKING, "thinking": text, "signature": SIGNATURE}
        assert call is not None
        return {"type": CALL, "id": call.id, "name": call.function.name, "input": arguments(text)}


def arguments(text: str) -> Any:
    """Of a call, an object whatever the model made of it."""
    if not text:
        return {}
    try:
        given = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return {INVALID_JSON: text}
    return given if isinstance(given, dict) else {INVALID_JSON: text}
