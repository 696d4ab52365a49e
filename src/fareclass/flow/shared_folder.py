"""Files below a folder that others write to as well: whatever stands there, nothing above or beside it is touched (R47).

Every part of a path is opened in the folder before it, and no link is followed, so that nobody can lead out of it by
changing the tree between a look and a use.
"""

import errno
import os
import secrets
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from fareclass.core.limits import BATCH_DEPTH

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK: Final = 2**20


class NotThere(Exception):
    """No file, or something that is none; the message says what."""


class SharedFolder:
    """Synchronous: for threads. `root` itself may be a link, since an operator has named it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def blocks(self, parts: Sequence[str]) -> Generator[bytes, None, None]:
        """What a plain file holds; it is open until the end, or until this is closed.

        Raises:
            NotThere: there is none.
            OSError: it can't be read at the moment.
        """
        file = self._open(parts)
        try:
            while block := os.read(file, _BLOCK):
                yield block
        finally:
            os.close(file)

    def _open(self, parts: Sequence[str]) -> int:
        *folders, name = parts
        with self._folder(folders) as folder:
            try:
                file = os.open(name, _READ, dir_fd=folder)
            except OSError as error:
                raise _told(error, parts) from None
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise NotThere(f"{'/'.join(parts)} is no plain file")
        return file

    def is_folder(self, parts: Sequence[str]) -> bool:
        try:
            with self._folder(parts):
                return True
        except NotThere:
            return False

    def names(self, parts: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """The plain files in this folder and those below it, each by the parts of its path from there.

        Raises:
            NotThere: it is none, or one below it can't be read: what is in there would be missed.
            OSError: one can't be read at the moment.
        """
        with self._folder(parts) as folder:
            yield from _walk(folder, ())

    def write(self, parts: Sequence[str], source: Path) -> None:
        """A copy of a file, there whole or not at all; folders on the way are made.

        Raises:
            NotThere: something else is in the way, or nobody may write there.
            OSError: it can't be written at the moment.
        """
        *folders, name = parts
        part = f".{secrets.token_hex(8)}.part"
        with self._folder(folders, make=True) as folder, source.open("rb", buffering=0) as given:
            try:
                file = os.open(part, _WRITE, 0o644, dir_fd=folder)
                with os.fdopen(file, "wb", buffering=0) as out:
                    while block := given.read(_BLOCK):
                        view = memoryview(block)
                        while view:
                            view = view[out.write(view) :]
                    os.fsync(out.fileno())
                os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError as error:
                raise _told(error, parts) from None
            finally:
                _unlink(part, folder)

    @contextmanager
    def _folder(self, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
        with ExitStack() as stack:
            try:
                folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise _told(error, (str(self._root),)) from None
            stack.callback(os.close, folder)
            for number, part in enumerate(parts, 1):
                try:
                    if make:
                        _make(part, folder)
                    folder = os.open(part, _FOLDER, dir_fd=folder)
                except OSError as error:
                    raise _told(error, parts[:number]) from None
                stack.callback(os.close, folder)
            yield folder


def _walk(folder: int, before: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if len(before) >= BATCH_DEPTH:
        return
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_file(follow_symlinks=False):
            yield (*before, entry.name)
        elif entry.is_dir(follow_symlinks=False):
            path = (*before, entry.name)
            try:
                inner = os.open(entry.name, _FOLDER, dir_fd=folder)
            except OSError as error:
                raise _told(error, path) from None
            try:
                yield from _walk(inner, path)
            finally:
                os.close(inner)


def _make(name: str, folder: int) -> None:
    try:
        os.mkdir(name, 0o755, dir_fd=folder)
    except FileExistsError:
        pass


def _unlink(name: str, folder: int) -> None:
    with suppress(OSError):  # it was moved, or never made; or trouble that is told already
        os.unlink(name, dir_fd=folder)


def _told(error: OSError, parts: Sequence[str]) -> NotThere | OSError:
    """What will be no better in a while: nothing there, a link, no permission, no such name."""
    path = "/".join(parts)
    final = (FileNotFoundError, NotADirectoryError, PermissionError, FileExistsError, IsADirectoryError)
    if isinstance(error, final) or error.errno in (errno.EROFS, errno.ENAMETOOLONG):
        return NotThere(f"{path}: {(error.strerror or 'not there').lower()}")
    if error.errno == errno.ELOOP:
        return NotThere(f"{path} is a link, which is not followed")
    return error
