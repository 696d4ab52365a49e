"""Moving tickets between lines and replicas: who starts, whose slot is taken for whom (R7, R9, R10, R11, R12)."""

from collections.abc import Collection, Mapping

from fareclass.core.limits import YIELD_TOKENS
from fareclass.core.tiers import TIERS, Tier, TierPolicy
from fareclass.sched.fairness import CACHED_WEIGHT, INPUT_WEIGHT
from fareclass.sched.floors import Floors
from fareclass.sched.headroom import Headroom
from fareclass.sched.line import Line
from fareclass.sched.lines import Lines
from fareclass.sched.placement import gated, place, victims
from fareclass.sched.replica import Replica
from fareclass.sched.ticket import Effect, Pause, Restart, Start, State, Ticket
from fareclass.sched.timers import Timers
from fareclass.sched.waits import Waits


class Sweep:
    """The inner half of the brain: its lines, replicas and timers, and the sweep that follows each event.

    `floor_starts` and `guard_starts` count R7's exceptions: starts while a better tier stood in line.
    """

    def __init__(self, policies: Mapping[Tier, TierPolicy], headroom: int | None) -> None:
        self.policies = policies
        self.replicas: dict[str, Replica] = {}
        self.lines = Lines(policies, self.replicas)
        self.headroom = Headroom(headroom)
        self.floor_starts = self.guard_starts = 0
        self._floors = Floors(policies, self.replicas)
        self._roomy: tuple[dict[Replica, None], ...] = tuple({} for _ in TIERS)
        self._timers = Timers()
        self._waits = Waits(policies, self.replicas, self.lines, self._timers)
        self._movable = [0] * len(TIERS)
        self._leaving = 0
        self._freed = False

    # -- moving tickets

    def _where(self, ticket: Ticket) -> Replica:
        assert ticket.replica is not None, ticket
        return self.replicas[ticket.replica]

    def _note(self, ticket: Ticket, replica: Replica) -> None:
        """Something about the running ticket or its replica has changed."""
        replica.note_movable(ticket)
        self.headroom.note(ticket, replica)

    def _open_to(self, ticket: Ticket, replicas: Collection[Replica]) -> Collection[Replica]:
        """Those of the replicas where the headroom lets the ticket start (R10)."""
        if self.headroom.room_for(ticket.width):
            return replicas
        return [replica for replica in replicas if self.headroom.admits(ticket, replica)]

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
        ticket.end_pause(now)
        if ticket.resumed:
            ticket.protected_until = float("inf")
        elif now > ticket.arrival:
            self.lines.started(ticket, now)
        if not ticket.charged:
            ticket.charged = True
            cached = min(ticket.holders.get(replica.id, 0), ticket.prompt_tokens)
            fresh = ticket.prompt_tokens - cached
            assert ticket.flow is not None
            ticket.flow.charge(fresh * INPUT_WEIGHT + cached * CACHED_WEIGHT)
        ticket.state = State.RUNNING
        ticket.replica = replica.id
        ticket.started_at = now
        replica.add(ticket, own)
        self.headroom.note(ticket, replica)
        if not ticket.streamed:
            self._timers.set(ticket, now + own / replica.prefill_tps)
        out.append(Start(ticket, replica.id))

    def _leave(self, ticket: Ticket) -> None:
        """The ticket's call is over: its slot is free."""
        replica = self._where(ticket)
        if ticket.state is State.LEAVING:
            self._leaving -= ticket.width
            replica.going -= ticket.width
        replica.drop(ticket)
        self.headroom.note(ticket, None)
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
            replica.going += victim.width
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
            while (
                self._roomy[tier]
                and self._floors.below(tier)
                and self._fill_one(self.lines.by_rank[tier], tier, now, {}, out)
            ):
                self.floor_starts += self.lines.better_wait(tier)
        claimed: dict[Replica, None] = {}
        spoken = 0
        for line, rank in self.lines.order:
            if not line.fresh.waiting and not line.returned:
                continue
            while self._roomy[rank] and self._fill_one(line, rank, now, claimed, out):
                pass
            if rank <= Tier.DEFAULT:
                roaming = line.width - line.home_width - self.headroom.holds_back(line.sticky_width)
                self._take_for(line, rank, spoken + roaming, now, out)
                if self._freed:
                    return
                spoken += min(roaming, max(0, self._leaving - spoken))

    def _fill_one(self, line: Line, rank: int, now: float, claimed: dict[Replica, None], out: list[Effect]) -> bool:
        """Start the best ticket of this line that may start; False if none may. Some replica has room."""
        roomy = self._roomy[rank]
        keeps = rank > Tier.RESERVED
        for ticket, home in line.candidates(roomy, soft=self.headroom.full):
            among = self._open_to(ticket, roomy if home is None else (home,))
            replica = place(ticket, among, claimed, now)
            if replica is not None:
                self._start(ticket, replica, now, out)
                # Whoever the headroom holds back from now on makes way, and needs nothing kept for him.
                self._freed = self._freed or (ticket.fixed and self.headroom.limit is not None)
                return True
            if keeps and (kept := gated(ticket, among, claimed)) is not None:
                claimed[kept] = None
                keeps = False
        return False

    def _take_for(self, line: Line, rank: int, enough: int, now: float, out: list[Effect]) -> None:
        """Take slots till `enough` are being freed for who may go anywhere, and on each replica for who awaits it."""
        if self._leaving >= enough and not line.home_width:
            return
        below = Tier.RESERVED if line is self.lines.guard or line is self.lines.bursts else rank
        if not any(self._movable[below + 1 :]):
            return
        for ticket, home in line.candidates(self.replicas.values(), soft=self.headroom.full):
            if ticket.rank > Tier.DEFAULT:
                continue
            among = self._open_to(ticket, self.replicas.values() if home is None else (home,))
            while self._leaving < enough if home is None else home.going < line.width_at[home.id]:
                found = victims(ticket, among, now, self._floors.inside())
                if found is None:
                    break
                for victim in found[1]:
                    self._take(found[0], victim, now, out)
                if self._freed:
                    return
            if ticket.fresh:
                return
