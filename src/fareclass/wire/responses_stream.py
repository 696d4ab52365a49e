"""The answer of a Responses stream: pieces of a chat become items, and the events that build them up."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.wire.chat_events import Choice, Said, ToolCall

_encode = msgspec.json.Encoder().encode
_REASONS: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer can be incomplete."""

TEXT, REFUSAL, REASONING, CALL = "output_text", "refusal", "reasoning_text", "function_call_arguments"


class _Open:
    """An item in the making: its kind, its text so far in pieces, and the event of a piece but for number and text."""

    __slots__ = ("behind", "call", "id", "index", "kind", "pieces", "started")

    def __init__(self, kind: str, id: str, index: int, call: ToolCall | None = None) -> None:
        self.kind = kind
        self.id = id
        self.index = index
        self.call = call
        self.pieces: list[str] = []
        place = b"" if kind == CALL else b',"content_index":0'
        name = kind.encode()
        self.started = b'event: response.%b.delta\ndata: {"type":"response.%b.delta","sequence_number":' % (name, name)
        self.behind = b',"item_id":"%b","output_index":%d%b,"delta":' % (id.encode(), index, place)


class Output:
    """The items of one answer. `number` is that of the next event; events are given back as bytes."""

    __slots__ = ("_open", "_suffix", "finish_reason", "items", "number")

    def __init__(self, suffix: str, number: int = 0) -> None:
        """`suffix` makes the ids of items the answer's own."""
        self.items: list[dict[str, Any]] = []
        self.number = number
        self.finish_reason: str | None = None
        self._suffix = suffix
        self._open: _Open | None = None

    @property
    def incomplete(self) -> str | None:
        """Why the answer is not whole; None if it is."""
        return _REASONS.get(self.finish_reason or "")

    def event(self, name: str, fields: dict[str, Any]) -> bytes:
        """One event, numbered."""
        body = _encode({"type": name, "sequence_number": self.number, **fields})
        self.number += 1
        return b"event: %b\ndata: %b\n\n" % (name.encode(), body)

    def add(self, choice: Choice, said: Said) -> bytes:
        """A piece of the answer.

        Raises:
            Refusal: `upstream_failed`: a piece of a call that is over.
        """
        if choice.finish_reason is not None:
            self.finish_reason = choice.finish_reason
        if said.content and not (said.refusal or said.thought or said.tool_calls):  # what nearly every token is
            return self._piece(TEXT, said.content)
        made = b""
        if said.thought:
            made += self._piece(REASONING, said.thought)
        if said.content:
            made += self._piece(TEXT, said.content)
        if said.refusal:
            made += self._piece(REFUSAL, said.refusal)
        for call in said.tool_calls or ():
            made += self._call(call)
        return made

    def close(self) -> bytes:
        """The end of the item that is open."""
        return b"" if self._open is None else b"".join(self._ending(self._open))

    def _piece(self, kind: str, text: str) -> bytes:
        item = self._open
        opening = b""
        if item is None or item.kind is not kind:
            opening = self.close()
            item = self._begin(kind)
            opening += b"".join(self._beginning(item))
        item.pieces.append(text)
        number, self.number = self.number, self.number + 1
        tail = b',"logprobs":[]}\n\n' if kind is TEXT else b"}\n\n"
        return b"%b%b%d%b%b%b" % (opening, item.started, number, item.behind, _encode(text), tail)

    def _call(self, call: ToolCall) -> bytes:
        item = self._open
        opening = b""
        if item is None or item.call is None or item.call.index != call.index:
            if not call.function.name:
                raise Refusal(Outcome.UPSTREAM_FAILED, "The engine's tool calls came mixed up.")
            opening = self.close()
            item = self._begin(CALL, call)
            opening += b"".join(self._beginning(item))
        text = call.function.arguments
        return opening + self._piece(CALL, text) if text else opening

    def _begin(self, kind: str, call: ToolCall | None = None) -> _Open:
        prefix = {CALL: "fc", REASONING: "rs"}.get(kind, "msg")
        index = len(self.items)
        self._open = _Open(kind, f"{prefix}_{self._suffix}_{index}", index, call)
        return self._open

    def _beginning(self, item: _Open) -> Iterator[bytes]:
        yield self.event("response.output_item.added", {"output_index": item.index, "item": _item(item, None, "")})
        if item.kind != CALL:
            yield self._part("added", item, "")

    def _ending(self, item: _Open) -> Iterator[bytes]:
        self._open = None
        text = "".join(item.pieces)
        place: dict[str, Any] = {"item_id": item.id, "output_index": item.index}
        if item.kind == CALL:
            name = item.call.function.name if item.call is not None else None
            yield self.event("response.function_call_arguments.done", {**place, "name": name, "arguments": text})
        else:
            logprobs: dict[str, Any] = {"logprobs": []} if item.kind == TEXT else {}
            said = {"refusal" if item.kind == REFUSAL else "text": text}
            yield self.event(f"response.{item.kind}.done", {**place, "content_index": 0, **said, **logprobs})
            yield self._part("done", item, text)
        done = _item(item, text, "incomplete" if self.incomplete else "completed")
        self.items.append(done)
        yield self.event("response.output_item.done", {"output_index": item.index, "item": done})

    def _part(self, what: str, item: _Open, text: str) -> bytes:
        place = {"item_id": item.id, "output_index": item.index, "content_index": 0}
        return self.event(f"response.content_part.{what}", {**place, "part": _part(item.kind, text)})


def _part(kind: str, text: str) -> dict[str, Any]:
    if kind == TEXT:
        return {"type": TEXT, "text": text, "annotations": [], "logprobs": []}
    return {"type": kind, "refusal" if kind == REFUSAL else "text": text}


def _item(item: _Open, text: str | None, status: str) -> dict[str, Any]:
    """As it is with this text; None is before the first piece of it."""
    status = status or "in_progress"
    content = [] if text is None else [_part(item.kind, text)]
    if item.kind == REASONING:
        return {"id": item.id, "type": "reasoning", "status": status, "summary": [], "content": content}
    if item.call is not None:
        call = item.call
        made = {"id": item.id, "type": "function_call", "status": status}
        return made | {"call_id": call.id or item.id, "name": call.function.name, "arguments": text or ""}
    return {"id": item.id, "type": "message", "status": status, "role": "assistant", "content": content}
