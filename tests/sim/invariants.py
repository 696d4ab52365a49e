"""What must hold after every step of a schedule, worked out the slow and simple way."""

from fareclass.core.limits import GATE_TOKENS
from fareclass.core.tiers import TIERS, Tier
from fareclass.sched.headroom import becomes_fixed
from fareclass.sched.replica import Replica
from fareclass.sched.ticket import State, Ticket

QUEUE_LIMIT = 40
LINE_STATES = (State.WAITING, State.PAUSED)
SLOT_STATES = (State.RUNNING, State.LEAVING)


class Invariants:
    """The half of a `World` that looks and changes nothing but its own books."""

    def check(self) -> None:
        brain = self.brain
        in_line = [ticket for ticket in self.tickets if ticket.line is not None]
        for ticket in self.tickets:
            assert (ticket.line is not None) == (ticket.state in LINE_STATES), ticket
            assert (ticket.replica is not None) == (ticket.state in SLOT_STATES), ticket
            assert (ticket in self.calls) == (ticket.state in SLOT_STATES), ticket
            assert self.ended[ticket.id] == (ticket.state is State.GONE), (
                f"{ticket} ended {self.ended[ticket.id]} times"
            )
            if ticket.state is State.WAITING:
                assert ticket.timer is not None, f"{ticket} would wait for ever (R14)"
        for line, _ in brain.lines.order:
            mine = [ticket for ticket in in_line if ticket.line is line]
            assert line.waiting == len(mine)
            assert line.width == sum(ticket.width for ticket in mine)
            held = [ticket for ticket in mine if ticket.sticky and (ticket.fresh or ticket.roams)]
            assert line.sticky_width == sum(ticket.width for ticket in held)
            assert line.fresh.soft_waiting == sum(ticket.fresh and not ticket.sticky for ticket in mine)
            assert line.size_bytes == sum(ticket.size_bytes for ticket in mine)
            assert line.waiting <= QUEUE_LIMIT + 8 * len(brain.replicas) + 8
        for replica in brain.replicas.values():
            self.check_replica(replica)
        for rank in TIERS:
            assert set(brain._roomy[rank]) == {r for r in brain.replicas.values() if r.room[rank]}
            assert brain._movable[rank] == sum(len(replica.movable[rank]) for replica in brain.replicas.values())
        leaving = [ticket for ticket in self.tickets if ticket.state is State.LEAVING]
        assert brain._leaving == sum(ticket.width for ticket in leaving)
        assert set(leaving) == self.must_pause
        account = brain.admission._accounts.get("a")
        held = [ticket for ticket in self.tickets if ticket.held]
        if account is not None:
            assert account.active == sum(ticket.width for ticket in held), "a hold leaked (R25)"
            assert account.active <= 12
            assert account.tpm is not None and account.shared is not None
            self.fill(0, Tier.DEFAULT)
            for bucket, level in zip((account.tpm, account.shared), self.levels.values(), strict=True):
                bucket.refill(int(self.now * 1e6))
                assert bucket.level == level, "quota and usage differ (R25)"
        self.check_floors()
        self.check_headroom()
        self.check_work_conserving(in_line)

    def check_floors(self) -> None:
        """R22: charged = floor × time + fall of the bucket − what ran over − estimates in flight, to the last unit."""
        assert self.brain.reserves.share_ppm == self.share, "floors shrink in proportion (R23)"
        for project in self.floors:
            account = self.brain.reserves.accounts[project]
            for side, fluid in zip((account.input, account.output), self.fluids[project], strict=True):
                fluid.pass_time(self.now)
                side.minute.refill(int(self.now * 1e6))
                assert side.minute._level == fluid.level, f"{project}: floor and use differ (R20)"
                assert side.in_flight * 60_000_000 == sum(fluid.drawn.values())

    def check_headroom(self) -> None:
        """R10: nothing that can't be moved starts beyond slots − H, while there are reservations."""
        headroom = self.brain.headroom
        fixed = [t for t in self.tickets if t.replica is not None and becomes_fixed(t, self.brain.replicas[t.replica])]
        assert headroom.fixed == sum(ticket.width for ticket in fixed)
        if headroom.limit is not None and self.fixed_starts:
            assert headroom.fixed <= headroom.limit or len(fixed) == 1, (
                "work that can't be moved took the headroom (R10)"
            )
            self.reasons["headroom"] += 1

    def check_replica(self, replica: Replica) -> None:
        mine = [ticket for ticket in self.tickets if ticket.replica == replica.id]
        assert set(replica.running) == set(mine)
        assert replica.width == sum(ticket.width for ticket in mine)
        assert replica.going == sum(ticket.width for ticket in mine if ticket.state is State.LEAVING)
        assert replica.backlog == sum(ticket.pending_tokens for ticket in replica.prefilling)
        for rank in TIERS:
            assert replica.by_rank[rank] == sum(ticket.width for ticket in mine if ticket.rank is rank)
            assert replica.room[rank] == self.room(replica, rank), (replica.id, rank)

    def room(self, replica: Replica, rank: Tier) -> int:
        """R9, the slow way."""
        if not replica.open:
            return 0
        limit = replica.slots
        if rank >= Tier.DEFAULT:
            for ticket in self.tickets:
                if ticket.replica == replica.id and ticket.rank < rank:
                    share = self.policies[ticket.rank].max_batch * replica.slots
                    limit = min(limit, max(1, -int(-share // 1)))
        return max(0, limit - replica.width)

    def check_work_conserving(self, in_line: list[Ticket]) -> None:
        """R12: no slot stays free while the first of a line may start on it, but for the gate and a wait for home."""
        gated_ahead = False
        for line, _ in self.brain.lines.order:
            able = []
            for ticket in self.heads([t for t in in_line if t.line is line]):
                for replica in self.brain.replicas.values():
                    if not replica.suits(ticket) or (not ticket.roams and ticket.home not in (None, replica.id)):
                        continue
                    rank = Tier.PRIORITY if ticket.guarded else ticket.rank
                    if self.room(replica, rank) < ticket.width:
                        continue
                    if not self.brain.headroom.admits(ticket, replica):
                        continue  # R10
                    own = replica.pending_tokens(ticket)
                    if ticket.rank == Tier.RESERVED or not replica.backlog or replica.backlog + own <= GATE_TOKENS:
                        able.append((ticket, replica.id))
                    else:
                        gated_ahead = True
            # A long prompt that waits for the gate keeps one replica free of whoever is behind it (R52).
            assert gated_ahead or not able, f"may start and does not: {able} (R12)"

    def heads(self, tickets: list[Ticket]) -> list[Ticket]:
        """Who may be next: the oldest put back (per home; of those headroom may hold back, too), each project's first."""
        firsts = []
        if self.brain.headroom.full:
            tickets = [t for t in tickets if not t.sticky or (not t.fresh and not t.roams)]
        for home in (None, *self.brain.replicas):
            back = [t for t in tickets if not t.fresh and (t.roams if home is None else not t.roams and t.home == home)]
            for sticky in (False, True):
                mine = [t for t in back if home is not None or t.sticky is sticky]
                if mine:
                    firsts.append(min(mine, key=lambda t: (t.arrival, t.seq)))
        for project in "abcd":
            fresh = [t for t in tickets if t.fresh and t.project == project]
            if fresh:
                firsts.append(min(fresh, key=lambda t: (t.deadline or 0 if t.tier is Tier.BATCH else 0, t.seq)))
        return firsts
