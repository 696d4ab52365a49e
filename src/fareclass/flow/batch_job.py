"""One batch while it runs: lines are read from disk, sent a bounded number at a time, and what they come to is kept."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fareclass.core.limits import BATCH_BYTES, BATCH_ERRORS, BATCH_LINES
from fareclass.core.request import Job
from fareclass.core.snapshot import Key, PriceBook, Snapshot
from fareclass.flow.batch_lines import Answer, BadLine, Line, LineFormat, read_line, read_lines
from fareclass.flow.batch_progress import CANCELLED, EXPIRED, FAILED, SUCCEEDED, Finished, Progress
from fareclass.flow.clock import now_us
from fareclass.flow.dispatch import Dispatcher
from fareclass.flow.threads import to_its_end
from fareclass.policy.batching import lines_to_raise
from fareclass.store.line_names import SeenNames
from fareclass.store.objects import BatchRow

COMPLETED, CANCELLED_BATCH, EXPIRED_BATCH, FAILED_BATCH = "completed", "cancelled", "expired", "failed"
_log = logging.getLogger(__name__)
_LOOK = 64
"""Lines looked at before others get their turn in the event loop."""
_GROUP_S = 0.2
"""Finished lines are put on disk this often."""
_SPARE = 8
"""Lines of a model in flight beyond twice its slots, so that none is free while the next line is read."""
_TRIES = 4
"""Of a line that the gateway or an engine failed."""
_LONGEST_WAIT_S = 60.0
_OURS_MS = 2_000
_FULL_DISK_S = 5.0
_LOOK_S = 2.0
"""How often it is seen whether lines must be raised."""


class Place(NamedTuple):
    """Where a batch's input is, and the folder of what it comes to."""

    input: Path
    folder: Path


