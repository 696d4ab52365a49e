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
    sweep_responses,
)

_log = logging.getLogger(__name__)
_DAY_US = 86_400_000_000
_GROUP = 100
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
        self._closed = False

    def open(self) -> None:
        """Begin to write."""
        self._writer = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Write what is left."""
        self._closed = True
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
        ids = [one for one in ids if _ID.fullmatch(one)]
        pending = [row for one in ids if (row := self._pending.get(one)) is not None]
        found = {row.id: row for row in pending if row.project == project}
        missing = [one for one in ids if one not in found]

        def read() -> list[ResponseRow]:
            with self._store.read() as connection:
                return find_responses(connection, project, missing)

        if missing:
            found |= {row.id: row for row in await asyncio.to_thread(read)}
        return found

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
        while not self._closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(RESPONSES_SWEEP_S):
                    await self._due.wait()
            self._due.clear()
            while self._pending:
                await self._write()
            if loop.time() - swept_s >= RESPONSES_SWEEP_S:
                swept_s = loop.time()
                await self._sweep()

    async def _write(self) -> None:
        async with self._writing:
            rows = list(self._pending.values())[:_GROUP]
            try:
                await asyncio.to_thread(self._commit, rows)
            except SQLAlchemyError as error:
                _log.error("responses could not be stored", extra={"count": len(rows), "cause": str(error)})
            finally:
                for row in rows:
                    self._drop(row)

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
                before_us = now_us() - RESPONSE_DAYS * _DAY_US
                sweep_responses(connection, before_us, count=RESPONSES, size_bytes=RESPONSES_BYTES)

        try:
            await self._in_thread(write)
        except SQLAlchemyError as error:
            _log.error("stored responses could not be swept", extra={"cause": str(error)})

    async def _in_thread(self, write: Callable[[], None]) -> None:
        async with self._writing:
            await asyncio.to_thread(write)


def is_over(row: ResponseRow) -> bool:
    """Whether nothing more will come of it."""
    return row.status not in UNFINISHED
