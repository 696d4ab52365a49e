"""The immutable picture of the control plane that the data path reads.

The control plane compiles projects, keys, quotas and prices into one frozen `Snapshot`
and swaps it by reference; a request takes the reference once and keeps it (R5). So
nothing on the hot path awaits a database, and there is nothing to invalidate.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage, burnt


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant. `weight` is its share inside a tier (R8)."""

    id: str
    name: str
    weight: int = 1


class Escalation(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that sends a key's next requests as a better tier (R40).

    It fires after `after_throttles` in a row, or when the p95 latency over the last `window_s` passed
    `slower_than_ms`; then requests go as `to` for `for_s`, for at most `pico_per_day` (10⁻¹² USD, day of UTC).
    """

    to: Tier
    for_s: int
    after_throttles: int | None = None
    slower_than_ms: int | None = None
    window_s: int = 300
    pico_per_day: int | None = None


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A project's key that is in force. `secret` is the whole bearer token, in memory only.

    `overflow` is its workload's: it stands in for that of the reservation unless it is UNSET; None rejects (R41).
    """

    id: str
    project: Project
    name: str
    secret: bytes
    default_tier: Tier = Tier.DEFAULT
    allowed_tiers: frozenset[Tier] | None = None
    tags: Mapping[str, str] = {}
    workload: str = ""
    escalation: Escalation | None = None
    overflow: Tier | UnsetType | None = UNSET


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """On-demand limits of one project on one model (R25); None is no limit.

    `priority_tpm` of the `tpm` are kept for priority: default and flex share the rest.
    """

    tpm: int | None = None
    priority_tpm: int = 0
    rpm: int | None = None
    concurrency: int | None = None


class PriceBook(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model's prices, compiled: 10⁻¹² USD per token by tier and kind (R33).

    `rates[tier]` is in the order of `usage.KINDS`. A reservation's fee is `reserved_input` and
    `reserved_output`, in 10⁻¹² USD a minute for each token a minute of its floor.
    """

    model: str
    version: int
    rates: tuple[tuple[int, ...], ...]
    reserved_input: int = 0
    reserved_output: int = 0


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What a project or key may spend on demand in a day or month of UTC, in 10⁻¹² USD (R26)."""

    pico: int
    per: Literal["day", "month"]


class Window(msgspec.Struct, frozen=True):
    """Hours of some days of the week, 0 is Monday: minutes since midnight, the first included, the last not."""

    days: tuple[int, ...]
    from_minute: int
    to_minute: int


class Hours(msgspec.Struct, frozen=True, kw_only=True):
    """The weekly hours of a reservation in its own time zone (an IANA name)."""

    tz: str
    weekly: tuple[Window, ...]


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """A floor of tokens a minute for one project on one model (R18). `overflow` None rejects (R21).

    Times are microseconds since the epoch; `ends_us` None is open-ended.
    """

    id: str
    project: str
    model: str
    input_tpm: int
    output_tpm: int
    overflow: Tier | None
    starts_us: int
    ends_us: int | None = None
    hours: Hours | None = None


class Burndown(msgspec.Struct, frozen=True, kw_only=True):
    """What a token of each kind counts against a reservation, in hundredths; output also against a TPM quota (R24, R25)."""

    input: int = 100
    cache_write_5m: int = 125
    cache_write_1h: int = 200
    cache_read: int = 10
    output: int = 100

    def quota_tokens(self, usage: Usage) -> int:
        """What a request counts against a TPM quota: cache reads are free there (R25)."""
        return usage.input + usage.cache_write_5m + usage.cache_write_1h + burnt(usage.output, self.output)

    def floor_input(self, usage: Usage) -> int:
        """What a prompt counts against the input side of a reservation, in hundredths of a token (R24)."""
        return (
            usage.input * self.input
            + usage.cache_write_5m * self.cache_write_5m
            + usage.cache_write_1h * self.cache_write_1h
            + usage.cache_read * self.cache_read
        )


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool does of each kind alone, in tokens a minute (R19)."""

    input_tpm: int
    output_tpm: int


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A public model name and what the data path must know of it.

    `capacity` None: not known, so nothing can be reserved (R19). `headroom` None: derived (R10). `context_tokens`
    None: not known. A prompt's cache point below `cache_min_tokens` does nothing (R28); `implicit_cache` bills reuse
    that nobody asked for as cache reads too (R30); `shared_cache` lets projects share engines' caches (R31).
    """

    name: str
    upstream_model: str
    created: int
    tiers: frozenset[Tier]
    pass_fields: frozenset[str] = frozenset()
    media_domains: frozenset[str] = frozenset()
    max_tokens_default: int = 512
    burndown: Burndown = Burndown()
    capacity: Capacity | None = None
    headroom: int | None = None
    context_tokens: int | None = None
    cache_min_tokens: int = 1_024
    implicit_cache: bool = True
    shared_cache: bool = False


class RouteRule(msgspec.Struct, frozen=True, kw_only=True):
    """How a route picks: best first by `order_by` (quality, latency or cost), within limits (R45). None is no limit.

    `quality_min` and `pico_per_1m_max` (10⁻¹² USD per 1 M tokens of the request, input and output together) are walls,
    `ttft_p95_ms_max` and `tokens_per_s_min` are wishes.
    """

    order_by: str
    quality_min: float | None = None
    pico_per_1m_max: int | None = None
    ttft_p95_ms_max: int | None = None
    tokens_per_s_min: float | None = None


class RouteModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model of a route, and how good it is at what the route is for: 0 to 1, None where nobody said."""

    model: str
    quality: float | None = None


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A public name that stands for several models (R45). `created` is in seconds since the epoch.

    A workload's own rule goes before a tier's.
    """

    name: str
    created: int
    models: tuple[RouteModel, ...]
    rule: RouteRule
    by_tier: Mapping[Tier, RouteRule] = {}
    by_workload: Mapping[str, RouteRule] = {}


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that policy decides from, at one moment."""

    projects: Mapping[str, Project]
    keys: Mapping[str, Key]
    models: Mapping[str, Model]
    quotas: Mapping[tuple[str, str], Quota]
    books: Mapping[str, PriceBook]
    reservations: Mapping[tuple[str, str], tuple[Reservation, ...]] = {}
    project_budgets: Mapping[str, Budget] = {}
    key_budgets: Mapping[str, Budget] = {}
    routes: Mapping[str, Route] = {}
