"""One timer per ticket, in coarse steps, so that setting, moving and dropping one costs O(1)."""

import heapq
import math

from fareclass.sched.ticket import Ticket

STEP_S = 0.02


class Timers:
    """Tickets by the step of 20 ms in which something is due for them.

    A dropped timer leaves no trace but its step's number, so a flood of calls that come
    and go can't make it grow. Inside a step tickets come in the order they were set.
    """

    __slots__ = ("_heap", "_steps")

    def __init__(self) -> None:
        self._steps: dict[int, dict[Ticket, None]] = {}
        self._heap: list[int] = []

    def set(self, ticket: Ticket, at: float) -> None:
        """Move the ticket's timer to the first step after `at`, so that whoever then looks finds it past."""
        self.drop(ticket)
        number = math.floor(at / STEP_S) + 1
        step = self._steps.get(number)
        if step is None:
            step = self._steps[number] = {}
            heapq.heappush(self._heap, number)
        step[ticket] = None
        ticket.timer = number

    def drop(self, ticket: Ticket) -> None:
        """Forget the ticket's timer, if it has one."""
        if ticket.timer is not None:
            del self._steps[ticket.timer][ticket]
            ticket.timer = None

    def due(self, now: float) -> list[Ticket]:
        """The tickets whose time has come; their timers are gone."""
        found: list[Ticket] = []
        while self._heap and self._heap[0] * STEP_S <= now:
            for ticket in self._steps.pop(heapq.heappop(self._heap)):
                ticket.timer = None
                found.append(ticket)
        return found

    @property
    def next_at(self) -> float | None:
        """When to look again, None if nothing is set."""
        while self._heap and not self._steps[self._heap[0]]:
            del self._steps[heapq.heappop(self._heap)]
        return self._heap[0] * STEP_S if self._heap else None
