"""Whether a replica may be used: a circuit breaker per replica, and the loop that looks at its health.

The breaker is pure: events and the time go in. It opens after some failures in a row; when its
back-off is over and a look finds the replica healthy, it is half open: used again, but the
first failure opens it for twice as long. Only work that succeeded closes it, so a replica
whose health page is fine and whose work is not does not flap at full speed.
"""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from fareclass.engine.base import Engine, EngineFailed, EngineRefused

_FAILURES_TO_OPEN: Final = 3
_MISSES_TO_OPEN: Final = 2
_FIRST_BACKOFF_S: Final = 1.0
_MAX_BACKOFF_S: Final = 30.0
_LOOK_EVERY_S: Final = 2.0
_PROBE_S: Final = 120.0
"""Some thousand tokens, which a large model on a slow machine must have time for."""


class State(StrEnum):
    """Closed: in use. Open: not in use. Half open: in use, on trial."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """The circuit breaker of one replica. Times are the driver's clock, in seconds."""

    def __init__(self) -> None:
        self.state = State.CLOSED
        self._failures = 0
        self._misses = 0
        self._backoff_s = _FIRST_BACKOFF_S
        self._retry_at = 0.0

    @property
    def up(self) -> bool:
        """Whether work may be sent there."""
        return self.state is not State.OPEN

    def succeeded(self) -> None:
        """A request was served."""
        self._failures = 0
        if self.state is State.HALF_OPEN:
            self.state = State.CLOSED
            self._backoff_s = _FIRST_BACKOFF_S

    def failed(self, now: float) -> None:
        """A request failed through the replica's fault."""
        self._failures += 1
        if self.state is State.HALF_OPEN or (self.state is State.CLOSED and self._failures >= _FAILURES_TO_OPEN):
            self._open(now)

    def found_sick(self, now: float) -> None:
        """A look found the replica unhealthy."""
        self._misses += 1
        if self.state is State.HALF_OPEN or (self.state is State.CLOSED and self._misses >= _MISSES_TO_OPEN):
            self._open(now)

    def gone(self, now: float) -> None:
        """Open at once: nothing listens there any more."""
        if self.state is not State.OPEN:
            self._open(now)

    def found_healthy(self, now: float) -> None:
        """A look found the replica healthy: an open breaker whose back-off is over goes half open."""
        self._misses = 0
        if self.state is State.OPEN and now >= self._retry_at:
            self.state = State.HALF_OPEN

    def _open(self, now: float) -> None:
        if self.state is State.HALF_OPEN:
            self._backoff_s = min(2 * self._backoff_s, _MAX_BACKOFF_S)
        self.state = State.OPEN
        self._failures = self._misses = 0
        self._retry_at = now + self._backoff_s


class Watch:
    """Looks after one replica's health and tells when it goes up or down.

    `run` is a task's body; it ends when it is cancelled. `on_change` is called with True once
    the replica was probed and may be used, with False when it may not; a replica starts as
    down. `succeeded` and `failed` are for whoever sends work there. `looked` is set once the
    first look is over, whatever it found.
    """

    def __init__(
        self, engine: Engine, on_change: Callable[[bool], None], *, look_every_s: float = _LOOK_EVERY_S
    ) -> None:
        self.looked = asyncio.Event()
        self._engine = engine
        self._on_change = on_change
        self._look_every_s = look_every_s
        self._breaker = Breaker()
        self._told_up = False
        self._probed = False

    @property
    def state(self) -> State:
        """The breaker's state, for the pool's page."""
        return self._breaker.state

    def succeeded(self) -> None:
        """A request was served."""
        self._breaker.succeeded()

    def failed(self, error: EngineFailed) -> None:
        """A request failed; a replica that can't even be connected to is down at once."""
        now = asyncio.get_running_loop().time()
        if error.reason == "unreachable":
            self._breaker.gone(now)
            self._probed = False
        else:
            self._breaker.failed(now)
        self._tell()

    async def run(self) -> None:
        """Look at the replica every few seconds until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._look_every_s)

    async def look(self) -> None:
        """One look; a replica that was away is probed before it is used, since it may have come back another."""
        healthy = await self._engine.healthy() and (self._probed or await self._probe())
        now = asyncio.get_running_loop().time()
        if healthy:
            self._breaker.found_healthy(now)
        else:
            self._breaker.found_sick(now)
            self._probed = self._probed and self._breaker.up
        self._tell()
        self.looked.set()

    async def _probe(self) -> bool:
        try:
            async with asyncio.timeout(_PROBE_S):
                await self._engine.probe()
        except (EngineFailed, EngineRefused, TimeoutError):
            return False
        self._probed = True
        return True

    def _tell(self) -> None:
        up = self._breaker.up and (self._probed or self._told_up)
        if up != self._told_up:
            self._told_up = up
            self._on_change(up)
