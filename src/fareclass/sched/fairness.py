"""Fair order inside a tier: projects share by weight in tokens served (R8)."""

import heapq
from collections import OrderedDict
from collections.abc import Iterator

from fareclass.core.tiers import Tier
from fareclass.sched.ticket import Ticket

INPUT_WEIGHT = 1.0
CACHED_WEIGHT = 0.1
OUTPUT_WEIGHT = 2.0
LOOK_AHEAD = 8
"""Projects whose first ticket is looked at when the very first can't start (R12)."""


class Queue:
    """Tickets of one project: first come, first served; those of batch by their deadline (R8)."""

    __slots__ = ("_deadlines", "_lines", "waiting")

    def __init__(self) -> None:
        self._lines: dict[float, OrderedDict[Ticket, None]] = {}
        self._deadlines: list[float] = []
        self.waiting = 0

    def push(self, ticket: Ticket) -> None:
        """Behind the last one with the same deadline."""
        key = _key(ticket)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = OrderedDict()
            heapq.heappush(self._deadlines, key)
        line[ticket] = None
        self.waiting += 1

    def remove(self, ticket: Ticket) -> None:
        """Out of line, wherever it stands."""
        key = _key(ticket)
        line = self._lines[key]
        del line[ticket]
        self.waiting -= 1
        if not line:
            del self._lines[key]
            self._deadlines.remove(key)
            heapq.heapify(self._deadlines)

    def first(self) -> Ticket:
        """Its next ticket; there must be one."""
        return next(iter(self._lines[self._deadlines[0]]))


class Flow:
    """One project inside one tier: its waiting tickets, and the tokens that it was served.

    Those that headroom may hold back (R10, `Ticket.sticky`) stand in a queue of their own,
    so that whoever comes behind them in their project needs no search to pass.
    """

    __slots__ = ("project", "queued", "served", "soft", "sticky", "weight")

    def __init__(self, project: str, weight: float) -> None:
        self.project = project
        self.weight = weight
        self.served = 0.0
        self.queued = False
        self.soft = Queue()
        self.sticky = Queue()

    @property
    def waiting(self) -> int:
        """Tickets in line."""
        return self.soft.waiting + self.sticky.waiting

    def queue(self, ticket: Ticket) -> Queue:
        """Where the ticket stands, or will."""
        return self.sticky if ticket.sticky else self.soft

    def first(self) -> Ticket:
        """Its next ticket; there must be one."""
        if not self.sticky.waiting:
            return self.soft.first()
        if not self.soft.waiting:
            return self.sticky.first()
        return min(self.soft.first(), self.sticky.first(), key=_place)

    def charge(self, tokens: float) -> None:
        """Add weighted tokens to what the project was served."""
        self.served += tokens / self.weight


def _key(ticket: Ticket) -> float:
    return ticket.deadline or 0.0 if ticket.tier is Tier.BATCH else 0.0


def _place(ticket: Ticket) -> tuple[float, int]:
    return _key(ticket), ticket.seq


class FairLine:
    """The fresh tickets of one tier, in fair order over projects (VTC: a virtual token counter each).

    A project that comes back into the line after having been away is lifted to the smallest
    counter in it (or, if it is empty, to that of the one that left it last), so that being
    idle saves nothing up. Counters grow while their projects wait; the heap keeps the value
    of when it was put there and corrects it when it comes to the top. An emptied project
    that is not on top stays in the heap until it comes there.
    """

    __slots__ = ("_flows", "_heap", "_level", "_seq", "soft_waiting", "waiting")

    def __init__(self) -> None:
        self._flows: dict[str, Flow] = {}
        self._heap: list[tuple[float, int, Flow]] = []
        self._level = 0.0
        self._seq = 0
        self.waiting = self.soft_waiting = 0

    @property
    def projects(self) -> int:
        """Projects in line, at most (emptied ones may still count for a moment)."""
        return len(self._heap)

    def flow(self, ticket: Ticket) -> Flow:
        """The ticket's project here, made if need be; its weight is the newest ticket's."""
        flow = self._flows.get(ticket.project)
        if flow is None:
            flow = self._flows[ticket.project] = Flow(ticket.project, ticket.weight)
        flow.weight = ticket.weight
        return flow

    def push(self, ticket: Ticket) -> Flow:
        """The ticket joins its project's line."""
        flow = self.flow(ticket)
        if not flow.waiting:
            self._settle()
            flow.served = max(flow.served, self._heap[0][0] if self._heap else self._level)
            if not flow.queued:
                flow.queued = True
                self._seq += 1
                heapq.heappush(self._heap, (flow.served, self._seq, flow))
        flow.queue(ticket).push(ticket)
        self.waiting += 1
        self.soft_waiting += not ticket.sticky
        return flow

    def pass_through(self, ticket: Ticket) -> Flow:
        """The ticket joins an empty line and starts in the same step: its project is lifted all the same."""
        flow = self.flow(ticket)
        flow.served = max(flow.served, self._level)
        self._level = flow.served
        return flow

    def remove(self, ticket: Ticket, flow: Flow) -> None:
        """The ticket leaves: it starts, or is gone."""
        flow.queue(ticket).remove(ticket)
        self.waiting -= 1
        self.soft_waiting -= not ticket.sticky
        if not flow.waiting:
            self._level = flow.served

    def heads(self, *, soft: bool) -> Iterator[Ticket]:
        """The very next ticket in fair order, then the first ones of the next few projects for when it can't start.

        `soft`: only those that no headroom holds back. Look before you change.
        """
        if soft and not self.soft_waiting:
            return
        self._settle()
        if self._heap:
            flow = self._heap[0][2]
            if not soft:
                yield flow.first()
            elif flow.soft.waiting:
                yield flow.soft.first()
            if len(self._heap) > 1:
                yield from self._others(soft=soft)

    def _others(self, *, soft: bool) -> Iterator[Ticket]:
        heap = self._heap
        near = [(heap[i][0], i) for i in (1, 2) if i < len(heap)]
        heapq.heapify(near)
        seen = 1
        while near and seen < LOOK_AHEAD:
            _, at = heapq.heappop(near)
            for child in (2 * at + 1, 2 * at + 2):
                if child < len(heap):
                    heapq.heappush(near, (heap[child][0], child))
            flow = heap[at][2]
            if flow.soft.waiting or (flow.sticky.waiting and not soft):
                seen += 1
                yield flow.soft.first() if soft else flow.first()

    def _settle(self) -> None:
        """Make the top of the heap the waiting project with the smallest counter."""
        heap = self._heap
        while heap:
            value, _, flow = heap[0]
            if not flow.waiting:
                flow.queued = False
                heapq.heappop(heap)
            elif value < flow.served:
                self._seq += 1
                heapq.heapreplace(heap, (flow.served, self._seq, flow))
            else:
                return
