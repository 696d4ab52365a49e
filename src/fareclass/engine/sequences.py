"""Calls whose answer has several sequences, which llama.cpp counts apart: each as if it had been asked for alone.

Its usage of an answer that is not streamed is that of the first sequence. In a stream each one tells its own, so such a
call always runs streamed, and its counts are added up.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from fareclass.core.limits import ANSWER_BYTES
from fareclass.core.usage import Usage
from fareclass.engine.answer import Answer, assemble, read_answer
from fareclass.engine.base import EngineFailed, Prompt
from fareclass.engine.upstream import GENERATING, Flavour


def width(body: Mapping[str, Any]) -> int:
    """The sequences that an answer will have (R49)."""
    prompts = body.get("prompt")
    several = isinstance(prompts, list) and prompts and not isinstance(prompts[0], int)
    return copies(body) * (len(prompts) if several else 1)  # type: ignore[arg-type]


def copies(body: Mapping[str, Any]) -> int:
    """How many of them share each prompt."""
    asked = body.get("n")
    return asked if isinstance(asked, int) else 1


def counted_apart(prompt: Prompt, flavour: str) -> bool:
    """Whether the engine counts this call's sequences apart."""
    return flavour == Flavour.LLAMA and prompt.path in GENERATING and width(prompt.body) > 1


def shared(usages: list[Usage], copies: int) -> Usage:
    """One usage of what each sequence told, where so many of them share a prompt, which is billed once."""
    return Usage(
        input=sum(usage.input for usage in usages) // copies,
        cache_read=sum(usage.cache_read for usage in usages) // copies,
        output=sum(usage.output for usage in usages),
    )


async def gather(blocks: AsyncIterator[bytes]) -> Answer:
    """The answer in a stream.

    Raises:
        EngineFailed: the engine broke it off, or it is larger than `ANSWER_BYTES`.
    """
    answer, size = Answer(), 0
    async for block in blocks:
        size += len(block)
        if size > ANSWER_BYTES:
            raise EngineFailed("broken", f"the engine's answer is larger than {ANSWER_BYTES} bytes")
        answer = read_answer([block], answer)
    return answer


def whole(answer: Answer, usage: Usage | None) -> bytes:
    """The body of that answer."""
    told = usage or Usage()
    return assemble(
        answer,
        {
            "prompt_tokens": told.prompt,
            "completion_tokens": told.output,
            "total_tokens": told.prompt + told.output,
            "prompt_tokens_details": {"cached_tokens": told.cache_read},
        },
    )
