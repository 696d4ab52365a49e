"""Token counts as an OpenAI-compatible server writes them, read with suspicion."""

from typing import Any

import msgspec

from fareclass.core.usage import Usage

_SANE_TOKENS = 1_000_000_000


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _WireUsage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Answer(msgspec.Struct):
    usage: _WireUsage | None = None


_ANSWER = msgspec.json.Decoder(_Answer)


def read_usage(usage: Any) -> Usage | None:
    """Our counts from a decoded `usage` object; None where it is malformed or can't be true.

    `prompt_tokens` includes what was read from a cache; ours never overlap.
    """
    try:
        return _convert(msgspec.convert(usage, _WireUsage))
    except msgspec.ValidationError:
        return None


def usage_of_answer(body: bytes) -> Usage | None:
    """The counts in an answer that is not streamed; nothing else of it is decoded.

    Raises:
        ValueError: the answer is not JSON.
    """
    try:
        answer = _ANSWER.decode(body)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return None if answer.usage is None else _convert(answer.usage)


def _convert(usage: _WireUsage) -> Usage | None:
    prompt, output = usage.prompt_tokens or 0, usage.completion_tokens or 0
    cached = (usage.prompt_tokens_details.cached_tokens or 0) if usage.prompt_tokens_details else 0
    if not 0 <= prompt <= _SANE_TOKENS or not 0 <= output <= _SANE_TOKENS:
        return None
    cached = min(max(cached, 0), prompt)
    return Usage(input=prompt - cached, cache_read=cached, output=output)
