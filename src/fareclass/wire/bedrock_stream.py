"""The answer of a Converse stream: pieces of a chat become content blocks, and the events that build them up."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from fareclass.wire import eventstream
from fareclass.wire.anthropic_stream import CALL, TEXT, THINKING, Blocks, arguments
from fareclass.wire.chat_events import ToolCall

_START: Final = eventstream.event("contentBlockStart")
_DELTA: Final = eventstream.event("contentBlockDelta")
_STOP: Final = eventstream.event("contentBlockStop")
_HEADS: Mapping[str, bytes] = MappingProxyType(
    {
        TEXT: b'{"contentBlockIndex":%d,"delta":{"text":',
        THINKING: b'{"contentBlockIndex":%d,"delta":{"reasoningContent":{"text":',
        CALL: b'{"contentBlockIndex":%d,"delta":{"toolUse":{"input":',
    }
)

_encode = msgspec.json.Encoder().encode


class ConverseBlocks(Blocks):
    """The content blocks of one answer, in the words of this API."""

    __slots__ = ("_tail",)

    @property
    def stop_reason(self) -> str:
        """Why the answer ended."""
        reason = super().stop_reason
        return "content_filtered" if reason == "refusal" else reason

    def started(self, kind: str, index: int, call: ToolCall | None) -> tuple[bytes, bytes]:
        """What opens a block: of calls alone, the others begin with their first piece."""
        self._tail = b"}}" if kind is TEXT else b"}}}"
        head = _HEADS[kind] % index
        if call is None:
            return b"", head
        start = {"toolUse": {"toolUseId": call.id, "name": call.function.name}}
        return _START.message(_encode({"contentBlockIndex": index, "start": start})), head

    def said(self, head: bytes, text: str) -> bytes:
        return _DELTA.message(b"%b%b%b" % (head, _encode(text), self._tail))

    def stopped(self, kind: str, index: int) -> bytes:
        return _STOP.message(b'{"contentBlockIndex":%d}' % index)

    def block(self, kind: str, text: str, call: ToolCall | None) -> dict[str, Any]:
        if kind == TEXT:
            return {"text": text}
        if kind == THINKING:
            return {"reasoningContent": {"reasoningText": {"text": text}}}
        assert call is not None
        return {"toolUse": {"toolUseId": call.id, "name": call.function.name, "input": arguments(text)}}
