"""R37, R38: a batch's results are all on disk before it is over, however slow the disk is."""

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fareclass.core.request import Job
from fareclass.core.snapshot import Key, Project, Snapshot
from fareclass.flow.batch_job import COMPLETED, BatchJob, Place
from fareclass.flow.batch_lines import Answer, BadLine, Line
from fareclass.flow.clock import now_us
from fareclass.store.objects import BatchRow

PROJECT = Project(id="proj_a", name="acme")
KEY = Key(id="key_a", project=PROJECT, name="ci", secret=b"x")
SNAPSHOT = Snapshot(projects={PROJECT.id: PROJECT}, keys={KEY.id: KEY}, models={}, quotas={}, books={})


class Lines:
    """Each line is answered at once, but the last only once it is told to."""

    unique_names = True
    tells = frozenset[int]()

    def __init__(self, last: int) -> None:
        self._last = last
        self.go = asyncio.Event()

    def read(self, raw: bytes, number: int, terms: Mapping[str, Any]) -> Line:
        return Line(number=number, name=str(number), model="m", path="/", body=raw)

    def bad(self, error: BadLine, batch: str) -> bytes:
        raise AssertionError("no line is bad or left")

    def left(self, line: Line, batch: str, kind: int) -> bytes:
        raise AssertionError("no line is bad or left")

    async def run(self, line: Line, key: Key, id: str, job: Job) -> Answer:
        if line.number == self._last:
            await self.go.wait()
        return Answer(succeeded=True, text=line.body + b"\n", tokens=(1, 0, 2, 0))


async def test_r38_the_last_lines_are_on_disk_when_it_ends(tmp_path: Path):
    """The last line is answered while those before it are being written, by a disk that takes its time."""
    (tmp_path / "in").write_text("a\nb\nc\n")
    row = BatchRow(
        id="batch_a", project=PROJECT.id, key=KEY.id, api="openai", state="running", input="file_a", terms={},
        books={}, created_us=now_us(), deadline_us=now_us() + 10**9,
    )  # fmt: skip
    lines = Lines(2)
    job = BatchJob(row, Place(tmp_path / "in", tmp_path / "batch"), lines, lambda: SNAPSHOT, {})
    assert await job.check()
    loop, commit = asyncio.get_running_loop(), job.progress.commit

    def slowly(group: Any, **more: Any) -> None:
        loop.call_soon_threadsafe(lines.go.set)
        threading.Event().wait(0.3)
        commit(group, **more)

    job.progress.commit = slowly  # type: ignore[method-assign]
    assert await job.run() == COMPLETED
    assert (job.progress.finished, job.progress.tokens, row.succeeded) == (3, (3, 0, 6, 0), 3)
    assert sorted((tmp_path / "batch" / "output").read_text().split()) == ["a", "b", "c"]
    job.progress.close()
