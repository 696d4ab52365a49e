"""The bytes of an engine's stream in, the bytes for the caller out: one state machine per call, without I/O.

Nearly every read of a stream is one more token. For those nothing is decoded: the engine's
private tail (`,"timings":{…}`, a running `,"usage":{…}`) is cut off by byte operations and a
reference to the newest read is kept, from which the token count is parsed when it is asked for.
A quote inside a JSON string is escaped, so these patterns can't be the caller's text. Only the
chunks that mean something more are decoded: those up to the first token, those with a
`finish_reason` or the final usage, the end mark, and errors.
"""

import re
from typing import Any, Final

import msgspec

from fareclass.core.limits import EVENT_BYTES
from fareclass.core.usage import Usage
from fareclass.engine.base import EngineFailed
from fareclass.engine.sequences import shared
from fareclass.engine.wire_usage import read_usage

_END: Final = b"\n\n"
_GOING_ON: Final = (b'"finish_reason":null', b'"finish_reason": null')
"""In each event that does not end its answer, as engines write JSON without spaces and with them."""
_PRIVATE: Final = frozenset({"timings", "usage", "prompt_progress"})
_RUNNING: Final = re.compile(
    rb'"(predicted_n|completion_tokens|cache_n|prompt_n|cached_tokens|prompt_tokens)":\s?(\d{1,9})'
)
_SPEAKING: Final = (
    "content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call", "audio", "text",
)  # fmt: skip


class Relay:
    """Turns reads of an engine's stream into whole events for the caller.

    `width` is the sequences of the call: above 1 every chunk is decoded, because engines then
    count each sequence apart. `continues`: this call goes on with an answer that the caller
    has the beginning of, so chunks that only open an answer are dropped. `said`: the text
    begins with this, which the caller has as well. `copies`: the engine counts each sequence
    apart, and so many of them share a prompt; 0 where it counts the call.
    """

    __slots__ = ("_continues", "_copies", "_counts", "_events", "_fast", "_final", "_finished", "_going_on", "_held", "_marker", "_newest", "_rest",
                 "_running", "_said", "_started", "_width", "done")  # fmt: skip

    def __init__(self, width: int = 1, *, continues: bool = False, said: str = "", copies: int = 0) -> None:
        self._width = width
        self._copies = copies
        self._counts: list[Usage] = []
        self._continues = continues
        self._said = said
        self._rest = b""
        self._held = b""
        self._marker: bytes | None = None
        self._going_on = _GOING_ON[0]
        self._newest: bytes | None = None
        self._events = 0
        self._finished = 0
        self._started = False
        self._fast = False
        self.done = False
        self._final: Usage | None = None
        self._running: Usage | None = None

    @property
    def apart(self) -> bool:
        """Whether the engine counts each sequence apart."""
        return self._copies > 0

    @property
    def whole(self) -> bool:
        """Whether the engine said that the answer is complete."""
        return self.done or self._finished >= self._width

    @property
    def made_tokens(self) -> int:
        """Output tokens so far: the engine's count where it tells one, else events with content."""
        if self._continues and not self._started:
            return 0  # what it may have made of `said` was made before
        usage = self.usage
        return self._events if usage is None else usage.output

    @property
    def usage(self) -> Usage | None:
        """The engine's own count: the final one, or the running one of a call that is not over or was cut."""
        if self._final is None and self._newest is not None and self._marker is not None and self._width == 1:
            self._running = _running_usage(self._newest, self._marker) or self._running
            self._newest = None
        return self._final or self._running

    def feed(self, data: bytes) -> bytes:
        """What the caller gets for this read: whole events, or nothing yet.

        Raises:
            EngineFailed: the stream holds an error, something that is no event of this API,
                an event larger than `EVENT_BYTES`, or does not begin with `said`.
        """
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if b"\r" in data:
            data = self._unix_lines(data)
        if not data.endswith(_END):
            data = self._whole_events(data)
        if self._fast:
            events = data.count(_END)
            if data.count(self._going_on) == events:
                if not events:
                    return b""
                self._events += events
                if self._marker is None:
                    return data
                self._newest = data
                return _without_tail(data, self._marker, events)
        return b"".join([self._event(event) for event in data.split(_END) if event])

    def _unix_lines(self, data: bytes) -> bytes:
        """Unix line ends; a carriage return at the very end waits for what follows it."""
        if data.endswith(b"\r"):
            self._rest = b"\r"
            data = data[:-1]
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _whole_events(self, data: bytes) -> bytes:
        """The part of the data up to the end of its last whole event; the rest is kept for later."""
        end = data.rfind(_END)
        end = 0 if end < 0 else end + 2
        self._rest = data[end:] + self._rest
        if len(self._rest) > EVENT_BYTES:
            raise EngineFailed("broken", f"the engine sent an event of more than {EVENT_BYTES} bytes")
        return data[:end]

    def _event(self, event: bytes) -> bytes:
        payload = _payload(event)
        if not payload or self.done:
            return b""
        if payload == b"[DONE]":
            self.done = True
            return b""
        chunk = _decode(payload)
        choices = [c for c in chunk.get("choices") or () if isinstance(c, dict)]
        if chunk.get("error") and not choices:
            raise EngineFailed("refused", f"the engine ended the stream with an error: {_message(chunk['error'])}")
        finished = sum(choice.get("finish_reason") is not None for choice in choices)
        self._finished += finished
        if isinstance(chunk.get("usage"), dict) and (finished or not choices):
            self._count(read_usage(chunk["usage"]))
        if not choices or "prompt_progress" in chunk:
            return b""
        says = any(_says(choice) for choice in choices)
        self._events += says
        again = says and bool(self._said)
        if again:
            self._skip_said(choices[0])
            says = _says(choices[0])
        return self._chunk(chunk, payload, tells=says or finished > 0, changed=again)

    def _count(self, usage: Usage | None) -> None:
        """The engine's count of the call, or of one of its sequences."""
        if self._copies and usage is not None:
            self._counts.append(usage)
            usage = shared(self._counts, self._copies) if len(self._counts) == self._width else None
        self._final = usage or self._final

    def _skip_said(self, choice: dict[str, Any]) -> None:
        """Take off what the caller has of this text. An engine that goes on otherwise gives another answer."""
        part, key = (choice["delta"], "content") if "delta" in choice else (choice, "text")
        text, said = part.get(key), self._said
        if not (text and isinstance(text, str) and (text.startswith(said) or said.startswith(text))):
            raise EngineFailed("refused", "the engine does not go on from where the answer was cut")
        part[key], self._said = text[len(said) :], said[len(text) :]

    def _chunk(self, chunk: dict[str, Any], payload: bytes, *, tells: bool, changed: bool) -> bytes:
        """A decoded chunk as the caller gets it; before the first token it may be held back."""
        private = [key for key in chunk if key in _PRIVATE and chunk[key] is not None]
        kept = b"data: " + payload + _END
        if private:
            self._newest = payload
        if private or changed:
            kept = b"data: " + msgspec.json.encode({k: v for k, v in chunk.items() if k not in private}) + _END
        if self._started:
            return kept
        if tells:
            self._started = True
            self._learn(chunk, payload, has_private=bool(private))
            kept, self._held = self._held + kept, b""
            return kept
        if not self._continues:
            self._held += kept
            if len(self._held) > EVENT_BYTES:
                raise EngineFailed("broken", f"the engine sent {EVENT_BYTES} bytes of events without a token")
        return b""

    def _learn(self, chunk: dict[str, Any], payload: bytes, *, has_private: bool) -> None:
        """See from the first token's chunk how this engine's private tail looks, if it has one."""
        self._going_on = next((form for form in _GOING_ON if form in payload), _GOING_ON[0])
        first = None
        for key in reversed(chunk):
            if key not in _PRIVATE or chunk[key] is None:
                break
            first = key
        if first is not None:
            marker = b',"' + first.encode() + b'":{'
            self._marker = marker if marker in payload else None
        self._fast = self._width == 1 and (self._marker is not None or not has_private)


