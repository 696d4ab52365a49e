"""What a worker waits for: told times, growing pauses, and whoever can't be reached; a stop ends all waits."""

import asyncio
import random
from collections.abc import Callable
from typing import Final, NamedTuple

_CANNOT, _CAN = "can't", "can"
_SPREAD: Final = 0.2
"""A wait is up to this share longer, so that workers don't come back all at once."""
_QUIET_S: Final = 60.0
"""What is not news is said no more often."""


class Times(NamedTuple):
    """All in seconds.

    A message of which its worker says nothing for `idle_s` may be taken over; a worker says something every `keep_s`, and
    looks for such messages every `look_s`. That is soon enough to join the work of one that has died, which the gateway
    goes on with for 30 s (R48). One read waits `block_s` for messages. After a stop, running requests have `drain_s`.
    Where nobody says how long to wait, it is `first_wait_s` at first and twice as long each time. A call without an answer
    for `read_s` is sent again, to join its own work: so a connection that died unseen is found out.
    """

    idle_s: float = 20.0
    keep_s: float = 5.0
    look_s: float = 3.0
    block_s: float = 1.0
    drain_s: float = 30.0
    first_wait_s: float = 1.0
    read_s: float = 300.0


class Stopped(Exception):
    """The worker was stopped during a wait."""


class Patience:
    """Waits of one worker, of which `waiting` are under way. `say` hears, in a sentence, what they are for."""

    def __init__(self, times: Times, say: Callable[[str], None]) -> None:
        self.times = times
        self.waiting = 0
        self.say = say
        self._stopping = asyncio.Event()
        self._lost: set[str] = set()
        self._said_s: dict[str, float] = {}

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        """End all waits."""
        self._stopping.set()

    async def pause(self, seconds: float) -> None:
        """Raises:
        Stopped: before its end.
        """
        self.waiting += 1
        try:
            async with asyncio.timeout(seconds * self._spread()):
                await self._stopping.wait()
        except TimeoutError:
            return
        finally:
            self.waiting -= 1
        raise Stopped

    def growing_s(self, tries: int, longest_s: float) -> float:
        """How long to wait after so many tries, at least one."""
        return min(longest_s, self.times.first_wait_s * 2.0 ** min(tries - 1, 30))

    def lost(self, what: str, why: str) -> None:
        """Something "can't" be done, and is tried again: said once, until it is `found` to be over."""
        if what not in self._lost:
            self._lost.add(what)
            self.say(f"{what}, which is tried again until it can: {why}")

    def found(self, what: str) -> None:
        """It can."""
        if what in self._lost:
            self._lost.remove(what)
            self.say(f"{what.replace(_CANNOT, _CAN)} again")

    def note(self, what: str) -> None:
        """Something that may happen to each message, and is worth a line now and then."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._said_s.get(what, now_s):
            self._said_s[what] = now_s + _QUIET_S
            self.say(what)

    @staticmethod
    def _spread() -> float:
        return random.uniform(1.0, 1.0 + _SPREAD)  # noqa: S311 - no secret
