"""Coarse time limits for many short awaits, at the price of a dictionary entry each.

`asyncio.timeout` arms and disarms a timer of the event loop at every use, which a request
feels when it never fires. Here one sweep a second looks at all limits that are in force.
"""

import asyncio
from types import TracebackType

SWEEP_S = 1.0


class Deadlines:
    """The limits of one event loop. `with deadlines.within(seconds):` raises `TimeoutError`, up to 1 s late."""

    def __init__(self) -> None:
        self._running: dict[_Limit, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float) -> "_Limit":
        """A limit for the current task, in force from the moment it is entered."""
        return _Limit(self, seconds)

    def add(self, limit: "_Limit") -> None:
        """A limit comes into force."""
        self._running[limit] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def drop(self, limit: "_Limit") -> None:
        """A limit is over."""
        self._running.pop(limit, None)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for limit in [limit for limit in self._running if limit.ends_at <= now]:
            self.drop(limit)
            limit.fire()
        self._timer = loop.call_later(SWEEP_S, self._sweep) if self._running else None


class _Limit:
    """One await under a limit; like `asyncio.timeout`, it tells its own cancellation from any other."""

    __slots__ = ("_deadlines", "_fired", "_seconds", "_task", "ends_at")

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self._fired = False
        self._task: asyncio.Task[object] | None = None
        self.ends_at = 0.0

    def fire(self) -> None:
        """The time is up."""
        self._fired = True
        if self._task is not None:
            self._task.cancel()

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task(loop)
        self.ends_at = loop.time() + self._seconds
        self._deadlines.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.drop(self)
        if self._fired and self._task is not None and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TimeoutError from error
