"""What the control plane reads: bodies and query parameters, with their bounds. Unknown fields are refused.

What it answers with are the records of `store.records`, and the few shapes at the end.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, field
from msgspec.structs import asdict

from fareclass.core.limits import (
    AMOUNT_USD,
    BATCH_ROOTS,
    BATCH_URI_CHARS,
    MODEL_CHARS,
    NAME_CHARS,
    PAGE,
    PRICE_USD,
    QUOTA,
    RESERVATION_WINDOWS,
    RESERVED_PRICE_USD,
    SLOTS,
    TAGS,
    URL_CHARS,
    WEIGHT,
)
from fareclass.core.tiers import TIERS
from fareclass.flow.operator_rules import SHAPES
from fareclass.flow.reservation_rules import DAYS, OVERFLOWS
from fareclass.policy.budgets import PERIODS
from fareclass.policy.webhooks import EVENTS
from fareclass.store.records import EscalationRecord, HoursRecord, KeyRecord, WindowRecord

_TIERS = {"enum": [tier.word for tier in TIERS]}
Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS, description="printable, without '/' or outer spaces")]
Weight = Annotated[int, Meta(ge=1, le=WEIGHT, description="share inside a tier")]
TierWord = Annotated[str, Meta(extra_json_schema=_TIERS, description="a service tier")]
Tags = Annotated[dict[str, str], Meta(max_length=TAGS, description="such as product or use case; kept in the ledger")]
Limit = Annotated[int, Meta(ge=0, le=QUOTA)]
Usd = Annotated[
    Decimal,
    Meta(
        description="USD per 1M tokens at tier default, at most 12 decimals",
        extra_json_schema={"type": ["string", "number"], "minimum": 0, "maximum": PRICE_USD},
    ),
]
HourlyUsd = Annotated[
    Decimal,
    Meta(
        description="USD an hour for each 1,000 tokens a minute of a reservation, at most 12 decimals",
        extra_json_schema={"type": ["string", "number"], "minimum": 0, "maximum": RESERVED_PRICE_USD},
    ),
]
Overflow = Annotated[
    str, Meta(extra_json_schema={"enum": list(OVERFLOWS)}, description="what requests beyond the floor are served as")
]
Amount = Annotated[
    Decimal,
    Meta(
        description="USD, at most 12 decimals",
        extra_json_schema={"type": ["string", "number"], "minimum": 0, "maximum": AMOUNT_USD},
    ),
]
Factor = Annotated[
    Decimal, Meta(description="price multiplier", extra_json_schema={"type": ["string", "number"], "minimum": 0})
]
Share = Annotated[
    Decimal,
    Meta(
        description="at most 3 decimals", extra_json_schema={"type": ["string", "number"], "minimum": 0, "maximum": 1}
    ),
]
Moment = Annotated[datetime, Meta(tz=True, description="RFC 3339")]


class _In(Struct, kw_only=True, forbid_unknown_fields=True):
    """Read strictly: a mistyped field is an error, not a default."""


class ProjectIn(_In):
    """A new project."""

    name: Name
    weight: Weight = 1


class ProjectPatch(_In):
    """What changes of a project."""

    name: Name | UnsetType = UNSET
    weight: Weight | UnsetType = UNSET


class EscalationIn(_In):
    """Send the next requests as `to` for `for_s` seconds (R40), for at most `usd_per_day` in a day of UTC.

    After so many throttles in a row, or once the p95 latency over `window_s` passed `slower_than_ms`.
    """

    to: TierWord
    for_s: int
    after_throttles: int | None = None
    slower_than_ms: int | None = None
    window_s: int = 300
    usd_per_day: Amount | None = None

    def record(self) -> EscalationRecord:
        """The rule as it is kept, its bounds not checked yet."""
        fields = asdict(self)
        fields["usd_per_day"] = None if self.usd_per_day is None else str(self.usd_per_day)
        return EscalationRecord(**fields)


class WorkloadIn(_In):
    """What a named use is like, and what it gives the keys that name it. `overflow` may also be `reject`."""

    shape: Annotated[str, Meta(extra_json_schema={"enum": list(SHAPES)})]
    default_tier: TierWord
    overflow: str | None = None
    escalation: EscalationIn | None = None


class KeyIn(_In):
    """A new key of a project, which is named by id or name. `allowed_tiers` null means all.

    Where `default_tier` or `escalation` is null or absent, the workload's is in force. Without a workload the default
    tier is `default`, or the only allowed one.
    """

    project: str
    name: Name
    default_tier: TierWord | None = None
    allowed_tiers: list[TierWord] | None = None
    tags: Tags = {}
    workload: str | None = None
    escalation: EscalationIn | None = None


class KeyPatch(_In):
    """What changes of a key. Where only one tier is allowed then, it is the default too unless another is given.

    A key that is given another workload takes its default tier, unless one is named with it.
    """

    name: Name | UnsetType = UNSET
    default_tier: TierWord | UnsetType | None = UNSET
    allowed_tiers: list[TierWord] | UnsetType | None = UNSET
    tags: Tags | UnsetType = UNSET
    workload: str | UnsetType | None = UNSET
    escalation: EscalationIn | UnsetType | None = UNSET


class QuotaIn(_In):
    """On-demand limits: tokens and requests a minute, concurrent requests. Null or absent is no limit.

    `priority_share` of the tpm is kept for priority: default and flex share the rest.
    """

    tpm: Limit | None = None
    rpm: Limit | None = None
    concurrency: Limit | None = None
    priority_share: Share = Decimal(0)


class BudgetIn(_In):
    """What may be spent on demand in a day or month of UTC."""

    usd: Amount
    per: Annotated[str, Meta(extra_json_schema={"enum": list(PERIODS)})]


class WebhookIn(_In):
    """Where events go; `events` null or absent means all. With `rotate` they are signed with a new secret from now on."""

    url: Annotated[str, Meta(max_length=URL_CHARS, description="https://HOST[:PORT]/PATH")]
    events: list[Annotated[str, Meta(extra_json_schema={"enum": list(EVENTS)})]] | None = None
    rotate: bool = False


class BatchRootIn(_In):
    """A place: names that begin with `uri` are below `folder` of the gateway's machine, or in the object store `store`."""

    uri: Annotated[str, Meta(max_length=BATCH_URI_CHARS, description="s3://BUCKET[/FOLDER…]/")]
    folder: Annotated[str, Meta(max_length=URL_CHARS)] | None = None
    store: Annotated[str, Meta(max_length=MODEL_CHARS)] | None = None


