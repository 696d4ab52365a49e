"""R37, R38: a batch's results are all on disk before it is over, however slow the disk is."""

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fareclass.core.request import Job
from fareclass.core.snapshot import Key, Project, Snapshot
from fareclass.flow import batch_job, batch_lines
from fareclass.flow.batch_job import CANCELLED_BATCH, COMPLETED, BatchJob, Place
from fareclass.flow.batch_lines import Answer, BadLine, Line, read_lines
from fareclass.flow.clock import now_us
from fareclass.store.objects import BatchRow

PROJECT = Project(id="proj_a", name="acme")
KEY = Key(id="key_a", project=PROJECT, name="ci", secret=b"x")
SNAPSHOT = Snapshot(projects={PROJECT.id: PROJECT}, keys={KEY.id: KEY}, models={}, quotas={}, books={})


class Lines:
    """Each line is answered at once, but `last` only once it is told to; what reads `broken` fails inside the gateway."""

    unique_names = True
    tells = frozenset[int]()

    def __init__(self, last: int) -> None:
        self._last = last
        self.go = asyncio.Event()

    def read(self, raw: bytes, number: int, terms: Mapping[str, Any]) -> Line:
        return Line(number=number, name=str(number), model="m", path="/", body=raw)

    def bad(self, error: BadLine, batch: str) -> bytes:
        return f"{error.line} {error.name} {error.code}\n".encode()

    def left(self, line: Line, batch: str, kind: int) -> bytes:
        raise AssertionError("no line is left")

    async def run(self, line: Line, key: Key, id: str, job: Job) -> Answer:
        if line.number == self._last:
            await self.go.wait()
        if line.body == b"broken":
            raise TypeError("a fault of ours")
        return Answer(succeeded=True, text=line.body + b"\n", tokens=(1, 0, 2, 0))


async def begun(folder: Path, lines: Lines, text: str = "a\nb\nc\n", snapshot: Snapshot = SNAPSHOT) -> BatchJob:
    (folder / "in").write_text(text)
    row = BatchRow(
        id="batch_a", project=PROJECT.id, key=KEY.id, api="openai", state="running", input="file_a", terms={},
        books={}, created_us=now_us(), deadline_us=now_us() + 10**9,
    )  # fmt: skip
    job = BatchJob(row, Place(folder / "in", folder / "batch"), lines, lambda: snapshot, {})
    assert await job.check()
    return job


async def test_r38_the_last_lines_are_on_disk_when_it_ends(tmp_path: Path):
    """The last line is answered while those before it are being written, by a disk that takes its time."""
    lines = Lines(2)
    job = await begun(tmp_path, lines)
    loop, commit = asyncio.get_running_loop(), job.progress.commit

    def slowly(group: Any, **more: Any) -> None:
        loop.call_soon_threadsafe(lines.go.set)
        threading.Event().wait(0.3)
        commit(group, **more)

    job.progress.commit = slowly  # type: ignore[method-assign]
    assert await job.run() == COMPLETED
    assert (job.progress.finished, job.progress.tokens, job.row.succeeded) == (3, (3, 0, 6, 0), 3)
    assert sorted((tmp_path / "batch" / "output").read_text().split()) == ["a", "b", "c"]
    job.progress.close()


async def test_r38_a_line_that_the_gateway_fails_on_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is tried again, and at last stands in the errors: no line is lost."""
    monkeypatch.setattr(batch_job, "_OURS_MS", 1)
    job = await begun(tmp_path, Lines(99), "a\nbroken\nc\n")
    assert await job.run() == COMPLETED
    assert (job.row.total, job.row.succeeded, job.row.failed) == (3, 2, 1)
    assert (tmp_path / "batch" / "errors").read_text() == "2 1 internal_error\n"
    job.progress.close()


async def test_r38_an_end_of_the_gateway_does_not_wait_for_a_full_disk(tmp_path: Path):
    job = await begun(tmp_path, Lines(2))
    tried = asyncio.Event()
    loop = asyncio.get_running_loop()

    def full(group: Any, total: int | None = None) -> None:
        loop.call_soon_threadsafe(tried.set)
        raise OSError(28, "No space left on device")

    job.progress.commit = full  # type: ignore[method-assign]
    running = asyncio.create_task(job.run())
    await asyncio.wait_for(tried.wait(), 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 10)
    job.progress.close()


async def test_r38_a_revoked_key_ends_a_batch_with_one_word(tmp_path: Path):
    """Not with one for each line."""
    revoked = Snapshot(projects={PROJECT.id: PROJECT}, keys={}, models={}, quotas={}, books={})
    job = await begun(tmp_path, Lines(99), "a\n" * 300, revoked)
    assert await job.run() == CANCELLED_BATCH
    assert [error["code"] for error in job.errors] == ["key_revoked"]
    job.progress.close()


async def test_r38_blank_lines_hold_up_nobody(tmp_path: Path):
    """Ten million of them, and one request."""
    (tmp_path / "in").write_bytes(b"\n" * 10_000_000 + b"a\n")
    turns, numbers = 0, list[int]()
    async for block in read_lines(tmp_path / "in"):
        turns += 1
        numbers += [number for number, _ in block]
    assert numbers == [10_000_000]
    assert turns > 1_000


async def test_r38_lines_keep_their_numbers_over_blank_and_long_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batch_lines, "BATCH_LINE_BYTES", 4)
    (tmp_path / "in").write_bytes(b"a\r\n\n  \n" + b"x" * 3_000_000 + b"\nb\n\nlast")
    found = [each async for block in read_lines(tmp_path / "in") for each in block]
    assert found == [(0, b"a"), (3, b"x" * 6), (4, b"b"), (6, b"last")]
