"""The floor with the least expected cost, and what any other one would cost (R44).

Every pair of floors of a grid is run over the outlook once. All else follows from that table: a level m times as high
with a floor f costs m times what the level as it is costs with f / m, so an uncertain level is a weighted mean of the
table's own entries.
"""

from dataclasses import dataclass
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from fareclass.core.snapshot import PriceBook
from fareclass.core.tiers import Tier
from fareclass.planner.cost import DAY_S, HOUR_S, NO_FLOOR, WEEK_H, Floor, Spills, spills, week_hours
from fareclass.planner.demand import MINUTE_S, Series
from fareclass.planner.outlook import Outlook

_PER_OCTAVE = 6
_OCTAVES_DOWN, _OCTAVES_UP = 4, 3
_FINER = 2
"""The table's floors are 12 % apart; between them it is read in so many steps."""
_POLISH = tuple(2.0 ** (np.arange(-4, 5) / steps) for steps in (24, 96))
"""The best floor of the table is moved by up to 12 % in steps of 3 %, then by up to 3 % in finer ones."""
_BLURRED = 0.3
"""Where the level is no surer than this, costs are so smooth between the table's floors that it is fine enough."""
_NODES = ((-np.sqrt(3.0), 1 / 6), (0.0, 2 / 3), (np.sqrt(3.0), 1 / 6))
"""Gauss and Hermite's three points of a normal distribution, and their weights."""
_REACH = 2.5
"""Levels beyond so many standard deviations are left out."""
_SPREADS = ((0.5, 0.3), (1.0, 0.4), (2.0, 0.3))
"""What spreads may be over what they were found to be, and how likely that is."""
_SPREAD = 1.29
"""The standard deviation of that mixture."""
_WIDEST = 30
"""No level is more than so many steps of the grid away: 32 times."""
_UNLIKELY = 1e-5
_DAY_H = 24
_SHORTEST_H = 4
_HOURS_GAIN = 0.005
"""Weekly hours must save this share of all cost beyond what the same reservation around the clock saves."""
HOURS_DAYS, _DAYS_FOR_WEEKDAYS = 3, 14
"""From so many days on weekly hours are looked for, and those of workdays alone."""
_WORKDAYS = 5


@dataclass(frozen=True)
class Choice:
    """A floor, and what is expected to be saved with it: a share of what all-default is expected to cost."""

    floor: Floor
    saving: float


class Year(NamedTuple):
    """A floor for the weeks from `first` to before `last`, another for the rest, and what both save of all-default."""

    first: int
    last: int
    inside: Floor
    outside: Floor
    saving: float


