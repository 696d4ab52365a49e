"""The scheduler of one pool: a plain state machine without I/O.

Every method takes the driver's clock and returns the effects that the driver must carry
out at once, in order. The brain never waits, never calls back, and keeps no task, socket
or lock; the live gateway, the simulator and the tests drive the same code.

What a driver owes it: carry out each effect; report a started call's `first_token`,
`produced`, `sent`; end each ticket with `finish`, a refused one too; call `tick` at `next_wake`.
"""

from collections.abc import Iterable, Mapping

from fareclass.core.limits import MAX_FAILURES, PROTECTION_S, YIELD_TOKENS
from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import Quota
from fareclass.core.tiers import TIERS, Tier, TierPolicy
from fareclass.sched.admission import Admission
from fareclass.sched.fairness import CACHED_WEIGHT, INPUT_WEIGHT, OUTPUT_WEIGHT
from fareclass.sched.floors import Floors
from fareclass.sched.line import Line
from fareclass.sched.lines import Lines
from fareclass.sched.placement import gated, place, shun, victims
from fareclass.sched.replica import Replica
from fareclass.sched.ticket import Effect, Pause, Refuse, Restart, Start, State, Ticket
from fareclass.sched.timers import Timers
from fareclass.sched.waits import Waits


class Brain:
    """Who goes next, and where (R7–R12, R14–R16, R25, R46, R52)."""

    def __init__(self, policies: Mapping[Tier, TierPolicy]) -> None:
        self.policies = policies
        self.replicas: dict[str, Replica] = {}
        self.lines = Lines(policies, self.replicas)
        self.admission = Admission()
        self._floors = Floors(policies, self.replicas)
        self._roomy: tuple[dict[Replica, None], ...] = tuple({} for _ in TIERS)
        self._timers = Timers()
        self._waits = Waits(policies, self.replicas, self.lines, self._timers)
        self.floor_starts = self.guard_starts = 0  # R7's exceptions: starts while a better tier stood in line
        self._movable = [0] * len(TIERS)
        self._leaving = 0
        self._freed = False
        self._seq = 0

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
            replica.note_movable(ticket)
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

    def _changed(self, replica: Replica, now: float, out: list[Effect]) -> list[Effect]:
        replica.measure()
        if not replica.open:
            for line, _ in self.lines.order:
                for ticket in line.homebound(replica.id):
                    line.roam(ticket)
                line.forgive()
        self._sweep(now, out)
        return out

    # -- tickets

    def offer(self, ticket: Ticket, now: float, quota: Quota | None = None) -> list[Effect]:
        """A new ticket: it starts, waits in line, or is refused, in this very step."""
        self._seq += 1
        ticket.seq = self._seq
        ticket.arrival = now
        policy = self.policies[ticket.tier]
        ticket.expires_at = min(now + policy.max_wait_s, ticket.deadline or float("inf"))
        refusal = (
            self.admission.unfit(ticket, self.replicas.values())
            or (self.lines.full(ticket, now) if self.lines.total[0] else None)
            or self.admission.hold(ticket, quota, now)
        )
        if refusal is not None:
            ticket.state = State.GONE
            return [refusal]
        ticket.state = State.WAITING
        out: list[Effect] = []
        if not self.lines.total[0]:
            replica = place(ticket, self._roomy[ticket.rank], (), now)
            if replica is not None:
                ticket.flow = self.lines.by_rank[ticket.rank].fresh.pass_through(ticket)
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
        replica.note_movable(ticket)
        if ticket.resumed:
            ticket.protected_until = now + max(PROTECTION_S, 4.0 * (now - ticket.started_at))
            self._timers.set(ticket, ticket.protected_until)
        out: list[Effect] = []
        self._sweep(now, out)
        return out

    def produced(self, ticket: Ticket, tokens: int) -> None:
        """The call made so many more tokens; its project is charged for them (R8)."""
        ticket.made_tokens += tokens
        assert ticket.flow is not None
        ticket.flow.served += tokens * OUTPUT_WEIGHT / ticket.flow.weight

    def sent(self, ticket: Ticket) -> None:
        """A byte reached the caller: from now on it can't start over (R11)."""
        if not ticket.sent:
            ticket.sent = True
            if ticket.replica is not None:
                self._where(ticket).note_movable(ticket)

    def fixed(self, ticket: Ticket, now: float) -> list[Effect]:
        """The answer can no longer be continued (a tool call began, R11); one told to pause runs on."""
        ticket.continuable = False
        out: list[Effect] = []
        if ticket.replica is not None:
            if ticket.state is State.LEAVING:
                ticket.state = State.RUNNING
                self._leaving -= ticket.width
            self._where(ticket).note_movable(ticket)
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

    def finish(self, ticket: Ticket, now: float, used_tokens: int) -> list[Effect]:
        """The ticket is over, in whatever state it is; `used_tokens` settle its hold (R25). Idempotent."""
        out: list[Effect] = []
        if ticket.state is State.GONE:
            return out
        if ticket.line is not None:
            ticket.line.remove(ticket)
        elif ticket.replica is not None:
            self.lines.service.ran(now - ticket.started_at)
            self._leave(ticket)
        self._timers.drop(ticket)
        ticket.state = State.GONE
        self.admission.settle(ticket, used_tokens, now)
        self._sweep(now, out)
        return out

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
                    ticket.state = State.OUT
                    out.append(refusal)
            elif ticket.state is State.RUNNING and not ticket.streamed:
                self._where(ticket).settle_prefill(ticket)
        self._sweep(now, out)
        return out

    # -- moving tickets

    def _where(self, ticket: Ticket) -> Replica:
        assert ticket.replica is not None, ticket
        return self.replicas[ticket.replica]

    def _start(self, ticket: Ticket, replica: Replica, now: float, out: list[Effect]) -> None:
        if ticket.line is not None:
            ticket.line.remove(ticket)
            self._timers.drop(ticket)
        self.guard_starts += ticket.guarded and self.lines.better_wait(ticket.rank)
        own = replica.pending_tokens(ticket)
        if replica.prefilling:
            for other in [t for t in replica.prefilling if replica.yields(t, ticket, now)]:
                other.yields += 1
                self._restart(replica, other, now, out)
        ticket.resumed = ticket.state is State.PAUSED
        if ticket.resumed:
            ticket.paused_s += now - ticket.paused_at
            ticket.protected_until = float("inf")
        elif now > ticket.arrival:
            self.lines.started(ticket, now)
        if not ticket.charged:
            ticket.charged = True
            fresh = ticket.prompt_tokens - ticket.cached_tokens
            assert ticket.flow is not None
            ticket.flow.charge(fresh * INPUT_WEIGHT + ticket.cached_tokens * CACHED_WEIGHT)
        ticket.state = State.RUNNING
        ticket.replica = replica.id
        ticket.started_at = now
        replica.add(ticket, own)
        if not ticket.streamed:
            self._timers.set(ticket, now + own / replica.prefill_tps)
        out.append(Start(ticket, replica.id))

    def _leave(self, ticket: Ticket) -> None:
        """The ticket's call is over: its slot is free."""
        replica = self._where(ticket)
        if ticket.state is State.LEAVING:
            self._leaving -= ticket.width
        replica.drop(ticket)
        self._timers.drop(ticket)
        ticket.replica = None

    def _set_aside(self, ticket: Ticket, now: float, home: str | None) -> None:
        self._leave(ticket)
        ticket.state = State.PAUSED
        ticket.pauses += 1
        ticket.paused_at = now
        ticket.home = home
        ticket.roams = home is None or not self.replicas[home].open
        self.lines.put_back(ticket, now)
        self._waits.begin(ticket, now)

    def _put_back(self, ticket: Ticket, now: float, home: str | None = None) -> None:
        """It sent nothing: it stands in line again, with its wait clock still running."""
        ticket.state = State.WAITING
        ticket.made_tokens = 0
        ticket.paused_at = now
        ticket.home = home
        ticket.roams = home is None or not self.replicas[home].open
        self.lines.put_back(ticket, now)
        self._waits.begin(ticket, now)

    def _restart(self, replica: Replica, ticket: Ticket, now: float, out: list[Effect]) -> None:
        """Its own replica keeps what it prefilled, where the engine does that."""
        keeps = replica.keeps_cut and ticket.pending_tokens > YIELD_TOKENS
        self._leave(ticket)
        self._put_back(ticket, now, home=replica.id if keeps else None)
        self._freed = True
        out.append(Restart(ticket))

    def _take(self, replica: Replica, victim: Ticket, now: float, out: list[Effect]) -> None:
        """Take the victim's slot: at once by a restart, or at its next clean cut by a pause."""
        if replica.can_pause(victim):
            victim.state = State.LEAVING
            self._leaving += victim.width
            replica.note_movable(victim)
            out.append(Pause(victim))
        else:
            victim.restarts += 1
            self._restart(replica, victim, now, out)

    # -- the sweep

    def _sweep(self, now: float, out: list[Effect]) -> None:
        """Give every free slot to the best-ranked ticket that may start; then take slots where that is due (R7, R11).

        A ticket that is put back frees its slot at once, perhaps for somebody better than
        who made it go, so the round begins anew.
        """
        self._freed = True
        while self._freed and self.lines.total[0]:
            self._freed = False
            self._round(now, out)

    def _round(self, now: float, out: list[Effect]) -> None:
        for tier in self._floors.tiers:
            while self._floors.below(tier) and self._fill_one(self.lines.by_rank[tier], tier, now, {}, out):
                self.floor_starts += self.lines.better_wait(tier)
        claimed: dict[Replica, None] = {}
        spoken = 0
        for line, rank in self.lines.order:
            if not line.fresh.waiting and not line.returned:
                continue
            while self._fill_one(line, rank, now, claimed, out):
                pass
            if rank <= Tier.DEFAULT:
                roaming = line.width - line.home_width
                self._take_for(line, rank, spoken + roaming, now, out)
                if self._freed:
                    return
                spoken += min(roaming, max(0, self._leaving - spoken))

    def _fill_one(self, line: Line, rank: int, now: float, claimed: dict[Replica, None], out: list[Effect]) -> bool:
        """Start the best ticket of this line that may start; False if none may."""
        roomy = self._roomy[rank]
        if not roomy:
            return False
        keeps = rank > Tier.RESERVED
        for ticket, home in line.candidates(roomy):
            among = roomy if home is None else (home,)
            replica = place(ticket, among, claimed, now)
            if replica is not None:
                self._start(ticket, replica, now, out)
                return True
            if keeps and (kept := gated(ticket, among, claimed)) is not None:
                claimed[kept] = None
                keeps = False
        return False

    def _take_for(self, line: Line, rank: int, enough: int, now: float, out: list[Effect]) -> None:
        """Take slots till `enough` are being freed for who may go anywhere, and on each replica for who awaits it."""
        below = Tier.RESERVED if line is self.lines.guard else rank
        if not any(self._movable[below + 1 :]):
            return
        for ticket, home in line.candidates(self.replicas.values()):
            if ticket.rank > Tier.DEFAULT:
                continue
            among = self.replicas.values() if home is None else (home,)
            while self._leaving < enough if home is None else home.leaving() < line.width_at[home.id]:
                found = victims(ticket, among, now, self._floors.inside())
                if found is None:
                    break
                for victim in found[1]:
                    self._take(found[0], victim, now, out)
                if self._freed:
                    return
            if ticket.fresh:
                return

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
