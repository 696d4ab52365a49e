"""Which floors are in force: tells each pool when a reservation begins, ends, opens or closes (R18)."""

import asyncio
import time
from collections.abc import Callable, Mapping

from fareclass.core.snapshot import Reservation, Snapshot
from fareclass.flow.dispatch import Dispatcher
from fareclass.policy.calendar import in_force, next_change_us
from fareclass.sched.reserves import Floor

LOOK_S = 1.0
"""How often the time of day is looked at; a request looks for itself, so that it finds its floor to the microsecond."""


class Standing:
    """The floors in force, by the time of day, in every pool.

    Nothing is computed while the snapshot is the same and no reservation begins or ends.
    """

    def __init__(self, snapshot: Callable[[], Snapshot], dispatchers: Mapping[str, Dispatcher]) -> None:
        self._current = snapshot
        self._dispatchers = dispatchers
        self._snapshot: Snapshot | None = None
        self._from_us = self._until_us = 0

    async def run(self) -> None:
        """Follow the time of day until cancelled."""
        while True:
            self.look(self._current(), time.time_ns() // 1000)
            await asyncio.sleep(LOOK_S)

    def look(self, snapshot: Snapshot, now_us: int) -> None:
        """Put the floors of this moment into force, if they are others than before."""
        if snapshot is self._snapshot and self._from_us <= now_us < self._until_us:
            return
        self._snapshot, self._from_us = snapshot, now_us
        every = [one for several in snapshot.reservations.values() for one in several]
        self._until_us = min((next_change_us(one, now_us) for one in every), default=_NEVER_US)
        for model, dispatcher in self._dispatchers.items():
            dispatcher.set_floors(_floors([one for one in every if one.model == model and in_force(one, now_us)]))


_NEVER_US = 2**62


def _floors(reservations: list[Reservation]) -> dict[str, Floor]:
    """What each project has, several reservations added up (R3)."""
    floors: dict[str, Floor] = {}
    for one in reservations:
        before = floors.get(one.project, Floor(0, 0))
        floors[one.project] = Floor(before.input_tpm + one.input_tpm, before.output_tpm + one.output_tpm)
    return floors
