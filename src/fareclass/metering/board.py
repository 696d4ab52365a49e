"""The tier board: what each tier got, side by side (R42)."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from fareclass.core.limits import USAGE_ROWS
from fareclass.core.outcomes import Outcome
from fareclass.metering.report import grouped, summed
from fareclass.store import histograms
from fareclass.store.entries import Filters, totals
from fareclass.store.histograms import Counts
from fareclass.store.records import moment
from fareclass.store.rollups import folded
from fareclass.store.spreads import SPREADS, read_spreads

_SHARES = (0.50, 0.95, 0.99)
_NO_SPREAD = dict.fromkeys(("ttft_ms", "inter_token_ms", "queue_ms", "output_tokens_per_s"))


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles, less than 1 % off."""

    p50: float
    p95: float
    p99: float


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """The median, less than 1 % off."""

    p50: float


class TierRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What requests got that asked for one tier and were served as one. Tokens are of those that reached their first.

    `start` is the beginning of the time step. `ttft_ms` is from arrival to first token; `inter_token_ms` the mean time
    between two tokens of one answer, pauses included; `queue_ms` the time in line of what started; null without any.
    `pauses` and `restarts` are of requests that have ended.
    """

    start: datetime | None = None
    requested_tier: str
    served_tier: str
    requests: int
    outcomes: dict[Outcome, int]
    throttled: int
    shed: int
    pauses: int
    restarts: int
    input: int
    cache_write_5m: int
    cache_write_1h: int
    cache_read: int
    output: int
    cost: str
    ttft_ms: Spread | None
    inter_token_ms: Spread | None
    queue_ms: Spread | None
    output_tokens_per_s: Rate | None


def tier_board(connection: Connection, filters: Filters, step_s: int | None) -> list[TierRow]:
    """Rows in the order of time and tiers. Of `filters`, one project at most, a model and times count.

    Raises:
        ReportError: more rows than a report may have.
    """
    step_us = None if step_s is None else step_s * 1_000_000
    by = ["requested_tier", "served_tier"]
    found = totals(connection, filters, [*by, "outcome"], step_us=step_us, limit=USAGE_ROWS)
    groups = grouped(found, [*by, *(["start_us"] if step_us is not None else [])])
    parts = folded(connection).parts(filters.from_us, filters.to_us, step_us)
    project = None if filters.projects is None else filters.projects[0]
    spreads = {
        (start_us, *tiers): _spread(counts)
        for start_us, tiered in read_spreads(connection, parts, project, filters.model, step_us)
        for tiers, counts in tiered.items()
    }
    rows = []
    for group in groups:
        first = group[0]
        start_us, requested, served = first.get("start_us"), first["requested_tier"], first["served_tier"]
        sums = summed(group)
        rows.append(
            TierRow(
                start=None if start_us is None else moment(start_us),
                requested_tier=requested,
                served_tier=served,
                throttled=sums["outcomes"].get(Outcome.THROTTLED, 0),
                shed=sums["outcomes"].get(Outcome.SHED, 0),
                pauses=sum(row["pauses"] for row in group),
                restarts=sum(row["restarts"] for row in group),
                **sums,
                **spreads.get((start_us or 0, requested, served), _NO_SPREAD),
            )
        )
    return rows


def _spread(counts: Counts) -> Mapping[str, Any]:
    found = [histograms.quantiles(histograms.of_measure(counts, place), _SHARES) for place in range(len(SPREADS))]
    times = [
        None if each is None else Spread(p50=_thousandth(each[0]), p95=_thousandth(each[1]), p99=_thousandth(each[2]))
        for each in found
    ]
    rate = found[SPREADS.index("tokens_per_ks")]
    return {
        "ttft_ms": times[SPREADS.index("ttft_us")],
        "inter_token_ms": times[SPREADS.index("inter_token_us")],
        "queue_ms": times[SPREADS.index("queue_us")],
        "output_tokens_per_s": None if rate is None else Rate(p50=_thousandth(rate[0])),
    }


def _thousandth(value: float) -> float:
    return round(value / 1000, 3)
