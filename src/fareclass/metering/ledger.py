"""The ledger: one entry per request, on disk before the last byte of its answer leaves (R35).

Group commit: requests hand their entries to one writer thread, which commits all that is
pending in one statement (= one transaction, one fsync) and then tells everybody who waits
in one call into the event loop. While a commit runs, the next group gathers; commits start
up to `LEDGER_INTERVAL_S` apart, the more entries the longer, so that under load their fixed cost is shared.

Trouble: a group that can't be committed (disk full, database gone, or its file deleted) stays at the head of the
line and is tried again with back-off, and `healthy` is false until it is on disk. Whoever
waits longer than `LEDGER_WAIT_S` is told `LedgerUnavailable`; the entry stays in line, and
`void` turns it into one of amount zero if nothing was delivered. Inserting is idempotent by
id, so an entry whose commit got through though its answer was lost is not there twice.
"""

import asyncio
import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence

import msgspec
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from fareclass.core.events import Finished
from fareclass.core.limits import LEDGER_BATCH, LEDGER_ENTRY_S, LEDGER_INTERVAL_S, LEDGER_PENDING, LEDGER_WAIT_S
from fareclass.store.database import Store
from fareclass.store.entries import EntryWriter
from fareclass.store.rollups import Horizon

BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Waits between the tries of one group; the last repeats."""
_UNWRITABLE = (DataError, IntegrityError, OverflowError, TypeError, ValueError)
"""What is wrong with an entry rather than with the database."""

logger = logging.getLogger(__name__)


class LedgerUnavailable(Exception):
    """The entry is not on disk in time: the database can't be written. Try again later."""


class _Item:
    """An entry in line, or the voiding of one that is in line before it or on disk."""

    __slots__ = ("entry", "since", "void", "waiter")

    def __init__(
        self, entry: Finished, waiter: "asyncio.Future[None] | None", since: float, *, void: bool = False
    ) -> None:
        self.entry = entry
        self.waiter = waiter
        self.since = since
        self.void = void


