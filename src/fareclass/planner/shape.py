"""Which tier fits a workload, from the shape of its demand (R41, R44)."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from fareclass.core.tiers import Tier
from fareclass.planner.demand import Series

Shape = Literal["steady", "seasonal", "spiky-critical", "spiky-tolerant", "experiment", "offline"]

_OFFLINE_SHARE = 0.9
_TOLERANT_SHARE = 0.5
_RARE_SHARE = 0.01
"""Below this share of busy minutes a workload is an experiment."""
_STEADY_CV = 0.35
_STEADY_PEAK = 3.0
_PATTERN = 0.5
"""From this autocorrelation on the hours of yesterday, or of last week, tell those of today."""
_REFUSED_SHARE = 0.01
_DAY_H, _WEEK_H = 24, 168


class ShapeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a shape is judged by.

    `hour_cv` is the deviation of hours over their mean, `peak` the 99th percentile of the minutes over their mean,
    `busy_share` the share of minutes with any request; `day_pattern` and `week_pattern` are the hours' correlation with
    those a day and a week before, None where there are too few to say.
    """

    hour_cv: float
    peak: float
    busy_share: float
    day_pattern: float | None
    week_pattern: float | None


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A workload's shape, the tier for it, and why in one sentence."""

    shape: Shape
    tier: str
    reason: str
    figures: ShapeFigures


class Asked(NamedTuple):
    """How a workload is served today: the share of its tokens by the tier it asks for, and of refused requests."""

    tiers: Mapping[Tier, float]
    refused: float = 0.0


def figures(minutes: Series) -> ShapeFigures:
    """Of a workload's tokens by minute, idle ones included."""
    mean = float(minutes.mean()) if len(minutes) else 0.0
    if not mean:
        return ShapeFigures(hour_cv=0.0, peak=0.0, busy_share=0.0, day_pattern=None, week_pattern=None)
    hours = minutes[: len(minutes) // 60 * 60].reshape(-1, 60).mean(1) if len(minutes) >= _DAY_H * 60 else minutes
    hourly = len(hours) < len(minutes)
    return ShapeFigures(
        hour_cv=round(float(hours.std() / hours.mean()) if hours.mean() else 0.0, 3),
        peak=round(float(np.percentile(minutes, 99)) / mean, 2),
        busy_share=round(float((minutes > 0).mean()), 4),
        day_pattern=_pattern(hours, _DAY_H, 3) if hourly else None,
        week_pattern=_pattern(hours, _WEEK_H, 2) if hourly else None,
    )


def propose(minutes: Series, asked: Asked, *, reserving_saves: bool) -> Proposal:
    """The tier for a workload. `reserving_saves`: the project's best reservation costs less than none."""
    found = figures(minutes)
    batch = asked.tiers.get(Tier.BATCH, 0.0)
    tolerant = asked.tiers.get(Tier.FLEX, 0.0) + batch
    best = "reserved" if reserving_saves else "default"
    if batch >= _OFFLINE_SHARE:
        return _proposal(
            "offline", "batch", found, f"{batch:.0%} of its tokens already come in batches, which may take a day"
        )
    if found.busy_share < _RARE_SHARE:
        tier = "flex" if tolerant >= _TOLERANT_SHARE else "default"
        return _proposal(
            "experiment",
            tier,
            found,
            f"it is busy in {found.busy_share:.1%} of all minutes, so nothing is worth keeping",
        )
    if found.hour_cv <= _STEADY_CV and found.peak <= _STEADY_PEAK:
        return _proposal(
            "steady", best, found, f"its minutes stay within {found.peak:.1f} times their mean{_worth(best)}"
        )
    pattern = max(found.day_pattern or 0.0, found.week_pattern or 0.0)
    if pattern >= _PATTERN and tolerant < _TOLERANT_SHARE:
        what = "day" if pattern == found.day_pattern else "week"
        return _proposal(
            "seasonal",
            best,
            found,
            f"its hours repeat those of a {what} before (correlation {pattern:.2f}){_worth(best)}",
        )
    spikes = f"its busiest minutes are {found.peak:.1f} times the mean"
    if tolerant >= _TOLERANT_SHARE:
        return _proposal(
            "spiky-tolerant",
            "flex",
            found,
            f"{spikes}, and {tolerant:.0%} of its tokens already come on tiers that wait",
        )
    if asked.tiers.get(Tier.PRIORITY, 0.0) >= _TOLERANT_SHARE:
        return _proposal("spiky-critical", "priority", found, f"{spikes}, and it already pays not to wait")
    if asked.refused >= _REFUSED_SHARE:
        return _proposal("spiky-critical", "priority", found, f"{spikes}, and {asked.refused:.1%} of it was refused")
    return _proposal(
        "spiky-critical", "default", found, f"{spikes}, but hardly any of it ({asked.refused:.1%}) was refused"
    )


def _proposal(shape: Shape, tier: str, found: ShapeFigures, reason: str) -> Proposal:
    return Proposal(shape=shape, tier=tier, reason=f"{reason[0].upper()}{reason[1:]}.", figures=found)


def _worth(tier: str) -> str:
    return ", and a reservation pays" if tier == "reserved" else ", but at these prices a reservation does not pay"


def _pattern(hours: Series, lag: int, times: int) -> float | None:
    """The correlation with the same series so much before; None unless it holds the lag so many times."""
    if len(hours) < lag * times:
        return None
    now, before = hours[lag:], hours[:-lag]
    if not now.std() or not before.std():
        return 0.0
    return round(float(np.corrcoef(now, before)[0, 1]), 3)
