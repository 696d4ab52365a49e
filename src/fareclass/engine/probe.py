"""What a replica can really do, found out by asking it (R11, R17). Nothing is assumed.

All questions are greedy and built so that any language model goes on in one way only (an
alphabet, a word cut in two): what is judged is where the engine goes on, not how clever it
is. An engine that merely answers anew fails the first of them, and no more are asked.
"""

import asyncio
from collections.abc import Mapping
from itertools import accumulate
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec

from fareclass.core.usage import Usage
from fareclass.engine.answer import read_answer
from fareclass.engine.base import Call, EngineRefused, Isolation, Prompt, Traits
from fareclass.engine.upstream import Flavour

UNKNOWN_RECOMPUTE: Final = 1_000_000
"""Stands for "the whole prompt": the engine showed no cache that a continuation would find."""
_CUT_AFTER_S: Final = 0.2
_SETTLE_S: Final = 0.4
_LONG: Final = "Sort these: " + " ".join(f"w{number * 7919 % 1000}" for number in range(70))
_SENTENCE: Final = "Write: The quick brown fox jumps over the lazy dog."
_BEGINNING: Final = "The quick brown fox jumps over the lazy"


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """Traits, and the sign by which a rank becomes this engine's `priority` (0: it has none)."""

    traits: Traits = Traits()
    priority_sign: int = 0


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a probe's question, piece by piece as it came."""

    pieces: list[str]
    usage: Usage

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Replica(Protocol):
    """What the probe needs of an engine over HTTP."""

    async def open(self, prompt: Prompt) -> Call: ...
    async def look(self, method: str, path: str, body: Any = None) -> tuple[int, Any]: ...
    async def count_tokens(self, text: str) -> int | None: ...
    def assume(self, found: Findings) -> None: ...


async def find_traits(replica: Replica) -> Findings:
    """Look at one replica: a few requests of some tokens each, nothing that an idle engine would notice.

    Raises:
        EngineFailed: it went away meanwhile.
    """
    flavour, sign, takes_tools = await _find_flavour(replica)
    traits = Traits(flavour=flavour, takes_tools=takes_tools, **_CACHES[flavour])
    replica.assume(Findings(traits=traits))
    has_tokenizer = bool(await replica.count_tokens("one two three"))
    if flavour == Flavour.VLLM:
        sign = 1 if await _takes_priority(replica) else 0
    traits = msgspec.structs.replace(
        traits,
        has_tokenizer=has_tokenizer,
        honours_priority=_honours(flavour, sign),
        continuable=await _continues(replica),
    )
    if traits.continuable:
        traits = await _find_continuation(replica, traits)
    if flavour != Flavour.LLAMA:
        traits = await _find_told(replica, traits)
    return Findings(traits=traits, priority_sign=sign)


_CACHES: Final[Mapping[Flavour, dict[str, Any]]] = MappingProxyType(
    {
        # llama.cpp is told to reuse nothing but what is continued; the others' salts keep projects apart (R31).
        Flavour.LLAMA: {"caches": False, "tells_cached": True, "isolation": Isolation.OWN},
        Flavour.VLLM: {"caches": True, "isolation": Isolation.SALT},
        Flavour.SGLANG: {"caches": True, "isolation": Isolation.SALT},
        Flavour.OPENAI: {},
    }
)


async def _find_flavour(replica: Replica) -> tuple[Flavour, int, bool | None]:
    """What server it is, the sign of its priorities, and whether its model is told of tools."""
    status, answer = await replica.look("GET", "/props")
    if status == 200 and isinstance(answer, dict) and "default_generation_settings" in answer:
        return Flavour.LLAMA, 0, _template_takes_tools(answer)
    status, answer = await replica.look("GET", "/get_server_info")
    if status == 200 and isinstance(answer, dict):
        return Flavour.SGLANG, _sglang_sign(answer), None
    status, answer = await replica.look("GET", "/metrics")
    if status == 200 and isinstance(answer, str) and "vllm:" in answer:
        return Flavour.VLLM, 0, None
    status, answer = await replica.look("GET", "/version")
    if status == 200 and isinstance(answer, dict) and isinstance(answer.get("version"), str):
        return Flavour.VLLM, 0, None
    return Flavour.OPENAI, 0, None


def _template_takes_tools(props: dict[str, Any]) -> bool | None:
    """As llama.cpp has found out of the chat template; older ones say nothing."""
    caps = props.get("chat_template_caps")
    found = caps.get("supports_tools") if isinstance(caps, dict) else None
    return found if isinstance(found, bool) else None


def _sglang_sign(info: dict[str, Any]) -> int:
    if not info.get("enable_priority_scheduling"):
        return 0
    return 1 if info.get("schedule_low_priority_values_first") else -1


def _honours(flavour: Flavour, sign: int) -> bool | None:
    """Whether ranks count there; None where it can't be told: vLLM takes them whether or not it orders by them."""
    if flavour == Flavour.VLLM and sign:
        return None
    return bool(sign) if flavour != Flavour.OPENAI else None


async def _takes_priority(replica: Replica) -> bool:
    """Whether vLLM accepts a priority; without priority scheduling, versions differ in refusing it."""
    replica.assume(Findings(traits=Traits(flavour=Flavour.VLLM), priority_sign=1))
    try:
        await _ask(replica, "Say: yes", tokens=1, rank=1)
    except EngineRefused:
        return False
    finally:
        replica.assume(Findings(traits=Traits(flavour=Flavour.VLLM)))
    return True


