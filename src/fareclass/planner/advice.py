"""The planner's answer (R44). Amounts are exact decimal strings in USD; tokens a minute are in burn-down units (R24)."""

from datetime import datetime

import msgspec

from fareclass.planner.shape import Proposal
from fareclass.store.records import HoursRecord


class Reserve(msgspec.Struct, frozen=True, kw_only=True):
    """A reservation to make. Times and hours are null where it is for good, and around the clock."""

    input_tpm: int
    output_tpm: int
    hours: HoursRecord | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None


class Waits(msgspec.Struct, frozen=True, kw_only=True):
    """What the project's requests of the busiest time would have met on the simulated fleet, in ms; shares are of all."""

    requests: int
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    queue_p99_ms: float | None
    refused_share: float


class Alternative(msgspec.Struct, frozen=True, kw_only=True):
    """One way to buy. `month_usd` and `year_usd` are what it is expected to cost, `span_usd` what it would have cost.

    `spill_share` of all tokens overflow and `used_share` of the floor is used, by value. `saving_share` is of all-default.
    """

    name: str
    reserve: Reserve | None
    month_usd: str
    year_usd: str
    span_usd: str
    saving_share: float
    spill_share: float
    used_share: float
    waits: Waits | None = None


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens a minute, idle minutes included (R43)."""

    p25: int
    p50: int
    p90: int
    p99: int
    max: int


class WorkloadAdvice(msgspec.Struct, frozen=True, kw_only=True):
    """A tier for one workload; `share` is its part of the project's tokens on the model."""

    workload: str
    share: float
    proposal: Proposal


class SeasonWeek(msgspec.Struct, frozen=True, kw_only=True):
    """What a coming week is expected to ask, over the mean week of the last year; eight of ten lie between the other two."""

    start: datetime
    level: float
    low: float
    high: float


class SeasonAdvice(msgspec.Struct, frozen=True, kw_only=True):
    """The coming year from last year's shape. `ratio` is this year over last year, by `compared_weeks`.

    `reserves` follow each other in time; without a season there is one, or none where none pays.
    """

    ratio: float
    compared_weeks: int
    weeks: list[SeasonWeek]
    reserves: list[Reserve]
    year_usd: str
    saving_share: float
    reason: str


class Uncertainty(msgspec.Struct, frozen=True, kw_only=True):
    """How sure the plan is: standard deviations of the logarithms of level and of output over input, and the trend."""

    level: float
    ratio: float
    growth: float


class PlanRow(msgspec.Struct, frozen=True, kw_only=True):
    """Advice for one project and model. `break_even` is the use above which a reservation pays, by side.

    `alternatives` are all-default, all-priority, P50, P90 and best; `curve` reserves at P10 to P99 on both sides. Where no
    reservation can be compared, P50, P90 and the curve are left out. A `failed` row has nothing but `advice`, which says why.
    """

    project: str
    project_name: str
    model: str
    start: datetime
    end: datetime
    minutes: int
    input: Percentiles | None = None
    output: Percentiles | None = None
    break_even_input: float | None = None
    break_even_output: float | None = None
    uncertainty: Uncertainty | None = None
    alternatives: list[Alternative] = []
    curve: list[Alternative] = []
    advice: str
    failed: bool = False
    workloads: list[WorkloadAdvice] = []
    season: SeasonAdvice | None = None
