"""The lines of a batch's input, and what an API has to say of its batches for itself."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from fareclass.core.limits import BATCH_LINE_BYTES
from fareclass.core.request import Job
from fareclass.core.snapshot import Key
from fareclass.flow.files import Upload
from fareclass.flow.threads import to_its_end
from fareclass.store.objects import BatchRow

_BUFFER = 2**20
_BLOCK_LINES = 4_096


class Line(msgspec.Struct, frozen=True):
    """One request of a batch. `number` counts the lines of the file from 0, `name` is what the caller calls it."""

    number: int
    name: str
    model: str
    path: str
    body: bytes


class BadLine(Exception):
    """A line that can't be sent. `line` numbers count from 1, as an editor shows them."""

    def __init__(
        self, number: int, code: str, message: str, *, name: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.line = number + 1
        self.code = code
        self.message = message
        self.name = name
        self.param = param


class Answer(msgspec.Struct, frozen=True):
    """What a line came to: its line of output or errors. `again_ms`: it may fare better so much later.

    `ours`: the gateway or an engine failed it. `ran_s` is how long it ran once it had its turn.
    """

    succeeded: bool
    text: bytes
    tokens: tuple[int, int, int, int] = (0, 0, 0, 0)
    again_ms: int | None = None
    ours: bool = False
    ran_s: float = 0.0


class LineFormat(Protocol):
    """One batch API's lines. `terms` are those of the batch. With `unique_names`, no two lines may have the same one.

    `tells`: of the lines that were not answered when their batch ended, those that are told of: `EXPIRED`, and `CANCELLED`
    where it was cancelled.
    """

    @property
    def unique_names(self) -> bool: ...
    @property
    def tells(self) -> frozenset[int]: ...

    def read(self, raw: bytes, number: int, terms: Mapping[str, Any]) -> Line:
        """Raises:
        BadLine: it is none.
        """

    def bad(self, error: BadLine, batch: str) -> bytes:
        """What the errors say of one that can't be sent."""

    def left(self, line: Line, batch: str, kind: int) -> bytes:
        """What the errors say of one that was not answered when its batch ended; `kind` is one of `tells`."""

    async def run(self, line: Line, key: Key, id: str, job: Job) -> Answer:
        """Send it. Cancelled: hang up."""


class CarryError(Exception):
    """A batch's files can't be read or written where they are to be, and trying again won't help; says why."""


class Carrier(Protocol):
    """Where the files of one API's batches are, if that is not here: brings them, and takes what becomes of them there.

    Anything else that is raised passes: it is tried again.
    """

    async def fetch(self, row: BatchRow, into: Upload) -> None:
        """The input, line by line; may note in the row's `terms` what it will need to know.

        Raises:
            CarryError: there is none.
        """

    async def deliver(self, row: BatchRow, folder: Path, files: Mapping[str, Path]) -> None:
        """What it came to: `files` has `output` and `errors` as far as there are any; `folder` takes notes.

        Raises:
            CarryError: it can't be put there.
        """

    def keep(self, file: Path, kept: Path) -> None:
        """One of these files as its caller is to have it where it can't be delivered."""


async def read_lines(file: Path) -> AsyncGenerator[Sequence[tuple[int, bytes]], None]:
    """Number and text of each line that is not blank, some at a time, so that others get their turn however they are.

    Of a longer one than allowed, only a little more than that.
    """
    number = 0
    with file.open("rb", buffering=_BUFFER) as lines:
        while True:
            found, read = await to_its_end(_read_some, lines, number)
            if not read:
                return
            number += read
            yield found


def _read_some(lines: BinaryIO, number: int) -> tuple[Sequence[tuple[int, bytes]], int]:
    """Those of the next lines that are not blank, and how many were read: none at the end."""
    found, size, read = [], 0, 0
    while size < _BUFFER and read < _BLOCK_LINES and (raw := lines.readline(BATCH_LINE_BYTES + 2)):
        more = raw
        while not more.endswith(b"\n") and (more := lines.readline(_BUFFER)):
            pass
        if not raw.isspace():
            found.append((number + read, raw.rstrip(b"\r\n")))
        size += len(raw)
        read += 1
    return found, read


def read_line(lines: LineFormat, raw: bytes, number: int, terms: Mapping[str, Any]) -> Line:
    """Raises:
    BadLine: too long, or none of this API.
    """
    if len(raw) > BATCH_LINE_BYTES:
        raise BadLine(number, "line_too_long", f"The line is longer than {BATCH_LINE_BYTES // 2**20} MiB.")
    return lines.read(raw, number, terms)