def _running_usage(read: bytes, marker: bytes) -> Usage | None:
    """The running count in the newest event of a read: llama.cpp's `timings`, or a `usage` in every chunk."""
    found = dict(_RUNNING.findall(read, max(0, read.rfind(marker))))
    output = found.get(b"predicted_n") or found.get(b"completion_tokens")
    if output is None:
        return None
    cached = int(found.get(b"cache_n") or found.get(b"cached_tokens") or 0)
    if b"prompt_n" in found:
        return Usage(input=int(found[b"prompt_n"]), cache_read=cached, output=int(output))
    prompt = int(found.get(b"prompt_tokens", 0))
    return Usage(input=max(0, prompt - cached), cache_read=min(cached, prompt), output=int(output))


def _without_tail(data: bytes, marker: bytes, events: int) -> bytes:
    if events == 1:
        cut = data.rfind(marker)
        return data if cut < 0 else data[:cut] + b"}\n\n"
    kept = []
    for event in data.split(_END):
        cut = event.rfind(marker)
        kept.append(event if cut < 0 else event[:cut] + b"}")
    return _END.join(kept)


def _payload(event: bytes) -> bytes:
    """The data of one event; b"" for a comment or an event without data."""
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return lines[0] if len(lines) == 1 else b" ".join(lines)


def _decode(payload: bytes) -> dict[str, Any]:
    try:
        chunk = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise EngineFailed("broken", f"the engine sent an event that is not JSON: {error}") from error
    if not isinstance(chunk, dict):
        raise EngineFailed("broken", "the engine sent an event that is not a JSON object")
    return chunk


def _says(choice: dict[str, Any]) -> bool:
    """Whether a choice holds something of the answer, more than its role."""
    delta = choice.get("delta", choice)
    return isinstance(delta, dict) and any(delta.get(key) for key in _SPEAKING)


def _message(error: Any) -> str:
    return str(error.get("message", error) if isinstance(error, dict) else error)[:500]
