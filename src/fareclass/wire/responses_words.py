"""A chat's names of things in the names of the Responses API, for refusals: callers know only what they sent."""

import re
from collections.abc import Sequence
from typing import Final

from fareclass.core.outcomes import Refusal

_PLACE = re.compile(r"\bmessages\[([0-9]{1,6})\]")
_NAMED = re.compile(r"`[^`]*`")
_THEIRS: Final = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    ".image_url.url": ".image_url",
    ".file.file_data": ".file_data",
}


def own_words(refusal: Refusal, places: Sequence[str]) -> Refusal:
    """A refusal of a chat's fields, which message number n of came from `places[n]`."""
    return Refusal(
        refusal.outcome,
        _NAMED.sub(lambda found: _translated(found[0], places), refusal.message),
        param=None if refusal.param is None else _translated(refusal.param, places),
        code=refusal.code,
        retry_after_ms=refusal.retry_after_ms,
        retry=refusal.retry,
        cause=refusal.cause,
    )


def _translated(name: str, places: Sequence[str]) -> str:
    name = _PLACE.sub(lambda found: places[int(found[1])] if int(found[1]) < len(places) else found[0], name)
    for theirs, ours in _THEIRS.items():
        name = name.replace(theirs, ours)
    return name
