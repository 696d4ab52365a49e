"""The service tiers, their names on the wire, and what an operator may set of each."""

from enum import IntEnum
from types import MappingProxyType

import msgspec


class Tier(IntEnum):
    """A fare class. Its value is its rank: a smaller one goes first (R7)."""

    RESERVED = 0
    PRIORITY = 1
    DEFAULT = 2
    FLEX = 3
    BATCH = 4

    @property
    def word(self) -> str:
        """Our own name for it, as in headers, metrics and the ledger."""
        return self.name.lower()


TIERS: tuple[Tier, ...] = tuple(Tier)
BY_WORD = MappingProxyType({tier.word: tier for tier in TIERS})
ALIASES = MappingProxyType({"scale": Tier.RESERVED, "fast": Tier.PRIORITY})


class TierPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator sets of one tier.

    `max_batch` is the share of a replica's slots that may be running beside a ticket of
    this tier (R9); `gap_guard_s` the longest gap that a pause may make in a stream, reserved
    work aside (R11); `max_wait_s` how long one may stand in line before it is refused
    (R14); `floor` the share of the pool's slots whose holders are nobody's victims (R7);
    `queue_limit` how many tickets may stand in one pool's line of this tier (R14).
    """

    max_batch: float
    max_wait_s: float
    roam_after_s: float
    floor: float = 0.0
    gap_guard_s: float | None = None
    queue_limit: int = 100_000


DEFAULT_POLICIES = MappingProxyType(
    {
        Tier.RESERVED: TierPolicy(max_batch=0.75, max_wait_s=600.0, roam_after_s=1.0),
        Tier.PRIORITY: TierPolicy(max_batch=0.75, max_wait_s=30.0, roam_after_s=2.0),
        Tier.DEFAULT: TierPolicy(max_batch=1.0, max_wait_s=10.0, roam_after_s=5.0, gap_guard_s=5.0),
        Tier.FLEX: TierPolicy(max_batch=1.0, max_wait_s=540.0, roam_after_s=15.0, gap_guard_s=30.0),
        Tier.BATCH: TierPolicy(max_batch=1.0, max_wait_s=86_400.0, roam_after_s=60.0),
    }
)
