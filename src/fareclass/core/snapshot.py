"""The immutable picture of the control plane that the data path reads.

The control plane compiles projects, keys, quotas and prices into one frozen `Snapshot`
and swaps it by reference; a request takes the reference once and keeps it (R5). So
nothing on the hot path awaits a database, and there is nothing to invalidate.
"""

from collections.abc import Mapping

import msgspec

from fareclass.core.tiers import Tier


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant. `weight` is its share inside a tier (R8)."""

    id: str
    name: str
    weight: int = 1


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A project's key that is in force. `secret` is the whole bearer token, in memory only."""

    id: str
    project: Project
    name: str
    secret: bytes
    default_tier: Tier = Tier.DEFAULT
    allowed_tiers: frozenset[Tier] | None = None
    tags: Mapping[str, str] = {}


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """On-demand limits of one project on one model (R25); None is no limit."""

    tpm: int | None = None
    rpm: int | None = None
    concurrency: int | None = None


class PriceBook(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model's prices, compiled: 10⁻¹² USD per token by tier and kind (R33).

    `rates[tier]` is in the order of `usage.KINDS`.
    """

    model: str
    version: int
    rates: tuple[tuple[int, ...], ...]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A public model name and what the data path must know of it."""

    name: str
    upstream_model: str
    created: int
    tiers: frozenset[Tier]
    pass_fields: frozenset[str] = frozenset()
    media_domains: frozenset[str] = frozenset()
    output_burndown: int = 1
    max_tokens_default: int = 512


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that policy decides from, at one moment."""

    projects: Mapping[str, Project]
    keys: Mapping[str, Key]
    models: Mapping[str, Model]
    quotas: Mapping[tuple[str, str], Quota]
    books: Mapping[str, PriceBook]
