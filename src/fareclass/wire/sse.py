"""Answers of an engine, made the gateway's own by changing bytes, not by decoding each event.

That is sound because inside a JSON string a quote is always escaped and a line end never
raw: `"service_tier":` and `}` before two line ends can only be structure, whatever the text says.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from fareclass.core.usage import Usage
from fareclass.wire.errors import Headers

_END = b"}\n\n"
_TIER_KEY = b'"service_tier"'
_TIER_BEHIND = re.compile(rb',\s*"service_tier"\s*:\s*(?:null|"[^"\\]*")')
_TIER_FIRST = re.compile(rb'"service_tier"\s*:\s*(?:null|"[^"\\]*")\s*,')
_MODEL = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*")')
_ID = re.compile(rb'"id"\s*:\s*("(?:[^"\\]|\\.)*")')
_CREATED = re.compile(rb'"created"\s*:\s*[0-9]+')
HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"


def stamp_body(body: bytes, tier_word: str, model: str) -> bytes:
    """A whole JSON answer with the served tier as its last key (R4) and the public model name."""
    own_model = b'"model":' + msgspec.json.encode(model)
    if own_model not in body:
        body = _MODEL.sub(lambda _: own_model, body, count=1)
    return _without_tier(body).rstrip()[:-1] + b',"service_tier":"%s"}' % tier_word.encode()


class Stamp:
    """Makes the events of one stream the gateway's own, though several upstream calls may feed it.

    Each event gets the served tier at its end. Once a call continues another, its events
    get the first call's id and time, so that the caller sees one unbroken stream (R11).
    """

    __slots__ = ("_created", "_first", "_model", "_new_call", "_own_model", "_renames", "_tail", "_tier_word")

    def __init__(self, tier_word: str, model: str, first: dict[str, Any]) -> None:
        """`first` stands in for the first event as long as there is none."""
        self._tier_word = tier_word
        self._model = model
        self._own_model = b'"model":' + msgspec.json.encode(model)
        self._tail = b',"service_tier":"%s"}\n\n' % tier_word.encode()
        self._first: bytes | dict[str, Any] = first
        self._new_call = True
        self._renames: list[tuple[bytes, bytes]] = []
        self._created: bytes | None = None

    def continued(self) -> None:
        """The next events come from another upstream call."""
        self._new_call = True

    def stamp(self, events: bytes) -> bytes:
        """One or more whole events, each with the served tier."""
        if self._new_call:
            events = self._meet(events)
        if _TIER_KEY in events:
            events = _without_tier(events)
        for theirs, ours in self._renames:
            events = events.replace(theirs, ours)
        if self._created is not None:  # not a fixed pair: some engines put the time of each event here
            events = _CREATED.sub(self._created, events)
        return events.replace(_END, self._tail)

    def usage(self, usage: Usage) -> bytes:
        """The chunk with the token counts that a caller may ask for; `prompt_tokens` has the cached ones in it."""
        counts = {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.output,
            "total_tokens": usage.prompt + usage.output,
            "prompt_tokens_details": {
                "cached_tokens": usage.cache_read,
                "cache_write_tokens": usage.cache_write_5m + usage.cache_write_1h,
            },
        }
        chunk = self._identity() | {"choices": [], "service_tier": self._tier_word, "usage": counts}
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"

    def cut(self, choices: Sequence[int]) -> bytes:
        """The chunk that ends these sequences, as if `max_tokens` were reached."""
        chunk = self._identity()
        said: dict[str, Any] = (
            {"text": "", "logprobs": None} if chunk.get("object") == "text_completion" else {"delta": {}}
        )
        ends = [{"index": index, **said, "finish_reason": "length"} for index in choices]
        return b"data: " + msgspec.json.encode(chunk | {"choices": ends, "service_tier": self._tier_word}) + b"\n\n"

    def _meet(self, events: bytes) -> bytes:
        """Learn from the first events of a call what to change in all of them."""
        self._new_call = False
        if type(self._first) is bytes:
            return self._join(events)
        self._first = events.partition(b"\n\n")[0]
        if self._own_model not in self._first:
            self._rename("model", _MODEL, self._first, self._model)
        return events

    def _join(self, events: bytes) -> bytes:
        """The first events of a continuation, rebuilt: they may name the role again, which was said already."""
        ours = self._identity()
        whole = events.split(b"\n\n")[:-1]
        self._renames.clear()
        self._rename("model", _MODEL, whole[0], self._model)
        self._rename("id", _ID, whole[0], ours.get("id"))
        self._created = b'"created":%d' % ours["created"] if "created" in ours else None
        chunks = [_without_role(msgspec.json.decode(event[6:])) for event in whole]
        return b"".join(b"data: " + msgspec.json.encode(chunk | ours) + b"\n\n" for chunk in chunks)

    def _rename(self, name: str, pattern: re.Pattern[bytes], event: bytes, ours: object) -> None:
        """Change this key's bytes, as this engine writes them, in every event from now on."""
        theirs = msgspec.json.decode(event[6:]).get(name)
        if theirs is None or theirs == ours:
            return
        new = b'"%s":' % name.encode() + msgspec.json.encode(ours)
        forms = {match[0] for match in pattern.finditer(event) if msgspec.json.decode(match[1]) == theirs}
        self._renames += [(form, new) for form in forms]

    def _identity(self) -> dict[str, Any]:
        """What all events of the stream share, taken from the first one."""
        first = msgspec.json.decode(self._first[6:]) if isinstance(self._first, bytes) else self._first
        shared = {name: first[name] for name in ("id", "object", "created") if name in first}
        return shared | {"model": self._model}


def error_event(body: bytes) -> bytes:
    """A refusal in mid-stream. No `[DONE]` follows it: that would say that the answer is whole."""
    return b"data: " + body + b"\n\n"


def _without_tier(body: bytes) -> bytes:
    return _TIER_FIRST.sub(b"", _TIER_BEHIND.sub(b"", body)) if _TIER_KEY in body else body


def _without_role(chunk: dict[str, Any]) -> dict[str, Any]:
    for choice in chunk.get("choices", ()):
        if "delta" in choice:
            choice["delta"].pop("role", None)
    return chunk
