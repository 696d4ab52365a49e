"""One replica as the scheduler sees it: its slots, who runs there, and who may still start."""

import math
from collections.abc import Mapping, Sequence

from fareclass.core.limits import GATE_TOKENS, MAX_RESTARTS, MAX_YIELDS, YIELD_TOKENS
from fareclass.core.tiers import TIERS, Tier, TierPolicy
from fareclass.sched.ticket import State, Ticket

FIRST_PREFILL_TPS = 2_000.0
"""Prefill speed taken for true until the replica has shown its own, in tokens/s."""
_MEASURED_FROM = 64
"""A prefill of fewer tokens says little about speed."""


_BUSY_S = 60.0
"""Time in which what was running loses most of its weight in the mean."""
_NO_ROOM = (0,) * len(TIERS)


class Replica:
    """One engine endpoint inside the scheduler.

    `width` counts the sequences that run there, those that are leaving included; `going` are these. `room[rank]`
    is how many more a ticket of that rank may add under R9; it is kept up to date at each
    change, so that asking costs nothing. `prefilling` are the tickets sent there that have
    given no first token, `backlog` their prompt tokens (R52). `movable[rank]` are running
    tickets that could be paused or restarted (R11); `pool_movable` counts them by rank over
    all replicas of the pool, `pool_roomy[rank]` holds those with room; all of them share these.
    """

    __slots__ = (
        "_busy", "_busy_at", "backlog", "by_rank", "ceilings", "continuable", "draining", "going", "id", "keeps_cut", "last_start", "movable", "pool_movable", "pool_roomy", "prefill_tps",
        "prefilling", "recompute_tokens", "room", "running", "slots", "tiers", "up", "width",
    )  # fmt: skip

    def __init__(
        self,
        id: str,
        slots: int,
        policies: Mapping[Tier, TierPolicy],
        pool_movable: list[int],
        pool_roomy: Sequence[dict["Replica", None]],
    ) -> None:
        self.id = id
        self.slots = slots
        self.tiers: frozenset[Tier] | None = None
        self.up = True
        self.draining = False
        self.continuable = False
        self.recompute_tokens = 0
        self.keeps_cut = False
        self.running: dict[Ticket, None] = {}
        self.prefilling: dict[Ticket, None] = {}
        self.movable: tuple[dict[Ticket, None], ...] = tuple({} for _ in TIERS)
        self.pool_movable = pool_movable
        self.pool_roomy = pool_roomy
        self.by_rank = [0] * len(TIERS)
        self.width = 0
        self.going = 0
        self.backlog = 0
        self.last_start = 0.0
        self._busy = self._busy_at = 0.0
        self.prefill_tps = FIRST_PREFILL_TPS
        self.room = _NO_ROOM
        self.ceilings = [0] * len(TIERS)
        self.set_slots(slots, policies)

    def set_slots(self, slots: int, policies: Mapping[Tier, TierPolicy]) -> None:
        """Change how many sequences it may run; what is above drains."""
        self.slots = slots
        self.ceilings = [max(1, math.ceil(policies[tier].max_batch * slots)) for tier in TIERS]
        self.measure()

    @property
    def open(self) -> bool:
        """Whether anything may start here."""
        return self.up and not self.draining

    def measure(self) -> None:
        """Work out `room` anew, and keep `pool_roomy`, the replicas with room for each rank, true."""
        free, limit, width = self.slots - self.width, self.slots, self.width
        if free <= 0 or not self.open:
            room = _NO_ROOM
        else:
            by_rank, ceilings = self.by_rank, self.ceilings
            if by_rank[0] and ceilings[0] < limit:
                limit = ceilings[0]
            if by_rank[1] and ceilings[1] < limit:
                limit = ceilings[1]
            beside_best = limit - width if limit > width else 0
            if by_rank[2] and ceilings[2] < limit:
                limit = ceilings[2]
            beside_default = limit - width if limit > width else 0
            if by_rank[3] and ceilings[3] < limit:
                limit = ceilings[3]
            room = (free, free, beside_best, beside_default, limit - width if limit > width else 0)
        before, self.room = self.room, room
        for rank, roomy in enumerate(self.pool_roomy):
            if (room[rank] > 0) is not (before[rank] > 0):
                if room[rank]:
                    roomy[self] = None
                else:
                    del roomy[self]

    def busy(self, now: float) -> float:
        """Sequences that ran here on average, the last minute counting most."""
        if now > self._busy_at:
            self._busy += (self.width - self._busy) * (1.0 - math.exp((self._busy_at - now) / _BUSY_S))
            self._busy_at = now
        return self._busy

    def admits(self, ticket: Ticket) -> bool:
        """Whether it is given to the ticket's tier at all (R16)."""
        return self.tiers is None or ticket.tier in self.tiers

    def suits(self, ticket: Ticket) -> bool:
        """Whether the ticket may run here, leaving room aside: tier, can go on here, has not failed it (R11, R46)."""
        return (
            (self.tiers is None or ticket.tier in self.tiers)
            and (self.continuable or not ticket.made_tokens)
            and self.id not in ticket.failed_on
        )

    def pending_tokens(self, ticket: Ticket) -> int:
        """Prompt tokens that the ticket would still have to prefill here."""
        if ticket.home == self.id and ticket.made_tokens:
            return max(1, self.recompute_tokens)
        return max(1, ticket.prompt_tokens + ticket.made_tokens - ticket.holders.get(self.id, 0))

    def gate_open(self, ticket: Ticket, own: int, now: float) -> bool:
        """The prefill gate (R52): what would yield to the ticket does not stand in its way."""
        if ticket.rank == Tier.RESERVED or not self.backlog or self.backlog + own <= GATE_TOKENS:
            return True
        left = self.backlog - sum(other.pending_tokens for other in self.prefilling if self.yields(other, ticket, now))
        return not left or left + own <= GATE_TOKENS

    def yields(self, other: Ticket, ticket: Ticket, now: float) -> bool:
        """Whether `other`, which is prefilling here, gives way when `ticket` starts (R52)."""
        if other.rank <= ticket.rank or ticket.rank > Tier.DEFAULT or other.sent or other.state is not State.RUNNING:
            return False
        if other.pending_tokens <= YIELD_TOKENS or other.tier is Tier.RESERVED or now >= other.expires_at:
            return False  # put back past its wait limit it would only die
        return self.keeps_cut or (ticket.rank <= Tier.PRIORITY and other.yields < MAX_YIELDS)

    def add(self, ticket: Ticket, own: int) -> None:
        """The ticket's call starts here."""
        self.busy(ticket.started_at)
        self.running[ticket] = None
        self.width += ticket.width
        self.by_rank[ticket.rank] += ticket.width
        ticket.pending_tokens = own
        self.last_start = ticket.started_at
        self.backlog += own
        self.prefilling[ticket] = None
        self.note_movable(ticket)
        self.measure()

    def prefilled(self, ticket: Ticket, now: float) -> None:
        """Its first token has come."""
        if ticket in self.prefilling:
            took = now - ticket.started_at
            if ticket.pending_tokens >= _MEASURED_FROM and took > 0 and ticket.streamed:
                self.prefill_tps += 0.2 * (ticket.pending_tokens / took - self.prefill_tps)
            self.settle_prefill(ticket)

    def settle_prefill(self, ticket: Ticket) -> None:
        """Its prompt no longer counts as backlog."""
        if ticket in self.prefilling:
            del self.prefilling[ticket]
            self.backlog -= ticket.pending_tokens
            ticket.pending_tokens = 0

    def drop(self, ticket: Ticket) -> None:
        """The ticket's call here is over, however it ended."""
        self.settle_prefill(ticket)
        del self.running[ticket]
        self._forget_movable(ticket)
        self.width -= ticket.width
        self.by_rank[ticket.rank] -= ticket.width
        self.measure()

    def note_movable(self, ticket: Ticket) -> None:
        """Keep `movable` true after something about the ticket changed."""
        if ticket.state is not State.RUNNING or not self.can_move(ticket):
            self._forget_movable(ticket)
        elif ticket not in self.movable[ticket.rank]:
            self.movable[ticket.rank][ticket] = None
            self.pool_movable[ticket.rank] += 1

    def leaving(self, rank: int) -> int:
        """Sequences of this rank that were told to pause and still run."""
        return sum(t.width for t in self.running if t.state is State.LEAVING and t.rank == rank) if self.going else 0

    def _forget_movable(self, ticket: Ticket) -> None:
        if ticket in self.movable[ticket.rank]:
            del self.movable[ticket.rank][ticket]
            self.pool_movable[ticket.rank] -= 1

    def can_move(self, ticket: Ticket) -> bool:
        """Whether it can be paused, or else restarted (R11)."""
        return self.can_pause(ticket) or (not ticket.sent and ticket.restarts < MAX_RESTARTS)

    def can_pause(self, ticket: Ticket) -> bool:
        """Whether its answer so far can be kept and continued."""
        return self.continuable and ticket.continuable and ticket.streamed and ticket not in self.prefilling
