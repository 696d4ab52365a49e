"""What the control plane shows of a pool's brain. Cheap: consoles ask for it every second or two."""

from collections import Counter
from collections.abc import Collection
from typing import Any

from fareclass.core.tiers import TIERS, Tier
from fareclass.sched.brain import Brain
from fareclass.sched.ticket import Ticket


def show_tiers(
    brain: Brain, tickets: Collection[Ticket], pauses: Counter[Tier], restarts: Counter[Tier], now: float
) -> dict[str, dict[str, int]]:
    """By tier: what runs and waits, for how long the oldest in line waits, and how often work was taken off a replica."""
    oldest_s: dict[Tier, float] = {}
    for ticket in tickets:
        if ticket.line is not None and ticket.fresh:
            oldest_s[ticket.tier] = max(oldest_s.get(ticket.tier, 0.0), now - ticket.arrival)
    return {
        tier.word: {
            "running": brain.running(tier),
            "waiting": brain.lines.waiting(tier),
            "paused": brain.lines.by_rank[tier].returned,
            "expected_wait_ms": round(shown_wait_s(brain, tier, now) * 1000),
            "oldest_wait_ms": round(oldest_s.get(tier, 0.0) * 1000),
            "pauses": pauses[tier],
            "restarts": restarts[tier],
        }
        for tier in TIERS
    }


def shown_wait_s(brain: Brain, tier: Tier, now: float) -> float:
    """The wait that a newcomer would expect. Nobody waits longer than his tier's limit: by then he is refused."""
    return min(brain.wait_s(tier, now), brain.policies[tier].max_wait_s)


def show_headroom(brain: Brain) -> dict[str, Any]:
    """Slots kept free of what can't be moved; how many sequences of that may run, and do (R10)."""
    headroom = brain.headroom
    return {"slots": headroom.slots, "fixed_limit": headroom.limit, "fixed_running": headroom.fixed}


def show_floors(brain: Brain, now: float) -> list[dict[str, Any]]:
    """Each floor in force, and what is left of its minute; below zero is debt (R20)."""
    return [
        {
            "project": project,
            "input_tpm": account.floor.input_tpm,
            "output_tpm": account.floor.output_tpm,
            "input_left": account.input.left(now),
            "output_left": account.output.left(now),
        }
        for project, account in brain.reserves.accounts.items()
        if account.open
    ]
