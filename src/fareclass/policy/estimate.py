"""How many tokens a request will be, learned from those before it (R25)."""

from collections import OrderedDict
from typing import Final, TypeVar

from fareclass.core.request import Request
from fareclass.core.snapshot import Model
from fareclass.core.usage import Usage

_FIRST_BYTES_PER_TOKEN: Final = 4
_PRIOR_TOKENS: Final = 256
"""Weight of that first guess, in tokens of prompts seen."""
_MEMORY_TOKENS: Final = 1_000_000
"""After so many the older half of what was seen loses half its weight."""
_MEMORY_ANSWERS: Final = 32
_SCALE: Final = 1024
"""Means are kept in 1/1024 tokens, so that integers lose nothing that matters."""
_ENTRIES: Final = 10_000


K = TypeVar("K")


def burnt(tokens: int, weight: int) -> int:
    """What so many tokens count, at a weight in hundredths, in whole tokens (R24)."""
    return -(-tokens * weight // 100)


class Estimator:
    """Bytes per prompt token of each model, and mean output of each project and model.

    Integers only. The least recently used entries are forgotten beyond `entries`.
    """

    def __init__(self, entries: int = _ENTRIES) -> None:
        self._entries = entries
        self._prompts: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._outputs: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()

    def prompt_tokens(self, model: str, prompt_bytes: int) -> int:
        """Tokens of one prompt of so many bytes, at least 1."""
        seen_bytes, seen_tokens = self._prompts.get(model) or (_FIRST_BYTES_PER_TOKEN, 1)
        return max(1, -(-prompt_bytes * seen_tokens // seen_bytes))

    def output_tokens(self, project: str, model: Model, max_tokens: int | None) -> int:
        """Output of one sequence: the learned mean, or the model's default until one is known, within `max_tokens`."""
        known = self._outputs.get((project, model.name))
        mean = model.max_tokens_default if known is None else -(-known[0] // _SCALE)
        return mean if max_tokens is None else min(max_tokens, mean)

    def hold_tokens(self, project: str, model: Model, request: Request, prompt_tokens: int) -> int:
        """What a request takes from its TPM at the start: its prompts, and output × burn-down × width (R25, R49)."""
        output = self.output_tokens(project, model, request.max_tokens)
        return prompt_tokens + burnt(output * request.width, model.burndown.output)

    def learn(self, project: str, request: Request, usage: Usage) -> None:
        """Take in what a finished request really used; estimates must not be learned from.

        Prompts only of one sequence: engines differ in whether they count a prompt once or for each.
        """
        if request.width == 1:
            self._learn_prompt(request.model, request.prompt_bytes, usage.prompt)
        if request.max_tokens != 0:
            self._learn_output((project, request.model), usage.output // request.width)

    def _learn_prompt(self, model: str, prompt_bytes: int, tokens: int) -> None:
        if tokens <= 0:
            return
        prior = (_PRIOR_TOKENS * _FIRST_BYTES_PER_TOKEN, _PRIOR_TOKENS)
        seen_bytes, seen_tokens = self._prompts.get(model, prior)
        if seen_tokens > _MEMORY_TOKENS:
            seen_bytes, seen_tokens = seen_bytes // 2, seen_tokens // 2
        _keep(self._prompts, model, (seen_bytes + prompt_bytes, seen_tokens + tokens), self._entries)

    def _learn_output(self, flow: tuple[str, str], tokens: int) -> None:
        """A plain mean of the first answers, then one that forgets the older ones."""
        mean, count = self._outputs.get(flow, (0, 0))
        count = min(count + 1, _MEMORY_ANSWERS)
        _keep(self._outputs, flow, (mean + (tokens * _SCALE - mean) // count, count), self._entries)


def _keep(entries: OrderedDict[K, tuple[int, int]], key: K, value: tuple[int, int], size: int) -> None:
    """Set the entry that was used last, and forget those used least recently."""
    entries[key] = value
    entries.move_to_end(key)
    while len(entries) > size:
        entries.popitem(last=False)
