"""Which floors are in force: tells each pool when a reservation begins, ends, opens or closes (R18)."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from fareclass.core.snapshot import Snapshot
from fareclass.flow.clock import now_us
from fareclass.flow.dispatch import Dispatcher
from fareclass.policy.calendar import NEVER_US, in_force, next_change_us
from fareclass.sched.reserves import Floor

_log = logging.getLogger(__name__)
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
            try:
                self.look(self._current(), now_us())
            except Exception:  # noqa: BLE001 - whatever it is, the floors must go on following the time of day
                _log.exception("the floors in force could not be told, will retry")
            await asyncio.sleep(LOOK_S)

    def look(self, snapshot: Snapshot, at_us: int) -> None:
        """Put the floors of this moment into force, if they are others than before."""
        if snapshot is self._snapshot and self._from_us <= at_us < self._until_us:
            return
        every = [one for several in snapshot.reservations.values() for one in several]
        until_us = min((next_change_us(one, at_us) for one in every), default=NEVER_US)
        for model, dispatcher in self._dispatchers.items():
            dispatcher.set_floors(floors_at(snapshot, model, at_us))
        self._snapshot, self._from_us, self._until_us = snapshot, at_us, until_us


def floors_at(snapshot: Snapshot, model: str, at_us: int) -> dict[str, Floor]:
    """What each project has of a model at a moment, several reservations added up (R3)."""
    floors: dict[str, Floor] = {}
    for (project, name), several in snapshot.reservations.items():
        for one in several:
            if name == model and in_force(one, at_us):
                before = floors.get(project, Floor(0, 0))
                floors[project] = Floor(before.input_tpm + one.input_tpm, before.output_tpm + one.output_tpm)
    return floors
