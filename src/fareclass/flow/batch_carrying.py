"""Inputs of batches come from, and results go to, places that their callers name and operators have set (R47)."""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec

from fareclass.core.limits import BATCH_INPUTS, BATCHES_RUNNING
from fareclass.engine.object_store import ObjectRefused, ObjectStore
from fareclass.flow.batch_lines import CarryError
from fareclass.flow.files import Upload
from fareclass.flow.shared_folder import NotThere, SharedFolder
from fareclass.policy.batch_places import PlaceError, Root, Spot, find_spot, parse_uri
from fareclass.store.objects import BatchRow

_T = TypeVar("_T")
_SUFFIX: Final = ".jsonl"
MANIFEST: Final = "manifest.json.out"


class Source(NamedTuple):
    """One file of an input: its name below the folder that was asked for, and what it is read from."""

    name: str
    spot: Spot


class Places:
    """Implements `flow.batch_lines.Carrier`, for batches whose `terms["asked"]` have an `input` and an `output` by name.

    `roots` gives the places of a project, `stores` are the object stores of the configuration. Folders are read and
    written in threads of their own, one for each batch that runs: a network file system that hangs holds up only its own.
    """

    def __init__(self, roots: Callable[[str], Sequence[Root]], stores: Mapping[str, ObjectStore]) -> None:
        self._roots = roots
        self._stores = stores
        self._threads = ThreadPoolExecutor(BATCHES_RUNNING, "fareclass-folders")

    def close(self) -> None:
        """Begin no more; nobody waits for what hangs."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def check(self, project: str, names: Mapping[str, str]) -> None:
        """Whether the project may use these, by the fields that they were given in.

        Raises:
            PlaceError: it may not; the message names the field.
        """
        roots = await asyncio.to_thread(self._roots, project)
        for field, name in names.items():
            try:
                find_spot(name, roots)
            except PlaceError as error:
                raise PlaceError(f"`{field}` {error}.") from None

    async def fetch(self, row: BatchRow, into: Upload) -> None:
        """All files of the input, one behind the other; `terms["inputs"]` then has the name and first line of each."""
        asked = row.terms["asked"]
        inputs: list[tuple[str, int]] = []
        lines = 0
        try:
            spot = await self._spot(row.project, asked["input"])
            for source in await self._sources(spot):
                inputs.append((source.name, lines))
                last = b"\n"
                async with aclosing(self._read(source.spot)) as blocks:
                    async for block in blocks:
                        await into.write(block)
                        lines += block.count(b"\n")
                        last = block[-1:]
                if last != b"\n":
                    await into.write(b"\n")
                    lines += 1
        except (NotThere, ObjectRefused, PlaceError) as error:
            raise CarryError(f"The input {asked['input']} can't be read: {error}.") from None
        row.terms["inputs"] = inputs

    async def deliver(self, row: BatchRow, folder: Path, files: Mapping[str, Path]) -> None:
        """A file of results for each of the input, in a folder of the job's own, and at last the sums."""
        output = row.terms["asked"]["output"]
        names = [name for name, _ in row.terms["inputs"]]
        parts = folder / "parts"
        try:
            spot = await self._spot(row.project, output)
            made = await asyncio.to_thread(sort_out, files, [first for _, first in row.terms["inputs"]], parts)
            (folder / MANIFEST).write_bytes(manifest(row))
            below = row.id.rpartition("_")[2]
            for number, path in made.items():
                await self._write(spot, (below, *f"{names[number]}.out".split("/")), path)
            await self._write(spot, (below, MANIFEST), folder / MANIFEST)
        except (NotThere, ObjectRefused, PlaceError) as error:
            raise CarryError(f"The output {output} can't be written: {error}.") from None

    def keep(self, file: Path, kept: Path) -> None:
        """The results alone."""
        with file.open("rb") as lines, kept.open("wb") as out:
            out.writelines(text for _, _, text in (line.partition(b" ") for line in lines))

    async def _spot(self, project: str, name: str) -> Spot:
        return find_spot(name, await asyncio.to_thread(self._roots, project))

    async def _sources(self, spot: Spot) -> list[Source]:
        """The files that an input is; a folder is all those below it that end in .jsonl."""
        names = await self._names(spot)
        if names is None:
            if not spot.below:
                raise NotThere("its folder is not there")
            if f"{spot.uri.parts[-1]}.out" == MANIFEST:
                raise NotThere("its results would stand where the sums are to be; give it another name")
            return [Source(spot.uri.parts[-1], spot)]
        wanted = sorted(name for name in names if name.endswith(_SUFFIX))
        if not wanted:
            raise NotThere(f"there is no {_SUFFIX} file")
        if len(wanted) > BATCH_INPUTS:
            raise NotThere(f"there are more than {BATCH_INPUTS} {_SUFFIX} files")
        return [Source(name, self._below(spot, name)) for name in wanted]

    async def _names(self, spot: Spot) -> Sequence[str] | None:
        """What is below a folder; None for what is a file."""
        if spot.root.folder is not None:
            shared = SharedFolder(Path(spot.root.folder))
            if not await self._in_thread(shared.is_folder, spot.below):
                return None
            return await self._in_thread(lambda: ["/".join(parts) for parts in shared.names(spot.below)])
        if not spot.uri.folder:
            return None
        prefix = "".join(f"{part}/" for part in spot.uri.parts)
        found = await self._store(spot).names(spot.uri.bucket, prefix, 10 * BATCH_INPUTS)
        return [key.removeprefix(prefix) for key in found]

    def _below(self, spot: Spot, name: str) -> Spot:
        uri = parse_uri(
            spot.uri._replace(folder=True).text + name
        )  # whoever named the file may not lead elsewhere either
        return spot._replace(uri=uri, below=(*spot.below, *name.split("/")))

    async def _read(self, spot: Spot) -> AsyncGenerator[bytes, None]:
        if spot.root.folder is None:
            key = "/".join(spot.uri.parts)
            async with aclosing(self._store(spot).read(spot.uri.bucket, key)) as blocks:
                async for block in blocks:
                    yield block
            return
        pieces = SharedFolder(Path(spot.root.folder)).blocks(spot.below)
        reading = self._threads.submit(next, pieces, b"")
        try:
            while block := await asyncio.wrap_future(reading):
                yield block
                reading = self._threads.submit(next, pieces, b"")
        finally:
            # Who is cancelled meanwhile closes the file only after the thread that reads it.
            reading.add_done_callback(lambda _: pieces.close())

    async def _write(self, spot: Spot, parts: Sequence[str], source: Path) -> None:
        if spot.root.folder is None:
            await self._store(spot).write(spot.uri.bucket, "/".join((*spot.uri.parts, *parts)), source)
        else:
            shared = SharedFolder(Path(spot.root.folder))
            await self._in_thread(shared.write, (*spot.below, *parts), source)

    async def _in_thread(self, function: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *arguments))

    def _store(self, spot: Spot) -> ObjectStore:
        store = self._stores.get(spot.root.store or "")
        if store is None:
            raise PlaceError("its object store is no longer in the configuration")
        return store


