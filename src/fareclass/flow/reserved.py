"""Which floors are in force: tells each pool when a reservation begins, ends, opens or closes (R18)."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from fareclass.core.snapshot import Reservation, Snapshot
from fareclass.flow.clock import now_us
from fareclass.flow.dispatch import Dispatcher
from fareclass.policy.calendar import NEVER_US, in_force, next_change_us
from fareclass.sched.reserves import Floor

_log = logging.getLogger(__name__)
LOOK_S = 1.0
"""How often the time of day is looked at; a request looks for itself, so that it finds its floor to the microsecond."""


class _State(NamedTuple):
    """Whether a reservation is in force, and the times between which that holds."""

    reservation: Reservation
    from_us: int
    until_us: int
    in_force: bool


class Standing:
    """The floors in force, by the time of day, in every pool.

    Nothing is computed while the snapshot is the same and no reservation begins or ends; with a new snapshot only the
    calendars of those that are new in it.
    """

    def __init__(self, snapshot: Callable[[], Snapshot], dispatchers: Mapping[str, Dispatcher]) -> None:
        self._current = snapshot
        self._dispatchers = dispatchers
        self._snapshot: Snapshot | None = None
        self._from_us = self._until_us = 0
        self._states: dict[str, _State] = {}

    async def run(self) -> None:
        """Follow the time of day until cancelled."""
        while True:
            try:
                self.follow()
            except Exception:  # noqa: BLE001 - whatever it is, the floors must go on following the time of day
                _log.exception("the floors in force could not be told, will retry")
            await asyncio.sleep(LOOK_S)

    def follow(self) -> None:
        """Put the floors of now into force."""
        self.look(self._current(), now_us())

    def look(self, snapshot: Snapshot, at_us: int) -> None:
        """Put the floors of this moment into force, if they are others than before."""
        if snapshot is self._snapshot and self._from_us <= at_us < self._until_us:
            return
        every = [one for several in snapshot.reservations.values() for one in several]
        self._states = {one.id: self._state(one, at_us) for one in every}
        standing = [one for one in every if self._states[one.id].in_force]
        for model, dispatcher in self._dispatchers.items():
            dispatcher.set_floors(_floors(standing, model))
        until_us = min((state.until_us for state in self._states.values()), default=NEVER_US)
        self._snapshot, self._from_us, self._until_us = snapshot, at_us, until_us

    def _state(self, one: Reservation, at_us: int) -> _State:
        """As it was found before, unless the time or the reservation is another."""
        known = self._states.get(one.id)
        if known is not None and known.from_us <= at_us < known.until_us and known.reservation == one:
            return known
        return _State(one, at_us, next_change_us(one, at_us), in_force(one, at_us))


def floors_at(snapshot: Snapshot, model: str, at_us: int) -> dict[str, Floor]:
    """What each project has of a model at a moment, several reservations added up (R3)."""
    return _floors(
        [one for several in snapshot.reservations.values() for one in several if in_force(one, at_us)], model
    )


def _floors(standing: Iterable[Reservation], model: str) -> dict[str, Floor]:
    floors: dict[str, Floor] = {}
    for one in standing:
        if one.model == model:
            before = floors.get(one.project, Floor(0, 0))
            floors[one.project] = Floor(before.input_tpm + one.input_tpm, before.output_tpm + one.output_tpm)
    return floors
