"""What a reservation would cost under a demand: fees, and what its buckets let over (R18, R20, R21, R33).

The buckets are those of `sched/reserves.py` as a fluid: what comes in a step comes evenly over it, and where a side
runs dry a part of each of its requests overflows. Against the real buckets, where whole requests do, the value that
overflows is off by less than 0.5 % of all for a hundred requests a minute or more that come at random. Where they come in
bursts inside a step, more of them overflow than is said here; so steps of short traces are seconds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fareclass.core.snapshot import PriceBook
from fareclass.core.tiers import Tier
from fareclass.metering.pricing import minute_fee
from fareclass.planner.demand import MINUTE_S, US, Demand, Series

HOUR_S = 3_600
DAY_S = 86_400
WEEK_H = 168
_EPOCH_HOUR = 72
"""The first hour of 1970 in its week: a Thursday's."""
_NEVER_ZERO = 1e-9
"""Tokens that are always there, so that a side that is not asked for stands in nobody's way."""


class Floor(NamedTuple):
    """What is reserved, in tokens a minute of each side, in these hours of the week (None: all).

    Hours are in UTC; 0 is the first of Monday, 167 the last of Sunday.
    """

    input_tpm: int
    output_tpm: int
    hours: frozenset[int] | None = None


NO_FLOOR = Floor(0, 0)


class Bill(NamedTuple):
    """What a demand comes to under a floor, in 10⁻¹² USD.

    `spilled` is the share of all tokens that overflow, `used` what the floor carried of what it could, both by the value
    of tokens at default prices.
    """

    fee_pico: int
    overflow_pico: int
    spilled: float
    used: float

    @property
    def pico(self) -> int:
        """All of it."""
        return self.fee_pico + self.overflow_pico


@dataclass(frozen=True)
class Spills:
    """What overflows by block of time and pair of floors, as if each pair had been reserved.

    `prompts` and `answers` hold the overflow's cost of either side: block × input floor × output floor, in 10⁻¹² USD at
    tier default; `all_prompts` and `all_answers` what each block costs without a reservation. A block is `block_s` long.
    """

    block_s: int
    input_tpm: Series
    output_tpm: Series
    prompts: Series
    answers: Series
    all_prompts: Series
    all_answers: Series


def bill(demand: Demand, book: PriceBook, floor: Floor, overflow: Tier = Tier.DEFAULT) -> Bill:
    """What this demand would have cost with this floor all the time (or in its hours)."""
    return bills(demand, book, [floor], overflow)[0]


def bills(demand: Demand, book: PriceBook, floors: Sequence[Floor], overflow: Tier = Tier.DEFAULT) -> list[Bill]:
    """The same for several floors, each as if it stood alone."""
    inside = admitted(demand, floors)
    cost = np.sum(demand.step_pico(book, overflow), axis=0)
    worth = np.sum(demand.step_pico(book, Tier.DEFAULT), axis=0)
    alone = demand.pico(book, overflow)
    rates, whole = book.rates[Tier.DEFAULT], float(worth.sum())
    found = []
    for place, floor in enumerate(floors):
        minutes, share = in_force_minutes(demand, floor), inside[:, place]
        full = (floor.input_tpm * rates[0] + floor.output_tpm * rates[-1]) * minutes
        found.append(
            Bill(
                fee_pico=minute_fee(book, floor.input_tpm, floor.output_tpm) * minutes,
                overflow_pico=alone - round(float(share @ cost)),
                spilled=max(0.0, 1 - float(share @ worth) / whole) if whole else 0.0,
                used=float(share @ worth) / full if full else 0.0,
            )
        )
    return found


def in_force_minutes(demand: Demand, floor: Floor) -> int:
    """Minutes of the series in which the floor stands, and its fee is owed (R18)."""
    return demand.minutes if floor.hours is None else int(_open(demand, floor).sum()) * demand.step_s // MINUTE_S


