"""Counts every request that has ended, under its labels (R42).

A finished request adds to plain numbers in one `Series`; what follows from them (errors, quota use, what a floor
burnt) is only worked out when somebody scrapes. Labels are bounded: models are the configured ones, projects the first
`METRIC_PROJECTS` seen, tiers five. No text of a caller becomes a label.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import NamedTuple

from fareclass.core.events import Finished
from fareclass.core.limits import METRIC_PROJECTS
from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import Burndown
from fareclass.core.tiers import Tier
from fareclass.core.usage import KINDS, Usage
from fareclass.telemetry.text import labels

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
TOKEN_SECONDS = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
RATES = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 500.0)
OUTCOMES = tuple(Outcome)
UNKNOWN = "unknown"
"""The label of a model that we don't have, whose name is a caller's text."""
OTHER = "other"
"""The label of projects beyond the bound."""
_PLACE = {outcome: place for place, outcome in enumerate(OUTCOMES)}
_Key = tuple[str, Tier, Tier, str]
_ON_DEMAND = (Tier.PRIORITY, Tier.DEFAULT, Tier.FLEX)


class Histogram:
    """Values by bucket; an upper bound belongs to its bucket."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def used(self) -> bool:
        return any(self.counts)

    def buckets(self) -> list[tuple[str, int]]:
        """How many are at or below each bound."""
        return list(zip((*map(str, self.bounds), "+Inf"), accumulate(self.counts), strict=True))


class Series:
    """Everything counted under one set of labels."""

    __slots__ = ("gap", "latency", "outcomes", "pauses", "queue", "rate", "restarts", "token_s", "tokens", "ttft")

    def __init__(self) -> None:
        self.outcomes = [0] * len(OUTCOMES)
        self.tokens = [0] * len(KINDS)
        self.pauses = 0
        self.restarts = 0
        self.latency = Histogram(SECONDS)
        self.ttft = Histogram(SECONDS)
        self.queue = Histogram(SECONDS)
        self.gap = Histogram(SECONDS)
        self.token_s = Histogram(TOKEN_SECONDS)
        self.rate = Histogram(RATES)

    def add(self, finished: Finished) -> None:
        self.outcomes[_PLACE[finished.outcome]] += 1
        self.pauses += finished.pauses
        self.restarts += finished.restarts
        if finished.started_us is not None:
            self.queue.add(finished.queue_ms / 1e3)
        if finished.first_token_us is not None:
            self._add_answer(finished, finished.first_token_us)

    def _add_answer(self, finished: Finished, first_token_us: int) -> None:
        usage, ended_us = finished.usage, finished.ended_us
        self.latency.add((ended_us - finished.arrived_us) / 1e6)
        self.ttft.add((first_token_us - finished.arrived_us) / 1e6)
        if finished.streamed:
            self.gap.add(finished.longest_gap_ms / 1e3)
        if usage.output > 1 and ended_us > first_token_us:
            token_s = (ended_us - first_token_us) / 1e6 / (usage.output - 1)
            self.token_s.add(token_s)
            self.rate.add(1 / token_s)
        tokens = self.tokens
        tokens[0] += usage.input
        tokens[1] += usage.cache_write_5m
        tokens[2] += usage.cache_write_1h
        tokens[3] += usage.cache_read
        tokens[4] += usage.output

    def count(self, outcomes: Iterable[Outcome]) -> int:
        return sum(self.outcomes[_PLACE[outcome]] for outcome in outcomes)

    @property
    def usage(self) -> Usage:
        """All tokens of all its requests."""
        return Usage(**dict(zip(KINDS, self.tokens, strict=True)))


class Row(NamedTuple):
    """One series and its labels."""

    model: str
    requested: Tier
    served: Tier
    project: str
    series: Series

    @property
    def labels(self) -> str:
        """As they stand in a line."""
        return labels(
            model=self.model,
            service_tier=self.requested.word,
            resolved_service_tier=self.served.word,
            project=self.project,
        )


class Counts:
    """What one gateway has served since its start. `burndown` is by model, and names all of them (R24).

    `observe` is called in the event loop; the rest may be called in another thread meanwhile.
    """

    def __init__(self, burndown: Mapping[str, Burndown]) -> None:
        self._burndown = burndown
        self._projects: set[str] = set()
        self._series: dict[_Key, Series] = {}
        self._known: dict[_Key, Series] = {}

    def observe(self, finished: Finished) -> None:
        """Count one request. Called on the hot path: some two microseconds."""
        key = (finished.model, finished.requested_tier, finished.served_tier, finished.project)
        series = self._known.get(key) or self._find(key)
        series.add(finished)

    def label(self, project: str) -> str:
        """What stands for a project in metrics."""
        if len(self._projects) < METRIC_PROJECTS:
            self._projects.add(project)
        return project if project in self._projects else OTHER

    def rows(self) -> list[Row]:
        """All series."""
        return [Row(*key, series) for key, series in list(self._series.items())]

    def quota_tokens(self, row: Row) -> float:
        """What its requests counted against TPM quotas; what has a floor or a window of its own counts nothing (R25)."""
        if row.served not in _ON_DEMAND:
            return 0
        usage, weights = row.series.usage, self._burndown.get(row.model, Burndown())
        return usage.input + usage.cache_write_5m + usage.cache_write_1h + usage.output * weights.output / 100

    def floors_used(self) -> dict[tuple[str, str], tuple[float, float]]:
        """Burn-down tokens of input and output that were served inside floors, by model and project's label (R24)."""
        used: dict[tuple[str, str], tuple[float, float]] = {}
        for row in self.rows():
            if row.served is Tier.RESERVED:
                usage, weights = row.series.usage, self._burndown.get(row.model, Burndown())
                before = used.get((row.model, row.project), (0, 0))
                sides = weights.floor_input(usage) / 100, usage.output * weights.output / 100
                used[row.model, row.project] = before[0] + sides[0], before[1] + sides[1]
        return used

    def _find(self, key: _Key) -> Series:
        """The series of these labels. A name of a model that we don't have is a caller's text: not kept."""
        model, requested, served, project = key
        known = model in self._burndown
        shown = (model if known else UNKNOWN, requested, served, self.label(project))
        series = self._series.setdefault(shown, Series())
        if known:
            self._known[key] = series
        return series
