"""Responses that are kept for their project: written behind the answers, found again, and swept (R51)."""

import asyncio
import logging
import re
from collections.abc import Callable, Collection
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from fareclass.core.limits import (
    RESPONSE_BYTES,
    RESPONSE_DAYS,
    RESPONSES,
    RESPONSES_BYTES,
    RESPONSES_PENDING_BYTES,
    RESPONSES_SWEEP_S,
)
from fareclass.core.times import DAY_US
from fareclass.flow.clock import now_us
from fareclass.flow.webhooks import announce
from fareclass.store.database import Store
from fareclass.store.responses import (
    UNFINISHED,
    ResponseRow,
    delete_response,
    find_responses,
    list_unfinished,
    put_responses,
    responses_bytes,
    sweep_responses,
)

_log = logging.getLogger(__name__)
_GROUP = 100
_RETRY_S = 2.0
"""For so long the database is left alone after it has failed."""
_ID = re.compile(r"resp_[0-9a-f]{1,64}")
"""No other name is asked the database for: it may not even be text there."""


class StoredResponses:
    """What is `put` is found at once, and in the database soon: no answer waits for that (R35)."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending: dict[str, ResponseRow] = {}
        self._pending_bytes = 0
        self._due = asyncio.Event()
        self._writing = asyncio.Lock()
        self._writer: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def open(self) -> None:
        """Begin to write."""
        self._writer = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Write what is left."""
        self._closing.set()
        self._due.set()
        if self._writer is not None:
            await self._writer

    def put(self, row: ResponseRow) -> None:
        """Keep this; what is too large is not kept, which is no error of the answer."""
        size = row.size_bytes
        if size > RESPONSE_BYTES or self._pending_bytes + size > RESPONSES_PENDING_BYTES:
            _log.warning("a response is not stored", extra={"response": row.id, "size_bytes": size})
            return
        self._drop(self._pending.get(row.id))
        self._pending[row.id] = row
        self._pending_bytes += size
        self._due.set()

    async def add(self, row: ResponseRow) -> None:
        """Keep this before anybody hears of it.

        Raises:
            SQLAlchemyError: it could not be written.
        """
        await self._in_thread(lambda: self._commit([row]))

    async def find(self, project: str, ids: Collection[str]) -> dict[str, ResponseRow]:
        """Those of these that the project has."""
        found, missing = self._look(project, ids)

        def read() -> list[ResponseRow]:
            with self._store.read() as connection:
                return find_responses(connection, project, missing)

        if missing:
            found |= {row.id: row for row in await asyncio.to_thread(read)}
        return found

    async def size_bytes(self, project: str, ids: Collection[str]) -> int:
        """What `find` would read into memory."""
        found, missing = self._look(project, ids)

        def read() -> int:
            with self._store.read() as connection:
                return responses_bytes(connection, project, missing)

        return sum(row.size_bytes for row in found.values()) + await asyncio.to_thread(read)

    def _look(self, project: str, ids: Collection[str]) -> tuple[dict[str, ResponseRow], list[str]]:
        """What of the project's waits to be written, and what may be in the database."""
        ids = [one for one in ids if _ID.fullmatch(one)]
        pending = [row for one in ids if (row := self._pending.get(one)) is not None]
        found = {row.id: row for row in pending if row.project == project}
        return found, [one for one in ids if one not in found]

    async def delete(self, project: str, id: str) -> bool:
        """Whether it was there."""

        def write() -> bool:
            with self._store.write() as connection:
                return delete_response(connection, project, id)

        if not _ID.fullmatch(id):
            return False
        async with self._writing:
            pending = self._pending.get(id)
            mine = pending is not None and pending.project == project
            if mine:
                self._drop(pending)
            return await asyncio.to_thread(write) or mine

    async def unfinished(self) -> list[ResponseRow]:
        """Background responses that an end of the gateway has interrupted."""

        def read() -> list[ResponseRow]:
            with self._store.read() as connection:
                return list_unfinished(connection)

        return await asyncio.to_thread(read)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        swept_s = -RESPONSES_SWEEP_S
        while self._pending or not self._closing.is_set():
            if not self._pending:
                await _within(RESPONSES_SWEEP_S, self._due)
                self._due.clear()
            if self._pending and not await self._write():
                if self._closing.is_set():
                    _log.error("responses are lost, for want of the database", extra={"count": len(self._pending)})
                    return
                await _within(_RETRY_S, self._closing)
            elif loop.time() - swept_s >= RESPONSES_SWEEP_S:
                swept_s = loop.time()
                await self._sweep()

    async def _write(self) -> bool:
        """Write some of those that wait; False if they have to wait on, for want of the database."""
        async with self._writing:
            rows = list(self._pending.values())[:_GROUP]
            try:
                await asyncio.to_thread(self._commit, rows)
            except SQLAlchemyError as error:
                _log.error("responses could not be stored", extra={"count": len(rows), "cause": str(error)})
                return False
            for row in rows:
                self._drop(row)
        return True

    def _drop(self, row: ResponseRow | None) -> None:
        """It waits no longer, unless another of its id does."""
        if row is not None and self._pending.get(row.id) is row:
            del self._pending[row.id]
            self._pending_bytes -= row.size_bytes

    def _commit(self, rows: list[ResponseRow]) -> None:
        with self._store.write() as connection:
            put_responses(connection, rows)
            for row in rows:
                if row.background and is_over(row):
                    announce(connection, row.project, f"response.{row.status}", row.id)

    async def _sweep(self) -> None:
        def write() -> None:
            with self._store.write() as connection:
                before_us = now_us() - RESPONSE_DAYS * DAY_US
                sweep_responses(connection, before_us, count=RESPONSES, size_bytes=RESPONSES_BYTES)

        try:
            await self._in_thread(write)
        except SQLAlchemyError as error:
            _log.error("stored responses could not be swept", extra={"cause": str(error)})

    async def _in_thread(self, write: Callable[[], None]) -> None:
        async with self._writing:
            await asyncio.to_thread(write)


async def _within(limit_s: float, event: asyncio.Event) -> None:
    """Wait until it happens, but no longer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await event.wait()


def is_over(row: ResponseRow) -> bool:
    """Whether nothing more will come of it."""
    return row.status not in UNFINISHED
