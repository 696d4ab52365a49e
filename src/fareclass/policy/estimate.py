"""How many tokens a request will be, learned from those before it (R25)."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
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
_RECENT_ANSWERS: Final = 100
"""Answers of which the p95 is taken (R26)."""
_SCALE: Final = 1024
"""Means are kept in 1/1024 tokens, so that integers lose nothing that matters."""
_ENTRIES: Final = 10_000


K = TypeVar("K")
V = TypeVar("V")


class _Outputs:
    """Answers of one project and model: the mean of the last `count`, in 1/1024 tokens, and the last hundred."""

    __slots__ = ("count", "mean", "recent")

    def __init__(self, mean: int = 0, count: int = 0, recent: Iterable[int] = ()) -> None:
        self.mean = mean
        self.count = count
        self.recent = deque(recent, maxlen=_RECENT_ANSWERS)

    def plain(self) -> list[int]:
        """As it is kept over a restart."""
        return [self.mean, self.count, *self.recent]


class Estimator:
    """Bytes per prompt token of each model, and mean and recent outputs of each project and model.

    Integers only. The least recently used entries are forgotten beyond `entries`.
    """

    def __init__(self, entries: int = _ENTRIES) -> None:
        self._entries = entries
        self._prompts: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._outputs: OrderedDict[tuple[str, str], _Outputs] = OrderedDict()
        self._changed: set[tuple[str, str]] = set()

    def prompt_tokens(self, model: str, prompt_bytes: int) -> int:
        """Tokens of one prompt of so many bytes, at least 1."""
        seen_bytes, seen_tokens = self._prompts.get(model) or (_FIRST_BYTES_PER_TOKEN, 1)
        return max(1, -(-prompt_bytes * seen_tokens // seen_bytes))

    def output_tokens(self, project: str, model: Model, max_tokens: int | None) -> int:
        """Output of one sequence: the learned mean, or the model's default until one is known, within `max_tokens`."""
        known = self._outputs.get((project, model.name))
        mean = model.max_tokens_default if known is None else -(-known.mean // _SCALE)
        return mean if max_tokens is None else min(max_tokens, mean)

    def likely_output_tokens(self, project: str, model: str) -> int | None:
        """What 95 of its last 100 answers stayed within, None while there is none (R26)."""
        known = self._outputs.get((project, model))
        if known is None or not known.recent:
            return None
        return sorted(known.recent)[-(-len(known.recent) * 95 // 100) - 1]

    def likely(self, project: str, model: Model, request: Request, *, prompt_tokens: int, read: int = 0) -> Usage:
        """What a request will use, of whose prompts so many tokens should be `read` from a cache (R20, R25, R49)."""
        output = self.output_tokens(project, model, request.max_tokens) * request.width
        return Usage(input=prompt_tokens - read, cache_read=read, output=output)

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
            cut = cut or flow not in self._outputs or tokens * _SCALE < self._outputs[flow].mean
        if not cut:
            self._learn_output(flow, tokens)

    # -- over a restart

    def take_changed(self) -> dict[tuple[str, str], list[int]]:
        """What was learned since the last time, by project (empty for prompts of all projects) and model."""
        changed, self._changed = self._changed, set()
        return {
            flow: self._outputs[flow].plain() if flow[0] else list(self._prompts[flow[1]])
            for flow in changed
            if flow in self._outputs or (not flow[0] and flow[1] in self._prompts)
        }

    def restore(self, learned: Mapping[tuple[str, str], Sequence[int]]) -> None:
        """Go on from what was learned before a restart."""
        for flow, (first, second, *recent) in learned.items():
            if flow[0]:
                _keep(self._outputs, flow, _Outputs(first, second, recent), self._entries)
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
        known = self._outputs.get(flow) or _Outputs()
        known.count = min(known.count + 1, _MEMORY_ANSWERS)
        known.mean += (tokens * _SCALE - known.mean) // known.count
        known.recent.append(tokens)
        _keep(self._outputs, flow, known, self._entries)
        self._changed.add(flow)


def _keep(entries: OrderedDict[K, V], key: K, value: V, size: int) -> None:
    """Set the entry that was used last, and forget those used least recently."""
    entries[key] = value
    entries.move_to_end(key)
    while len(entries) > size:
        entries.popitem(last=False)
