"""What a project asks of a model over time: tokens by kind in steps of a minute or less (R43, R44)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fareclass.core.limits import PLAN_MINUTES, PLAN_ROWS
from fareclass.core.snapshot import Burndown, PriceBook
from fareclass.core.tiers import Tier
from fareclass.core.usage import KINDS
from fareclass.planner.trace import Arrival

MINUTE_S = 60
FINE_S = 5
"""The step of traces that have hardly more than a day: inside a minute requests come in bursts, which a bucket feels."""
_FINE_MINUTES = 2_880
US = 1_000_000
HUNDREDTHS = 100

_USUAL = Burndown()
_Request = tuple[int, int, int, int]

Counts = NDArray[np.int64]
Series = NDArray[np.float64]


class DemandError(ValueError):
    """There is nothing to plan from, or too much; the message says what to do."""


@dataclass(frozen=True)
class Demand:
    """Tokens of each kind (rows, in the order of `KINDS`) and requests in each step of `step_s`, idle steps included.

    `start_us` is the first minute, since the epoch or in a trace's own time. A whole number of steps makes a minute, a
    whole number of minutes the series.
    """

    start_us: int
    step_s: int
    kinds: Counts
    requests: Counts
    burndown: Burndown = _USUAL

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.requests)

    @property
    def minutes(self) -> int:
        """How long it is."""
        return self.steps * self.step_s // MINUTE_S

    @property
    def input(self) -> Series:
        """What each step counts against the input side of a floor, in tokens (R24)."""
        weights = [getattr(self.burndown, kind) for kind in KINDS[:-1]]
        return np.asarray(np.array(weights) @ self.kinds[:-1] / HUNDREDTHS, np.float64)

    @property
    def output(self) -> Series:
        """The same of the output side."""
        return np.asarray(self.kinds[-1] * self.burndown.output / HUNDREDTHS, np.float64)

    def per_minute(self) -> tuple[Series, Series]:
        """Both sides in each minute, in tokens."""
        count = MINUTE_S // self.step_s
        return self.input.reshape(-1, count).sum(1), self.output.reshape(-1, count).sum(1)

    def pico(self, book: PriceBook, tier: Tier) -> int:
        """What all of it costs at a tier, in 10⁻¹² USD: exact (R34)."""
        totals = self.kinds.sum(1)
        return sum(int(total) * rate for total, rate in zip(totals, book.rates[tier], strict=True))

    def step_pico(self, book: PriceBook, tier: Tier) -> tuple[Series, Series]:
        """What the prompts and the answers of each step cost at a tier, as numbers to weigh plans with."""
        rates = np.array(book.rates[tier], np.float64)
        return rates[:-1] @ self.kinds[:-1], rates[-1] * self.kinds[-1]

    def part(self, from_minute: int, to_minute: int) -> "Demand":
        """These minutes of it."""
        count = MINUTE_S // self.step_s
        steps = slice(from_minute * count, to_minute * count)
        start_us = self.start_us + from_minute * MINUTE_S * US
        return Demand(start_us, self.step_s, self.kinds[:, steps], self.requests[steps], self.burndown)


class Minute(NamedTuple):
    """One busy minute: tokens of each kind in the order of `KINDS`, and requests."""

    minute_us: int
    kinds: Sequence[int]
    requests: int


def from_minutes(rows: Iterable[Minute], from_us: int, to_us: int, burndown: Burndown = _USUAL) -> Demand:
    """The series of these busy minutes from the one time to the other, both whole minutes; rows of a minute add up.

    Raises:
        DemandError: more minutes than a plan reads.
    """
    minutes = (to_us - from_us) // (MINUTE_S * US)
    _check(minutes)
    kinds, requests = np.zeros((len(KINDS), minutes), np.int64), np.zeros(minutes, np.int64)
    for row in rows:
        place = (row.minute_us - from_us) // (MINUTE_S * US)
        if 0 <= place < minutes:
            kinds[:, place] += row.kinds
            requests[place] += row.requests
    return Demand(from_us, MINUTE_S, kinds, requests, burndown)


class TraceDemands(Mapping[tuple[str, str], Demand]):
    """Demands by project and model, all over the whole trace. Each is made when it is asked for, and not kept.

    A request is its time, input, cached input and output.
    """

    def __init__(self, groups: Mapping[tuple[str, str], Sequence[_Request]], start_us: int, minutes: int) -> None:
        self._groups, self._start_us, self._minutes = groups, start_us, minutes
        self._step_s = FINE_S if minutes <= _FINE_MINUTES else MINUTE_S

    def __getitem__(self, group: tuple[str, str]) -> Demand:
        return _series(np.array(self._groups[group], np.int64), self._start_us, self._minutes, self._step_s)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)


def from_arrivals(arrivals: Iterable[Arrival]) -> TraceDemands:
    """A trace's demands, batch requests aside: those of the `PLAN_ROWS` projects and models that ask the most.

    Raises:
        DemandError: there is no request, or the trace is longer than a plan reads.
    """
    groups: dict[tuple[str, str], list[_Request]] = {}
    first_us, last_us = None, 0
    for one in arrivals:
        first_us = one.at_us if first_us is None else first_us
        last_us = one.at_us
        if one.tier is not Tier.BATCH:
            group = groups.setdefault((one.project, one.model), [])
            group.append((one.at_us, one.input, one.cache_read, one.output))
    if first_us is None:
        raise DemandError("there is no request to plan from")
    start_us = first_us // (MINUTE_S * US) * MINUTE_S * US
    minutes = (last_us - start_us) // (MINUTE_S * US) + 1
    _check(minutes)
    heaviest = sorted(groups, key=lambda group: -sum(sum(row[1:]) for row in groups[group]))[:PLAN_ROWS]
    return TraceDemands({group: groups[group] for group in heaviest}, start_us, minutes)


def _series(rows: Counts, start_us: int, minutes: int, step_s: int) -> Demand:
    steps = minutes * MINUTE_S // step_s
    places = (rows[:, 0] - start_us) // (step_s * US)
    kinds = np.zeros((len(KINDS), steps), np.int64)
    for kind, column in (("input", 1), ("cache_read", 2), ("output", 3)):
        np.add.at(kinds[KINDS.index(kind)], places, rows[:, column])
    return Demand(start_us, step_s, kinds, np.bincount(places, minlength=steps).astype(np.int64))


def _check(minutes: int) -> None:
    if minutes > PLAN_MINUTES:
        raise DemandError(f"a plan reads at most {PLAN_MINUTES // 1440} days; these are {minutes // 1440}")
    if minutes < 1:
        raise DemandError("a plan needs at least one whole minute")
