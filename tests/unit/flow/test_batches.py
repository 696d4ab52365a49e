"""R38: each batch ends, once, in its turn, whatever happens to what it needs."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec
import pytest

from fareclass.core.limits import PROJECT_BATCHES_RUNNING
from fareclass.core.outcomes import Refusal
from fareclass.flow.batch_carrying import Places, numbered
from fareclass.flow.batch_lines import Answer, CarryError, Line
from fareclass.flow.batches import Batches, NewBatch
from fareclass.flow.files import Files, Upload
from fareclass.store.database import Store
from fareclass.store.objects import ENDED, BatchRow, get_batch
from fareclass.store.tables import projects
from tests.engine.conftest import eventually
from tests.unit.flow.test_batch_job import KEY, PROJECT, SNAPSHOT, Lines


class Numbered(Lines):
    """Lines whose results are sorted out at their end."""

    async def run(self, line: Line, key: object, id: str, job: object) -> Answer:
        return Answer(succeeded=True, text=numbered(line.number, line.body + b"\n"))


class NoPlace(Places):
    """Nothing can be delivered."""

    async def fetch(self, row: BatchRow, into: Upload) -> None:
        await into.write(b"a\nb\n")

    async def deliver(self, row: BatchRow, folder: Path, files: Mapping[str, Path]) -> None:
        raise CarryError("The place is gone.")


@pytest.fixture
async def files(store: Store, tmp_path: Path) -> AsyncIterator[Files]:
    with store.write() as connection:
        connection.execute(projects.insert(), [{"id": PROJECT.id, "name": "acme", "weight": 1, "created_us": 1}])
    opened = Files(store, tmp_path / "files")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def batches(store: Store, tmp_path: Path, files: Files) -> AsyncIterator[Batches]:
    formats = {"openai": Lines(1), "bedrock": Numbered(99)}
    carriers = {"bedrock": NoPlace(lambda _project: [], {})}
    opened = Batches(store, tmp_path, files, lambda: SNAPSHOT, {}, formats, carriers)
    await opened.open()
    yield opened
    await opened.close()


async def uploaded(files: Files, text: bytes = b"a\nb\n") -> str:
    upload = await files.begin(PROJECT.id)
    await upload.write(text)
    return (await upload.finish("in.jsonl", "batch", None)).id


async def made(batches: Batches, number: int, file: str | None, api: str = "openai") -> BatchRow:
    asked = NewBatch(id=f"batch_{number:04}", input=file, terms={"asked": {}}, window_s=3_600)
    return await batches.create(KEY, api, asked)


async def seen(batches: Batches, row: BatchRow) -> BatchRow:
    found = await batches.find(PROJECT.id, row.api, row.id)
    assert found is not None
    return found


async def ended(batches: Batches, row: BatchRow, store: Store) -> BatchRow:
    def over() -> bool:
        with store.read() as connection:
            found = get_batch(connection, PROJECT.id, row.api, row.id)
        return found is not None and found.state == ENDED

    await eventually(over)
    return await seen(batches, row)


async def test_a_cancel_that_comes_too_late_changes_nothing(batches: Batches, files: Files, store: Store):
    """It was read while it ran, and has ended since."""
    row = await made(batches, 1, await uploaded(files, b"a\n"))
    stale = msgspec.structs.replace(row, state="running")
    whole = await ended(batches, row, store)
    assert (whole.result or {})["outcome"] == "completed"
    assert await batches.cancel(stale) == whole
    assert await seen(batches, row) == whole


async def test_a_batch_whose_file_is_gone_fails_with_the_reason(batches: Batches, files: Files, store: Store):
    file = await uploaded(files)
    files.path(file).unlink()
    result = (await ended(batches, await made(batches, 1, file), store)).result or {}
    assert (result["outcome"], result["errors"][0]["code"]) == ("failed", "input_unavailable")


async def test_a_batch_of_a_file_that_is_being_deleted_is_refused(batches: Batches):
    with pytest.raises(Refusal, match="no longer there"):
        await made(batches, 1, "file_gone")


async def test_what_is_cancelled_while_it_waits_ends_at_once(batches: Batches, files: Files, store: Store):
    file = await uploaded(files)
    rows = [await made(batches, number, file) for number in range(PROJECT_BATCHES_RUNNING + 2)]
    first, *_, cancelled, waiting = rows
    await eventually(lambda: not batches.waits(first))
    await batches.cancel(cancelled)
    assert ((await ended(batches, cancelled, store)).result or {})["outcome"] == "cancelled"
    assert batches.waits(waiting)
    assert (await seen(batches, first)).state != ENDED


async def test_a_batch_whose_input_does_not_come_can_be_cancelled_and_expires(
    batches: Batches, store: Store, monkeypatch: pytest.MonkeyPatch
):
    """A store that sends a byte now and then keeps nobody's place for ever."""
    begun = asyncio.Event()

    async def drip(self: NoPlace, row: BatchRow, into: Upload) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(NoPlace, "fetch", drip)
    row = await made(batches, 1, None, "bedrock")
    await begun.wait()
    await batches.cancel(row)
    assert ((await ended(batches, row, store)).result or {})["outcome"] == "cancelled"
    late = await batches.create(KEY, "bedrock", NewBatch(id="batch_late", input=None, terms={"asked": {}}, window_s=1))
    assert ((await ended(batches, late, store)).result or {})["outcome"] == "expired"


async def test_what_can_not_be_delivered_is_kept_as_its_caller_would_have_got_it(
    batches: Batches, files: Files, store: Store
):
    row = await made(batches, 1, None, "bedrock")
    result = (await ended(batches, row, store)).result or {}
    assert result["undelivered"] == "The place is gone."
    found = await files.find(PROJECT.id, result["output_file"])
    assert found is not None
    assert sorted(files.path(found.id).read_text().splitlines()) == ["a", "b"]
    assert found.size_bytes == len("a\nb\n")
