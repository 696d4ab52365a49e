"""What a plan must expect: the past, moved along its trend, at a level that nobody knows for sure (R44).

The next months are not the last ones. Two things are taken from the past itself, and from nothing else:

- *trend*: how the level moves on from an eighth of the time to the next. It counts as far as the moves agree with each
  other (shrunk by their own error, so a mere back and forth counts nothing), and is drawn on by half of the past's
  length, at most by `_FURTHEST`.
- *spread*: how far the level, and the ratio of output to input, have gone from one half, quarter, … of the time to the
  next, beside what comes back every day and week. It is taken to be as large again for the time to come: levels of
  traffic wander on all scales alike. A past of less than a week does not know its week, one of less than a day not its day; that is added.
The demand to plan for is then the past's minutes, times a level that is log-normal about the trend.
"""

from dataclasses import dataclass, replace

import numpy as np

from fareclass.core.snapshot import PriceBook
from fareclass.core.tiers import Tier
from fareclass.planner.demand import Demand, Series

_EIGHTHS = 8
_AHEAD = 0.5
_FURTHEST = 2.5
_EMPTY = 0.03
"""Of the mean: added to a level, so that an idle one has a logarithm."""
_KNOWN_SPREAD = 0.1
_KNOWN_WEIGHT = 2
_UNSEEN_DAY = 0.4
_UNSEEN_WEEK = 0.15
_SPREAD_MAX = 1.2
_RATIO_MAX = 1.0
_RATIO_FACTOR = 2.0
"""The ratio of the sides moves inside the parts, too, and a side that falls short diverts whole requests (R21)."""
_DAY_MINUTES = 1_440


@dataclass(frozen=True)
class Outlook:
    """The past on the level of the future, and how sure that is.

    `level` and `ratio` are standard deviations of the logarithms of its level and of output over input, `growth` is
    what the trend makes of the level.
    """

    demand: Demand
    level: float
    ratio: float
    growth: float


def outlook(demand: Demand, book: PriceBook) -> Outlook:
    """What this past says of the time to come."""
    value = np.sum(demand.step_pico(book, Tier.DEFAULT), axis=0)
    per_step = 60 // demand.step_s
    slope = _slope(_even(value.reshape(-1, per_step).sum(1)))
    level, ratio = _spread(*map(_even, demand.per_minute()))
    if not slope:
        return Outlook(demand, level, ratio, 1.0)
    past = np.arange(demand.steps) / demand.steps * _EIGHTHS
    factors = np.exp(np.clip(slope * (_EIGHTHS * (1 + _AHEAD) - past), -np.log(_FURTHEST), np.log(_FURTHEST)))
    moved = replace(
        demand,
        kinds=np.rint(demand.kinds * factors).astype(np.int64),
        requests=np.rint(demand.requests * factors).astype(np.int64),
    )
    return Outlook(moved, level, ratio, float(np.sum(moved.step_pico(book, Tier.DEFAULT)) / np.sum(value)))


def _even(minutes: Series) -> Series:
    """Without what comes back each day and each week, as far as there are three days or two weeks to tell it by."""
    for unit, count, times in ((60, 24, 3), (_DAY_MINUTES, 7, 2)):
        parts = len(minutes) // unit
        if parts < count * times:
            continue
        means = minutes[: parts * unit].reshape(parts, unit).mean(1)
        if not means.any():  # all of it is in the part that is not whole yet
            continue
        level = _line(means + _EMPTY * means.mean())
        usual = np.array([(means / level)[place::count].mean() for place in range(count)]) * means.mean()
        usual += _EMPTY * means.mean()
        pattern = np.repeat(usual, unit)
        minutes = (minutes + _EMPTY * means.mean()) / np.resize(pattern, len(minutes)) * means.mean()
    return minutes


def _line(means: Series) -> Series:
    """The straight line through their logarithms, so that growth is not taken for a pattern; 1 at its middle."""
    at = np.arange(len(means)) - (len(means) - 1) / 2
    return np.asarray(np.exp(at * float(at @ np.log(means)) / float(at @ at)), np.float64)


def _slope(value: Series) -> float:
    """The move of the level's logarithm in an eighth of the time, as far as the moves agree."""
    if len(value) < _EIGHTHS or not value.any():
        return 0.0
    moves = np.diff(np.log(_levels(value, _EIGHTHS)))
    error = moves.var(ddof=1) / len(moves)
    mean = float(moves.mean())
    return mean * max(0.0, 1 - 4 * error / mean**2) if mean else 0.0


def _spread(inputs: Series, outputs: Series) -> tuple[float, float]:
    """Of the level and of the ratio of the sides, by how far parts of the past lie apart."""
    known = _KNOWN_SPREAD**2 * _KNOWN_WEIGHT
    sides = [side for side in (inputs, outputs) if side.any()] or [np.ones(1)]
    moves = np.array([_moves(side) for side in sides])
    level = (known + (moves.mean(0) ** 2).sum()) / (_KNOWN_WEIGHT + moves.shape[1])
    apart = np.ptp(moves, axis=0)
    ratio = (known + (apart**2).sum()) / (_KNOWN_WEIGHT + moves.shape[1])
    unseen = _UNSEEN_DAY if len(inputs) < _DAY_MINUTES else _UNSEEN_WEEK if len(inputs) < 7 * _DAY_MINUTES else 0.0
    return min(_SPREAD_MAX, float(np.sqrt(level + unseen**2))), min(_RATIO_MAX, _RATIO_FACTOR * float(np.sqrt(ratio)))


def _moves(side: Series) -> Series:
    """From the first to the second half, the first to the second quarter, the third to the fourth, and so on."""
    found = []
    for parts in (2, 4, 8):
        levels = np.log(_levels(side, parts))
        found += list(levels[1::2] - levels[::2])
    return np.array(found)


def _levels(series: Series, parts: int) -> Series:
    means = np.array([part.mean() if len(part) else 0.0 for part in np.array_split(series, parts)])
    return np.asarray(means + _EMPTY * series.mean(), np.float64)