async def _continues(replica: Replica) -> bool:
    """Cut a sentence before its last word.

    An engine that goes on writes the space before it first; one that answers anew begins otherwise.
    """
    try:
        said = await _ask(replica, _SENTENCE, _BEGINNING, tokens=2)
    except EngineRefused:
        return False
    return said.text.startswith(" dog")


async def _find_continuation(replica: Replica, traits: Traits) -> Traits:
    """What there is to know of an engine that went on once."""
    try:
        keeps_cut, recompute = await _find_cache(replica, traits.flavour)
        return msgspec.structs.replace(
            traits,
            continuable=await _keeps_characters(replica),
            clean_cut_only=not await _keeps_white_space(replica),
            continues_constrained=await _continues_constrained(replica),
            keeps_cut_prefill=keeps_cut,
            recompute_tokens=recompute,
        )
    except EngineRefused:
        return msgspec.structs.replace(traits, continuable=False)


async def _keeps_characters(replica: Replica) -> bool:
    """Characters of several tokens: a stream cut between their tokens must not lose or break one."""
    said = await _ask(replica, "Repeat this character ten times: 🦙", "🦙🦙🦙🦙🦙🦙")
    return "\ufffd" not in said.text.rstrip("\ufffd")


async def _keeps_white_space(replica: Replica) -> bool:
    """Whether an answer cut after a space, and one cut after a new line and indentation, go on from there.

    A template that strips the beginning makes the engine write the white space once more. The
    cuts are where the engine's own tokens end, as they will be in use.
    """
    code = "def one():\n    return 1\n\ndef two():\n    return 2\n\ndef three():"
    asked = (("Count from 1 to 9.", "1, 2, 3, 4, 5,"), ("Write three Python functions: one, two, three.", code))
    return all([await _goes_on_after_space(replica, question, beginning) for question, beginning in asked])


async def _goes_on_after_space(replica: Replica, question: str, beginning: str) -> bool:
    said = await _ask(replica, question, beginning)
    cuts = [cut for cut in accumulate(said.pieces) if cut[-1:].isspace()]
    if not cuts:
        return False
    rest = await _ask(replica, question, beginning + cuts[0])
    return (cuts[0] + rest.text).startswith(said.text)


async def _continues_constrained(replica: Replica) -> bool:
    """Whether an answer under a JSON schema, cut in half, ends as the same valid JSON."""
    schema = {
        "type": "object",
        "properties": {"city": {"const": "Paris"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": schema}}
    asked = "Name the capital of France as JSON."
    try:
        whole = (await _ask(replica, asked, tokens=32, response_format=form)).text
        half = whole[: len(whole) // 2].rstrip()
        rest = (await _ask(replica, asked, half, tokens=32, response_format=form)).text
    except EngineRefused:
        return False
    return _decoded(whole) is not None and _decoded(half + rest) == _decoded(whole)


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None


async def _find_cache(replica: Replica, flavour: str) -> tuple[bool, int]:
    """Whether a prompt cut in mid-prefill stays cached, and the tokens that a warm continuation computes again.

    Both as the gateway itself would find it when it sends the request again, under the rules
    of R31: what it must not reuse is lost. llama.cpp is told to reuse nothing but what is
    continued, so there a cut prompt is not asked for; and since it keeps single tokens and no
    blocks of them, the sentence that it has just continued tells as much as a long prompt.
    """
    if flavour == Flavour.LLAMA:
        return False, _recomputed(await _ask(replica, _SENTENCE, f"{_BEGINNING} dog", tokens=1))
    try:
        return await _find_block_cache(replica)
    except EngineRefused:
        return False, UNKNOWN_RECOMPUTE


async def _find_block_cache(replica: Replica) -> tuple[bool, int]:
    """Kept means 0 < cached < length - 1, soon after the cut: all of it cached means that the cut came too late."""
    call = await replica.open(_prompt(_LONG, tokens=4))
    await asyncio.sleep(_CUT_AFTER_S)
    await call.close()
    await asyncio.sleep(_SETTLE_S)
    again = await _ask(replica, _LONG, tokens=4)
    kept = 0 < again.usage.cache_read < again.usage.prompt - 1
    return kept, _recomputed(await _ask(replica, _LONG, again.text.rstrip() or "w", tokens=1))


async def _find_told(replica: Replica, traits: Traits) -> Traits:
    """Whether usage tells what was reused, where it is: of the same long prompt, asked twice."""
    try:
        tells = bool([await _ask(replica, _LONG, tokens=1) for _ in range(2)][-1].usage.cache_read)
    except EngineRefused:
        tells = False
    return msgspec.structs.replace(traits, tells_cached=tells, caches=traits.caches or tells or None)


def _recomputed(warm: Said) -> int:
    """More than half of it computed again is no continuation out of a cache: what was found there is less than it."""
    return warm.usage.input if warm.usage.cache_read > warm.usage.input else UNKNOWN_RECOMPUTE


async def _ask(
    replica: Replica, question: str, beginning: str = "", *, tokens: int = 6, rank: int = 0, **fields: Any
) -> Said:
    call = await replica.open(_prompt(question, beginning, tokens=tokens, rank=rank, **fields))
    try:
        pieces = [read_answer([block]).text async for block in call]
    finally:
        await call.close()
    return Said(pieces=pieces, usage=call.usage or Usage())


def _prompt(question: str, beginning: str = "", *, tokens: int, rank: int = 0, **fields: Any) -> Prompt:
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": tokens, **fields}
    return Prompt(path="/chat/completions", body=body, stream=True, rank=rank, beginning=beginning, id="probe")
