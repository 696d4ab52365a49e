"""All batches of this gateway, whatever API made them: made, run in turn, ended, and taken up again after a restart."""

import asyncio
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection

from fareclass.core.limits import BATCH_DELIVERY_S, BATCHES, BATCHES_RUNNING, FILE_DAYS, PROJECT_BATCHES_RUNNING
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.snapshot import Key, Snapshot
from fareclass.core.tiers import Tier
from fareclass.core.times import DAY_US
from fareclass.flow.batch_job import CANCELLED_BATCH, EXPIRED_BATCH, FAILED_BATCH, BatchJob, Place
from fareclass.flow.batch_lines import Carrier, CarryError, LineFormat
from fareclass.flow.batch_progress import CANCELLED
from fareclass.flow.clock import now_us
from fareclass.flow.dispatch import Dispatcher
from fareclass.flow.files import Files
from fareclass.flow.webhooks import announce
from fareclass.store import objects
from fareclass.store.database import Store
from fareclass.store.ids import FILE
from fareclass.store.objects import ENDED, BatchRow, FileRow

T = TypeVar("T")
_FILES = ("output", "errors")
_KEPT = ".kept"
"""What stays here of a file that could not be delivered."""
CHECKING, RUNNING, FINALIZING = "checking", "running", "finalizing"
_AGAIN_S, _LONGEST_AGAIN_S = 5.0, 60.0
_LAST_TRY_S = 60.0
"""A delivery that begins as its time ends has so long."""
_log = logging.getLogger(__name__)


class NewBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What an API asks for: `input` is a file of the project, None where a carrier brings it; `token` is the same when the
    call is sent again, and `terms["asked"]` then too.
    """

    id: str
    terms: dict[str, Any]
    window_s: int
    input: str | None = None
    total: int = 0
    token: str | None = None


def check_key(key: Key) -> None:
    """Raises:
    Refusal: `forbidden`: the key has no batch tier.
    """
    if key.allowed_tiers is not None and Tier.BATCH not in key.allowed_tiers:
        raise Refusal(Outcome.FORBIDDEN, f"The key `{key.name}` does not allow the batch tier.")


def file_of(batch: str, mark: str) -> str:
    """The id of a file that belongs to a batch, the same however often it is made: `i`nput, `o`utput, `e`rrors."""
    return f"{FILE}_{batch.rpartition('_')[2]}{mark}"


class Batches:
    """`formats` are the line formats by the name of their API, `carriers` are of those whose files are elsewhere."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        files: Files,
        snapshot: Callable[[], Snapshot],
        dispatchers: Mapping[str, Dispatcher],
        formats: Mapping[str, LineFormat],
        carriers: Mapping[str, Carrier],
    ) -> None:
        self._store = store
        self._folder = folder / "batches"
        self._files = files
        self._snapshot = snapshot
        self._dispatchers = dispatchers
        self._formats = formats
        self._carriers = carriers
        self.waiting: dict[str, BatchRow] = {}
        self.jobs: dict[str, BatchJob] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    async def open(self) -> None:
        """Take up what has not ended."""
        for row in await asyncio.to_thread(self._read_open):
            self.waiting[row.id] = row
        self._start_next()

    async def close(self) -> None:
        """Hang up; what is finished is kept, the rest goes on at the next start."""
        self._closing = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def create(self, key: Key, api: str, made: NewBatch) -> BatchRow:
        """Make a batch.

        Raises:
            Refusal: `forbidden`: the key has no batch tier; `throttled`: the project has too many; `invalid`: its token
                was sent with other terms, or its input is no longer there.
        """
        check_key(key)
        created_us = now_us()
        row = BatchRow(
            id=made.id,
            project=key.project.id,
            key=key.id,
            api=api,
            state=CHECKING,
            input=made.input or file_of(made.id, "i"),
            terms=made.terms,
            books={name: msgspec.to_builtins(book) for name, book in self._snapshot().books.items()},
            created_us=created_us,
            deadline_us=created_us + made.window_s * 1_000_000,
            total=made.total,
            token=made.token,
        )
        known = await asyncio.to_thread(self._add, row, made.input)
        if known is not None:
            return self._live(known)
        self.waiting[row.id] = row
        self._start_next()
        return row

    async def find(self, project: str, api: str, id: str) -> BatchRow | None:
        """The project's batch with this id, as far as it is at this moment."""
        row = await self._read(partial(objects.get_batch, project=project, api=api, id=id))
        return None if row is None else self._live(row)

    async def listed(
        self, project: str, api: str, *, after: str | None = None, before: str | None = None, limit: int
    ) -> list[BatchRow]:
        """Newest first; those right behind `after`, or right before `before`."""
        query = partial(objects.list_batches, project=project, api=api, after=after, before=before, limit=limit)
        return [self._live(row) for row in await self._read(query)]

    async def of_all(
        self, project: str | None, *, ended: bool | None, after: tuple[int, str] | None, limit: int
    ) -> list[BatchRow]:
        """Batches of every project or one, whatever their API, newest first, as far as they are at this moment."""
        query = partial(objects.batches_of_all, project=project, ended=ended, after=after, limit=limit)
        return [self._live(row) for row in await self._read(query)]

    async def cancel(self, row: BatchRow) -> BatchRow:
        """What is finished stays; idempotent."""
        live = self.waiting.get(row.id) or (self.jobs[row.id].row if row.id in self.jobs else None)
        if live is None:  # it has ended, maybe since the row was read
            return await self.find(row.project, row.api, row.id) or row
        if live.cancelling_us is None:
            live.cancelling_us = now_us()
            await asyncio.to_thread(self._update, live)
            if live.id in self.jobs:
                self.jobs[live.id].cancel()
            self._start_next()
        return live

    def waits(self, row: BatchRow) -> bool:
        """Whether its turn has not come."""
        return row.id in self.waiting

    async def delete(self, row: BatchRow) -> bool:
        """Forget it and its files; False where it has not ended."""
        if row.state != ENDED:
            return False
        await asyncio.to_thread(self._delete, row)
        return True

    def _live(self, row: BatchRow) -> BatchRow:
        job = self.jobs.get(row.id)
        return row if job is None else job.row

    # -- turns

    def _start_next(self) -> None:
        """The oldest first, no project more than its share; what only has to end needs none."""
        running = Counter(job.row.project for job in self.jobs.values())
        for row in list(self.waiting.values()):
            if len(self.jobs) >= BATCHES_RUNNING or self._closing:
                return
            if running[row.project] < PROJECT_BATCHES_RUNNING or row.cancelling_us is not None:
                running[row.project] += 1
                del self.waiting[row.id]
                place = Place(self._files.path(row.input), self._folder / row.id)
                job = BatchJob(row, place, self._formats[row.api], self._snapshot, self._dispatchers)
                self.jobs[row.id] = job
                self._tasks[row.id] = asyncio.create_task(self._run(job))

    async def _run(self, job: BatchJob) -> None:
        """To its end, over whatever trouble disk and database have meanwhile."""
        batch, again_s = job.row.id, _AGAIN_S
        try:
            while True:
                try:
                    await self._run_once(job)
                    break
                except Exception:  # noqa: BLE001 - a batch goes on once the trouble is over
                    _log.exception("a batch failed inside the gateway, will retry", extra={"batch": batch})
                    await asyncio.sleep(again_s)
                    again_s = min(2 * again_s, _LONGEST_AGAIN_S)
        finally:
            job.progress.close()
            del self.jobs[batch], self._tasks[batch]
            self._start_next()

    async def _run_once(self, job: BatchJob) -> None:
        row = job.row
        if row.state == FINALIZING:
            assert row.result is not None
            await self._finish(job, row.result["outcome"])
            return
        job.progress.close()
        if row.api in self._carriers and not await self._fetch(job):
            return
        try:
            sound = await job.check()
        except FileNotFoundError:
            sound = False
            message = "The file of its requests is no longer there."
            job.errors.append({"code": "input_unavailable", "message": message, "line": None, "param": None})
        if not sound:
            await self._finish(job, FAILED_BATCH)
            return
        if row.cancelling_us is not None:
            await job.close_rest(CANCELLED)
            await self._finish(job, CANCELLED_BATCH)
            return
        row.state, row.started_us = RUNNING, row.started_us or now_us()
        row.result = {"errors": job.errors}
        await asyncio.to_thread(self._update, row)
        await self._finish(job, await job.run())

    async def _fetch(self, job: BatchJob) -> bool:
        """Bring its input here, once; False where it has ended for want of it."""
        row = job.row
        if await self._files.find(row.project, row.input) is not None:
            return True
        outcome = EXPIRED_BATCH
        try:
            if row.cancelling_us is None and await job.unless_over(self._bring(row)):
                return True
        except (CarryError, Refusal) as error:
            if isinstance(error, Refusal) and error.retry_after_ms is not None:
                raise  # a full disk, or many uploads, pass
            job.errors.append({"code": "input_unavailable", "message": str(error), "line": None, "param": None})
            outcome = FAILED_BATCH
        await self._finish(job, outcome if row.cancelling_us is None else CANCELLED_BATCH)
        return False

    async def _bring(self, row: BatchRow) -> None:
        upload = await self._files.begin(row.project)
        try:
            await self._carriers[row.api].fetch(row, upload)
            await asyncio.to_thread(self._update, row)
            await upload.finish(f"{row.id}_input.jsonl", "batch", None, id=row.input)
        finally:
            upload.drop()

    async def _deliver(self, row: BatchRow) -> None:
        """Take what it came to where it is to be. What can't get there is kept here, as the project's files."""
        assert row.result is not None and row.finalizing_us is not None
        folder = self._folder / row.id
        sizes = zip(_FILES, row.result["sizes"], strict=True)
        files = {name: folder / name for name, size in sizes if size and (folder / name).exists()}
        try:
            left_s = BATCH_DELIVERY_S - (now_us() - row.finalizing_us) / 1e6
            async with asyncio.timeout(max(_LAST_TRY_S, left_s)):
                await self._carriers[row.api].deliver(row, folder, files)
            row.result["delivered"] = True
            row.result.pop("undelivered", None)
        except Exception as error:
            late = now_us() - row.finalizing_us >= BATCH_DELIVERY_S * 1_000_000
            if not (isinstance(error, CarryError) or late):
                raise
            _log.error("the results of a batch can't be delivered", extra={"batch": row.id, "cause": str(error)})
            row.result["undelivered"] = str(error) if isinstance(error, CarryError) else "their place can't be reached"
            await asyncio.to_thread(self._keep_here, row, files)

    def _keep_here(self, row: BatchRow, files: Mapping[str, Path]) -> None:
        assert row.result is not None
        for place, name in enumerate(_FILES):
            if name in files:
                kept = files[name].with_suffix(_KEPT)
                self._carriers[row.api].keep(files[name], kept)
                row.result["sizes"][place] = kept.stat().st_size

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
        if row.api in self._carriers and row.total:
            await self._deliver(row)
        await asyncio.to_thread(self._hand_over, row)

    def _hand_over(self, row: BatchRow) -> None:
        assert row.result is not None
        folder, created_us = self._folder / row.id, now_us()
        expires_us = created_us + row.terms.get("output_expires_s", FILE_DAYS * DAY_US // 1_000_000) * 1_000_000
        made = []
        for name, size, mark in zip(_FILES, row.result["sizes"], "oe", strict=True):
            file = file_of(row.id, mark)
            if not size or row.result.get("delivered"):
                continue
            kept = folder / f"{name}{_KEPT}"
            source = kept if kept.exists() else folder / name
            if source.exists():
                source.rename(self._files.path(file))
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
        own_input = file_of(row.id, "i")
        with self._files.moving(own_input):
            with self._store.write() as connection:
                objects.delete_file(connection, row.project, own_input)
                for each in made:
                    objects.add_file(connection, each)
                objects.update_batch(connection, ended)
                announce(connection, row.project, f"batch.{row.result['outcome']}", row.id)
            row.state, row.ended_us = ENDED, created_us
            self._files.path(own_input).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    # -- the store, in threads

    def _read_open(self) -> list[BatchRow]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._store.read() as connection:
            return objects.open_batches(connection)

    def _add(self, row: BatchRow, file: str | None) -> BatchRow | None:
        """The one that its token made before, if it did. `file` must be there still; once this is, it can't be deleted."""
        with self._store.write() as connection:
            if file is not None and objects.get_file(connection, row.project, file) is None:
                message = "The file of `input_file_id` is no longer there."
                raise Refusal(Outcome.INVALID, message, param="input_file_id", code="file_not_found")
            known = (
                None if row.token is None else objects.get_batch_of_token(connection, row.project, row.api, row.token)
            )
            if known is not None:
                if known.terms["asked"] != row.terms["asked"]:
                    message = "The token was sent with another call; send a new token with a new call."
                    raise Refusal(Outcome.INVALID, message, code="idempotency_key_reused", retry=False)
                return known
            if objects.count_open(connection, row.project) >= BATCHES:
                message = f"The project has {BATCHES} batches that have not ended: wait, or cancel some."
                raise Refusal(Outcome.THROTTLED, message, code="batches_exceeded", retry_after_ms=60_000)
            objects.add_batch(connection, row)
        return None

    def _delete(self, row: BatchRow) -> None:
        files = [file_of(row.id, mark) for mark in "ioe"]
        with self._files.moving(*files):
            with self._store.write() as connection:
                objects.delete_batch(connection, row.project, row.id)
                for file in files:
                    objects.delete_file(connection, row.project, file)
            for file in files:
                self._files.path(file).unlink(missing_ok=True)

    async def _read(self, query: Callable[[Connection], T]) -> T:
        def read() -> T:
            with self._store.read() as connection:
                return query(connection)

        return await asyncio.to_thread(read)

    def _update(self, row: BatchRow) -> None:
        with self._store.write() as connection:
            objects.update_batch(connection, row)
