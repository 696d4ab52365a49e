"""All pools of this gateway, as the control plane and the metrics see them."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fareclass.core.capacity import MICRO
from fareclass.core.tiers import TIERS
from fareclass.flow.dispatch import Dispatcher
from fareclass.flow.pool_view import shown_wait_s
from fareclass.flow.reserved import Standing
from fareclass.telemetry.states import PoolState


class Fleet:
    """The dispatchers by model; implements `flow.pools.Pools`."""

    def __init__(self, dispatchers: Mapping[str, Dispatcher], standing: Standing) -> None:
        self._dispatchers = dispatchers
        self._standing = standing

    def describe(self, model: str | None) -> list[dict[str, Any]]:
        """Each pool, or one model's; LookupError for a model that is none."""
        chosen = self._dispatchers.values() if model is None else [self._dispatchers[model]]
        return [dispatcher.describe() for dispatcher in chosen]

    def follow(self) -> None:
        """Put what reservations say now into force in every pool (R18)."""
        self._standing.follow()

    async def change(
        self, model: str, replica: str, *, drain: bool | None, tiers: Sequence[str] | None, slots: int | None
    ) -> dict[str, Any]:
        """Change a running replica (R16); LookupError for a model or replica that is none."""
        return self._dispatchers[model].change(replica, drain=drain, tiers=tiers, slots=slots)

    def states(self) -> Iterator[PoolState]:
        """Every pool at this moment, for a scrape."""
        now = asyncio.get_running_loop().time()
        for model, dispatcher in self._dispatchers.items():
            brain = dispatcher.brain
            yield PoolState(
                model=model,
                queued={tier: brain.lines.waiting(tier) for tier in TIERS},
                paused={tier: brain.lines.by_rank[tier].returned for tier in TIERS},
                wait_s={tier: shown_wait_s(brain, tier, now) for tier in TIERS},
                running={tier: brain.running(tier) for tier in TIERS},
                slots={replica.id: replica.slots for replica in brain.replicas.values()},
                up={replica.id: replica.open for replica in brain.replicas.values()},
                floor_starts=brain.floor_starts,
                guard_starts=brain.guard_starts,
                floors={
                    project: (account.floor.input_tpm, account.floor.output_tpm)
                    for project, account in brain.reserves.accounts.items()
                    if account.open
                },
                kept_share=brain.reserves.share_ppm / MICRO,
                headroom_slots=brain.headroom.slots,
            )

    def not_ready(self) -> str | None:
        """Why no request could be served, or None."""
        if any(dispatcher.ready for dispatcher in self._dispatchers.values()):
            return None
        return f"no replica is up of {', '.join(self._dispatchers)}"