class BatchRootsIn(_In):
    """All places of a project, in place of those before."""

    roots: Annotated[list[BatchRootIn], Meta(max_length=BATCH_ROOTS)]


class PricesIn(_In):
    """A model's prices. Cache prices follow from `input` where absent: writes 1.25 × (5m) and 2 × (1h), reads 0.1 ×.

    `tiers` sets multipliers that differ from the configuration's. Prices of reservations stay where absent.
    """

    input: Usd
    output: Usd
    cache_write_5m: Usd | None = None
    cache_write_1h: Usd | None = None
    cache_read: Usd | None = None
    reserved_input: HourlyUsd | None = None
    reserved_output: HourlyUsd | None = None
    tiers: dict[str, Factor] = {}


class WindowIn(_In):
    """Hours of some days; `to` is the first minute after them, 24:00 at the end of a day."""

    days: list[Annotated[str, Meta(extra_json_schema={"enum": list(DAYS)})]]
    from_: str = field(name="from")
    to: str


class HoursIn(_In):
    """Weekly hours by the clock of a time zone, such as Europe/Vienna."""

    tz: str
    weekly: Annotated[list[WindowIn], Meta(min_length=1, max_length=RESERVATION_WINDOWS)]

    def record(self) -> HoursRecord:
        """As they are shown."""
        return HoursRecord(
            tz=self.tz,
            weekly=tuple(WindowRecord(days=tuple(one.days), from_=one.from_, to=one.to) for one in self.weekly),
        )


class ReservationPatch(_In):
    """What changes of a reservation that is not over. Its fee stays, unless its tokens change.

    The start of one that has begun can't change any more. `ends_at` null is open-ended, `hours` null around the clock.
    """

    input_tpm: Limit | UnsetType = UNSET
    output_tpm: Limit | UnsetType = UNSET
    overflow: Overflow | UnsetType = UNSET
    starts_at: Moment | UnsetType = UNSET
    ends_at: Moment | UnsetType | None = UNSET
    hours: HoursIn | UnsetType | None = UNSET


class ReservationIn(_In):
    """A new floor of tokens a minute for a project on a model.

    It begins now where `starts_at` is absent, is open-ended where `ends_at` is, and beyond it requests are served as
    `default` where `overflow` is. A request needs room on both sides: with one of 0 only embeddings fit (no output),
    unless another reservation of the project on the model has that side.
    """

    project: str
    model: str
    input_tpm: Limit
    output_tpm: Limit
    overflow: Overflow | UnsetType = UNSET
    starts_at: Moment | None = None
    ends_at: Moment | None = None
    hours: HoursIn | None = None


class ReplicaPatch(_In):
    """What changes of a running replica; null or absent leaves as it is. All five `tiers` lift a restriction."""

    drain: bool | None = None
    tiers: Annotated[list[TierWord], Meta(min_length=1)] | None = None
    slots: Annotated[int, Meta(ge=1, le=SLOTS)] | None = None


class Page(_In):
    """Which part of a list: `after` is the `next` of the page before."""

    limit: Annotated[int, Meta(ge=1, le=PAGE)] = 100
    after: str = ""


class ProjectPage(Page):
    """Part of a list, of one project (id or name) or all."""

    project: str | None = None


class ReservationPage(ProjectPage):
    """Part of a list, of one project or all, on one model or all."""

    model: str | None = None


class PoolsQuery(_In):
    """One model's pool, or all."""

    model: str | None = None


class NoQuery(_In):
    """No query parameter."""


class KeyMade(KeyRecord, frozen=True, kw_only=True):
    """A new key with its secret, which is shown only here."""

    secret: str


class Available(Struct, kw_only=True):
    """The most of the reservation that was asked for which would fit."""

    input_tpm: int
    output_tpm: int


class ErrorBody(Struct, kw_only=True):
    """What was wrong: a word for programs, a sentence for people, and the path of the field at fault."""

    code: str
    message: str
    field: str | None
    available: Available | UnsetType = UNSET


class Error(Struct):
    """The body of every refusal."""

    error: ErrorBody


class Replica(Struct):
    """One replica: what an operator may change, sequences running by tier, and beside it whatever its state shows."""

    id: str
    up: bool
    slots: int
    tiers: list[str] | None
    drain: bool
    running: dict[str, int]


class Pool(Struct):
    """One model's replicas, and beside them whatever the pool's state shows."""

    model: str
    replicas: list[Replica]