def numbered(number: int, text: bytes) -> bytes:
    """A result as it is kept until it is sorted out: behind the number of its line."""
    return b"%d %b" % (number, text)


def sort_out(files: Mapping[str, Path], starts: Sequence[int], folder: Path) -> dict[int, Path]:
    """Results by the file that their line stood in: the paths by its number. `starts` are first lines, ascending."""
    folder.mkdir(exist_ok=True)
    made: dict[int, Path] = {}
    with ExitStack() as stack:
        opened = {}
        for path in files.values():
            for line in stack.enter_context(path.open("rb")):
                number, _, text = line.partition(b" ")
                place = bisect_right(starts, int(number)) - 1
                if place not in opened:
                    made[place] = folder / str(place)
                    opened[place] = stack.enter_context(made[place].open("wb"))
                opened[place].write(text)
    return made


def manifest(row: BatchRow) -> bytes:
    """The sums of a job that has ended."""
    result = row.result or {}
    read, _, written, _ = result["tokens"]
    done = sum(result["counts"])
    sums = {
        "totalRecordCount": row.total,
        "processedRecordCount": done,
        "successRecordCount": row.succeeded,
        "errorRecordCount": done - row.succeeded,
        "inputTokenCount": read,
        "outputTokenCount": written,
    }
    return msgspec.json.encode(sums) + b"\n"
