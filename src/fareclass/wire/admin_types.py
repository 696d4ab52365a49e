"""What the control plane reads: bodies and query parameters, with their bounds. Unknown fields are refused.

What it answers with are the records of `store.records`, and the few shapes at the end.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, field

from fareclass.core.limits import NAME_CHARS, PAGE, PRICE_USD, QUOTA, SLOTS, TAGS, WEIGHT
from fareclass.core.tiers import TIERS
from fareclass.store.records import KeyRecord

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
Factor = Annotated[
    Decimal, Meta(description="price multiplier", extra_json_schema={"type": ["string", "number"], "minimum": 0})
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


class KeyIn(_In):
    """A new key of a project, which is named by id or name. `allowed_tiers` null means all.

    `default_tier` is `default` where it is null or absent, or the only allowed tier.
    """

    project: str
    name: Name
    default_tier: TierWord | None = None
    allowed_tiers: list[TierWord] | None = None
    tags: Tags = {}


class KeyPatch(_In):
    """What changes of a key. Where only one tier is allowed then, it is the default too unless another is given."""

    name: Name | UnsetType = UNSET
    default_tier: TierWord | UnsetType = UNSET
    allowed_tiers: list[TierWord] | UnsetType | None = UNSET
    tags: Tags | UnsetType = UNSET


class QuotaIn(_In):
    """On-demand limits: tokens and requests a minute, concurrent requests. Null or absent is no limit."""

    tpm: Limit | None = None
    rpm: Limit | None = None
    concurrency: Limit | None = None


class PricesIn(_In):
    """A model's prices. Cache prices follow from `input` where absent: writes 1.25 × (5m) and 2 × (1h), reads 0.1 ×.

    `tiers` sets multipliers that differ from the configuration's.
    """

    input: Usd
    output: Usd
    cache_write_5m: Usd | None = None
    cache_write_1h: Usd | None = None
    cache_read: Usd | None = None
    tiers: dict[str, Factor] = {}


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


class PoolsQuery(_In):
    """One model's pool, or all."""

    model: str | None = None


class UsageParams(_In):
    """What to sum. `by` is a comma-separated list of project, key, model, outcome, tag:NAME; `step` is in seconds.

    `from` is the first moment, `to` the first one after it; they count by the end of each request.
    """

    project: str | None = None
    model: str | None = None
    key: str | None = None
    tag: Annotated[str, Meta(description="NAME:VALUE")] | None = None
    from_: Moment | None = field(default=None, name="from")
    to: Moment | None = None
    step: Annotated[int, Meta(ge=1, le=366 * 86_400)] | None = None
    by: str = ""


class NoQuery(_In):
    """No query parameter."""


class KeyMade(KeyRecord, frozen=True, kw_only=True):
    """A new key with its secret, which is shown only here."""

    secret: str


class ErrorBody(Struct, kw_only=True):
    """What was wrong: a word for programs, a sentence for people, and the path of the field at fault."""

    code: str
    message: str
    field: str | None


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
