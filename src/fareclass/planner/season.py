"""The coming year, week by week, from the shape of the last one (R44).

A week is what the same week of last year was, times how the last few weeks compare to the same weeks a year before.
Years are 52 weeks, so that weekdays stay where they are.
"""

from dataclasses import dataclass

import numpy as np

from fareclass.planner.demand import Series

YEAR_WEEKS = 52
_COMPARED_WEEKS = 8
_SPREAD = 0.15
"""What a week's logarithm is off where nothing is known of it; counts as much as `_SPREAD_WEIGHT` weeks."""
_SPREAD_WEIGHT = 2
_INTERVAL = 1.2816
"""Of ten weeks eight are inside the interval, if weeks are off as the compared ones were."""


@dataclass(frozen=True)
class Season:
    """Levels of the next 52 weeks in the units of the last ones, with the interval that holds eight of ten.

    `ratio` is this year over last year, from `compared` weeks; `spread` the standard deviation of a week's logarithm.
    """

    ratio: float
    compared: int
    spread: float
    levels: Series
    low: Series
    high: Series


def forecast(weeks: Series) -> Season | None:
    """From the totals of whole weeks, the last one just over; None with less than a year of them."""
    if len(weeks) < YEAR_WEEKS or not weeks[-YEAR_WEEKS:].sum():
        return None
    compared = min(_COMPARED_WEEKS, len(weeks) - YEAR_WEEKS)
    now, before = weeks[len(weeks) - compared :], weeks[len(weeks) - compared - YEAR_WEEKS :][:compared]
    both = (now > 0) & (before > 0)
    compared = int(both.sum())
    ratio = float(now[both].sum() / before[both].sum()) if compared else 1.0
    off = np.log(now[both] / before[both] / ratio)
    spread = float(np.sqrt((off @ off + _SPREAD_WEIGHT * _SPREAD**2) / (compared + _SPREAD_WEIGHT)))
    levels = weeks[-YEAR_WEEKS:] * ratio
    reach = np.exp(_INTERVAL * spread * np.sqrt(1 + 1 / (compared + 1)))
    return Season(ratio, compared, spread, levels, levels / reach, levels * reach)
