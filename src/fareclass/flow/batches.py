"""All batches of this gateway, whatever API made them: made, run in turn, ended, and taken up again after a restart."""

import asyncio
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from fareclass.core.limits import BATCHES, BATCHES_RUNNING, PROJECT_BATCHES_RUNNING
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.snapshot import Key, Snapshot
from fareclass.core.tiers import Tier
from fareclass.flow.batch_job import CANCELLED, FAILED_BATCH, BatchJob, Place
from fareclass.flow.batch_lines import LineFormat
from fareclass.flow.clock import now_us
from fareclass.flow.dispatch import Dispatcher
from fareclass.flow.files import Files
from fareclass.flow.webhooks import announce
from fareclass.store import objects
from fareclass.store.database import Store
from fareclass.store.ids import BATCH, FILE, new_id
from fareclass.store.objects import ENDED, BatchRow, FileRow

CHECKING, RUNNING, FINALIZING = "checking", "running", "finalizing"
_AGAIN_S = 5.0
_log = logging.getLogger(__name__)


class Batches:
    """`formats` are the line formats by the name of their API."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        files: Files,
        snapshot: Callable[[], Snapshot],
        dispatchers: Mapping[str, Dispatcher],
        formats: Mapping[str, LineFormat],
    ) -> None:
        self._store = store
        self._folder = folder / "batches"
        self._files = files
        self._snapshot = snapshot
        self._dispatchers = dispatchers
        self._formats = formats
        self._waiting: dict[str, BatchRow] = {}
        self._jobs: dict[str, BatchJob] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    async def open(self) -> None:
        """Take up what has not ended."""
        for row in await asyncio.to_thread(self._read_open):
            self._waiting[row.id] = row
        self._start_next()

    async def close(self) -> None:
        """Hang up; what is finished is kept, the rest goes on at the next start."""
        self._closing = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def create(self, key: Key, api: str, input: str, terms: dict[str, Any], window_s: int) -> BatchRow:
        """Make a batch of the project's file `input`.

        Raises:
            Refusal: `forbidden`: the key has no batch tier; `throttled`: the project has too many.
        """
        if key.allowed_tiers is not None and Tier.BATCH not in key.allowed_tiers:
            raise Refusal(Outcome.FORBIDDEN, f"The key `{key.name}` does not allow the batch tier.")
        created_us = now_us()
        row = BatchRow(
            id=new_id(BATCH),
            project=key.project.id,
            key=key.id,
            api=api,
            state=CHECKING,
            input=input,
            terms=terms,
            books={name: msgspec.to_builtins(book) for name, book in self._snapshot().books.items()},
            created_us=created_us,
            deadline_us=created_us + window_s * 1_000_000,
        )
        await asyncio.to_thread(self._add, row)
        self._waiting[row.id] = row
        self._start_next()
        return row

    async def find(self, project: str, api: str, id: str) -> BatchRow | None:
        """The project's batch with this id, as far as it is at this moment."""
        row = await asyncio.to_thread(self._find, project, api, id)
        return None if row is None else self._live(row)

    async def listed(self, project: str, api: str, *, after: str | None, limit: int) -> list[BatchRow]:
        """Newest first."""

        def read() -> list[BatchRow]:
            with self._store.read() as connection:
                return objects.list_batches(connection, project, api, after=after, limit=limit)

        return [self._live(row) for row in await asyncio.to_thread(read)]

    async def cancel(self, row: BatchRow) -> BatchRow:
        """What is finished stays; idempotent."""
        row = self._waiting.get(row.id) or (self._jobs[row.id].row if row.id in self._jobs else row)
        if row.state != ENDED and row.cancelling_us is None:
            row.cancelling_us = now_us()
            await asyncio.to_thread(self._update, row)
            if row.id in self._jobs:
                self._jobs[row.id].cancel()
        return row

    def _live(self, row: BatchRow) -> BatchRow:
        job = self._jobs.get(row.id)
        return row if job is None else job.row

    # -- turns

    def _start_next(self) -> None:
        """The oldest first, no project more than its share."""
        running = Counter(job.row.project for job in self._jobs.values())
        for row in list(self._waiting.values()):
            if len(self._jobs) >= BATCHES_RUNNING or self._closing:
                return
            if running[row.project] < PROJECT_BATCHES_RUNNING:
                running[row.project] += 1
                del self._waiting[row.id]
                place = Place(self._files.path(row.input), self._folder / row.id)
                job = BatchJob(row, place, self._formats[row.api], self._snapshot, self._dispatchers)
                self._jobs[row.id] = job
                self._tasks[row.id] = asyncio.create_task(self._run(job))

    async def _run(self, job: BatchJob) -> None:
        """To its end, over whatever trouble disk and database have meanwhile."""
        batch = job.row.id
        try:
            while True:
                try:
                    await self._run_once(job)
                    break
                except Exception:  # noqa: BLE001 - a batch goes on once the trouble is over
                    _log.exception("a batch failed inside the gateway, will retry", extra={"batch": batch})
                    await asyncio.sleep(_AGAIN_S)
        finally:
            job.progress.close()
            del self._jobs[batch], self._tasks[batch]
            self._start_next()

    async def _run_once(self, job: BatchJob) -> None:
        row = job.row
        if row.state == FINALIZING:
            assert row.result is not None
            await self._finish(job, row.result["outcome"])
            return
        job.progress.close()
        if not await job.check():
            await self._finish(job, FAILED_BATCH)
            return
        if row.cancelling_us is not None:
            await self._finish(job, CANCELLED)
            return
        row.state, row.started_us = RUNNING, row.started_us or now_us()
        row.result = {"errors": job.errors}
        await asyncio.to_thread(self._update, row)
        await self._finish(job, await job.run())

    async def _finish(self, job: BatchJob, outcome: str) -> None:
        """Its files become the project's, and it is over, in one step of the database."""
        row, progress = job.row, job.progress
        if row.state != FINALIZING:
            row.state, row.finalizing_us = FINALIZING, now_us()
            row.result = {
                "outcome": outcome,
                "errors": job.errors,
                "tokens": list(progress.tokens),
                "counts": list(progress.counts),
                "sizes": list(progress.sizes),
            }
            await asyncio.to_thread(self._update, row)
        await asyncio.to_thread(self._hand_over, row)

    def _hand_over(self, row: BatchRow) -> None:
        assert row.result is not None
        folder, created_us = self._folder / row.id, now_us()
        expires_us = created_us + row.terms.get("output_expires_s", 30 * 86_400) * 1_000_000
        made = []
        for name, size, mark in zip(("output", "errors"), row.result["sizes"], "oe", strict=True):
            file = f"{FILE}_{row.id.removeprefix(BATCH + '_')}{mark}"  # the same however often this is tried
            if not size:
                continue
            if (folder / name).exists():
                (folder / name).rename(self._files.path(file))
            row.result[f"{name}_file"] = file
            made.append(
                FileRow(
                    id=file,
                    project=row.project,
                    purpose="batch_output",
                    name=f"{row.id}_{name}.jsonl",
                    size_bytes=size,
                    created_us=created_us,
                    expires_us=expires_us,
                )
            )
        ended = msgspec.structs.replace(row, state=ENDED, ended_us=created_us)
        with self._store.write() as connection:
            for each in made:
                objects.add_file(connection, each)
            objects.update_batch(connection, ended)
            announce(connection, row.project, f"batch.{row.result['outcome']}", row.id)
        row.state, row.ended_us = ENDED, created_us
        shutil.rmtree(folder, ignore_errors=True)

    # -- the store, in threads

    def _read_open(self) -> list[BatchRow]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._store.read() as connection:
            return objects.open_batches(connection)

    def _add(self, row: BatchRow) -> None:
        with self._store.write() as connection:
            if objects.count_open(connection, row.project) >= BATCHES:
                message = f"The project has {BATCHES} batches that have not ended: wait, or cancel some."
                raise Refusal(Outcome.THROTTLED, message, code="batches_exceeded", retry_after_ms=60_000)
            objects.add_batch(connection, row)

    def _find(self, project: str, api: str, id: str) -> BatchRow | None:
        with self._store.read() as connection:
            return objects.get_batch(connection, project, api, id)

    def _update(self, row: BatchRow) -> None:
        with self._store.write() as connection:
            objects.update_batch(connection, row)
