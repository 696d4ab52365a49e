"""Files below a folder that others write to as well: whatever stands there, nothing above or beside it is touched (R47).

Every part of a path is opened in the folder before it, and no link is followed, so that nobody can lead out of it by
changing the tree between a look and a use.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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

    def open(self, parts: Sequence[str]) -> int:
        """A descriptor of a plain file, to read.

        Raises:
            NotThere: there is none.
            OSError: it can't be read at the moment.
        """
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
        """The plain files in this folder and those below it, each by the parts of its path from there."""
        with self._folder(parts) as folder:
            yield from _walk(folder, ())

    def write(self, parts: Sequence[str], source: Path) -> None:
        """A copy of a file, there whole or not at all; folders on the way are made.

        Raises:
            NotThere: something else is in the way.
            OSError: it can't be written at the moment.
        """
        *folders, name = parts
        part = f".{secrets.token_hex(8)}.part"
        with self._folder(folders, make=True) as folder, source.open("rb", buffering=0) as given:
            file = os.open(part, _WRITE, 0o644, dir_fd=folder)
            try:
                with os.fdopen(file, "wb", buffering=0) as out:
                    while block := given.read(_BLOCK):
                        view = memoryview(block)
                        while view:
                            view = view[out.write(view) :]
                    os.fsync(out.fileno())
                os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
            except IsADirectoryError:
                raise NotThere(f"{'/'.join(parts)} is a folder") from None
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
            inner = os.open(entry.name, _FOLDER, dir_fd=folder)
            try:
                yield from _walk(inner, (*before, entry.name))
            finally:
                os.close(inner)


def _make(name: str, folder: int) -> None:
    try:
        os.mkdir(name, 0o755, dir_fd=folder)
    except FileExistsError:
        pass


def _unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass


def _told(error: OSError, parts: Sequence[str]) -> NotThere | OSError:
    """What will be no better in a while: nothing there, a link, no permission."""
    path = "/".join(parts)
    final = (FileNotFoundError, NotADirectoryError, PermissionError, FileExistsError, IsADirectoryError)
    if isinstance(error, final):
        return NotThere(f"{path}: {(error.strerror or 'not there').lower()}")
    if error.errno == errno.ELOOP:
        return NotThere(f"{path} is a link, which is not followed")
    return error
