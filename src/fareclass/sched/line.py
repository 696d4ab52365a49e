"""The line of one rank: what was pushed back first, then the fresh ones in fair order (R8)."""

import heapq
from collections.abc import Iterable, Iterator

from fareclass.sched.fairness import FairLine
from fareclass.sched.replica import Replica
from fareclass.sched.ticket import Ticket

Entry = tuple[float, int, Ticket]


class Line:
    """Everything that waits at one rank.

    Returned tickets (paused, put back, failed over) go oldest arrival first: those that
    may go anywhere stand in `_roaming`, or in `_sticky` if headroom may hold them back (R10), those that still wait for their own replica's warm
    cache in that replica's heap (R11). Both heaps drop entries lazily: an entry is good
    only while its ticket stands in line where the entry says. There are never more of
    them than slots were ever taken, so they stay small beside the fresh ones. `home_width`
    sequences wait for their own replica, `width_at` of them for each; `sticky_width` of the
    others may be held back by the headroom.
    """

    __slots__ = ("_at_home", "_roaming", "_sticky", "fresh", "home_width", "name", "returned", "size_bytes", "sticky_width", "total", "width",
        "width_at",
    )  # fmt: skip

    def __init__(self, name: str, total: list[int]) -> None:
        """`total[0]` counts the tickets in all lines of the pool, which share it."""
        self.name = name
        self.total = total
        self.fresh = FairLine()
        self.returned = 0
        self.width = 0
        self.home_width = 0
        self.width_at: dict[str, int] = {}
        self.size_bytes = 0
        self.sticky_width = 0
        self._roaming: list[Entry] = []
        self._sticky: list[Entry] = []
        self._at_home: dict[str, list[Entry]] = {}

    @property
    def waiting(self) -> int:
        """Tickets in this line."""
        return self.fresh.waiting + self.returned

    def push(self, ticket: Ticket) -> None:
        """A fresh ticket joins."""
        ticket.fresh = True
        ticket.flow = self.fresh.push(ticket)
        self._join(ticket)

    def put_back(self, ticket: Ticket) -> None:
        """A ticket that had been running joins again, ahead of the fresh ones."""
        ticket.fresh = False
        if ticket.roams or ticket.home is None:
            ticket.roams = True
            heapq.heappush(self._wandering(ticket), (ticket.arrival, ticket.seq, ticket))
        else:
            heapq.heappush(self._at_home.setdefault(ticket.home, []), (ticket.arrival, ticket.seq, ticket))
            self._count_at(ticket.home, ticket.width)
        self.returned += 1
        self._join(ticket)

    def remove(self, ticket: Ticket) -> None:
        """A ticket leaves: it starts, or is gone."""
        ticket.line = None
        self.total[0] -= 1
        self.width -= ticket.width
        self.size_bytes -= ticket.size_bytes
        if ticket.sticky and (ticket.fresh or ticket.roams):
            self.sticky_width -= ticket.width
        if ticket.fresh:
            assert ticket.flow is not None
            self.fresh.remove(ticket, ticket.flow)
            return
        self.returned -= 1
        if not ticket.roams:
            self._count_at(ticket.home, -ticket.width)

    def roam(self, ticket: Ticket) -> None:
        """A ticket that waited for its own replica may go anywhere from now on."""
        if not ticket.roams:
            ticket.roams = True
            self._count_at(ticket.home, -ticket.width)
            self.sticky_width += ticket.sticky * ticket.width
            heapq.heappush(self._wandering(ticket), (ticket.arrival, ticket.seq, ticket))

    def forgive(self) -> None:
        """A replica has gone: tickets that shunned another must not wait for the one that is left to come back."""
        for _, _, ticket in (*self._roaming, *self._sticky):
            if self._stands(ticket, None):
                ticket.failed_on = ()

    def homebound(self, replica: str) -> list[Ticket]:
        """Tickets that wait for this replica alone."""
        return [entry[2] for entry in self._at_home.get(replica, ()) if self._stands(entry[2], replica)]

    def candidates(self, replicas: Iterable[Replica], *, soft: bool = False) -> Iterator[tuple[Ticket, Replica | None]]:
        """Who may go next, best first, each with the one replica that it waits for, if any.

        `soft`: the headroom is used up, so who it would hold back stands aside (R10).
        Take the first that can start and ask again: the line may not be changed in between.
        """
        if self.returned:
            yield from self._returned(replicas, soft=soft)
        for ticket in self.fresh.heads(soft=soft):
            yield ticket, None

    def _returned(self, replicas: Iterable[Replica], *, soft: bool) -> Iterator[tuple[Ticket, Replica | None]]:
        found: list[tuple[float, int, Ticket, Replica | None]] = [
            (*first, None)
            for heap in ((self._roaming,) if soft else (self._roaming, self._sticky))
            if (first := self._top(heap, None)) is not None
        ]
        for replica in replicas:
            heap = self._at_home.get(replica.id)
            if heap and (entry := self._top(heap, replica.id)) is not None:
                found.append((*entry, replica))
        found.sort(key=lambda item: item[:2])
        for _, _, ticket, home in found:
            yield ticket, home

    def _top(self, heap: list[Entry], home: str | None) -> Entry | None:
        while heap:
            entry = heap[0]
            if self._stands(entry[2], home):
                return entry
            heapq.heappop(heap)
        return None

    def _wandering(self, ticket: Ticket) -> list[Entry]:
        return self._sticky if ticket.sticky else self._roaming

    def _stands(self, ticket: Ticket, home: str | None) -> bool:
        if ticket.line is not self or ticket.fresh:
            return False
        return ticket.roams if home is None else not ticket.roams and ticket.home == home

    def _count_at(self, home: str | None, width: int) -> None:
        assert home is not None
        self.home_width += width
        self.width_at[home] = self.width_at.get(home, 0) + width

    def _join(self, ticket: Ticket) -> None:
        ticket.line = self
        self.total[0] += 1
        self.width += ticket.width
        self.size_bytes += ticket.size_bytes
        if ticket.sticky and (ticket.fresh or ticket.roams):
            self.sticky_width += ticket.width
