"""Floors, quotas and learned estimates over a restart: no promise is broken and no minute is given away (R20, R25)."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, NamedTuple, TypedDict

from msgspec import Meta
from sqlalchemy import Connection

from fareclass.core.snapshot import Snapshot
from fareclass.core.tiers import BY_WORD
from fareclass.flow.clock import now_us
from fareclass.flow.dispatch import Dispatcher
from fareclass.flow.reserved import floors_at
from fareclass.policy.estimate import Estimator
from fareclass.store.checkpoints import Checkpoint, list_checkpoints, put_checkpoints
from fareclass.store.entries import Ended, ended_after

_LEVELS: Final = "levels/"
_ESTIMATES: Final = "estimates/"
_REMEMBERED_US: Final = 600_000_000
"""How far the ledger is gone back where there is no checkpoint yet: a bucket of a minute has filled long before."""
_ENTRIES: Final = 100_000
"""Ledger entries of a pool that are gone through at a start, the newest: those of the seconds since its checkpoint."""


_Three = tuple[int | None, int | None, int | None]
_Learned = Annotated[list[int], Meta(min_length=2)]


class _KeptQuota(TypedDict):
    limits: _Three
    levels: _Three


class _KeptPool(TypedDict):
    """What `Brain.levels` makes."""

    floors: dict[str, tuple[int, int, int, int]]
    quotas: dict[str, _KeptQuota]


class Remembered(NamedTuple):
    """What is known of a pool from before the start; `since_us` is when its levels were `levels`, None if nobody kept any."""

    since_us: int
    levels: Any
    ended: list[Ended]


class Levels:
    """What is in the buckets of every pool (`keeper.Kept`).

    A checkpoint holds the levels as they would be without work in flight. What ended after it
    is in the ledger, and is charged at the next start; what was in flight at a crash was
    never answered, and is not. It is charged to floors and quotas that are in force at this start:
    those that come later begin anew.
    """

    def __init__(self, snapshot: Callable[[], Snapshot], dispatchers: Mapping[str, Dispatcher]) -> None:
        self._current = snapshot
        self._dispatchers = dispatchers
        self._loop = asyncio.get_running_loop()
        self._seen: dict[str, int] = {}

    def fetch(self, connection: Connection) -> dict[str, Remembered]:
        """The last checkpoints, and what ended after each."""
        kept, before = list_checkpoints(connection, _LEVELS, _KeptPool), Checkpoint(now_us() - _REMEMBERED_US, None)
        found = {}
        for model in self._dispatchers:
            last = kept.get(model, before)
            found[model] = Remembered(last.at_us, last.state, ended_after(connection, model, last.at_us, _ENTRIES))
        return found

    def load(self, state: dict[str, Remembered]) -> None:
        """Go on from there."""
        snapshot, at_us = self._current(), now_us()
        behind_s = at_us / 1e6 - self._loop.time()
        for model, (since_us, levels, ended) in state.items():
            brain = self._dispatchers[model].brain
            brain.restore(levels, floors_at(snapshot, model, at_us), since_us / 1e6 - behind_s)
            for project, tier, ended_us, width, usage in ended:
                quota = snapshot.quotas.get((project, model))
                brain.charge(project, BY_WORD[tier], usage, width, quota, ended_us / 1e6 - behind_s)

    def dump(self) -> tuple[int, dict[str, Any]] | None:
        """The levels of pools that have had work since the last time; of others they can be worked out."""
        now = self._loop.time()
        states = {}
        for model, dispatcher in self._dispatchers.items():
            if dispatcher.busy or self._seen.get(model) != dispatcher.offered:
                self._seen[model] = -1 if dispatcher.busy else dispatcher.offered
                states[model] = dispatcher.brain.levels(now)
        return (now_us(), states) if states else None

    def save(self, connection: Connection, state: tuple[int, dict[str, Any]]) -> None:
        """Write them."""
        at_us, states = state
        put_checkpoints(connection, _LEVELS, states, at_us)

    def unsaved(self, state: tuple[int, dict[str, Any]]) -> None:
        """They are taken anew with the next."""
        self._seen.clear()


class Estimates:
    """What was learned of prompts and answers (`keeper.Kept`)."""

    def __init__(self, estimator: Estimator) -> None:
        self._estimator = estimator

    def fetch(self, connection: Connection) -> dict[tuple[str, str], list[int]]:
        """What was kept."""
        return {_flow(name): kept.state for name, kept in list_checkpoints(connection, _ESTIMATES, _Learned).items()}

    def load(self, state: dict[tuple[str, str], list[int]]) -> None:
        """Go on from there."""
        self._estimator.restore(state)

    def dump(self) -> dict[tuple[str, str], list[int]] | None:
        """What was learned since the last time."""
        return self._estimator.take_changed() or None

    def save(self, connection: Connection, state: dict[tuple[str, str], list[int]]) -> None:
        """Write it."""
        states = {f"{project}/{model}": learned for (project, model), learned in state.items()}
        put_checkpoints(connection, _ESTIMATES, states, now_us())

    def unsaved(self, state: dict[tuple[str, str], list[int]]) -> None:
        """It is taken again."""
        self._estimator.changed_again(state)


def _flow(name: str) -> tuple[str, str]:
    """Ids of projects hold no slash; names of models may."""
    project, _, model = name.partition("/")
    return project, model