class Expectation:
    """Expected costs under an outlook, for any floor. Costs are shares of the expected cost of all-default.

    `default_pico` is what a minute costs at tier default, at the outlook's own level. `comparable`: floors are for sale,
    and what is asked costs something without one. Where it is False no floor is ever chosen.
    """

    def __init__(self, outlook: Outlook, book: PriceBook) -> None:
        self._fees = float(book.reserved_input), float(book.reserved_output)
        self._outlook, self._demand, self._book = outlook, outlook.demand, book
        inputs, outputs = (_grid(minutes) for minutes in outlook.demand.per_minute())
        self._long = outlook.demand.minutes >= HOURS_DAYS * 1_440
        block_s = HOUR_S if self._long else min(DAY_S, outlook.demand.minutes * MINUTE_S)
        lost = spills(outlook.demand, book, inputs, outputs, block_s)
        weights = np.full(len(lost.all_prompts), 1 / len(lost.all_prompts))
        self._hours = week_hours(outlook.demand, lost.block_s) if self._long else np.zeros(len(weights), np.int64)
        self.input_tpm, self.output_tpm = _finer_floors(inputs), _finer_floors(outputs)
        kernel = _kernel(outlook.level, outlook.ratio)
        self._fee = self._fee_of(*np.meshgrid(self.input_tpm, self.output_tpm, indexing="ij"))
        self._gains, self._minutes = self._by_hour(lost, weights, kernel)
        self._base = self._all_default(lost, weights, kernel)
        self._lost, self._weights = lost, weights
        self.comparable = for_sale(book) and self._base > 0
        self.default_pico = float(weights @ (lost.all_prompts + lost.all_answers)) / lost.block_s * MINUTE_S

    def choose(self, *, hours: bool = True) -> Choice:
        """The best floor around the clock, or in weekly hours where these save more (`hours`)."""
        if not self.comparable:
            return Choice(NO_FLOOR, 0.0)
        total = self._gains.sum(0) - self._minutes.sum() * self._fee
        best = Choice(NO_FLOOR, 0.0)
        place = np.unravel_index(total.argmax(), total.shape)
        if total[place] > 0:
            best = self._choice(place, None, float(total[place]))
        if hours and self._long:
            for days in self._day_sets():
                best = self._with_hours(days, best)
        return self._polished(best)

    def _polished(self, best: Choice) -> Choice:
        """Floors close to the best one, each run by itself: the table is too coarse where nothing blurs it."""
        if not best.saving or self._outlook.level + self._outlook.ratio > _BLURRED:
            return best
        floor = best.floor
        for factors in _POLISH:
            inputs, outputs = (tpm * (factors if tpm else np.ones(1)) for tpm in floor[:2])
            spent = self._spent(inputs, outputs, floor.hours)
            row, column = np.unravel_index(spent.argmin(), spent.shape)
            floor = Floor(round(float(inputs[row])), round(float(outputs[column])), floor.hours)
        return Choice(floor, 1 - self.cost(floor)) if self.cost(floor) < 1 else best

    def _spent(self, inputs: Series, outputs: Series, hours: frozenset[int] | None) -> Series:
        """What a block is expected to cost with each pair of floors, in these hours."""
        lost = self._lost
        level, ratio = self._outlook.level * _SPREAD, self._outlook.ratio * _SPREAD
        within = np.ones(len(self._hours), bool) if hours is None else np.isin(self._hours, list(hours))
        weights = np.where(within, self._weights, 0.0)
        fees = self._fee_of(*np.meshgrid(inputs, outputs, indexing="ij"))
        spent = fees * weights.sum() * lost.block_s / MINUTE_S
        for (both, first), (apart, second) in product(_NODES, _NODES):
            up = np.exp(both * level - apart * ratio / 2), np.exp(both * level + apart * ratio / 2)
            one = spills(self._demand, self._book, inputs / up[0], outputs / up[1], lost.block_s)
            spent += first * second * up[0] * np.tensordot(weights, one.prompts, 1)
            spent += first * second * up[1] * np.tensordot(weights, one.answers, 1)
        return np.asarray(spent, np.float64)

    def cost(self, floor: Floor) -> float:
        """What this floor is expected to cost, all in all, as a share of all-default."""
        if not (floor.input_tpm or floor.output_tpm) or self._base <= 0:
            return 1.0
        within = (
            np.ones(len(self._gains), bool) if floor.hours is None else np.isin(np.arange(WEEK_H), list(floor.hours))
        )
        gains, minutes = self._gains[within[: len(self._gains)]].sum(0), self._minutes[within[: len(self._gains)]].sum()
        gain = _between(gains, self.input_tpm, self.output_tpm, floor)
        fee = float(self._fee_of(np.array(floor.input_tpm), np.array(floor.output_tpm)))
        return float(1 - (gain - minutes * fee) / self._base)

    def choose_weeks(self, levels: Series) -> "Year":
        """The best floors around the clock for coming weeks, one for a stretch of them and one for all others.

        `levels` are those of the weeks over the outlook's own. A stretch must save enough more than one floor for all.
        """
        if not self.comparable:
            return Year(0, len(levels), NO_FLOOR, NO_FLOOR, 0.0)
        carried = self._gains.sum(0) / self._minutes.sum()
        net = np.array([_at_level(carried, level) for level in levels]) - self._fee
        sums = np.concatenate([np.zeros((1, *net.shape[1:])), np.cumsum(net, 0)])
        whole = float(self._base / self._minutes.sum() * levels.sum())
        gain, floor = self._most(sums[-1])
        best = Year(0, len(levels), floor, NO_FLOOR, gain / whole)
        for first, last in combinations(range(len(levels) + 1), 2):
            within, inside = self._most(sums[last] - sums[first])
            without, outside = self._most(sums[-1] - sums[last] + sums[first])
            if (within + without) / whole > best.saving + _HOURS_GAIN:
                best = Year(first, last, inside, outside, (within + without) / whole)
        return best

    def _most(self, net: Series) -> tuple[float, Floor]:
        """What the best floor saves, and which it is; nothing where none does."""
        place = np.unravel_index(net.argmax(), net.shape)
        if net[place] <= 0:
            return 0.0, NO_FLOOR
        return float(net[place]), self._choice(place, None, 0.0).floor

    def _by_hour(self, lost: Spills, weights: Series, kernel: "Kernel") -> tuple[Series, Series]:
        """Value that the floors are expected to carry, and minutes, by hour of the week (or at all), weighted to one block."""
        count = WEEK_H if self._long else 1
        minutes = np.bincount(self._hours, weights, count) * lost.block_s / MINUTE_S
        carried = np.zeros((2, count, *lost.prompts.shape[1:]))
        for hour in np.unique(self._hours):
            within = self._hours == hour
            share = weights[within]
            for side, (spilled, whole) in enumerate(
                ((lost.prompts, lost.all_prompts), (lost.answers, lost.all_answers))
            ):
                carried[side, hour] = share @ whole[within] - np.tensordot(share, spilled[within], 1)
        blurred = _blurred(carried[0], 0, kernel) + _blurred(carried[1], 1, kernel)
        return _finer(_finer(blurred, 1), 2), minutes

    def _all_default(self, lost: Spills, weights: Series, kernel: "Kernel") -> float:
        means = [float((2.0 ** (kernel.steps[side] / _PER_OCTAVE)) @ kernel.chances) for side in (0, 1)]
        return float(weights @ lost.all_prompts) * means[0] + float(weights @ lost.all_answers) * means[1]

    def _with_hours(self, days: "frozenset[int]", best: Choice) -> Choice:
        """The best stretch of the hours of these days, if it is better than `best`."""
        hours = np.array([[day * _DAY_H + hour for day in sorted(days)] for hour in range(_DAY_H)])
        net = self._gains[hours].sum(1) - self._minutes[hours].sum(1)[:, None, None] * self._fee
        net = self._trusted(net, hours)
        sums = np.concatenate([np.zeros((1, *net.shape[1:])), np.cumsum(np.concatenate([net, net]), 0)])
        spans = [(first, count) for first in range(_DAY_H) for count in range(_SHORTEST_H, _DAY_H)]
        if len(days) < 7:
            spans.append((0, _DAY_H))
        for first, count in spans:
            total = sums[first + count] - sums[first]
            place = np.unravel_index(total.argmax(), total.shape)
            if total[place] / self._base > best.saving + _HOURS_GAIN:
                chosen = frozenset(
                    hours[(first + step) % _DAY_H][day] for step in range(count) for day in range(len(days))
                )
                best = self._choice(place, frozenset(int(hour) for hour in chosen), float(total[place]))
        return best

    def _trusted(self, net: Series, hours: Series) -> Series:
        """Gains of the hours of a day, drawn to their mean as far as days differ from each other (James and Stein)."""
        lost = self._lost
        raw = (lost.all_prompts + lost.all_answers)[:, None, None] - lost.prompts - lost.answers
        means, errors = [], []
        for row in hours:
            these = raw[np.isin(self._hours, row)]
            means.append(these.mean(0))
            errors.append(these.var(0, ddof=1) / len(these))
        between = np.var(means, axis=0, ddof=1)
        trust = np.clip(1 - np.mean(errors, axis=0) / np.maximum(between, 1e-30), 0, 1)
        trust = _finer(_finer(trust, 0), 1)
        return np.asarray(trust * net + (1 - trust) * net.mean(0), np.float64)

    def _day_sets(self) -> list[frozenset[int]]:
        days = self._demand.minutes // 1_440
        sets = [frozenset(range(7))]
        return [*sets, frozenset(range(_WORKDAYS))] if days >= _DAYS_FOR_WEEKDAYS else sets

    def _choice(self, place: tuple[np.intp, ...], hours: frozenset[int] | None, gain: float) -> Choice:
        sides = round(float(self.input_tpm[place[0]])), round(float(self.output_tpm[place[1]]))
        return Choice(Floor(*sides, hours), gain / self._base)

    def _fee_of(self, input_tpm: Series, output_tpm: Series) -> Series:
        return np.asarray(self._fees[0] * input_tpm + self._fees[1] * output_tpm, np.float64)


