"""What a raised request used: by the usage in its answer, else by estimate."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

_BYTES_PER_TOKEN: Final = 4
_OUTPUT: Final = 1024
"""Output tokens that are expected of a request that sets no limit."""
_LIMITS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_TAIL: Final = 64 * 1024
_WHOLE: Final = 8 * 1024 * 1024
"""What is kept of an answer: the end of a stream, which has its usage, or an answer that is not streamed."""


class Meter:
    """Looks on as an answer's bytes pass."""

    def __init__(self, prompt: bytes) -> None:
        self._prompt_tokens = _prompt_tokens(prompt)
        self._kept = bytearray()
        self._events = 0

    @staticmethod
    def bound(prompt: bytes, body: Mapping[str, Any]) -> tuple[int, int]:
        """Tokens of input and output that a request may come to."""
        limits = [body[name] for name in _LIMITS if isinstance(body.get(name), int)]
        width = body.get("n")
        return _prompt_tokens(prompt), max(limits, default=_OUTPUT) * (width if isinstance(width, int) else 1)

    def feed(self, data: bytes) -> None:
        self._events += data.count(b"data:")
        self._kept += data
        if len(self._kept) > _WHOLE:
            del self._kept[:-_TAIL]

    def tokens(self, *, stream: bool) -> tuple[int, int]:
        """Input and output. A stream without usage counts one token an event, an answer without it four bytes a token."""
        for usage in self._usages(stream=stream):
            found = [usage.get(f"{new}_tokens", usage.get(f"{old}_tokens")) for new, old in _NAMES]
            if all(isinstance(count, int) for count in found):
                return found[0] or 0, found[1] or 0
        return self._prompt_tokens, self._events if stream else len(self._kept) // _BYTES_PER_TOKEN

    def _usages(self, *, stream: bool) -> Iterator[Mapping[str, Any]]:
        """Every usage that the answer holds, the last first."""
        parts = reversed(self._kept.split(b"\n")) if stream else [self._kept]
        for part in parts:
            if b'"usage"' not in part:
                continue
            try:
                body = json.loads(part.removeprefix(b"data:"))
            except ValueError:
                continue
            usage = _object(_object(body).get("response", body)).get("usage")
            if isinstance(usage, dict):
                yield usage


_NAMES: Final = (("input", "prompt"), ("output", "completion"))


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _prompt_tokens(prompt: bytes) -> int:
    return -(-len(prompt) // _BYTES_PER_TOKEN)
