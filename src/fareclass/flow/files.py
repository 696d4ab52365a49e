"""Files of projects: what they hold on disk below the data folder under our own ids, the rest in the store (R51)."""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fareclass.core.limits import BATCH_DAYS, FILE_BYTES, FILE_DAYS, PROJECT_FILE_BYTES, PROJECT_FILES, UPLOADS
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.times import DAY_US
from fareclass.flow.clock import now_us
from fareclass.flow.threads import to_its_end
from fareclass.store import objects
from fareclass.store.database import Store
from fareclass.store.ids import FILE, new_id
from fareclass.store.objects import FileRow

_SWEEP_S = 600.0
_BLOCK = 2**20
_UPLOADS = "uploads"
_UPLOADS_RETRY_MS = 5_000
_log = logging.getLogger(__name__)


class Upload:
    """A file on its way to disk; `finish` keeps it, `drop` at any other end."""

    def __init__(self, files: "Files", project: str, path: Path, room: int) -> None:
        self.size_bytes = 0
        self.path = path
        self._files = files
        self._project = project
        self._room = room
        self._block = bytearray()
        self._file = path.open("xb", buffering=0)
        files.uploads[project] += 1

    async def write(self, data: bytes) -> None:
        """Raises:
        Refusal: `invalid`: too large; `throttled`: more than its project may have; `shed`: the disk is full.
        """
        self.size_bytes += len(data)
        self._files.coming[self._project] += len(data)
        if self.size_bytes > FILE_BYTES:
            raise Refusal(Outcome.INVALID, f"The file is larger than {FILE_BYTES // 2**30} GiB.", param="file")
        if self._files.coming[self._project] > self._room:
            raise _no_room(f"{PROJECT_FILE_BYTES // 2**30} GiB")
        self._block += data
        if len(self._block) >= _BLOCK:
            await self.flush()

    async def finish(self, name: str, purpose: str, expires_s: int | None, *, id: str | None = None) -> FileRow:
        """It is on disk, and its project's, under this id or a new one.

        Raises:
            Refusal: `throttled`: others of its project have filled the room meanwhile; `shed`: the disk is full.
        """
        await self.flush()
        await to_its_end(os.fsync, self._file.fileno())
        row = await self._files.keep(self.path, self._project, name, purpose, expires_s, id=id)
        self.drop()
        return row

    def drop(self) -> None:
        """Idempotent."""
        if not self._file.closed:
            self._file.close()
            self.path.unlink(missing_ok=True)
            self._files.coming[self._project] -= self.size_bytes
            self._files.uploads[self._project] -= 1

    async def flush(self) -> None:
        """All of it that came is in the file.

        Raises:
            Refusal: `shed`: the disk is full.
        """
        data, self._block = self._block, bytearray()
        try:
            await to_its_end(_write_all, self._file.fileno(), data)
        except OSError as error:
            _log.error("an upload can't be written", extra={"cause": str(error)})
            raise Refusal(Outcome.SHED, "The file can't be stored at the moment.", retry_after_ms=60_000) from None


