"""What operators made, as the control plane shows it. Never with a secret."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec


class ProjectRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant: owns keys, quotas and usage. `weight` is its share inside a tier (R8)."""

    id: str
    name: str
    weight: int
    created: datetime


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A project's key without its secret. `allowed_tiers` null means all."""

    id: str
    project: str
    project_name: str
    name: str
    default_tier: str
    allowed_tiers: tuple[str, ...] | None
    tags: Mapping[str, str]
    key_version: int
    created: datetime
    revoked_at: datetime | None


class QuotaRecord(msgspec.Struct, frozen=True, kw_only=True):
    """On-demand limits of one project on one model (R25); null is no limit."""

    project: str
    project_name: str
    model: str
    tpm: int | None
    rpm: int | None
    concurrency: int | None

    @property
    def place(self) -> str:
        """Where it stands in the list of quotas."""
        return f"{self.project}/{self.model}"


class BookRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model's prices: USD per 1 M tokens at tier default, and each tier's multiplier (R33).

    All numbers are decimal strings. `source` is `config` or `api`.
    """

    model: str
    version: int
    input: str
    cache_write_5m: str
    cache_write_1h: str
    cache_read: str
    output: str
    tiers: Mapping[str, str]
    source: str
    created: datetime


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
