"""R51: what a project may keep on disk is bounded however its uploads overlap, and what nobody has is not kept."""

import asyncio
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.flow import files
from fareclass.flow.files import Files, Upload
from fareclass.store.database import Store
from fareclass.store.objects import FileRow
from fareclass.store.tables import projects

PROJECT = "proj_a"


@pytest.fixture
async def kept(store: Store, tmp_path: Path) -> AsyncIterator[Files]:
    with store.write() as connection:
        connection.execute(projects.insert(), [{"id": PROJECT, "name": "acme", "weight": 1, "created_us": 1}])
    opened = Files(store, tmp_path / "files")
    await opened.open()
    yield opened
    await opened.close()


def on_disk(folder: Path) -> int:
    """Bytes of all files, uploads too."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def finish(upload: Upload, size: int) -> FileRow | Refusal:
    try:
        await upload.write(b"x" * size)
        return await upload.finish("a", "batch", None)
    except Refusal as refusal:
        return refusal
    finally:
        upload.drop()


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("bound", ["PROJECT_FILE_BYTES", "PROJECT_FILES"])
async def test_r51_uploads_that_overlap_get_no_more_room_than_there_is(
    kept: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, together: bool
):
    """Each fits when it begins; three do at the end, fewer where all come at once and none can know which will be refused."""
    monkeypatch.setattr(files, bound, {"PROJECT_FILE_BYTES": 3_500, "PROJECT_FILES": 3}[bound])
    monkeypatch.setattr(
        files, "_sync_folder", lambda _folder: threading.Event().wait(0.05)
    )  # a disk that takes its time
    uploads = [await kept.begin(PROJECT) for _ in range(12)]
    if together:
        ends = await asyncio.gather(*(finish(upload, 10 if bound == "PROJECT_FILES" else 1_000) for upload in uploads))
    else:
        ends = [await finish(upload, 1_000) for upload in uploads]
    rows = await kept.listed(PROJECT, purpose=None, after=None, limit=100, ascending=True)
    assert len(rows) in (range(4) if together and bound == "PROJECT_FILE_BYTES" else [3])
    assert on_disk(tmp_path / "files") == sum(row.size_bytes for row in rows)
    refused = [end for end in ends if isinstance(end, Refusal)]
    assert len(refused) == 12 - len(rows) and {(each.outcome, each.code) for each in refused} == {
        (Outcome.THROTTLED, "files_exceeded")
    }


@pytest.mark.parametrize("step", ["come", "go"])
async def test_r51_what_a_kill_left_without_a_row_is_gone_at_the_next_start(
    kept: Files, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    """Killed right before the end of the step, or between the two ends of it; what was not moving stays."""
    other = await finish(await kept.begin(PROJECT), 10)
    row = await finish(await kept.begin(PROJECT), 10) if step == "go" else None
    assert isinstance(other, FileRow)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    part = tmp_path / "files" / "uploads" / "part_1"
    part.write_bytes(b"x")
    act = (
        partial(kept._delete, row)
        if isinstance(row, FileRow)
        else partial(kept._keep, part, replace(other, id="file_coming"))
    )
    monkeypatch.setattr(*((files, "_sync_folder") if step == "come" else (Path, "unlink")), killed)
    with pytest.raises(KeyboardInterrupt):
        act()
    monkeypatch.undo()
    stray = tmp_path / "files" / (row.id if isinstance(row, FileRow) else "file_coming")
    assert stray.exists()
    again = Files(store, tmp_path / "files")
    await again.open()
    await again.close()
    assert {path.name for path in (tmp_path / "files").rglob("*") if path.is_file()} == {other.id}


async def test_r51_an_upload_that_is_cut_off_never_gets_into_another_file(
    kept: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The disk is slow, its caller's time is over: no file that is opened then has the descriptor that is written to."""
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    write_all = files._write_all

    def slowly(fd: int, data: bytearray) -> None:
        begun.set()
        go_on.wait(10)
        try:
            write_all(fd, data)
        finally:
            ended.set()

    monkeypatch.setattr(files, "_write_all", slowly)
    task = asyncio.create_task(finish(await kept.begin(PROJECT), 1_000))
    await asyncio.to_thread(begun.wait, 10)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.05)
    with (tmp_path / "other").open("wb", buffering=0):
        go_on.set()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(ended.wait, 10)
    assert task.cancelled() and (tmp_path / "other").stat().st_size == 0
    assert on_disk(tmp_path / "files") == 0


async def test_r51_a_project_has_only_so_many_uploads_under_way(kept: Files, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "UPLOADS", 2)
    first, second = [await kept.begin(PROJECT) for _ in range(2)]
    with pytest.raises(Refusal, match="2 uploads under way") as caught:
        await kept.begin(PROJECT)
    assert caught.value.retry_after_ms
    (await kept.begin("proj_other")).drop()
    first.drop()
    first.drop()
    (await kept.begin(PROJECT)).drop()
    second.drop()


async def test_r51_an_upload_that_could_not_begin_is_not_under_way(kept: Files, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "UPLOADS", 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space"):
            await kept.begin(PROJECT)
    (await kept.begin(PROJECT)).drop()
