"""What operators made, as the control plane shows it. Never with a secret."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec


class ProjectRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant: owns keys, quotas and usage. `weight` is its share inside a tier (R8)."""

    id: str
    name: str
    weight: int
    created: datetime


class EscalationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that sends a key's next requests as a better tier (R40); `usd_per_day` is a decimal string."""

    to: str
    for_s: int
    after_throttles: int | None = None
    slower_than_ms: int | None = None
    window_s: int = 300
    usd_per_day: str | None = None


class WorkloadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A named use (R41). `overflow` null leaves it to the reservation."""

    name: str
    shape: str
    default_tier: str
    overflow: str | None
    escalation: EscalationRecord | None


class LimitsRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits of a route's rule (R45): those on quality and price hold always, those on speed where any model can.

    `usd_per_1m_max` is a decimal string: USD per 1 M tokens of the request, input and output together.
    """

    quality_min: float | None = None
    usd_per_1m_max: str | None = None
    ttft_p95_ms_max: int | None = None
    tokens_per_s_min: float | None = None


class RuleRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How a route picks a model: `order_by` is quality, latency or cost (R45)."""

    order_by: str
    limits: LimitsRecord = LimitsRecord()


class RouteModelRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model of a route, and its declared quality, from 0 to 1."""

    model: str
    quality: float | None = None


class RouteRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A public name over several models (R45). `unknown` are those that the configuration has no more: they are skipped."""

    name: str
    models: tuple[RouteModelRecord, ...]
    order_by: str
    limits: LimitsRecord
    by_tier: Mapping[str, RuleRecord]
    by_workload: Mapping[str, RuleRecord]
    unknown: tuple[str, ...]
    created: datetime


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A project's key without its secret. `allowed_tiers` null means all.

    `default_tier` and `escalation` are its own: where null, the workload's are in force.
    """

    id: str
    project: str
    project_name: str
    name: str
    default_tier: str | None
    allowed_tiers: tuple[str, ...] | None
    tags: Mapping[str, str]
    workload: str | None
    escalation: EscalationRecord | None
    key_version: int
    created: datetime
    revoked_at: datetime | None


class QuotaRecord(msgspec.Struct, frozen=True, kw_only=True):
    """On-demand limits of one project on one model (R25); null is no limit.

    `priority_share` of the tpm, a decimal string, is kept for priority.
    """

    project: str
    project_name: str
    model: str
    tpm: int | None
    rpm: int | None
    concurrency: int | None
    priority_share: Decimal

    @property
    def place(self) -> str:
        """Where it stands in the list of quotas."""
        return f"{self.project}/{self.model}"


class BookRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model's prices: USD per 1 M tokens at tier default, and each tier's multiplier (R33).

    `reserved_input` and `reserved_output` are USD an hour for each 1,000 tokens a minute of a reservation.
    All numbers are decimal strings. `source` is `config` or `api`.
    """

    model: str
    version: int
    input: str
    cache_write_5m: str
    cache_write_1h: str
    cache_read: str
    output: str
    reserved_input: str
    reserved_output: str
    tiers: Mapping[str, str]
    source: str
    created: datetime


class WindowRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Hours of some days of the week, by the clock: `from` is the first minute, `to` the first one after it."""

    days: tuple[str, ...]
    from_: str = msgspec.field(name="from")
    to: str


class HoursRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Weekly hours in a time zone, which is named as IANA does."""

    tz: str
    weekly: tuple[WindowRecord, ...]


class ReservationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A floor of tokens a minute (R18). `hourly_usd` is its fee for each hour in which it is in force, exactly.

    `status` is scheduled, active (outside of its weekly hours too), ended or cancelled; `overflow` a tier or `reject`.
    `in_force` says whether the floor stands at this moment; `accrued_usd` is its fee until now, exactly.
    """

    id: str
    project: str
    project_name: str
    model: str
    status: str
    input_tpm: int
    output_tpm: int
    overflow: str
    starts_at: datetime
    ends_at: datetime | None
    hours: HoursRecord | None
    in_force: bool
    hourly_usd: str
    accrued_usd: str
    created: datetime
    cancelled_at: datetime | None


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One change: when, who, what, and the object before and after it."""

    id: str
    at: datetime
    actor: str
    action: str
    target: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


def moment(us: int) -> datetime:
    """Microseconds since the epoch as a time with a zone (RFC 3339 in JSON)."""
    return datetime.fromtimestamp(us // 1_000_000, UTC).replace(microsecond=us % 1_000_000)
