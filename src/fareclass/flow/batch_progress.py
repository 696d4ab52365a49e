"""How far a batch has come, on disk: whatever moment the gateway dies at, no finished line is lost and none is twice.

Three files of one folder grow together. `output` and `errors` are what the caller gets; `journal` has a line for each
group of finished lines, with the sizes of the other two behind it. A group counts once its journal line is on disk,
which is written last: what stands beyond the sizes of the last whole journal line is cut off at the next start.
"""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

SUCCEEDED, FAILED, EXPIRED, CANCELLED = range(4)
_KINDS = 4
_FILES = ("output", "errors")


class Finished(NamedTuple):
    """A line that is over: which, how, and its line of output (if it succeeded) or errors. Tokens are input, cached,
    output and reasoning.
    """

    number: int
    kind: int
    text: bytes
    tokens: tuple[int, int, int, int] = (0, 0, 0, 0)


class _Entry(msgspec.Struct):
    """One line of the journal: sizes of the files behind it, the lines that it adds, sums behind it."""

    sizes: tuple[int, int]
    done: list[int]
    tokens: tuple[int, int, int, int]
    total: int | None = None


class Progress:
    """Used by one thread at a time. `total` is None until all lines were looked at once."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = [folder / name for name in _FILES]
        self._journal = folder / "journal"
        self._fds: list[int] = []
        self._forget()

    def _forget(self) -> None:
        self.total: int | None = None
        self.counts = [0] * _KINDS
        self.tokens = (0, 0, 0, 0)
        self._sizes = (0, 0)
        self._journal_size = 0
        self._done = bytearray()

    @property
    def finished(self) -> int:
        """Lines that are over."""
        return sum(self.counts)

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of output and errors."""
        return self._sizes

    def is_done(self, number: int) -> bool:
        place = number >> 3
        return place < len(self._done) and bool(self._done[place] & 1 << (number & 7))

    def open(self) -> None:
        """Go on from what is on disk. Where not all lines had been looked at, that begins anew."""
        self._fds = [os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for path in (*self._paths, self._journal)]
        self._forget()
        self._replay()
        if self.total is None:
            self._forget()
        self._cut()

    def commit(self, group: Sequence[Finished], total: int | None = None) -> None:
        """Put these on disk; they count on return.

        Raises:
            OSError: they don't; it may be tried again.
        """
        texts = [b"".join(one.text for one in group if (one.kind == SUCCEEDED) is wanted) for wanted in (True, False)]
        tokens = self.tokens
        for one in group:
            tokens = tuple(map(sum, zip(tokens, one.tokens, strict=True)))  # type: ignore[assignment]
        entry = _Entry(
            sizes=(self._sizes[0] + len(texts[0]), self._sizes[1] + len(texts[1])),
            done=[one.number * _KINDS + one.kind for one in group],
            tokens=tokens,
            total=self.total if total is None else total,
        )
        try:
            for fd, text, size in zip(self._fds, texts, self._sizes, strict=False):
                if text:
                    _write(fd, text, size)
            line = _framed(msgspec.json.encode(entry))
            _write(self._fds[2], line, self._journal_size)
        except OSError:
            self._cut()
            raise
        self._count(entry, len(line))

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def _replay(self) -> None:
        with self._journal.open("rb") as journal:
            for line in journal:
                body = _unframed(line)
                if body is None:
                    return
                self._count(msgspec.json.decode(body, type=_Entry), len(line))

    def _count(self, entry: _Entry, size: int) -> None:
        self._sizes, self.tokens, self.total = entry.sizes, entry.tokens, entry.total
        self._journal_size += size
        for done in entry.done:
            number, kind = divmod(done, _KINDS)
            self.counts[kind] += 1
            place = number >> 3
            if place >= len(self._done):
                self._done.extend(bytes(place + 1024 - len(self._done)))
            self._done[place] |= 1 << (number & 7)

    def _cut(self) -> None:
        """Drop what is beyond the last whole group."""
        for fd, size in zip(self._fds, (*self._sizes, self._journal_size), strict=True):
            os.ftruncate(fd, size)


def _write(fd: int, data: bytes, at: int) -> None:
    """All of it, on disk."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written
    os.fsync(fd)


def _framed(body: bytes) -> bytes:
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _unframed(line: bytes) -> bytes | None:
    """What a journal line holds; None where it is not whole."""
    body = line[9:-1]
    return body if line.endswith(b"\n") and line[:9] == b"%08x " % zlib.crc32(body) else None
