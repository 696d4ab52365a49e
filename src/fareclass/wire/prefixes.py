"""A prompt of the OpenAI API as blocks, and the cache points that its caller set (R28).

Two forms of a point are understood, on a tool or its function, a message or a part of one: `prompt_cache_breakpoint`
of the OpenAI API and `cache_control` of the Anthropic API, which callers of several providers send here too.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from fareclass.core.limits import CACHE_POINTS
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.prefix import FIVE_MINUTES_S, ONE_HOUR_S, Block
from fareclass.wire.media import MEDIA_PROMPT_BYTES

_FORMS: Final = {"prompt_cache_breakpoint": ("mode", "explicit"), "cache_control": ("type", "ephemeral")}
_TTLS: Final = {"5m": FIVE_MINUTES_S, "30m": ONE_HOUR_S, "1h": ONE_HOUR_S}
MARKS: Final = tuple(f'"{name}"'.encode() for name in _FORMS)
"""One of these is in the bytes of every body that has a cache point."""

Place = tuple[str, int, int]
"""Where a point stands: `tools` or `messages`, the number there, and that of the part, -1 for the whole."""
Points = Mapping[Place, int]

_encode = msgspec.json.Encoder().encode


def take_points(fields: dict[str, Any]) -> Points:
    """Cut the cache points out of a body, which no engine would understand; their TTLs in seconds.

    Raises:
        Refusal: `invalid`, for one that is malformed, one too many, or a longer TTL behind a shorter one.
    """
    points: dict[Place, int] = {}
    for place, node, path in _nodes(fields):
        for name, (word, value) in _FORMS.items():
            if name in node:
                _add_point(points, place, node.pop(name), f"{path}.{name}", word, value)
    return points


def _nodes(fields: Mapping[str, Any]) -> Iterator[tuple[Place, dict[str, Any], str]]:
    """Everything that may carry a point, in the order in which it stands in the prompt."""
    for number, tool in enumerate(fields.get("tools") or ()):
        yield ("tools", number, -1), tool, f"tools[{number}]"
        if isinstance(function := tool.get("function"), dict):
            yield ("tools", number, -1), function, f"tools[{number}].function"
    for number, message in enumerate(fields.get("messages") or ()):
        content = message.get("content")
        for index, part in enumerate(content if isinstance(content, list) else ()):
            yield ("messages", number, index), part, f"messages[{number}].content[{index}]"
        last = len(content) - 1 if isinstance(content, list) else -1
        yield ("messages", number, last), message, f"messages[{number}]"


def _add_point(points: dict[Place, int], place: Place, given: Any, path: str, word: str, value: str) -> None:
    if given is None:
        return
    if not isinstance(given, dict) or given.get(word) != value:
        raise _invalid(f'`{path}` must be an object with `"{word}": "{value}"`.', path)
    ttl = given.get("ttl") or "5m"
    if not isinstance(ttl, str) or ttl not in _TTLS:
        raise _invalid(f"`{path}.ttl` must be one of {', '.join(_TTLS)} (30m is kept for 1h).", f"{path}.ttl")
    if points and min(points.values()) < _TTLS[ttl]:
        raise _invalid(f"`{path}` has a longer TTL than a cache point before it; put longer ones first.", f"{path}.ttl")
    points[place] = _TTLS[ttl]
    if len(points) > CACHE_POINTS:
        raise _invalid(f"`{path}` is cache point number {len(points)}; a request may have {CACHE_POINTS}.", path)


def blocks(fields: Mapping[str, Any], points: Points) -> Iterator[Block]:
    """Tools, then messages, each in the order given and in the words given."""
    for number, tool in enumerate(fields.get("tools") or ()):
        data = _encode(tool)
        yield Block(data, len(data), points.get(("tools", number, -1), 0))
    for number, message in enumerate(fields.get("messages") or ()):
        content = message.get("content")
        if not isinstance(content, list) or not content:
            data = _encode(message)
            yield Block(data, len(data), points.get(("messages", number, -1), 0))
        else:
            yield from _parts(message, content, number, points)
    if isinstance(prompt := fields.get("prompt"), str):
        yield Block(prompt.encode("utf-8", "surrogatepass"), len(prompt))


def _parts(message: Mapping[str, Any], content: list[Any], number: int, points: Points) -> Iterator[Block]:
    frame = _encode({name: value for name, value in message.items() if name != "content"})
    for index, part in enumerate(content):
        data = _encode(part)
        size = len(data) if part.get("type") == "text" else min(len(data), MEDIA_PROMPT_BYTES)
        if not index:
            data, size = frame + data, len(frame) + size
        yield Block(data, size, points.get(("messages", number, index), 0))


def _invalid(message: str, path: str) -> Refusal:
    return Refusal(Outcome.INVALID, message, param=path)
