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
    """One thing that is kept. It is fetched and written in a thread, taken and given back in the event loop."""

    def fetch(self, connection: Connection) -> Any:
        """What was kept."""

    def load(self, state: Any) -> None:
        """Take in what was fetched; called once, before there is any work."""

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
        for kept, state in await asyncio.to_thread(self._fetch):
            kept.load(state)
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Write one last time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self.flush()

    async def flush(self) -> None:
        """Write what is new, in one transaction. What can't be written now is tried again with the next."""
        states: list[tuple[Kept, Any]] = []
        try:
            states += ((kept, state) for kept in self._kept if (state := kept.dump()) is not None)
            if states:
                await asyncio.shield(asyncio.to_thread(self._save, states))
        except Exception as error:  # noqa: BLE001 - one fault must not end the keeping of everything
            for kept, state in states:
                kept.unsaved(state)
            trace = not isinstance(error, SQLAlchemyError | StoreError | OSError)
            said = "what must outlive a restart could not be written, will retry"
            _log.error(said, extra={"cause": str(error)}, exc_info=trace)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(KEEP_S)
            await self.flush()

    def _fetch(self) -> list[tuple[Kept, Any]]:
        with self._store.read() as connection:
            return [(kept, kept.fetch(connection)) for kept in self._kept]

    def _save(self, states: Sequence[tuple[Kept, Any]]) -> None:
        with self._store.write() as connection:
            for kept, state in states:
                kept.save(connection, state)
