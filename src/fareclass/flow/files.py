"""Files of projects: what they hold on disk below the data folder under our own ids, the rest in the store (R51)."""

import asyncio
import logging
import os
from collections import Counter
from pathlib import Path

from fareclass.core.limits import BATCH_DAYS, FILE_BYTES, FILE_DAYS, PROJECT_FILE_BYTES, PROJECT_FILES
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.flow.clock import now_us
from fareclass.store import objects
from fareclass.store.database import Store
from fareclass.store.ids import FILE, new_id
from fareclass.store.objects import FileRow

DAY_US = 86_400_000_000
_SWEEP_S = 600.0
_BLOCK = 2**20
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
        """It is on disk, and its project's, under this id or a new one."""
        await self.flush()
        await asyncio.to_thread(os.fsync, self._file.fileno())
        row = await self._files.keep(self.path, self._project, name, purpose, expires_s, id=id)
        self.drop()
        return row

    def drop(self) -> None:
        """Idempotent."""
        if not self._file.closed:
            self._file.close()
            self.path.unlink(missing_ok=True)
            self._files.coming[self._project] -= self.size_bytes

    async def flush(self) -> None:
        """All of it that came is in the file.

        Raises:
            Refusal: `shed`: the disk is full.
        """
        data, self._block = self._block, bytearray()
        try:
            await asyncio.to_thread(_write_all, self._file.fileno(), data)
        except OSError as error:
            _log.error("an upload can't be written", extra={"cause": str(error)})
            raise Refusal(Outcome.SHED, "The file can't be stored at the moment.", retry_after_ms=60_000) from None


class Files:
    """All files of one gateway. `coming` are bytes of uploads under way, by project."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.coming: Counter[str] = Counter()
        self._store = store
        self._folder = folder
        self._sweeping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Remove what uploads have left behind, and from now on what has expired."""
        await asyncio.to_thread(self._prepare)
        self._sweeping = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

    def path(self, id: str) -> Path:
        """Where a file's content is. `id` is ours, never what a caller sent: it comes out of the store."""
        return self._folder / id

    async def begin(self, project: str) -> Upload:
        """Raises:
        Refusal: `throttled`: the project has as many files as it may.
        """
        count, size = await asyncio.to_thread(self._totals, project)
        if count >= PROJECT_FILES:
            raise _no_room(f"{PROJECT_FILES} files")
        path = self._folder / "uploads" / new_id("part")
        return Upload(self, project, path, PROJECT_FILE_BYTES - size)

    async def keep(
        self, path: Path, project: str, name: str, purpose: str, expires_s: int | None, *, id: str | None = None
    ) -> FileRow:
        """Move a file in."""
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
        path.rename(self.path(row.id))
        _sync_folder(self._folder)
        with self._store.write() as connection:
            objects.add_file(connection, row)

    def _delete(self, row: FileRow) -> bool:
        with self._store.write() as connection:
            if objects.is_read(connection, row.id):
                return False
            objects.delete_file(connection, row.project, row.id)
        self.path(row.id).unlink(missing_ok=True)
        return True

    def _prepare(self) -> None:
        uploads = self._folder / "uploads"
        for folder in (self._folder, uploads):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in uploads.iterdir():
            left.unlink()

    async def _sweep(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._drop_old)
            except Exception:  # noqa: BLE001 - it is tried again
                _log.exception("expired files could not be removed")
            await asyncio.sleep(_SWEEP_S)

    def _drop_old(self) -> None:
        with self._store.write() as connection:
            ids = objects.drop_expired_files(connection, now_us())
            objects.drop_old_batches(connection, now_us() - BATCH_DAYS * DAY_US)
        for gone in ids:
            self.path(gone).unlink(missing_ok=True)


def _no_room(bound: str) -> Refusal:
    message = f"The project has {bound} of files, which is as much as it may: delete some."
    return Refusal(Outcome.THROTTLED, message, code="files_exceeded", retry=False)


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
