"""The scheduler of one pool: a plain state machine without I/O.

Every method takes the driver's clock and returns the effects that the driver must carry
out at once, in order. The brain never waits, never calls back, and keeps no task, socket
or lock; the live gateway, the simulator and the tests drive the same code.

What a driver owes it: carry out each effect; report a started call's `first_token`,
`produced`, `sent`; end each ticket with `finish`, a refused one too; call `tick` at `next_wake`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from fareclass.core.limits import MAX_FAILURES, PROTECTION_S
from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import Burndown, Capacity, Quota
from fareclass.core.tiers import Tier, TierPolicy
from fareclass.core.usage import Usage
from fareclass.sched.admission import Admission
from fareclass.sched.fairness import OUTPUT_WEIGHT
from fareclass.sched.placement import place, shun
from fareclass.sched.replica import Replica
from fareclass.sched.reserves import Floor, Reserves
from fareclass.sched.sweep import Sweep
from fareclass.sched.ticket import Effect, Refuse, State, Ticket

_OUTSIDE_QUOTAS = frozenset({Tier.RESERVED, Tier.BATCH})
"""Neither the floor nor a batch takes of what a project has on demand (R25, R37)."""


class Brain(Sweep):
    """Who goes next, and where (R7–R12, R14–R16, R20–R25, R46, R52).

    `capacity` is what the whole pool does, `headroom` the operator's number instead of the derived one (R10).
    """

    def __init__(
        self,
        policies: Mapping[Tier, TierPolicy],
        *,
        burndown: Burndown = Burndown(),
        capacity: Capacity | None = None,
        headroom: int | None = None,
    ) -> None:
        super().__init__(policies, headroom)
        self.burndown = burndown
        self.reserves = Reserves(capacity, burndown)
        self.admission = Admission()
        self.offered = 0

    # -- replicas

    def add_replica(self, id: str, slots: int, now: float, *, tiers: Iterable[Tier] | None = None) -> list[Effect]:
        """A replica joins, with nothing known of it yet; `set_replica` tells what a probe found."""
        replica = self.replicas[id] = Replica(id, slots, self.policies, self._movable, self._roomy)
        replica.tiers = frozenset(tiers) if tiers is not None else None
        return self._changed(replica, now, [])

    def set_replica(
        self,
        id: str,
        now: float,
        *,
        up: bool | None = None,
        draining: bool | None = None,
        slots: int | None = None,
        continuable: bool | None = None,
        recompute_tokens: int | None = None,
        keeps_cut: bool | None = None,
    ) -> list[Effect]:
        """Something about a replica changed; what is None stays. Draining moves what can be moved (R46)."""
        replica = self.replicas[id]
        replica.up = replica.up if up is None else up
        replica.draining = replica.draining if draining is None else draining
        replica.continuable = replica.continuable if continuable is None else continuable
        replica.recompute_tokens = replica.recompute_tokens if recompute_tokens is None else recompute_tokens
        replica.keeps_cut = replica.keeps_cut if keeps_cut is None else keeps_cut
        if slots is not None:
            replica.set_slots(slots, self.policies)
        for ticket in replica.running:
            self._note(ticket, replica)
        out: list[Effect] = []
        if replica.draining and any(other.open for other in self.replicas.values()):
            for ticket in [t for movable in replica.movable for t in movable]:
                self._take(replica, ticket, now, out)
        return self._changed(replica, now, out)

    def set_tiers(self, id: str, tiers: Iterable[Tier] | None, now: float) -> list[Effect]:
        """Give a replica to some tiers only, or to all; what runs there stays (R16)."""
        replica = self.replicas[id]
        replica.tiers = frozenset(tiers) if tiers is not None else None
        return self._changed(replica, now, [])

    def set_floors(self, floors: Mapping[str, Floor], now: float) -> list[Effect]:
        """These are the floors in force from now on, by project (R18)."""
        self.reserves.set_floors(floors, now)
        return self._resupplied(now, [])

    def claim(self, ticket: Ticket, now: float) -> bool:
        """Before `offer`: make the ticket reserved if its project's floor has room for it now, and hold that (R20)."""
        if not self.reserves.claim(ticket, now):
            return False
        if self.headroom.arrivals.came(now):
            self._measure_headroom()
        return True

    def _changed(self, replica: Replica, now: float, out: list[Effect]) -> list[Effect]:
        replica.measure()
        if not replica.open:
            for line, _ in self.lines.order:
                for ticket in line.homebound(replica.id):
                    line.roam(ticket)
                line.forgive()
        return self._resupplied(now, out)

    def _resupplied(self, now: float, out: list[Effect]) -> list[Effect]:
        """Floors and headroom follow the replicas that are open (R10, R23)."""
        lanes = [replica for replica in self.replicas.values() if replica.tiers is None or 0 in replica.tiers]
        able = sum(replica.slots for replica in lanes if replica.open)
        self.reserves.supply(sum(replica.slots for replica in self.replicas.values()), able, now)
        self._measure_headroom()
        self._sweep(now, out)
        return out

    def _measure_headroom(self) -> None:
        open_slots = sum(replica.slots for replica in self.replicas.values() if replica.open)
        self.headroom.measure(self.reserves.load_micro, open_slots)

    # -- tickets

    def offer(self, ticket: Ticket, now: float, quota: Quota | None = None) -> list[Effect]:
        """A new ticket: it starts, waits in line, or is refused, in this very step.

        `quota` is its project's on demand, None where it has none.
        """
        self.offered += 1
        ticket.seq = self.offered
        ticket.arrival = now
        ticket.sticky = ticket.streamed and not ticket.continuable and ticket.tier is not Tier.RESERVED
        policy = self.policies[ticket.tier]
        ticket.expires_at = min(now + policy.max_wait_s, ticket.deadline or float("inf"))
        refusal = (
            self.admission.unfit(ticket, self.replicas.values())
            or (self.lines.full(ticket, now) if self.lines.total[0] else None)
            or (None if ticket.tier in _OUTSIDE_QUOTAS else self.admission.hold(ticket, quota, now))
        )
        if refusal is not None:
            ticket.state = State.GONE
            return [refusal]
        ticket.state = State.WAITING
        out: list[Effect] = []
        if not self.lines.total[0]:
            replica = place(ticket, self._open_to(ticket, self._roomy[ticket.rank]), (), now)
            if replica is not None:
                ticket.flow = self.lines.line(ticket).fresh.pass_through(ticket)
                self._start(ticket, replica, now, out)
                self._sweep(now, out)
                return out
        self.lines.push(ticket, now)
        self._sweep(now, out)
        if ticket.state is State.WAITING:
            self._waits.begin(ticket, now)
        return out

    def first_token(self, ticket: Ticket, now: float) -> list[Effect]:
        """The running call gave its first token since it started: the gate may open (R52)."""
        replica = self._where(ticket)
        replica.prefilled(ticket, now)
        self._note(ticket, replica)
        if ticket.resumed:
            ticket.protected_until = now + max(PROTECTION_S, 4.0 * (now - ticket.started_at))
            self._timers.set(ticket, ticket.protected_until)
        out: list[Effect] = []
        self._sweep(now, out)
        return out

    def produced(self, ticket: Ticket, tokens: int, now: float) -> None:
        """The call made so many more tokens; its project is charged for them (R8)."""
        ticket.made_tokens += tokens
        assert ticket.flow is not None
        ticket.flow.served += tokens * OUTPUT_WEIGHT / ticket.flow.weight
        if ticket.floor is not None:
            ticket.floor.made(ticket, tokens, now)

    def sent(self, ticket: Ticket) -> None:
        """A byte reached the caller: from now on it can't start over (R11)."""
        if not ticket.sent:
            ticket.sent = True
            if ticket.replica is not None:
                self._note(ticket, self._where(ticket))

    def fixed(self, ticket: Ticket, now: float) -> list[Effect]:
        """The answer can no longer be continued (a tool call began, R11); one told to pause runs on."""
        ticket.continuable = False
        out: list[Effect] = []
        if ticket.replica is not None:
            if ticket.state is State.LEAVING:
                ticket.state = State.RUNNING
                self._leaving -= ticket.width
                self._where(ticket).going -= ticket.width
            self._note(ticket, self._where(ticket))
            self._sweep(now, out)
        return out

    def paused(self, ticket: Ticket, now: float) -> list[Effect]:
        """The call of a ticket that was told to pause has been ended at a clean cut."""
        self._set_aside(ticket, now, home=ticket.replica)
        out: list[Effect] = []
        self._sweep(now, out)
        return out

    def failed(self, ticket: Ticket, now: float) -> list[Effect]:
        """Its replica failed it: it goes on or starts over elsewhere, or is out (R46)."""
        ticket.failures += 1
        shun(self._where(ticket), ticket, self.replicas.values())
        out: list[Effect] = []
        if ticket.failures < MAX_FAILURES and ticket.continuable and ticket.made_tokens:
            self._set_aside(ticket, now, home=None)
        elif ticket.failures < MAX_FAILURES and not ticket.sent:
            self._leave(ticket)
            ticket.expires_at = max(ticket.expires_at, now + self.policies[ticket.tier].max_wait_s)
            self._put_back(ticket, now)
        else:
            self._leave(ticket)
            ticket.state = State.OUT
            out.append(Refuse(ticket, Outcome.UPSTREAM_FAILED, "The engine failed while it was answering."))
        self._sweep(now, out)
        return out

    def hasten(self, ticket: Ticket, now: float) -> list[Effect]:
        """A line of a closing batch that stands in line ranks as default from now on (R13)."""
        out: list[Effect] = []
        if ticket.line is None or ticket.rank <= Tier.DEFAULT:
            return out
        ticket.line.remove(ticket)
        ticket.rank = Tier.DEFAULT
        if ticket.state is State.WAITING and ticket.fresh:
            self.lines.push(ticket, now)
        else:
            self.lines.put_back(ticket, now)
        self._sweep(now, out)
        return out

    def finish(self, ticket: Ticket, now: float, usage: Usage) -> list[Effect]:
        """The ticket is over, in whatever state it is; `usage` settles its holds (R20, R25). Idempotent."""
        out: list[Effect] = []
        if ticket.floor is not None:
            ticket.floor.settle(ticket, usage, int(now * 1e6))
        if ticket.state is State.GONE:
            return out
        ticket.end_pause(now)
        if ticket.line is not None:
            ticket.line.remove(ticket)
        elif ticket.replica is not None:
            self.lines.service.ran(now - ticket.started_at)
            self._leave(ticket)
            if not ticket.streamed and ticket.flow is not None:
                ticket.flow.charge(usage.output * OUTPUT_WEIGHT)  # nobody saw it being produced
        self._timers.drop(ticket)
        ticket.state = State.GONE
        self.admission.settle(ticket, self.burndown.quota_tokens(usage), now)
        self._sweep(now, out)
        return out

    # -- over a restart

    def levels(self, now: float) -> dict[str, Any]:
        """The levels of all buckets as they would be without work in flight, as plain JSON."""
        return {"floors": self.reserves.levels(now), "quotas": self.admission.levels(now)}

    def restore(self, levels: Mapping[str, Any] | None, floors: Mapping[str, Floor], at: float) -> None:
        """Go on from the levels of another time (`at` may lie before this clock's zero), None if nobody kept any.

        `floors` are those in force now; where nothing is kept of one, its minute was full then.
        """
        if levels is not None:
            self.reserves.restore(levels["floors"], at)
            self.admission.restore(levels["quotas"], at)
        self.reserves.set_floors(floors, at)

    def charge(self, project: str, tier: Tier, usage: Usage, width: int, quota: Quota | None, at: float) -> None:
        """A request ended after the levels were taken that are gone on from; `quota` is its project's now."""
        if tier is Tier.RESERVED:
            self.reserves.charge(project, usage, at)
        elif tier < Tier.BATCH:
            self.admission.charge(project, tier, self.burndown.quota_tokens(usage), width, quota, at)

    # -- time

    @property
    def next_wake(self) -> float | None:
        """When `tick` is due, None if nothing is."""
        return self._timers.next_at

    def tick(self, now: float) -> list[Effect]:
        """Do what is due: wait limits, roaming, the gap guard, ends of protection."""
        out: list[Effect] = []
        for ticket in self._timers.due(now):
            if ticket.line is not None:
                refusal = self._waits.ring(ticket, now)
                if refusal is not None:
                    ticket.line.remove(ticket)
                    ticket.end_pause(now)
                    ticket.state = State.OUT
                    out.append(refusal)
            elif ticket.state is State.RUNNING and not ticket.streamed:
                self._where(ticket).settle_prefill(ticket)
        self._sweep(now, out)
        return out

    # -- what it shows

    def running(self, rank: int) -> int:
        """Sequences of this rank that run in the whole pool."""
        return sum(replica.by_rank[rank] for replica in self.replicas.values())

    @property
    def slots(self) -> int:
        """Sequences that the replicas which are open may run at once."""
        return sum(replica.slots for replica in self.replicas.values() if replica.open)

    def wait_s(self, rank: int, now: float) -> float:
        """The wait that a ticket of this rank would expect now, in seconds."""
        if self._roomy[rank] and not self.lines.by_rank[rank].waiting:
            return 0.0
        return self.lines.wait_s(rank, now)
