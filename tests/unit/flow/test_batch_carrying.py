"""Inputs and results in folders that others write to: one that hangs, or may not be used, holds up nobody else."""

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from fareclass.core.limits import BATCHES_RUNNING
from fareclass.flow.batch_carrying import Places
from fareclass.flow.batch_lines import CarryError
from fareclass.flow.shared_folder import SharedFolder
from fareclass.policy.batch_places import Root
from fareclass.store.objects import BatchRow
from tests.engine.conftest import eventually


class Taken:
    """Stands for an upload."""

    def __init__(self) -> None:
        self.text = b""

    async def write(self, data: bytes) -> None:
        self.text += data


def job(project: str, **terms: Any) -> BatchRow:
    asked = {"input": "s3://shared/in/", "output": "s3://shared/out/"}
    return BatchRow(
        id=f"mij_{project}", project=project, key="key_a", api="bedrock", state="running", input="file_a",
        terms={"asked": asked, **terms}, books={}, created_us=1, deadline_us=2, total=1, succeeded=1,
        result={"tokens": [1, 0, 2, 0], "counts": [1, 0, 0, 0]},
    )  # fmt: skip


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Each project has a folder of its own name."""
    for name in ("healthy", "hung"):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in" / "a.jsonl").write_bytes(b"line")
    return Places(lambda project: [Root("s3://shared/", str(tmp_path / project))], {})


async def test_a_folder_that_hangs_holds_up_nobody_elses_work(places: Places, monkeypatch: pytest.MonkeyPatch):
    """Neither another folder's batches, nor what the gateway does in threads for anybody else, nor its end."""
    go_on = threading.Event()
    is_folder = SharedFolder.is_folder

    def hang(shared: SharedFolder, parts: Any) -> bool:
        if shared._root.name == "hung":
            go_on.wait(30)
        return is_folder(shared, parts)

    monkeypatch.setattr(SharedFolder, "is_folder", hang)
    hung = [asyncio.create_task(places.fetch(job("hung"), Taken())) for _ in range(BATCHES_RUNNING - 1)]  # type: ignore[arg-type]
    try:
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(lambda: "done") == "done"
            taken, row = Taken(), job("healthy")
            await places.fetch(row, taken)  # type: ignore[arg-type]
            assert (taken.text, row.terms["inputs"]) == (b"line\n", [("a.jsonl", 0)])
            await asyncio.to_thread(places.close)
        assert not any(task.done() for task in hung)
    finally:
        go_on.set()
        await asyncio.gather(*hung, return_exceptions=True)


async def test_a_file_that_a_thread_reads_stays_open_until_that_has_ended(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Though its batch is cut off meanwhile: its descriptor could be another file's, or a caller's, by then."""
    begun, go_on = threading.Event(), threading.Event()
    read = os.read

    def slowly(file: int, count: int) -> bytes:
        if threading.current_thread().name.startswith("fareclass-folders"):
            begun.set()
            go_on.wait(10)
        return read(file, count)

    def is_open() -> bool:
        return str(tmp_path / "healthy" / "in" / "a.jsonl") in {file.path for file in psutil.Process().open_files()}

    monkeypatch.setattr(os, "read", slowly)
    task = asyncio.create_task(places.fetch(job("healthy"), Taken()))  # type: ignore[arg-type]
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert is_open()
    go_on.set()
    await eventually(lambda: not is_open())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
async def test_results_that_may_not_be_written_are_given_up_at_once(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    """Nobody waits a day for a permission that is not there; they are kept here then."""
    opened = os.open

    def deny(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_CREAT and str(path).endswith(".part"):
            raise OSError(number, os.strerror(number))
        return opened(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", deny)
    folder = tmp_path / "batch"
    folder.mkdir()
    (folder / "output").write_bytes(b'0 {"a":1}\n')
    row = job("healthy", inputs=[("a.jsonl", 0)])
    with pytest.raises(CarryError, match=f"can't be written: .*{os.strerror(number).lower()}"):
        await places.deliver(row, folder, {"output": folder / "output"})


async def test_an_input_that_may_not_be_read_whole_ends_its_job_at_once(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "healthy" / "in" / "private").mkdir()
    opened = os.open

    def deny(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if path == "private":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", deny)
    with pytest.raises(CarryError, match="can't be read: private: permission denied"):
        await places.fetch(job("healthy"), Taken())  # type: ignore[arg-type]


async def test_an_input_whose_results_would_be_the_sums_is_none(places: Places, tmp_path: Path):
    (tmp_path / "healthy" / "in" / "manifest.json").write_bytes(b"line")
    row = job("healthy")
    row.terms["asked"]["input"] = "s3://shared/in/manifest.json"
    with pytest.raises(CarryError, match="give it another name"):
        await places.fetch(row, Taken())  # type: ignore[arg-type]
