"""How many tokens a request will be, learned from those before it (R25)."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from fareclass.core.request import Request
from fareclass.core.snapshot import Model
from fareclass.core.usage import Usage, burnt

_FIRST_BYTES_PER_TOKEN: Final = 4
_PRIOR_TOKENS: Final = 256
"""Weight of that first guess, in tokens of prompts seen."""
_MEMORY_TOKENS: Final = 1_000_000
"""After so many the older half of what was seen loses half its weight."""
_MEMORY_ANSWERS: Final = 32
_RECENT_ANSWERS: Final = 100
"""Answers of which the p95 is taken (R26)."""
_SCALE: Final = 1024
"""Means are kept in 1/1024 tokens, so that integers lose nothing that matters."""
_ENTRIES: Final = 10_000


K = TypeVar("K")
V = TypeVar("V")


class Estimator:
    """Bytes per prompt token of each model, and mean and recent outputs of each project and model.

    Integers only. The least recently used entries are forgotten beyond `entries`.
    """

    def __init__(self, entries: int = _ENTRIES) -> None:
        self._entries = entries
        self._prompts: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._outputs: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()
        self._recent: OrderedDict[tuple[str, str], deque[int]] = OrderedDict()
        self._changed: set[tuple[str, str]] = set()

    def prompt_tokens(self, model: str, prompt_bytes: int) -> int:
        """Tokens of one prompt of so many bytes, at least 1."""
        seen_bytes, seen_tokens = self._prompts.get(model) or (_FIRST_BYTES_PER_TOKEN, 1)
        return max(1, -(-prompt_bytes * seen_tokens // seen_bytes))

    def output_tokens(self, project: str, model: Model, max_tokens: int | None) -> int:
        """Output of one sequence: the learned mean, or the model's default until one is known, within `max_tokens`."""
        known = self._outputs.get((project, model.name))
        mean = model.max_tokens_default if known is None else -(-known[0] // _SCALE)
        return mean if max_tokens is None else min(max_tokens, mean)

    def likely_output_tokens(self, project: str, model: str) -> int | None:
        """What 95 of its last 100 answers stayed within, None while there is none (R26)."""
        recent = self._recent.get((project, model))
        return sorted(recent)[-(-len(recent) * 95 // 100) - 1] if recent else None

    def hold_tokens(self, project: str, model: Model, request: Request, prompt_tokens: int) -> int:
        """What a request takes from its TPM at the start: its prompts, and output × burn-down × width (R25, R49).

        `prompt_tokens` are those that no cache should have: reads are free there.
        """
        output = self.output_tokens(project, model, request.max_tokens)
        return prompt_tokens + burnt(output * request.width, model.burndown.output)

    def learn(self, project: str, request: Request, usage: Usage, *, cut: bool = False) -> None:
        """Take in what a finished request really used; estimates must not be learned from.

        Prompts only of one sequence: engines differ in whether they count a prompt once or for each. No output
        of an answer that a budget `cut`, or that its own `max_tokens` ended below the mean: they say nothing of
        how long answers are, and a few with `max_tokens: 1` must not talk the hold of the next down.
        """
        if request.width == 1:
            self._learn_prompt(request.model, request.prompt_bytes, usage.prompt)
        flow, tokens = (project, request.model), usage.output // request.width
        if request.max_tokens is not None and tokens >= request.max_tokens:
            cut = cut or flow not in self._outputs or tokens * _SCALE < self._outputs[flow][0]
        if not cut:
            self._learn_output(flow, tokens)

    # -- over a restart

    def take_changed(self) -> dict[tuple[str, str], list[int]]:
        """What was learned since the last time, by project (empty for prompts of all projects) and model."""
        changed, self._changed = self._changed, set()
        return {
            flow: list(self._prompts[flow[1]]) if not flow[0] else [*self._outputs[flow], *self._recent[flow]]
            for flow in changed
            if (flow in self._outputs and flow in self._recent) or (not flow[0] and flow[1] in self._prompts)
        }

    def restore(self, learned: Mapping[tuple[str, str], Sequence[int]]) -> None:
        """Go on from what was learned before a restart."""
        for flow, (first, second, *recent) in learned.items():
            if flow[0]:
                _keep(self._outputs, flow, (first, second), self._entries)
                _keep(self._recent, flow, deque(recent, maxlen=_RECENT_ANSWERS), self._entries)
            else:
                _keep(self._prompts, flow[1], (first, second), self._entries)

    def changed_again(self, flows: Iterable[tuple[str, str]]) -> None:
        """These could not be kept: they are taken with the next."""
        self._changed.update(flows)

    def _learn_prompt(self, model: str, prompt_bytes: int, tokens: int) -> None:
        if tokens <= 0:
            return
        prior = (_PRIOR_TOKENS * _FIRST_BYTES_PER_TOKEN, _PRIOR_TOKENS)
        seen_bytes, seen_tokens = self._prompts.get(model, prior)
        if seen_tokens > _MEMORY_TOKENS:
            seen_bytes, seen_tokens = seen_bytes // 2, seen_tokens // 2
        _keep(self._prompts, model, (seen_bytes + prompt_bytes, seen_tokens + tokens), self._entries)
        self._changed.add(("", model))

    def _learn_output(self, flow: tuple[str, str], tokens: int) -> None:
        """A plain mean of the first answers, then one that forgets the older ones."""
        mean, count = self._outputs.get(flow, (0, 0))
        count = min(count + 1, _MEMORY_ANSWERS)
        _keep(self._outputs, flow, (mean + (tokens * _SCALE - mean) // count, count), self._entries)
        recent = self._recent.get(flow) or deque(maxlen=_RECENT_ANSWERS)
        recent.append(tokens)
        _keep(self._recent, flow, recent, self._entries)
        self._changed.add(flow)


def _keep(entries: OrderedDict[K, V], key: K, value: V, size: int) -> None:
    """Set the entry that was used last, and forget those used least recently."""
    entries[key] = value
    entries.move_to_end(key)
    while len(entries) > size:
        entries.popitem(last=False)
