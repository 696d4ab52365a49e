"""What the brain is held against: the same fleet under simpler rules."""

import heapq
from collections import deque
from collections.abc import Mapping

from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import Capacity
from fareclass.core.tiers import DEFAULT_POLICIES, TIERS, Tier, TierPolicy
from fareclass.core.usage import Usage
from fareclass.sched.brain import Brain
from fareclass.sched.ticket import Effect, Refuse, Start, Ticket


def brain(
    replicas: int,
    slots: int,
    policies: Mapping[Tier, TierPolicy] = DEFAULT_POLICIES,
    *,
    kind: type[Brain] = Brain,
    capacity: Capacity | None = None,
    headroom: int | None = None,
) -> Brain:
    """The real one, over replicas that can continue an answer and keep a cut prompt."""
    made = kind(policies, capacity=capacity, headroom=headroom)
    for number in range(replicas):
        made.add_replica(str(number), slots, 0.0)
        made.set_replica(str(number), 0.0, continuable=True, recompute_tokens=16, keeps_cut=True)
    return made


class Simple:
    """Free slots go to `_pick`; nothing is ever taken back. Placement: the emptiest replica."""

    next_wake: float | None = None

    def __init__(self, replicas: int, slots: int) -> None:
        self._free = [(-slots, number) for number in range(replicas)]
        self._where: dict[Ticket, int] = {}
        self._lines: list[deque[Ticket]] = [deque() for _ in TIERS]

    def claim(self, ticket: Ticket, now: float) -> bool:
        return True  # it knows no floors

    def offer(self, ticket: Ticket, now: float) -> list[Effect]:
        ticket.arrival = now
        self._lines[self._line_of(ticket)].append(ticket)
        return self._fill(now)

    def first_token(self, ticket: Ticket, now: float) -> list[Effect]:
        return []

    def produced(self, ticket: Ticket, tokens: int, now: float) -> None:
        ticket.made_tokens += tokens

    def sent(self, ticket: Ticket) -> None:
        ticket.sent = True

    def paused(self, ticket: Ticket, now: float) -> list[Effect]:
        raise AssertionError("nothing is ever paused")

    def tick(self, now: float) -> list[Effect]:
        return []

    def finish(self, ticket: Ticket, now: float, usage: Usage) -> list[Effect]:
        number = self._where.pop(ticket, None)
        if number is None:
            return []  # it was refused
        at = next(i for i, (_, other) in enumerate(self._free) if other == number)
        self._free[at] = (self._free[at][0] - 1, number)
        heapq.heapify(self._free)
        return self._fill(now)

    def _line_of(self, ticket: Ticket) -> int:
        raise AssertionError("each policy says where a ticket stands")

    def _gone(self, ticket: Ticket, now: float) -> bool:
        return False

    def _fill(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for line in self._lines:
            while line and self._gone(line[0], now):
                effects.append(Refuse(line.popleft(), Outcome.EXPIRED, "The wait was longer than its tier allows."))
            while line and self._free[0][0] < 0:
                ticket = line.popleft()
                free, number = self._free[0]
                heapq.heapreplace(self._free, (free + 1, number))
                self._where[ticket] = number
                effects.append(Start(ticket, str(number)))
        return effects


class FirstComeFirstServed(Simple):
    """One line for everybody, with the endless batch behind it."""

    def _line_of(self, ticket: Ticket) -> int:
        return Tier.BATCH if ticket.tier is Tier.BATCH else Tier.RESERVED


class StrictOrder(Simple):
    """A line per tier, best first, with the tiers' wait limits; what runs is left alone."""

    def _line_of(self, ticket: Ticket) -> int:
        return ticket.tier

    def _gone(self, ticket: Ticket, now: float) -> bool:
        return now - ticket.arrival > DEFAULT_POLICIES[ticket.tier].max_wait_s


class EnginePriority(Simple):
    """Everything goes to the engines at once, to the one with the fewest calls; they sort what waits by tier."""

    def __init__(self, replicas: int, slots: int) -> None:
        super().__init__(replicas, 1_000_000_000)

    def _line_of(self, ticket: Ticket) -> int:
        return ticket.tier