class Files:
    """All files of one gateway. `uploads` are under way, `coming` their bytes, both by project."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.coming: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self._store = store
        self._folder = folder
        self._sweeping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Remove what a kill has left behind, and from now on what has expired."""
        await asyncio.to_thread(self._prepare)
        self._sweeping = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

    def path(self, id: str) -> Path:
        """Where a file's content is. `id` is ours, never what a caller sent: it comes out of the store."""
        return self._folder / id

    @contextmanager
    def moving(self, *ids: str) -> Iterator[None]:
        """Around the steps, in the database and here, by which files come or go: where a kill or a failure leaves only one
        of them done, the next start removes what then has no row.
        """
        marks = [self._folder / _UPLOADS / each for each in ids]
        for mark in marks:
            mark.touch()
        try:
            yield
        except Refusal:  # before anything was moved
            _remove(marks)
            raise
        _remove(marks)

    async def begin(self, project: str) -> Upload:
        """Raises:
        Refusal: `throttled`: the project has as many files, or uploads under way, as it may.
        """
        count, size = await asyncio.to_thread(self._totals, project)
        _check_room(count + 1, size)
        if self.uploads[project] >= UPLOADS:
            message = f"The project has {UPLOADS} uploads under way: wait for one of them."
            raise Refusal(Outcome.THROTTLED, message, code="uploads_exceeded", retry_after_ms=_UPLOADS_RETRY_MS)
        path = self._folder / _UPLOADS / new_id("part")
        return Upload(self, project, path, PROJECT_FILE_BYTES - size)

    async def keep(
        self, path: Path, project: str, name: str, purpose: str, expires_s: int | None, *, id: str | None = None
    ) -> FileRow:
        """Move a file in, if there still is room for it.

        Raises:
            Refusal: `throttled`: there is none; the file stays where it is.
        """
        created_us = now_us()
        expires_us = created_us + (FILE_DAYS * DAY_US if expires_s is None else expires_s * 1_000_000)
        row = FileRow(
            id=id or new_id(FILE),
            project=project,
            purpose=purpose,
            name=name,
            size_bytes=path.stat().st_size,
            created_us=created_us,
            expires_us=expires_us,
        )
        await asyncio.to_thread(self._keep, path, row)
        return row

    async def find(self, project: str, id: str) -> FileRow | None:
        """The project's file that has this id and has not expired."""
        if not id.isprintable():
            return None  # PostgreSQL takes no NUL
        row = await asyncio.to_thread(self._find, project, id)
        return row if row is not None and row.expires_us > now_us() else None

    async def listed(
        self, project: str, *, purpose: str | None, after: str | None, limit: int, ascending: bool
    ) -> list[FileRow]:
        def read() -> list[FileRow]:
            with self._store.read() as connection:
                return objects.list_files(
                    connection, project, purpose=purpose, after=after, limit=limit, ascending=ascending
                )

        return await asyncio.to_thread(read)

    async def delete(self, row: FileRow) -> bool:
        """False where a batch still reads it."""
        return await asyncio.to_thread(self._delete, row)

    def _totals(self, project: str) -> tuple[int, int]:
        with self._store.read() as connection:
            return objects.file_totals(connection, project)

    def _find(self, project: str, id: str) -> FileRow | None:
        with self._store.read() as connection:
            return objects.get_file(connection, project, id)

    def _keep(self, path: Path, row: FileRow) -> None:
        with self.moving(row.id), self._store.write() as connection:
            objects.take_turn(connection, row.project)
            count, size = objects.file_totals(connection, row.project)
            _check_room(count + 1, size + row.size_bytes)
            objects.add_file(connection, row)
            path.rename(self.path(row.id))  # at last: what the database refuses leaves nothing here
            _sync_folder(self._folder)

    def _delete(self, row: FileRow) -> bool:
        with self.moving(row.id):
            with self._store.write() as connection:
                if objects.is_read(connection, row.id):
                    return False
                objects.delete_file(connection, row.project, row.id)
            self.path(row.id).unlink(missing_ok=True)
        return True

    def _prepare(self) -> None:
        uploads = self._folder / _UPLOADS
        for folder in (self._folder, uploads):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._store.read() as connection:
            for left in uploads.iterdir():
                if left.name.startswith(f"{FILE}_") and not objects.is_file(connection, left.name):
                    self.path(left.name).unlink(missing_ok=True)
                left.unlink()

    async def _sweep(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._drop_old)
            except Exception:  # noqa: BLE001 - it is tried again
                _log.exception("expired files could not be removed")
            await asyncio.sleep(_SWEEP_S)

    def _drop_old(self) -> None:
        with ExitStack() as stack:
            with self._store.write() as connection:
                ids = objects.drop_expired_files(connection, now_us())
                objects.drop_old_batches(connection, now_us() - BATCH_DAYS * DAY_US)
                stack.enter_context(self.moving(*ids))
            for gone in ids:
                self.path(gone).unlink(missing_ok=True)


def _check_room(count: int, size: int) -> None:
    """Raises:
    Refusal: `throttled`: a project may not have so many files, or bytes in them.
    """
    if count > PROJECT_FILES:
        raise _no_room(f"{PROJECT_FILES} files")
    if size > PROJECT_FILE_BYTES:
        raise _no_room(f"{PROJECT_FILE_BYTES // 2**30} GiB")


def _no_room(bound: str) -> Refusal:
    message = f"The project has {bound} of files, which is as much as it may: delete some."
    return Refusal(Outcome.THROTTLED, message, code="files_exceeded", retry=False)


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _write_all(fd: int, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