def admitted(demand: Demand, floors: Sequence[Floor]) -> Series:
    """The share of each step's requests that each floor takes: step × floor. Days are counted side by side."""
    days, length = _size(demand)
    inputs, outputs = (_days(side, days, length) for side in (demand.input, demand.output))
    input_tpm = np.array([floor.input_tpm for floor in floors], np.float64)
    output_tpm = np.array([floor.output_tpm for floor in floors], np.float64)
    shares = np.array(list(_shares(inputs, outputs, input_tpm, output_tpm, demand.step_s)))
    found = shares.transpose(1, 0, 2).reshape(-1, len(floors))[: demand.steps]
    for place, floor in enumerate(floors):
        if floor.hours is not None:
            found[:, place] *= _open(demand, floor)
    return np.asarray(found * [bool(floor.input_tpm or floor.output_tpm) for floor in floors], np.float64)


def spills(demand: Demand, book: PriceBook, input_tpm: Series, output_tpm: Series, block_s: int = HOUR_S) -> Spills:
    """Every pair of these floors over the demand, day beside day."""
    days, length = _size(demand)
    inputs, outputs, prompts, answers = (
        _days(series, days, length) for series in (demand.input, demand.output, *demand.step_pico(book, Tier.DEFAULT))
    )
    per_block = min(block_s // demand.step_s, length)
    blocks = -(-length // per_block)
    pairs = np.repeat(input_tpm, len(output_tpm)), np.tile(output_tpm, len(input_tpm))
    lost = np.zeros((2, blocks, days, len(pairs[0])))
    for step, share in enumerate(_shares(inputs, outputs, *pairs, demand.step_s)):
        over = 1 - share
        lost[0, step // per_block] += over * prompts[:, step, None]
        lost[1, step // per_block] += over * answers[:, step, None]
    known = -(-demand.steps // per_block)
    shape = days * blocks, len(input_tpm), len(output_tpm)
    by_prompts, by_answers = (side.transpose(1, 0, 2).reshape(shape)[:known] for side in lost)
    totals = (_blocks(side, blocks, per_block)[:known] for side in (prompts, answers))
    return Spills(block_s, input_tpm, output_tpm, by_prompts, by_answers, *totals)


def week_hours(demand: Demand, block_s: int) -> NDArray[np.int64]:
    """The hour of the week in which each block of so many seconds begins."""
    blocks = -(-demand.steps * demand.step_s // block_s)
    starts_s = demand.start_us // US + np.arange(blocks) * block_s
    return np.asarray((starts_s // HOUR_S + _EPOCH_HOUR) % WEEK_H, np.int64)


def _shares(inputs: Series, outputs: Series, input_tpm: Series, output_tpm: Series, step_s: int) -> Iterator[Series]:
    """Step by step, the share that is admitted: a row for each series of `inputs`, a column for each floor (R20, R21)."""
    refill_in, refill_out = input_tpm * step_s / MINUTE_S, output_tpm * step_s / MINUTE_S
    level_in, level_out = (np.tile(tpm, (len(inputs), 1)) for tpm in (input_tpm, output_tpm))
    with np.errstate(divide="ignore"):
        per_input, per_output = 1 / inputs, 1 / outputs
    for step in range(inputs.shape[1]):
        level_in += refill_in
        level_out += refill_out
        share = np.minimum(
            np.maximum(level_in, _NEVER_ZERO) * per_input[:, step, None],
            np.maximum(level_out, _NEVER_ZERO) * per_output[:, step, None],
        )
        np.minimum(share, 1, out=share)
        yield share
        level_in = np.minimum(input_tpm, level_in - share * inputs[:, step, None])
        level_out = np.minimum(output_tpm, level_out - share * outputs[:, step, None])


def _open(demand: Demand, floor: Floor) -> NDArray[np.bool_]:
    assert floor.hours is not None
    return np.isin(week_hours(demand, demand.step_s), list(floor.hours))


def _size(demand: Demand) -> tuple[int, int]:
    """Days and steps of a day: they are counted side by side, each begun with full buckets, which is little of a day."""
    days = max(1, -(-demand.steps * demand.step_s // DAY_S))
    return days, DAY_S // demand.step_s if days > 1 else demand.steps


def _days(series: Series, days: int, length: int) -> Series:
    return np.pad(series, (0, days * length - len(series))).reshape(days, length)


def _blocks(series: Series, blocks: int, per_block: int) -> Series:
    padded = np.pad(series, ((0, 0), (0, blocks * per_block - series.shape[1])))
    return np.asarray(padded.reshape(-1, per_block).sum(1), np.float64)
