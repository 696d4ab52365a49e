"""Floors, quotas and learned estimates over a restart: no promise is broken and no minute is given away (R20, R25)."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection

from fareclass.core.tiers import BY_WORD
from fareclass.flow.dispatch import Dispatcher
from fareclass.policy.estimate import Estimator
from fareclass.store.checkpoints import list_checkpoints, put_checkpoints
from fareclass.store.entries import ended_since

_LEVELS: Final = "levels/"
_ESTIMATES: Final = "estimates/"
_REMEMBERED_US: Final = 600_000_000
"""How far the ledger is gone back where there is no checkpoint yet: a bucket of a minute has filled long before."""
_ENTRIES: Final = 100_000
"""Ledger entries that are gone through at a start: those of the seconds since the last checkpoint."""


class Levels:
    """What is in the buckets of every pool (`keeper.Kept`).

    A checkpoint holds the levels as they would be without work in flight. What ended after it
    is in the ledger, and is charged at the next start; what was in flight at a crash was
    never answered, and is not.
    """

    def __init__(self, dispatchers: Mapping[str, Dispatcher]) -> None:
        self._dispatchers = dispatchers
        self._loop = asyncio.get_running_loop()
        self._seen: dict[str, int] = {}

    def load(self, connection: Connection) -> None:
        """Go on from the last checkpoint."""
        now_us = time.time_ns() // 1000
        behind_s = now_us / 1e6 - self._loop.time()
        since_us = dict.fromkeys(self._dispatchers, now_us - _REMEMBERED_US)
        for model, checkpoint in list_checkpoints(connection, _LEVELS).items():
            if model in self._dispatchers:
                self._dispatchers[model].brain.restore(checkpoint.state, checkpoint.at_us / 1e6 - behind_s)
                since_us[model] = checkpoint.at_us
        for project, model, tier, ended_us, usage in ended_since(connection, min(since_us.values()), _ENTRIES):
            if ended_us > since_us.get(model, now_us):
                brain = self._dispatchers[model].brain
                brain.charge(project, BY_WORD[tier], usage, ended_us / 1e6 - behind_s)

    def dump(self) -> tuple[int, dict[str, Any]] | None:
        """The levels of pools that have had work since the last time; of others they can be worked out."""
        now = self._loop.time()
        states = {}
        for model, dispatcher in self._dispatchers.items():
            if dispatcher.busy or self._seen.get(model) != dispatcher.offered:
                self._seen[model] = -1 if dispatcher.busy else dispatcher.offered
                states[model] = dispatcher.brain.levels(now)
        return (time.time_ns() // 1000, states) if states else None

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

    def load(self, connection: Connection) -> None:
        """Go on from what was kept."""
        kept = list_checkpoints(connection, _ESTIMATES)
        self._estimator.restore({_flow(name): checkpoint.state for name, checkpoint in kept.items()})

    def dump(self) -> dict[tuple[str, str], list[int]] | None:
        """What was learned since the last time."""
        return self._estimator.take_changed() or None

    def save(self, connection: Connection, state: dict[tuple[str, str], list[int]]) -> None:
        """Write it."""
        states = {f"{project}/{model}": learned for (project, model), learned in state.items()}
        put_checkpoints(connection, _ESTIMATES, states, time.time_ns() // 1000)

    def unsaved(self, state: dict[tuple[str, str], list[int]]) -> None:
        """It is taken again."""
        self._estimator.changed_again(state)


def _flow(name: str) -> tuple[str, str]:
    """Ids of projects hold no slash; names of models may."""
    project, _, model = name.partition("/")
    return project, model
