"""How many slots are kept free of work that can't be moved, so that reserved work finds room at once (R10)."""

import math

from fareclass.core.capacity import MICRO
from fareclass.core.limits import MAX_RESTARTS
from fareclass.core.tiers import Tier
from fareclass.sched.replica import Replica
from fareclass.sched.ticket import Ticket

_SMOOTH, _BURSTY = 2.5, 3.5
_BURSTY_FROM = 2.0
"""Square of the coefficient of variation from which on an owner's arrivals are bursty."""
_MOST_VARIED = 16.0
_MEMORY = 256
_LOOK_EVERY = 32
_PAUSE_S = 60.0
"""A longer silence, as of a night, says nothing of how evenly requests come."""
_NEVER_KEPT = 10
"""One slot in so many is never kept free, so that such work can always start somewhere."""


class Arrivals:
    """How evenly reserved requests come: the squared coefficient of variation of their distances."""

    __slots__ = ("_count", "_last", "_mean", "_seen", "_square")

    def __init__(self) -> None:
        self._last: float | None = None
        self._count = self._seen = 0
        self._mean = self._square = 0.0

    def came(self, now: float) -> bool:
        """One has come; whether it is time to look anew at how evenly they do."""
        last, self._last = self._last, now
        if last is not None and 0 <= now - last <= _PAUSE_S:
            self._count = min(self._count + 1, _MEMORY)
            gap = now - last
            self._mean += (gap - self._mean) / self._count
            self._square += (gap * gap - self._square) / self._count
        self._seen += 1
        return self._seen % _LOOK_EVERY == 0

    @property
    def cv2(self) -> float:
        """1 is that of a Poisson process, which is assumed until enough have come."""
        if self._count < _MEMORY // 8 or self._mean <= 0:
            return 1.0
        return min(_MOST_VARIED, max(0.0, self._square / (self._mean * self._mean) - 1.0))


class Headroom:
    """Counts the sequences that can't be moved (`fixed`), and says whether more of them may start.

    Those are tickets that can be neither paused nor restarted, or will stop being so once
    their first byte is sent; reserved ones don't count. `limit` is how many the pool may
    run, None while no reservation is in force.
    """

    __slots__ = ("_by_hand", "arrivals", "fixed", "limit", "slots")

    def __init__(self, by_hand: int | None) -> None:
        self._by_hand = by_hand
        self.arrivals = Arrivals()
        self.fixed = 0
        self.slots = 0
        self.limit: int | None = None

    def measure(self, load_micro: int, slots: int) -> None:
        """Work out `slots`, the headroom, from the load of the floors in force and the pool's open slots."""
        self.slots = min(self._wanted(load_micro / MICRO), slots - -(-slots // _NEVER_KEPT)) if load_micro else 0
        self.limit = slots - self.slots if load_micro else None

    def _wanted(self, load: float) -> int:
        if self._by_hand is not None:
            return self._by_hand
        cv2 = self.arrivals.cv2
        spread = _SMOOTH if cv2 < _BURSTY_FROM else _BURSTY
        return math.ceil(load + spread * math.sqrt(load * (1 + cv2) / 2))

    @property
    def full(self) -> bool:
        """Whether no work that can't be moved may start."""
        return self.limit is not None and self.fixed >= self.limit

    def admits(self, ticket: Ticket, replica: Replica) -> bool:
        """Whether the headroom lets the ticket start there."""
        return self.room_for(ticket.width) or not becomes_fixed(ticket, replica)

    def room_for(self, width: int) -> bool:
        """Whether so many more sequences that can't be moved may run. One too wide for the limit may run alone."""
        return self.limit is None or not self.fixed or self.fixed + width <= self.limit

    def holds_back(self, width: int) -> int:
        """Of so many sequences that can't be moved, how many may not start now."""
        return 0 if self.limit is None else max(0, width - max(0, self.limit - self.fixed))

    def note(self, ticket: Ticket, replica: Replica | None) -> None:
        """The ticket started on a replica, left it (None), or something about either changed."""
        now_fixed = replica is not None and becomes_fixed(ticket, replica)
        if now_fixed is not ticket.fixed:
            ticket.fixed = now_fixed
            self.fixed += ticket.width if now_fixed else -ticket.width


def becomes_fixed(ticket: Ticket, replica: Replica) -> bool:
    """Whether the ticket, running there, can't be moved or won't be movable for long."""
    if ticket.tier is Tier.RESERVED or (replica.continuable and ticket.continuable and ticket.streamed):
        return False
    return ticket.streamed or ticket.sent or ticket.restarts >= MAX_RESTARTS