@dataclass(frozen=True)
class Kernel:
    """Levels of both sides as steps of the table's grid (2 × n), and how likely each pair is."""

    steps: Series
    chances: Series


def for_sale(book: PriceBook) -> bool:
    """Whether floors have a price: there is a fee for each side whose tokens have a price."""
    rates = book.rates[Tier.DEFAULT]
    sides = (book.reserved_input, rates[0]), (book.reserved_output, rates[-1])
    return any(fee for fee, _ in sides) and all(fee or not rate for fee, rate in sides)


def _kernel(level: float, ratio: float) -> Kernel:
    """Log-normal levels of prompts and answers, of which mean and difference of the logarithms are independent.

    The spreads are themselves known from a few moves only, so they may be half or twice as large (`_SPREADS`).
    """
    widest = max(factor for factor, _ in _SPREADS)
    reach = min(_WIDEST, int(np.ceil(_REACH * widest * (level + ratio / 2) * _PER_OCTAVE / np.log(2))))
    steps = np.arange(-reach, reach + 1)
    prompts, answers = (side.ravel() for side in np.meshgrid(steps, steps, indexing="ij"))
    logs = np.array([prompts, answers]) * np.log(2) / _PER_OCTAVE
    chances = np.zeros(len(prompts))
    for factor, chance in _SPREADS:
        off = (logs.mean(0) / (factor * level)) ** 2 + ((logs[1] - logs[0]) / (factor * ratio)) ** 2
        density = np.exp(-off / 2) * (off <= _REACH**2)
        chances += chance * density / density.sum()
    near = chances > _UNLIKELY
    return Kernel(np.array([prompts[near], answers[near]]), chances[near] / chances[near].sum())


