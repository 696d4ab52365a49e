"""Notices callers who have gone: who hung up, and who no longer reads (R15)."""

import asyncio
from typing import Any, Protocol

from fareclass.core.limits import CALLER_STALL_S
from fareclass.deadlines import Deadlines
from fareclass.wire.arrival import Receive

_YOUNG_S = 0.02


class Watched(Protocol):
    """One who gets an answer: how many pieces were `handed` to the server and `taken` by it, and whether all are.

    `gone` is set once he has hung up, just before his task is cancelled.
    """

    finished: bool
    gone: bool
    handed: int
    taken: int


class Callers:
    """Watches each request's connection, from 20 to 40 ms after its beginning.

    Watching takes a task. A request that is over sooner never needs it, and a caller who
    hangs up sooner is noticed well within the 100 ms of R15 all the same.
    """

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._new: dict[Watched, tuple[Receive, asyncio.Task[Any]]] = {}
        self._young: dict[Watched, tuple[Receive, asyncio.Task[Any]]] = {}
        self._watchers: dict[Watched, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, receive: Receive, reply: Watched) -> None:
        """The current task's request begins."""
        task = asyncio.current_task()
        assert task is not None, "a request runs in a task"
        self._new[reply] = (receive, task)
        if self._timer is None:
            self._timer = task.get_loop().call_later(_YOUNG_S, self._sweep)

    def leave(self, reply: Watched) -> None:
        """The request is over."""
        if self._new.pop(reply, None) is None and self._young.pop(reply, None) is None:
            watcher = self._watchers.pop(reply, None)
            if watcher is not None:
                watcher.cancel()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        for reply, (receive, task) in self._young.items():
            self._watchers[reply] = loop.create_task(self._watch(receive, reply, task))
        self._young, self._new = self._new, {}
        self._timer = loop.call_later(_YOUNG_S, self._sweep) if self._young else None

    async def _watch(self, receive: Receive, reply: Watched, caller: asyncio.Task[Any]) -> None:
        """Cancel the walk once the caller hangs up, or has read nothing for `CALLER_STALL_S`.

        The server says `http.disconnect` after a finished response too; `reply.finished` tells these apart.
        """
        while True:
            taken = reply.taken
            try:
                with self._deadlines.within(CALLER_STALL_S):
                    if (await receive())["type"] == "http.disconnect":
                        break
            except TimeoutError:
                if reply.taken == taken < reply.handed:
                    break
        if not reply.finished:
            reply.gone = True
            caller.cancel()
