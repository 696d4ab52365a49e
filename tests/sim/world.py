"""A driver of the brain made of dice, and the invariants that must hold after each of its steps.

It plays engines, callers, failures and the operator with a seeded random generator, and
checks the brain's books against its own, kept the slow and simple way.
"""

import random
from collections import Counter, deque

from fareclass.core.capacity import load_micro, max_load_micro
from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import Capacity, Quota
from fareclass.core.tiers import DEFAULT_POLICIES, TIERS, Tier
from fareclass.core.usage import Usage
from fareclass.sched.brain import Brain
from fareclass.sched.reserves import Floor
from fareclass.sched.ticket import Effect, Pause, Refuse, Restart, Start, State, Ticket
from tests.sim.fluid import Fluid
from tests.sim.invariants import QUEUE_LIMIT, Invariants

PROMPT = 7
"""What the prompt of every answer turns out to be, in tokens."""


class World(Invariants):
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
        self.capacity = Capacity(input_tpm=60_000, output_tpm=6_000)
        self.brain = Brain(policies, capacity=self.capacity, headroom=self.dice.choice([None, None, 2]))
        self.floors: dict[str, Floor] = {}
        self.fluids: dict[str, tuple[Fluid, Fluid]] = {}
        self.left: dict[str, int] = {}
        self.share = 1_000_000
        self.fixed_starts = 0
        self.policies = policies
        self.tickets: list[Ticket] = []
        self.ended: Counter[str] = Counter()
        self.calls: dict[Ticket, str] = {}
        self.must_pause: set[Ticket] = set()
        self.made: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.levels = {"tpm": 20_000 * 60_000_000, "shared": 14_000 * 60_000_000}
        self.level_at_us = int(self.now * 1e6)
        self.pending: deque[Effect] = deque()
        self.busy = False
        self.quota = Quota(tpm=20_000, priority_tpm=6_000, rpm=600, concurrency=12)
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
        if self.dice.random() < 0.7:
            self.reserve()

    # -- playing

    def step(self) -> None:
        """One random event, with every invariant checked after it."""
        self.now += 4_000.0 if self.dice.random() < 0.002 else self.dice.choice([0.0, 0.001, 0.05, 0.3, 2.0, 12.0])
        self.fixed_starts = 0
        moves = [self.offer, self.offer, self.offer, self.token, self.token, self.end, self.cut, self.cut, self.tick]
        rare = [self.cancel, self.fail, self.operate, self.fix, self.reserve]
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
            floor_input=100 * self.dice.choice([1, 200, 2_000]),
            floor_output=self.dice.choice([0, 5, 50]),
        )
        if tier is Tier.RESERVED and self.floors and not self.claim(ticket):
            return
        self.tickets.append(ticket)
        quota = self.quota if ticket.project == "a" and tier is not Tier.BATCH else None
        effects = self.brain.offer(ticket, self.now, quota)
        if ticket.held:
            self.fill(-ticket.hold_tokens, ticket.tier)
        self.do(effects)

    def claim(self, ticket: Ticket) -> bool:
        """R20, R21: inside the floor it is reserved, whatever the load; beyond it, it overflows or is refused."""
        sides = self.fluids.get(ticket.project) if ticket.project in self.floors else None
        if sides is not None:
            for side in sides:
                side.pass_time(self.now)
        fits = sides is not None and sides[0].fits(ticket.floor_input) and sides[1].fits(ticket.floor_output * 100)
        assert self.brain.claim(ticket, self.now) is fits, f"{ticket.project}'s floor has room: {fits} (R20, R22)"
        self.reasons["reserved" if fits else "spilled"] += 1
        if sides is not None and fits:
            sides[0].draw(ticket.id, ticket.floor_input)
            sides[1].draw(ticket.id, ticket.floor_output * 100)
            self.left[ticket.id] = ticket.floor_output
            assert ticket.tier is Tier.RESERVED and ticket.rank in (Tier.RESERVED, Tier.PRIORITY)
            return True
        ticket.tier = ticket.rank = self.dice.choice([Tier.PRIORITY, Tier.DEFAULT, Tier.FLEX])
        return self.dice.random() < 0.9

    def reserve(self) -> None:
        """Reservations begin, change and end (R18)."""
        projects = self.dice.sample("abcd", self.dice.randint(0, 3))
        self.settle_floors()
        self.floors = {
            project: Floor(self.dice.choice([0, 1_000, 8_000]), self.dice.choice([100, 500])) for project in projects
        }
        self.do(self.brain.set_floors(self.floors, self.now))
        for project, floor in self.floors.items():
            if project not in self.fluids:
                self.fluids[project] = (Fluid(floor.input_tpm, self.now), Fluid(floor.output_tpm, self.now))
        self.settle_floors()

    def settle_floors(self) -> None:
        """The books follow the clock, and the share of the floors that the open replicas can keep (R23)."""
        replicas = self.brain.replicas.values()
        able = sum(r.slots for r in replicas if r.open and (r.tiers is None or Tier.RESERVED in r.tiers))
        sums = [sum(side) for side in zip(*self.floors.values(), strict=True)] or [0, 0]
        sold = load_micro(sums[0], sums[1], self.capacity, sum(r.slots for r in replicas))
        if not sold:
            self.share = 1_000_000
        elif able:
            self.share = min(1_000_000, max_load_micro(able) * 1_000_000 // sold)
        for project, floor in self.floors.items():
            for side, tpm in zip(self.fluids.get(project, ()), floor, strict=False):
                side.pass_time(self.now)
                side.resize(tpm * 100 * self.share // 1_000_000)

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
        self.brain.produced(ticket, count, self.now)
        if ticket.id in self.left:
            self.overrun(ticket, count)
        if ticket.streamed and self.dice.random() < 0.8:
            self.brain.sent(ticket)

    def overrun(self, ticket: Ticket, count: int) -> None:
        """What it makes beyond its hold is charged as it is made (R20); what a restart threw away stays so till the end."""
        self.left[ticket.id] -= count
        if self.left[ticket.id] < 0:
            self.fluids[ticket.project][1].pass_time(self.now)
            self.fluids[ticket.project][1].draw(ticket.id, -100 * self.left[ticket.id])
            self.left[ticket.id] = 0

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
        self.do(self.brain.finish(ticket, self.now, Usage(output=used)))

    def settle(self, ticket: Ticket, used: int) -> None:
        """What was billed is what was made for the caller, and the hold becomes exactly that (R6, R25)."""
        assert ticket.made_tokens == self.made[ticket.id], "the scheduler counts other tokens than were made"
        held = ticket.held
        usage = Usage(input=PROMPT, output=used) if used else Usage()
        if self.left.pop(ticket.id, None) is not None:
            for side, spent in zip(self.fluids[ticket.project], (usage.input, usage.output), strict=True):
                side.pass_time(self.now)
                side.settle(ticket.id, 100 * spent)
        self.do(self.brain.finish(ticket, self.now, usage))
        if held:
            self.fill(ticket.hold_tokens - usage.input - usage.output, ticket.tier)

    def fill(self, tokens: int, tier: Tier) -> None:
        """The project's TPM buckets, kept beside the brain's in exact units; priority has nothing to do with the second."""
        now_us = int(self.now * 1e6)
        for name, rate in (("tpm", 20_000), ("shared", 14_000)):
            full = rate * 60_000_000
            level = min(full, self.levels[name] + rate * (now_us - self.level_at_us))
            if name == "tpm" or tier > Tier.PRIORITY:
                level = min(full, level + tokens * 60_000_000)
            self.levels[name] = level
        self.level_at_us = now_us

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
        self.settle_floors()

    def tick(self) -> None:
        wake = self.brain.next_wake
        if wake is not None and self.dice.random() < 0.7:
            self.now = max(self.now, wake)
        self.do(self.brain.tick(self.now))

    def drain(self) -> None:
        """Let everything that is left run to its end: nothing may be stuck."""
        for name in self.brain.replicas:
            self.do(self.brain.set_replica(name, self.now, up=True, draining=False, slots=8))
            self.settle_floors()
            self.do(self.brain.set_tiers(name, None, self.now))
            self.settle_floors()
        for _ in range(20_000):
            if not any(ticket.state is not State.GONE for ticket in self.tickets):
                assert not any(side.drawn for sides in self.fluids.values() for side in sides), "a hold leaked (R20)"
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
                self.fixed_starts += ticket.fixed
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
                if ticket.tier is Tier.RESERVED:
                    assert effect.outcome is not Outcome.THROTTLED, "reserved work knows no quota (R22, R25)"
                    assert effect.outcome is not Outcome.SHED or not self.can_serve(ticket), "shed for load (R22)"
                self.ended[ticket.id] += 1
                self.settle(ticket, self.made[ticket.id])

    def can_serve(self, ticket: Ticket) -> bool:
        return any(r.open and r.slots >= ticket.width and r.admits(ticket) for r in self.brain.replicas.values())
