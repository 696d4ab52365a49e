"""The live side of one ticket: how the scheduler's decisions reach the task that serves the request."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Collection, Iterable
from typing import Self

from fareclass.core.limits import BREAKS
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.engine.base import EngineFailed
from fareclass.sched.admission import DOWN_RETRY_S
from fareclass.sched.ticket import Refuse, Ticket


class Interrupted(Exception):
    """The scheduler has taken the seat's slot: the upstream call is over, the request goes on later."""


class Seat:
    """A request's place, and the wire between the scheduler and the request's own task.

    The task awaits `turn` for a replica, then runs its upstream call inside
    `async with seat.call(may_cut)`, where `may_cut` says whether the answer may be ended
    where it stands (R11). The seat forgets it afterwards, so that what it belongs to is no
    cycle with the seat, which only the garbage collector could end.
    Of a request that names a route (R45): `models` may serve it; `elsewhere`: if this pool can't, another comes after it;
    `called`: the model that it is to go to instead, since that can serve again.
    `breaks` are the times without a replica after the first start, with why; the last may not have ended.
    Decisions come synchronously, in the middle of anything: they only set flags, resolve
    the turn, or cancel the task's current await. Such a cancellation is told apart from a
    caller's hang-up by `_wanted`, and undone by `Task.uncancel`, so that both may come at once.
    """

    __slots__ = (
        "_may_cut",
        "_turn",
        "_wanted",
        "active_at",
        "breaks",
        "called",
        "elsewhere",
        "models",
        "pause_due",
        "refused",
        "refused_by",
        "replica",
        "task",
        "ticket",
    )

    def __init__(self, ticket: Ticket) -> None:
        task = asyncio.current_task()
        assert task is not None, "a seat belongs to the task that makes it"
        self.task = task
        self.ticket = ticket
        self.replica: str | None = None
        self.refused: Refuse | None = None
        self.pause_due = False
        self.refused_by: list[tuple[str, EngineFailed]] = []
        self.active_at = 0.0
        self.models: Collection[str] = ()
        self.elsewhere = False
        self.called = ""
        self.breaks: list[tuple[str, float, float]] = []
        self._turn: asyncio.Future[None] | None = None
        self._may_cut: Callable[[], bool] | None = None
        self._wanted: Exception | None = None

    async def turn(self) -> str:
        """Wait until the ticket may start; returns the replica.

        Raises:
            Refusal: it never will.
        """
        while self.replica is None and self.refused is None:
            self._turn = self.task.get_loop().create_future()
            try:
                await self._turn
            finally:
                self._turn = None
        if self.refused is not None:
            raise as_refusal(self.refused)
        assert self.replica is not None
        return self.replica

    @property
    def decided(self) -> bool:
        """Whether `turn` returns at once."""
        return self.replica is not None or self.refused is not None

    def waited_s(self, started_s: float | None, now: float) -> float:
        """How long it has stood in line: until it first started, None if it never has, and in its breaks since."""
        if not self.ticket.seq:
            return 0.0  # it was refused before it came there
        first_s = (now if started_s is None else started_s) - self.ticket.arrival
        return first_s + sum(min(until_s, now) - from_s for _, from_s, until_s in self.breaks)

    # -- called by the dispatcher, never by the task itself

    def started(self, replica: str) -> None:
        """The ticket has a slot."""
        if self._in_break:
            kind, from_s, _ = self.breaks[-1]
            self.breaks[-1] = kind, from_s, self.task.get_loop().time()
        self.replica = replica
        self.pause_due = False
        self._wake()

    def out(self, refuse: Refuse) -> None:
        """The ticket is refused."""
        self.refused = refuse
        self._wake()

    def pause(self) -> None:
        """End the call where it stands if that is a clean cut, else at the next one that the task sees."""
        self.pause_due = True
        if self._may_cut is not None and self._may_cut():
            self.interrupt(Interrupted())

    def vacate(self) -> None:
        """The slot is gone: drop the upstream call at once."""
        self.leave("restart")
        self.interrupt(Interrupted())

    def leave(self, kind: str) -> None:
        """It has no replica until it starts again; `kind` says why, as in `core.events.Break`."""
        self.replica = None
        if len(self.breaks) < BREAKS and not self._in_break:
            self.breaks.append((kind, self.task.get_loop().time(), math.inf))

    @property
    def _in_break(self) -> bool:
        return bool(self.breaks) and self.breaks[-1][2] == math.inf

    def interrupt(self, reason: Exception) -> None:
        """Raise `reason` at the await where the task's upstream call stands."""
        if self._may_cut is not None and self._wanted is None:
            self._wanted = reason
            self.task.cancel()

    def _wake(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    # -- around the upstream call, by the task

    def call(self, may_cut: Callable[[], bool]) -> Self:
        """Entered at once: decisions reach the call that begins now."""
        self._may_cut = may_cut
        return self

    async def __aenter__(self) -> None:
        """The call has been told of by `call`."""

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._may_cut = None
        wanted, self._wanted = self._wanted, None
        if wanted is None:
            return
        if not isinstance(error, asyncio.CancelledError):
            # The cancellation may still be on its way: take it here, not at somebody's next await.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        if self.task.uncancel() > 0:
            raise asyncio.CancelledError  # the caller has hung up as well
        if isinstance(error, asyncio.CancelledError | EngineFailed):
            raise wanted from None


def as_refusal(refuse: Refuse) -> Refusal:
    """What the scheduler decided, as the caller gets it."""
    wait = refuse.retry_after_s
    return Refusal(
        refuse.outcome,
        refuse.message,
        code=refuse.code,
        retry_after_ms=None if wait is None else round(wait * 1000),
        retry=False if refuse.hopeless else None,
    )


def move_elsewhere(seats: Iterable[Seat], *, ready: bool) -> None:
    """Where no replica of their pool can serve, those that have sent nothing and another model may serve go there (R45)."""
    for seat in () if ready else seats:
        if seat.elsewhere and seat.replica is None and not seat.ticket.sent:
            _move(seat)


def call_to(model: str, seats: Iterable[Seat]) -> None:
    """Those that wait in a pool that can't serve, for want of a better one, go to this model, which can again (R45)."""
    for seat in seats:
        if model in seat.models and not seat.decided and not seat.ticket.sent:
            seat.called = model
            _move(seat)


def _move(seat: Seat) -> None:
    message = "No replica of this model can serve at the moment."
    seat.out(Refuse(seat.ticket, Outcome.SHED, message, DOWN_RETRY_S))
