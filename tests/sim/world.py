"""A driver of the brain made of dice, and the invariants that must hold after each of its steps.

It plays engines, callers, failures and the operator with a seeded random generator, and
checks the brain's books against its own, kept the slow and simple way.
"""

import random
from collections import Counter, deque

from fareclass.core.limits import GATE_TOKENS
from fareclass.core.snapshot import Quota
from fareclass.core.tiers import DEFAULT_POLICIES, TIERS, Tier
from fareclass.sched.brain import Brain
from fareclass.sched.replica import Replica
from fareclass.sched.ticket import Effect, Pause, Refuse, Restart, Start, State, Ticket

QUEUE_LIMIT = 40
LINE_STATES = (State.WAITING, State.PAUSED)
SLOT_STATES = (State.RUNNING, State.LEAVING)


class World:
    """One random schedule."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.now = 1000.0
        policies = {
            tier: type(policy)(
                max_batch=policy.max_batch if self.dice.random() < 0.7 else self.dice.choice([0.25, 0.5, 1.0]),
                max_wait_s=policy.max_wait_s,
                roam_after_s=policy.roam_after_s,
                gap_guard_s=policy.gap_guard_s,
                queue_limit=QUEUE_LIMIT,
                floor=self.dice.choice([0.0, 0.0, 0.0, 0.2]) if tier in (Tier.DEFAULT, Tier.FLEX) else 0.0,
            )
            for tier, policy in DEFAULT_POLICIES.items()
        }
        self.brain = Brain(policies)
        self.policies = policies
        self.tickets: list[Ticket] = []
        self.ended: Counter[str] = Counter()
        self.calls: dict[Ticket, str] = {}
        self.must_pause: set[Ticket] = set()
        self.made: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.level = 20_000 * 60_000_000
        self.level_at_us = int(self.now * 1e6)
        self.pending: deque[Effect] = deque()
        self.busy = False
        self.quota = Quota(tpm=20_000, rpm=600, concurrency=12)
        for number in range(self.dice.randint(1, 4)):
            tiers = [Tier.RESERVED, Tier.PRIORITY] if number and self.dice.random() < 0.2 else None
            self.do(self.brain.add_replica(f"r{number}", self.dice.choice([1, 2, 4, 8]), self.now, tiers=tiers))
            self.do(
                self.brain.set_replica(
                    f"r{number}",
                    self.now,
                    continuable=self.dice.random() < 0.7,
                    keeps_cut=self.dice.random() < 0.5,
                    recompute_tokens=self.dice.choice([1, 128, 1000]),
                )
            )

    # -- playing

    def step(self) -> None:
        """One random event, with every invariant checked after it."""
        self.now += self.dice.choice([0.0, 0.001, 0.05, 0.3, 2.0, 12.0])
        moves = [self.offer, self.offer, self.offer, self.token, self.token, self.end, self.cut, self.cut, self.tick]
        rare = [self.cancel, self.fail, self.operate, self.fix]
        self.dice.choice(rare if self.dice.random() < 0.15 else moves)()
        self.check()

    def offer(self) -> None:
        tier = self.dice.choice(TIERS)
        ticket = Ticket(
            f"t{len(self.tickets)}",
            self.dice.choice("abcd"),
            tier,
            prompt_tokens=self.dice.choice([1, 50, 600, 1900, 5000, 100_000]),
            rank=Tier.DEFAULT if tier is Tier.BATCH and self.dice.random() < 0.1 else None,
            width=self.dice.choice([1, 1, 1, 1, 2, 3]),
            hold_tokens=self.dice.choice([10, 500, 30_000]),
            continuable=self.dice.random() < 0.7,
            streamed=self.dice.random() < 0.8,
            size_bytes=self.dice.choice([100, 10_000]),
            deadline=self.now + 600 if tier is Tier.BATCH else None,
        )
        self.tickets.append(ticket)
        quota = self.quota if ticket.project == "a" else None
        effects = self.brain.offer(ticket, self.now, quota)
        if ticket.held:
            self.fill(-ticket.hold_tokens)
        self.do(effects)

    def token(self) -> None:
        ticket = self.pick(self.calls)
        if ticket is None:
            return
        replica = self.brain.replicas[self.calls[ticket]]
        if ticket in replica.prefilling:
            self.do(self.brain.first_token(ticket, self.now))
            if self.calls.get(ticket) != replica.id:
                return
        count = self.dice.choice([1, 1, 7])
        self.made[ticket.id] += count
        self.brain.produced(ticket, count)
        if ticket.streamed and self.dice.random() < 0.8:
            self.brain.sent(ticket)

    def end(self) -> None:
        ticket = self.pick(self.calls)
        if ticket is not None:
            self.finish(ticket, self.made[ticket.id])

    def cancel(self) -> None:
        alive = [ticket for ticket in self.tickets if ticket.state is not State.GONE]
        if alive:
            ticket = self.dice.choice(alive)
            self.finish(ticket, self.made[ticket.id])

    def finish(self, ticket: Ticket, used: int) -> None:
        self.calls.pop(ticket, None)
        self.must_pause.discard(ticket)
        self.ended[ticket.id] += 1
        self.settle(ticket, used)
        self.do(self.brain.finish(ticket, self.now, used))

    def settle(self, ticket: Ticket, used: int) -> None:
        """What was billed is what was made for the caller, and the hold becomes exactly that (R6, R25)."""
        assert ticket.made_tokens == self.made[ticket.id], "the scheduler counts other tokens than were made"
        held = ticket.held
        self.do(self.brain.finish(ticket, self.now, used))
        if held:
            self.fill(ticket.hold_tokens - used)

    def fill(self, tokens: int) -> None:
        """The project's TPM bucket, kept beside the brain's in exact units."""
        now_us, full = int(self.now * 1e6), 20_000 * 60_000_000
        self.level = min(full, self.level + 20_000 * (now_us - self.level_at_us))
        self.level_at_us = now_us
        self.level += tokens * 60_000_000
        self.level = min(full, self.level)

    def cut(self) -> None:
        ticket = self.pick(self.must_pause)
        if ticket is not None:
            self.must_pause.discard(ticket)
            del self.calls[ticket]
            self.do(self.brain.paused(ticket, self.now))

    def fail(self) -> None:
        ticket = self.pick(self.calls)
        if ticket is not None:
            del self.calls[ticket]
            self.must_pause.discard(ticket)
            effects = self.brain.failed(ticket, self.now)
            if ticket.state is State.WAITING or (ticket.replica is not None and not ticket.made_tokens):
                assert not ticket.sent, "what was sent can't be forgotten"
                self.made[ticket.id] = 0
            self.do(effects)

    def fix(self) -> None:
        ticket = self.pick(self.calls)
        if ticket is not None:
            self.must_pause.discard(ticket)
            self.do(self.brain.fixed(ticket, self.now))

    def operate(self) -> None:
        name = self.dice.choice(list(self.brain.replicas))
        change = self.dice.choice(["up", "draining", "slots"])
        if change == "up":
            self.do(self.brain.set_replica(name, self.now, up=self.dice.random() < 0.7))
        elif change == "draining":
            self.do(self.brain.set_replica(name, self.now, draining=self.dice.random() < 0.3))
        else:
            self.do(self.brain.set_replica(name, self.now, slots=self.dice.choice([1, 2, 4, 8])))

    def tick(self) -> None:
        wake = self.brain.next_wake
        if wake is not None and self.dice.random() < 0.7:
            self.now = max(self.now, wake)
        self.do(self.brain.tick(self.now))

    def drain(self) -> None:
        """Let everything that is left run to its end: nothing may be stuck."""
        for name in self.brain.replicas:
            self.do(self.brain.set_replica(name, self.now, up=True, draining=False, slots=8))
            self.do(self.brain.set_tiers(name, None, self.now))
        for _ in range(20_000):
            if not any(ticket.state is not State.GONE for ticket in self.tickets):
                return
            if self.must_pause:
                self.cut()
            elif self.calls:
                self.end()
            else:
                wake = self.brain.next_wake
                assert wake is not None, "tickets wait, and nothing will ever wake them"
                self.now = max(self.now + 0.001, wake)
                self.do(self.brain.tick(self.now))
            self.check()
        raise AssertionError("the schedule does not end")

    def pick(self, among: dict[Ticket, str] | set[Ticket]) -> Ticket | None:
        return self.dice.choice(sorted(among, key=lambda ticket: ticket.seq)) if among else None

    # -- carrying out effects, with the checks that belong to each

    def do(self, effects: list[Effect]) -> None:
        """In order: what follows from an effect comes behind what was decided before it."""
        self.pending.extend(effects)
        if self.busy:
            return
        self.busy = True
        while self.pending:
            self.carry_out(self.pending.popleft())
        self.busy = False

    def carry_out(self, effect: Effect) -> None:
        ticket = effect.ticket
        match effect:
            case Start():
                assert ticket not in self.calls, "started twice"
                replica = self.brain.replicas[effect.replica]
                assert replica.continuable or not ticket.made_tokens, "it can't go on there (R11)"
                self.calls[ticket] = effect.replica
                self.reasons["start"] += 1
            case Pause():
                assert ticket in self.calls
                assert ticket.continuable
                self.must_pause.add(ticket)
                self.reasons["pause"] += 1
            case Restart():
                assert not ticket.sent, "a restart would send the answer's beginning twice (R11)"
                del self.calls[ticket]
                self.must_pause.discard(ticket)
                self.made[ticket.id] = 0
                self.reasons["restart"] += 1
            case Refuse():
                assert ticket not in self.calls
                self.reasons[effect.outcome.value] += 1
                self.ended[ticket.id] += 1
                self.settle(ticket, self.made[ticket.id])

    # -- the invariants

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
        held = [ticket for ticket in self.tickets if ticket.project == "a" and ticket.state is not State.GONE]
        if account is not None:
            assert account.active == sum(ticket.width for ticket in held), "a hold leaked (R25)"
            assert account.active <= 12
            assert account.tpm is not None
            self.fill(0)
            account.tpm.refill(int(self.now * 1e6))
            assert account.tpm.tokens == self.level // 60_000_000, "quota and usage differ (R25)"
        self.check_work_conserving(in_line)

    def check_replica(self, replica: Replica) -> None:
        mine = [ticket for ticket in self.tickets if ticket.replica == replica.id]
        assert set(replica.running) == set(mine)
        assert replica.width == sum(ticket.width for ticket in mine)
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
                    own = replica.pending_tokens(ticket)
                    if ticket.rank == Tier.RESERVED or not replica.backlog or replica.backlog + own <= GATE_TOKENS:
                        able.append((ticket, replica.id))
                    else:
                        gated_ahead = True
            # A long prompt that waits for the gate keeps one replica free of whoever is behind it (R52).
            assert gated_ahead or not able, f"may start and does not: {able} (R12)"

    def heads(self, tickets: list[Ticket]) -> list[Ticket]:
        """Who may be next: the oldest put back (per home), and each project's first."""
        firsts = []
        for home in (None, *self.brain.replicas):
            back = [t for t in tickets if not t.fresh and (t.roams if home is None else not t.roams and t.home == home)]
            if back:
                firsts.append(min(back, key=lambda t: (t.arrival, t.seq)))
        for project in "abcd":
            fresh = [t for t in tickets if t.fresh and t.project == project]
            if fresh:
                firsts.append(min(fresh, key=lambda t: (t.deadline or 0 if t.tier is Tier.BATCH else 0, t.seq)))
        return firsts
