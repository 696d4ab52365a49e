"""An optional share of the pool for a tier, against the strict order (R7)."""

from collections.abc import Mapping

from fareclass.core.tiers import Tier, TierPolicy
from fareclass.sched.replica import Replica


class Floors:
    """Tiers with a floor: below it they go first, and inside it nothing is taken from them."""

    def __init__(self, policies: Mapping[Tier, TierPolicy], replicas: Mapping[str, Replica]) -> None:
        self._replicas = replicas
        self._shares = {tier: policy.floor for tier, policy in policies.items() if policy.floor}
        self.tiers = tuple(sorted(self._shares))

    def below(self, tier: Tier) -> bool:
        """Whether the tier runs less than its floor."""
        running = sum(replica.by_rank[tier] for replica in self._replicas.values())
        return running < self._slots(tier)

    def inside(self) -> frozenset[int]:
        """Ranks from which nothing is taken, because all that will stay running stands inside their floor."""
        return frozenset(
            tier
            for tier in self.tiers
            if sum(replica.by_rank[tier] - replica.leaving(tier) for replica in self._replicas.values())
            <= self._slots(tier)
        )

    def _slots(self, tier: Tier) -> int:
        return int(self._shares[tier] * sum(replica.slots for replica in self._replicas.values() if replica.open))
