"""Where a ticket goes (R16), and from whom a slot is taken for it (R11)."""

from collections.abc import Collection, Iterable

from fareclass.core.limits import CHEAP_CONTINUATION_TOKENS
from fareclass.core.tiers import Tier
from fareclass.sched.replica import Replica
from fareclass.sched.ticket import Ticket

UNCACHED_WEIGHT = 3
"""A token that a replica would compute for want of a cache costs more than one that it computes anyway: it also takes
the place of something in that cache, and the time of who comes next."""

_TOO_BUSY = 1.15
"""Where so many times as much has been running lately as on the mean replica, what it has cached counts for nothing:
else long conversations stay for ever where they began, however many of them met there."""


def place(ticket: Ticket, replicas: Collection[Replica], claimed: Collection[Replica], now: float) -> Replica | None:
    """The best replica where the ticket may start now, None if there is none.

    Reserved, priority and default go where the first token comes soonest: to the least prompt that is still to be
    computed there, the ticket's own included, less what the replica has cached of it; then to the emptiest. Flex and
    batch go to the fullest, but if a replica has some of their prompt cached they are placed likewise (R16). Such a
    ticket waits for the gate of a replica where, the wait included, its first token still comes sooner than anywhere
    else. `claimed` replicas are kept for somebody ahead.
    """
    best: Replica | None = None
    best_key: tuple[float, float, float] = (0.0, 0.0, 0.0)
    key: tuple[float, float, float]
    soonest_tokens = 0.0
    rank, width = (1 if ticket.guarded else ticket.rank), ticket.width
    spread = rank <= Tier.DEFAULT
    holders = ticket.holders
    too_busy = _TOO_BUSY * _mean_busy(replicas, now) if holders else 0.0
    for replica in replicas:
        if replica.room[rank] < width or replica in claimed or not replica.suits(ticket):
            continue
        own = replica.pending_tokens(ticket) if holders or replica.backlog else 0
        if replica.id in holders and replica.busy(now) > too_busy:
            own = ticket.prompt_tokens
        if replica.backlog and not replica.gate_open(ticket, own, now):
            if replica.id in holders and (
                not soonest_tokens or replica.backlog + own * UNCACHED_WEIGHT < soonest_tokens
            ):
                soonest_tokens = replica.backlog + own * UNCACHED_WEIGHT
            continue
        load = replica.width / replica.slots
        order = load if spread else -load
        if holders:
            key = (replica.backlog + own * UNCACHED_WEIGHT, order, replica.last_start)
        else:
            key = (replica.backlog, order, replica.last_start) if spread else (order, replica.backlog, 0.0)
        if best is None or key < best_key:
            best, best_key = replica, key
    return None if soonest_tokens and best is not None and soonest_tokens < best_key[0] else best


def _mean_busy(replicas: Collection[Replica], now: float) -> float:
    return max(1.0, sum(replica.busy(now) for replica in replicas) / len(replicas)) if replicas else 1.0


def gated(ticket: Ticket, replicas: Iterable[Replica], claimed: Collection[Replica]) -> Replica | None:
    """The replica whose prefill gate the ticket waits for: the one where its first token would come soonest.

    It is then kept free of whoever ranks behind, so that a long prompt gets its turn.
    """
    rank, best, least = (1 if ticket.guarded else ticket.rank), None, 0
    for replica in replicas:
        if replica.room[rank] >= ticket.width and replica not in claimed and replica.suits(ticket):
            ahead = replica.backlog + replica.pending_tokens(ticket) * UNCACHED_WEIGHT
            if best is None or ahead < least:
                best, least = replica, ahead
    return best


def shun(replica: Replica, ticket: Ticket, replicas: Iterable[Replica]) -> None:
    """Not on the replica that failed it again, as long as there is another (R46)."""
    ticket.failed_on = (*ticket.failed_on, replica.id)
    if not any(other.open and other.suits(ticket) for other in replicas):
        ticket.failed_on = ()


def victims(
    ticket: Ticket, replicas: Iterable[Replica], now: float, protected: Collection[int]
) -> tuple[Replica, list[Ticket]] | None:
    """Whose slots the ticket takes, all on one replica; None if it may take from nobody (R11).

    Of the worst tier; on the replica with the least prefill backlog, then the fewest equal
    or better tickets; then the smallest (prompt + produced) × (1 + times paused).
    `protected` are the ranks that stand inside their tier's floor (R7).
    """
    choices: list[tuple[int, int, int, int, Replica]] = []
    for replica in replicas:
        rank = _worst_movable(replica, ticket, protected)
        if rank is not None and _may_take_on(ticket, replica, now):
            equal_or_better = sum(replica.by_rank[: ticket.rank + 1])
            # Whoever a slot is being freed for will prefill there too.
            coming = replica.going * ticket.prompt_tokens
            choices.append((-rank, replica.backlog + coming, equal_or_better, len(choices), replica))
    choices.sort(key=lambda choice: choice[:4])
    for *_, replica in choices:
        taken = _victims_on(replica, ticket, now, protected)
        if taken:
            return replica, taken
    return None


def takes_below(ticket: Ticket) -> int:
    """The ticket may take slots of ranks worse than this: its own; once guarded, or as a burst of a reserved owner,
    any but reserved (R11, R22).
    """
    return Tier.RESERVED if ticket.guarded or ticket.tier is Tier.RESERVED else ticket.rank


def _worst_movable(replica: Replica, ticket: Ticket, protected: Collection[int]) -> int | None:
    for rank in range(Tier.BATCH, takes_below(ticket), -1):
        if replica.movable[rank] and rank not in protected:
            return rank
    return None


def _may_take_on(ticket: Ticket, replica: Replica, now: float) -> bool:
    if not replica.open or not replica.suits(ticket):
        return False
    if ticket.line is not None and not ticket.fresh and not ticket.roams and ticket.home != replica.id:
        return False
    if ticket.rank >= Tier.DEFAULT and not (
        replica.continuable and replica.recompute_tokens <= CHEAP_CONTINUATION_TOKENS
    ):
        return False
    return replica.gate_open(ticket, replica.pending_tokens(ticket), now)


def _victims_on(replica: Replica, ticket: Ticket, now: float, protected: Collection[int]) -> list[Ticket]:
    """Enough tickets that, with them gone, `ticket` may start here; empty if that can't be."""
    limit = replica.slots
    if ticket.rank >= Tier.DEFAULT and not ticket.guarded:
        limit = min((replica.ceilings[rank] for rank in range(ticket.rank) if replica.by_rank[rank]), default=limit)
    needed = ticket.width - (limit - replica.width)
    if needed <= 0 or replica.width > limit:
        return []  # it has room, or what is above a ceiling must drain (R9)
    found: list[Ticket] = []
    for rank in range(Tier.BATCH, takes_below(ticket), -1):
        if rank in protected:
            continue
        able = [other for other in replica.movable[rank] if _may_be_taken(replica, other, ticket, now)]
        able.sort(key=lambda other: ((other.prompt_tokens + other.made_tokens) * (1 + other.pauses), other.seq))
        for other in able:
            found.append(other)
            needed -= other.width
            if needed <= 0:
                return found
    return []


def _may_be_taken(replica: Replica, other: Ticket, by: Ticket, now: float) -> bool:
    inside = by.rank == Tier.RESERVED  # inside its floor: only that takes from another owner's burst (R8, R22)
    if (other.tier is Tier.RESERVED and not inside) or (not inside and (now < other.protected_until or other.guarded)):
        return False
    # A restart past the wait limit would only kill it.
    return replica.can_pause(other) or now < other.expires_at
