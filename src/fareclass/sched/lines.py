"""All lines of a pool: in which order they are served, how long they are, and how long a newcomer would wait."""

from collections.abc import Mapping

from fareclass.core.limits import QUEUE_BYTES
from fareclass.core.outcomes import Outcome
from fareclass.core.tiers import TIERS, Tier, TierPolicy
from fareclass.sched.forecast import Pace, Service
from fareclass.sched.line import Line
from fareclass.sched.replica import Replica
from fareclass.sched.ticket import Refuse, Ticket


class Lines:
    """One line for each rank; the bursts of reserved owners, which rank as priority and go ahead of everybody else's
    (R8, R22); and the guarded streams that go ahead of priority (R11).

    `order` pairs each line, best first, with the rank whose room on a replica counts for it:
    guarded tickets are not bound by ceilings, so they count as priority there.
    """

    def __init__(self, policies: Mapping[Tier, TierPolicy], replicas: Mapping[str, Replica]) -> None:
        self._policies = policies
        self._replicas = replicas
        self._paces = [Pace() for _ in TIERS]
        self.service = Service()
        self.total = [0]
        self.by_rank = [Line(tier.word, self.total) for tier in TIERS]
        self.bursts = Line("bursts", self.total)
        self.guard = Line("guard", self.total)
        self.order = (
            (self.by_rank[0], 0),
            (self.bursts, int(Tier.PRIORITY)),
            (self.guard, int(Tier.PRIORITY)),
            *((self.by_rank[rank], rank) for rank in range(1, len(TIERS))),
        )

    def line(self, ticket: Ticket) -> Line:
        """Where a ticket stands, unless it is guarded."""
        return self.bursts if ticket.tier is Tier.RESERVED and ticket.rank else self.by_rank[ticket.rank]

    def push(self, ticket: Ticket, now: float) -> None:
        """A fresh ticket joins its line."""
        self._begin(ticket, now)
        self.line(ticket).push(ticket)

    def put_back(self, ticket: Ticket, now: float) -> None:
        """A ticket that had been running joins again, ahead of the fresh ones."""
        if ticket.guarded:
            self.guard.put_back(ticket)
            return
        self._begin(ticket, now)
        self.line(ticket).put_back(ticket)

    def guard_from_now(self, ticket: Ticket) -> None:
        """A stream that has been paused for too long moves ahead of new priority work (R11)."""
        assert ticket.line is not None
        ticket.line.remove(ticket)
        ticket.guarded = True
        self.guard.put_back(ticket)

    def started(self, ticket: Ticket, now: float) -> None:
        """A ticket that had waited has started: the line's pace is learned from it."""
        if self.line(ticket) is not self.bursts:
            self._paces[ticket.rank].started(now)

    def better_wait(self, rank: int) -> bool:
        """Whether a ticket of a better tier stands in line."""
        return any(line.waiting for line in (self.bursts, *self.by_rank[:rank]))

    def waiting(self, rank: int) -> int:
        """Tickets of this rank in line, the guarded ones aside."""
        return self.by_rank[rank].waiting + (self.bursts.waiting if rank == Tier.PRIORITY else 0)

    def size_bytes(self, rank: int) -> int:
        """Bytes of the requests in line that rank no worse: a batch in line leaves no request of a better tier without
        room (R39).
        """
        return sum(line.size_bytes for line in (self.bursts, self.guard, *self.by_rank[: rank + 1]))

    def wait_s(self, rank: int, now: float, ahead: int | None = None) -> float:
        """The wait that a ticket of this rank would expect now, in seconds; behind `ahead` where not behind all."""
        line = self.by_rank[rank]
        ahead = line.waiting + 1 if ahead is None else ahead
        pace = self._paces[rank]
        stood_s = pace.stood_s(now) if line.waiting else 0.0
        return pace.wait_s(ahead, stood_s, 0.0 if pace.trusted else self._guess_s(stood_s))

    def _guess_s(self, stood_s: float) -> float:
        """The time between two starts from how long a ticket runs; while none has ended, at least as long as they wait."""
        slots = sum(replica.slots for replica in self._replicas.values() if replica.open)
        return (stood_s if self.service.mean_s is None else self.service.mean_s) / max(1, slots)

    def full(self, ticket: Ticket, now: float) -> Refuse | None:
        """Refuse what would stand in line in vain: the line is full, or the wait longer than the limit (R14).

        Reserved work is never refused for anybody's load (R22): its own buckets bound how much of it there is.
        """
        line, policy = self.by_rank[ticket.rank], self._policies[ticket.tier]
        if not line.waiting or ticket.tier is Tier.RESERVED:
            return None
        if line.waiting >= policy.queue_limit or self.size_bytes(ticket.rank) + ticket.size_bytes > QUEUE_BYTES:
            message = f"The line of the {ticket.tier.word} tier is full."
            wait_s = min(policy.max_wait_s, max(1.0, self.wait_s(ticket.rank, now, 1)))
            return Refuse(ticket, Outcome.SHED, message, wait_s, flex_code(ticket))
        if ticket.tier is not Tier.DEFAULT:
            return None
        wait_s = self.wait_s(ticket.rank, now, self._ahead(line, ticket))
        if wait_s <= policy.max_wait_s:
            return None
        message = f"The default tier is over capacity: the wait would be about {wait_s:.0f} s."
        return Refuse(ticket, Outcome.SHED, message, max(1.0, wait_s - policy.max_wait_s))

    def _ahead(self, line: Line, ticket: Ticket) -> int:
        """Starts until this newcomer's: a project with few tickets in line is not behind all of the others'."""
        flow = line.fresh.flow(ticket)
        return min(line.waiting + 1, line.returned + (flow.waiting + 1) * max(1, line.fresh.projects))

    def _begin(self, ticket: Ticket, now: float) -> None:
        line = self.line(ticket)
        if line is not self.bursts and not line.waiting:
            self._paces[ticket.rank].line_began(now)


def flex_code(ticket: Ticket) -> str | None:
    """Flex has a code of its own for want of capacity."""
    return "resource_unavailable" if ticket.tier is Tier.FLEX else None