class BatchJob:
    """`row` tells how far it is; `run` to its end."""

    def __init__(
        self,
        row: BatchRow,
        place: Place,
        lines: LineFormat,
        snapshot: Callable[[], Snapshot],
        dispatchers: Mapping[str, Dispatcher],
    ) -> None:
        self.row = row
        self.errors: list[dict[str, object]] = list((row.result or {}).get("errors", ()))
        self.progress = Progress(place.folder)
        self._place = place
        self._lines = lines
        self._snapshot = snapshot
        self._dispatchers = dispatchers
        self._loop = asyncio.get_running_loop()
        self._deadline_s = self._loop.time() + (row.deadline_us - now_us()) / 1e6
        self._cancelled = asyncio.Event()
        self._closing = asyncio.Event()
        self._freed = asyncio.Event()
        self._tasks: dict[asyncio.Task[None], Line] = {}
        self._in_flight: Counter[str] = Counter()
        self._bytes = 0
        self._pending: list[Finished] = []
        self._committing = asyncio.Lock()
        self._raise = 0
        self._raised: set[str] = set()
        self._line_s = 0.0
        self._running = 0.0
        stored = {model: msgspec.convert(book, PriceBook) for model, book in row.books.items()}
        self._books = {**snapshot().books, **stored}

    @property
    def at_risk(self) -> bool:
        """Whether it needs lines raised to end within its window (R13)."""
        return self._raise > 0

    @property
    def raised(self) -> int:
        """Lines that rank as default for that."""
        return len(self._raised)

    def cancel(self) -> None:
        """Hang up on what runs, and end."""
        self._cancelled.set()

    async def unless_over(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do this for it; False, and not to its end, where it is cancelled or its window closes meanwhile."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._cancelled.wait())
        try:
            left_s = self._deadline_s - self._loop.time()
            await asyncio.wait([task, stop], timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            return task.done()
        finally:
            stop.cancel()
            task.cancel()
            await asyncio.gather(stop, task, return_exceptions=True)

    async def check(self) -> bool:
        """Open what is on disk, and look at all lines once; False where the input is no batch."""
        await to_its_end(self.progress.open)
        if self.progress.total is None:
            await self._look_at_all()
        self.row.total = self.progress.total or 0
        return bool(self.row.total) and self.row.total <= BATCH_LINES

    async def run(self) -> str:
        """Send what is left; how it ended. Its `progress` is on disk then."""
        working = [asyncio.create_task(each) for each in (self._keep(), self._watch())]
        try:
            done = await self.unless_over(self._feed())
        except asyncio.CancelledError:
            self._closing.set()
            raise
        finally:
            for task in (*working, *self._tasks):
                task.cancel()
            await asyncio.gather(*working, *self._tasks, return_exceptions=True)
            await self._commit()
        if self._cancelled.is_set():
            await self.close_rest(CANCELLED)
            return CANCELLED_BATCH
        if not done:
            await self.close_rest(EXPIRED)
            return EXPIRED_BATCH
        return COMPLETED

    async def close_rest(self, kind: int) -> None:
        """The window has closed, or it was cancelled: each line that is left is told of in the errors, where that is usual."""
        if kind not in self._lines.tells:
            return
        async with aclosing(read_lines(self._place.input)) as blocks:
            async for block in blocks:
                for number, raw in block:
                    if not self.progress.is_done(number):
                        line = read_line(self._lines, raw, number, self.row.terms)
                        self._pending.append(Finished(number, kind, self._lines.left(line, self.row.id, kind)))
                    if len(self._pending) >= _LOOK:
                        await self._commit()
        await self._commit()

    # -- looking at the input

    async def _look_at_all(self) -> None:
        """Count the lines; what can't be sent goes to the errors."""
        self.errors.clear()
        seen = SeenNames(self._place.folder / "names")
        total = 0
        try:
            async with aclosing(read_lines(self._place.input)) as blocks:
                async for block in blocks:
                    total += len(block)
                    if total > BATCH_LINES:
                        self._tell_error("too_many_lines", f"The file has more than {BATCH_LINES} lines.")
                        break
                    for some in range(0, len(block), _LOOK):
                        await self._look_at(block[some : some + _LOOK], seen)
        finally:
            seen.close()
        if not total:
            self._tell_error("empty_file", "The file has no lines.")
        await to_its_end(self.progress.commit, (), total)

    async def _look_at(self, lines: Sequence[tuple[int, bytes]], seen: SeenNames) -> None:
        names, bad = list[tuple[str, int]](), list[BadLine]()
        for number, raw in lines:
            try:
                line = read_line(self._lines, raw, number, self.row.terms)
                if self._lines.unique_names:
                    names.append((line.name, number))
            except BadLine as error:
                bad.append(error)
        await self._note_bad(bad, seen, names)

    async def _note_bad(self, bad: Sequence[BadLine], seen: SeenNames, names: Sequence[tuple[str, int]]) -> None:
        text = "The same custom_id is there in an earlier line."
        again = {number: name for name, number in names}
        found = [
            *bad,
            *(BadLine(number, "duplicate_custom_id", text, name=again[number]) for number in seen.add(names)),
        ]
        for error in found:
            self._tell_error(error.code, error.message, error.line, error.param)
        if found:
            group = [Finished(error.line - 1, FAILED, self._lines.bad(error, self.row.id)) for error in found]
            await to_its_end(self.progress.commit, group)
        await asyncio.sleep(0.001)  # others' requests come first

    def _tell_error(self, code: str, message: str, line: int | None = None, param: str | None = None) -> None:
        if len(self.errors) < BATCH_ERRORS:
            self.errors.append({"code": code, "message": message, "line": line, "param": param})

    # -- sending

    async def _feed(self) -> None:
        """Read on as lines end."""
        async with aclosing(read_lines(self._place.input)) as blocks:
            async for block in blocks:
                for number, raw in block:
                    if not self.progress.is_done(number):
                        await self._offer(read_line(self._lines, raw, number, self.row.terms))
                    if self._cancelled.is_set():
                        return
        while self._tasks:
            self._freed.clear()
            await self._freed.wait()

    async def _offer(self, line: Line) -> None:
        while not self._room(line):
            self._freed.clear()
            await self._freed.wait()
        self._send(line)

    def _room(self, line: Line) -> bool:
        if not self._tasks:
            return True
        slots = sum(pool.brain.slots for pool in self._pools_of(line.model))
        window = max(2 * slots + _SPARE, self._raise)
        return self._in_flight[line.model] < window and self._bytes + len(line.body) <= BATCH_BYTES

    def _send(self, line: Line) -> None:
        key = self._snapshot().keys.get(self.row.key)
        if key is None:
            self._tell_error("key_revoked", "The key that made the batch has been revoked.")
            self.cancel()
            return
        self._in_flight[line.model] += 1
        self._bytes += len(line.body)
        task = asyncio.create_task(self._answer(line, key))
        self._tasks[task] = line
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        line = self._tasks.pop(task)
        self._in_flight[line.model] -= 1
        self._bytes -= len(line.body)
        self._raised.discard(self._id(line))
        self._freed.set()

    def _id(self, line: Line) -> str:
        """The same each time that the line is sent, so that the ledger has it once (R35)."""
        return f"{self.row.id}_{line.number}"

    async def _answer(self, line: Line, key: Key) -> None:
        tries = 0
        while True:
            answer = await self._try(line, key)
            tries += answer.ours
            if answer.again_ms is None or tries >= _TRIES:
                break
            await asyncio.sleep(min(answer.again_ms / 1000, _LONGEST_WAIT_S))
        if answer.succeeded or self._loop.time() < self._deadline_s:
            self._learn(answer)
            kind = SUCCEEDED if answer.succeeded else FAILED
            self._pending.append(Finished(line.number, kind, answer.text, answer.tokens))

    async def _try(self, line: Line, key: Key) -> Answer:
        try:
            return await self._lines.run(line, key, self._id(line), self._job(line))
        except Exception:  # noqa: BLE001 - whatever it is, the line must be told of
            _log.exception("a line of a batch failed inside the gateway", extra={"batch": self.row.id})
            error = BadLine(line.number, "internal_error", "The gateway failed to handle it.", name=line.name)
            return Answer(succeeded=False, text=self._lines.bad(error, self.row.id), again_ms=_OURS_MS, ours=True)

    def _job(self, line: Line) -> Job:
        raised = len(self._raised) < self._raise
        if raised:
            self._raised.add(self._id(line))
        return Job(books=self._books, deadline_s=self._deadline_s, raised=raised)

    # -- a closing window (R13)

    def _learn(self, answer: Answer) -> None:
        if answer.succeeded:
            self._line_s += (answer.ran_s - self._line_s) / (8 if self._line_s else 1)

    async def _watch(self) -> None:
        """Raise as many lines as finishing in time needs."""
        while True:
            await asyncio.sleep(_LOOK_S)
            waiting = [one for pool in self._dispatchers.values() for one in pool.waiting(f"{self.row.id}_")]
            by_rank = len(self._tasks) - len(waiting) - len(self._raised.difference(waiting))
            self._running += (max(0, by_rank) - self._running) / 4
            left = (self.progress.total or 0) - self.progress.finished - len(self._pending)
            ran_s = self._line_s or max((pool.service_s for pool in self._dispatchers.values()), default=0.0)
            line_s = ran_s + max((pool.default_wait_s for pool in self._pools()), default=0.0)
            self._raise = lines_to_raise(left, self._running, line_s, self._deadline_s - self._loop.time())
            chosen = [one for one in waiting if one not in self._raised][: max(0, self._raise - len(self._raised))]
            self._raised.update(chosen)
            for pool in self._dispatchers.values():
                pool.hasten(chosen)
            self._freed.set()

    def _pools(self) -> list[Dispatcher]:
        """Of the models that lines in flight are for."""
        return [pool for model, lines in self._in_flight.items() if lines for pool in self._pools_of(model)]

    def _pools_of(self, model: str) -> list[Dispatcher]:
        """The model's pool, or all that a route's lines may go to (R45)."""
        if (pool := self._dispatchers.get(model)) is not None:
            return [pool]
        route = self._snapshot().routes.get(model)
        return [] if route is None else [self._dispatchers[each.model] for each in route.models]

    # -- keeping

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_GROUP_S)
            await asyncio.shield(self._commit())

    async def _commit(self) -> None:
        """Put all that is finished on disk, also what another call is still about. A full disk is waited for, but not when
        the gateway ends: what is not on disk is sent again.
        """
        async with self._committing:
            group, self._pending = self._pending, []
            while group:
                try:
                    await to_its_end(self.progress.commit, group)
                except OSError as error:
                    cause = {"batch": self.row.id, "cause": str(error)}
                    _log.error("a batch can't be written, will retry", extra=cause)
                    if self._closing.is_set():
                        break
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._closing.wait(), _FULL_DISK_S)
                    continue
                group = []
        self.row.succeeded = self.progress.counts[SUCCEEDED]
        self.row.failed = self.progress.counts[FAILED] + self.progress.counts[EXPIRED]