class Ledger:
    """Made, used and closed in one event loop. `wait_s` bounds how long an `append` may take."""

    def __init__(self, store: Store, *, wait_s: float = LEDGER_WAIT_S) -> None:
        self.dropped = 0
        self._loop = asyncio.get_running_loop()
        self._wait_s = wait_s
        self._line: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._waiting: deque[_Item] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False
        self._began_s: float | None = None
        self._closing = threading.Event()
        self._store = store
        self.horizon = Horizon()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether new work may be taken: commits succeed and not too many entries wait."""
        return not self._failing and self._line.qsize() <= LEDGER_PENDING

    @property
    def pending(self) -> int:
        """Entries in line, without the group that is being committed."""
        return self._line.qsize()

    @property
    def lag_s(self) -> float:
        """How long the commit that is under way has taken so far, with all its tries."""
        began_s = self._began_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    def append(self, entry: Finished) -> asyncio.Future[None]:
        """Await the result: it comes once the entry is on disk, or as `LedgerUnavailable`."""
        item = _Item(entry, self._loop.create_future(), self._loop.time())
        self._waiting.append(item)
        if self._timer is None:
            self._timer = self._loop.call_at(item.since + self._wait_s, self._give_up)
        self._line.put(item)
        assert item.waiter is not None
        return item.waiter

    def note(self, entry: Finished) -> None:
        """Write an entry that nobody waits for (a refused request). Dropped, and counted, where the line is too long."""
        if self._line.qsize() > LEDGER_PENDING:
            self.dropped += 1
            return
        self._line.put(_Item(entry, None, 0.0))

    def void(self, entry: Finished) -> None:
        """Nothing of this appended entry was delivered: on disk it becomes outcome `internal`, amount zero."""
        self._line.put(_Item(entry, None, 0.0, void=True))

    async def close(self) -> None:
        """Write what is pending. Where the database stays away, the entries are logged after one more try.

        A commit that hangs is left behind after twice `wait_s`.
        """
        self._closing.set()
        self._line.put(None)
        await asyncio.to_thread(self._thread.join, 2 * self._wait_s)
        if self._thread.is_alive():
            logger.critical("ledger is stuck in a commit, entries may be missing", extra={"pending": self.pending})
        if self._timer is not None:
            self._timer.cancel()

    def _give_up(self) -> None:
        """Tell everybody who waited for `wait_s`; runs while anybody waits."""
        oldest = self._loop.time() - self._wait_s
        while self._waiting and (_is_done(self._waiting[0]) or self._waiting[0].since <= oldest):
            item = self._waiting.popleft()
            if item.waiter is not None and not item.waiter.done():
                self._failing = True
                item.waiter.set_exception(LedgerUnavailable("the ledger could not be written in time"))
        self._timer = None
        if self._waiting:
            self._timer = self._loop.call_at(self._waiting[0].since + self._wait_s, self._give_up)

    def _settle(self, items: Sequence[_Item], error: LedgerUnavailable | None) -> None:
        self._failing = error is not None
        for item in items:
            if item.waiter is None or item.waiter.done():
                continue
            if error is None:
                item.waiter.set_result(None)
            else:
                item.waiter.set_exception(error)
        while self._waiting and _is_done(self._waiting[0]):
            self._waiting.popleft()

    # From here on: the writer thread.

    def _run(self) -> None:
        writer = _Writer(self._store, self.horizon)
        while group := self._take():
            self._began_s = started = time.monotonic()
            self._commit(writer, group)
            self._began_s = None
            rest = started + min(LEDGER_INTERVAL_S, len(group) * LEDGER_ENTRY_S) - time.monotonic()
            if rest > 0 and len(group) < LEDGER_BATCH and not self._closing.is_set():
                time.sleep(rest)
        writer.close()

    def _take(self) -> list[_Item]:
        """All that is pending, at most one batch; empty once the ledger is closed and the line is done."""
        group: list[_Item] = []
        while len(group) < LEDGER_BATCH and not (group and self._line.empty()):
            item = self._line.get()
            if item is not None:
                group.append(item)
                continue
            last = self._line.empty()
            if group or not last:
                self._line.put(None)
            if last:
                break
        return group

    def _commit(self, writer: "_Writer", group: Sequence[_Item]) -> None:
        for attempt in itertools.count():
            try:
                unwritten = writer.write(group)
            except Exception as error:  # noqa: BLE001 - a writer that dies would hang every answer
                self._failing = True
                cause = f"{type(error).__name__}: {getattr(error, 'orig', error)}"
                logger.error("ledger write failed, will retry", extra={"entries": len(group), "cause": cause})  # noqa: TRY400 - the cause says it all
                if self._closing.is_set():
                    _log_unwritten(group)
                    self._tell(group, LedgerUnavailable("the ledger could not be written before the end"))
                    return
                writer.close()
                self._closing.wait(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
                continue
            self._failing = False
            if unwritten:
                _log_unwritten(unwritten)
                self._tell(unwritten, LedgerUnavailable("the ledger entry could not be written"))
            self._tell(group, None)
            return

    def _tell(self, group: Sequence[_Item], error: LedgerUnavailable | None) -> None:
        if any(item.waiter is not None for item in group):
            self._loop.call_soon_threadsafe(self._settle, group, error)


class _Writer:
    """The writer thread's own connection, opened again after a failure."""

    def __init__(self, store: Store, horizon: Horizon) -> None:
        self._store = store
        self._horizon = horizon
        self._entries: EntryWriter | None = None

    def write(self, group: Sequence[_Item]) -> list[_Item]:
        """Commit the group; returns what no database would take (logged by the caller, never retried)."""
        if self._entries is None:
            self._entries = EntryWriter(self._store.claim(), self._horizon)
        entries = self._entries
        new = [item for item in group if not item.void]
        unwritten: list[_Item] = []
        try:
            if new:
                entries.insert([item.entry for item in new])
        except _UNWRITABLE:
            unwritten = [item for item in new if not _writable(entries, item)]
        voided = [item.entry for item in group if item.void]
        if voided:
            entries.void(voided)
        self._store.check()
        return unwritten

    def close(self) -> None:
        self._entries = None
        try:
            self._store.release()
        except SQLAlchemyError as error:
            logger.warning("closing the ledger's connection failed", extra={"error": str(error)})


def _writable(entries: EntryWriter, item: _Item) -> bool:
    try:
        entries.insert([item.entry])
    except _UNWRITABLE:
        return False
    return True


def _is_done(item: _Item) -> bool:
    return item.waiter is None or item.waiter.done()


def _log_unwritten(items: Sequence[_Item]) -> None:
    """The last resort: the whole entry goes to the log, from which it can be put back."""
    for item in items:
        entry = msgspec.json.encode(item.entry, enc_hook=str).decode(errors="replace")
        logger.critical("ledger entry not written", extra={"entry": entry, "void": item.void})
