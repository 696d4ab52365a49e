"""What the gateway knows in memory and a restart must not lose: written every few seconds, and at the end."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final, Protocol

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from fareclass.store import StoreError
from fareclass.store.database import Store

_log = logging.getLogger(__name__)
KEEP_S: Final = 3.0
"""What a kill may lose of it."""


class Kept(Protocol):
    """One thing that is kept. Its state is taken in the event loop and written in a thread."""

    def load(self, connection: Connection) -> None:
        """Take in what was kept; called once, before there is any work."""

    def dump(self) -> Any:
        """What is new since the last time, as an object that nobody changes any more; None if nothing is."""

    def save(self, connection: Connection, state: Any) -> None:
        """Write it."""

    def unsaved(self, state: Any) -> None:
        """It could not be written: the next `dump` must hold it again."""


class Keeper:
    """Loads all of them at the start, and writes what changed."""

    def __init__(self, store: Store, kept: Sequence[Kept]) -> None:
        self._store = store
        self._kept = kept
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Load, and keep from now on."""
        await asyncio.to_thread(self._load)
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Write one last time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self.flush()

    async def flush(self) -> None:
        """Write what is new, in one transaction. What can't be written now is tried again with the next."""
        states = [(kept, state) for kept in self._kept if (state := kept.dump()) is not None]
        if not states:
            return
        try:
            await asyncio.shield(asyncio.to_thread(self._save, states))
        except (SQLAlchemyError, StoreError, OSError) as error:
            for kept, state in states:
                kept.unsaved(state)
            _log.error("what must outlive a restart could not be written, will retry", extra={"cause": str(error)})

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(KEEP_S)
            await self.flush()

    def _load(self) -> None:
        with self._store.read() as connection:
            for kept in self._kept:
                kept.load(connection)

    def _save(self, states: Sequence[tuple[Kept, Any]]) -> None:
        with self._store.write() as connection:
            for kept, state in states:
                kept.save(connection, state)
