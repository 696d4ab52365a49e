"""What an engine says in a chat, decoded: the translators of the other APIs read these in place of its bytes."""

from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from fareclass.core.outcomes import Outcome, Refusal


class Function(msgspec.Struct, frozen=True):
    """A piece of a call: the name comes once, the arguments' JSON in pieces."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct, frozen=True):
    """One of several calls that an answer makes; pieces of it have the same `index`, which only streams say."""

    index: int = 0
    id: str | None = None
    function: Function = Function()


class Said(msgspec.Struct, frozen=True):
    """A `delta` or a `message`. Engines name reasoning in two ways."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None

    @property
    def thought(self) -> str | None:
        """Its reasoning."""
        return self.reasoning_content or self.reasoning


class Choice(msgspec.Struct, frozen=True):
    """One sequence's piece of the answer."""

    index: int = 0
    delta: Said = Said()
    message: Said = Said()
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    matched_stop: str | int | None = None

    @property
    def matched(self) -> str | None:
        """The stop sequence that ended it, of engines that tell (vLLM and SGLang, which may also name a token)."""
        found = self.stop_reason or self.matched_stop
        return found if isinstance(found, str) else None


class Chunk(msgspec.Struct, frozen=True):
    """One event of a stream, or a whole answer."""

    choices: list[Choice] = []


_decode = msgspec.json.Decoder(Chunk).decode


def choices(events: bytes) -> Iterator[Choice]:
    """The first sequence's pieces in whole server-sent events, in their order; what is not a chunk is left out.

    Raises:
        Refusal: `upstream_failed`: the engine said something that is no chat.
    """
    for event in events.split(b"\n\n"):
        if event.startswith(b"data: {"):
            yield from _read(event[6:]).choices[:1]


def whole(body: bytes) -> Choice:
    """The first sequence of an answer that did not come as a stream, its calls numbered as a stream's are.

    Raises:
        Refusal: `upstream_failed`: the engine said something that is no chat.
    """
    found = _read(body).choices
    if not found:
        raise Refusal(Outcome.UPSTREAM_FAILED, "The engine's answer holds no choice.")
    choice, calls = found[0], found[0].message.tool_calls
    if not calls:
        return choice
    numbered = [replace(call, index=number) for number, call in enumerate(calls)]
    return replace(choice, message=replace(choice.message, tool_calls=numbered))


def _read(body: bytes) -> Chunk:
    try:
        return _decode(body)
    except msgspec.MsgspecError as error:
        raise Refusal(Outcome.UPSTREAM_FAILED, f"The engine's answer is no chat: {error}.") from None