def _blurred(carried: Series, side: int, kernel: Kernel) -> Series:
    """What tables carry of one side at uncertain levels: the mean of m × carried(floors / m)."""
    reach = int(np.abs(kernel.steps).max())
    padded = _padded(carried, reach, _PER_OCTAVE)
    rows, columns = carried.shape[1:]
    weights = np.zeros((2 * reach + 1, 2 * reach + 1))
    factors = 2.0 ** (kernel.steps[side] / _PER_OCTAVE)
    weights[kernel.steps[0] + reach, kernel.steps[1] + reach] = kernel.chances * factors
    shape = padded.shape[1] + 2 * reach, padded.shape[2] + 2 * reach
    mixed = np.fft.irfft2(np.fft.rfft2(padded, shape) * np.fft.rfft2(weights, shape), shape)
    return np.asarray(mixed[:, 2 * reach : 2 * reach + rows, 2 * reach : 2 * reach + columns], np.float64)


def _at_level(carried: Series, level: float) -> Series:
    """What is carried of a demand so many times as high: level × carried(floors / level)."""
    if level <= 0:
        return np.zeros_like(carried)
    steps = round(float(np.log2(level)) * _PER_OCTAVE * _FINER)
    reach = abs(steps)
    padded = _padded(carried[None], reach, _PER_OCTAVE * _FINER)[0]
    rows, columns = carried.shape
    moved = padded[reach - steps : reach - steps + rows, reach - steps : reach - steps + columns]
    return np.asarray(level * moved, np.float64)


def _padded(tables: Series, reach: int, per_octave: int) -> Series:
    """Tables with so many more floors on all sides: what they carry above is as at the edge, below in proportion."""
    below = 2.0 ** (-np.arange(reach, 0, -1) / per_octave)
    shrunk = [
        np.concatenate([below, np.ones(length + reach)]) if length > 1 else np.ones(length + 2 * reach)
        for length in tables.shape[1:]
    ]
    factors = np.minimum(shrunk[0][:, None], shrunk[1][None])
    return np.asarray(np.pad(tables, ((0, 0), (reach, reach), (reach, reach)), mode="edge") * factors, np.float64)


def _grid(minutes: Series) -> Series:
    """Floors to try on one side, in tokens a minute, about the mean of the minutes; only 0 where nothing is asked."""
    if not minutes.any():
        return np.zeros(1)
    steps = np.arange(-_OCTAVES_DOWN * _PER_OCTAVE, _OCTAVES_UP * _PER_OCTAVE + 1)
    return np.asarray(minutes.mean() * 2.0 ** (steps / _PER_OCTAVE), np.float64)


def _finer_floors(grid: Series) -> Series:
    return grid if len(grid) == 1 else np.exp(_finer(np.log(grid)))


def _finer(table: Series, axis: int = 0) -> Series:
    """With `_FINER` steps from each floor to the next, on smooth curves through the table's entries (Catmull and Rom)."""
    count = table.shape[axis]
    if count == 1:
        return table
    places = np.arange((count - 1) * _FINER + 1)
    low = np.minimum(places // _FINER, count - 2)
    part = places / _FINER - low
    shape = [1] * table.ndim
    shape[axis] = -1
    weights = (
        (-(part**3) + 2 * part**2 - part) / 2,
        (3 * part**3 - 5 * part**2 + 2) / 2,
        (-3 * part**3 + 4 * part**2 + part) / 2,
        (part**3 - part**2) / 2,
    )
    found = np.zeros(())
    for step, weight in enumerate(weights):
        found = found + np.take(table, np.clip(low + step - 1, 0, count - 1), axis) * weight.reshape(shape)
    return np.asarray(found, np.float64)


def _between(table: Series, input_tpm: Series, output_tpm: Series, floor: Floor) -> float:
    """The table at any floor: on straight lines between the grid's, in proportion below them, at the last one beyond."""
    scale, rows = _place(input_tpm, floor.input_tpm)
    other, columns = _place(output_tpm, floor.output_tpm)
    return min(scale, other) * float(sum(table[row, column] * a * b for row, a in rows for column, b in columns))


def _place(grid: Series, tpm: float) -> tuple[float, list[tuple[int, float]]]:
    """The factor for what is below the grid, and the places to read with their weights."""
    if len(grid) == 1 or tpm >= grid[-1]:
        return 1.0, [(len(grid) - 1, 1.0)]
    if tpm <= grid[0]:
        return tpm / float(grid[0]), [(0, 1.0)]
    low = int(np.searchsorted(grid, tpm, "right")) - 1
    part = (tpm - float(grid[low])) / float(grid[low + 1] - grid[low])
    return 1.0, [(low, 1 - part), (low + 1, part)]
