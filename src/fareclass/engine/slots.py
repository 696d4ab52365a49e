"""Which slot of a llama.cpp server holds whose prompt, so that no project's call ever finds another's (R31).

llama.cpp reuses what its slot happens to hold, whoever asked for it. So each call is sent to a slot by number, and
may reuse what is there only if its own project used that slot last. That holds where the server keeps prompts
nowhere else: its cache in main memory, which all slots share, must be off. What a paused answer would lose with
its slot is written to a file first, and read back when it goes on (about 6 ms each for 700 tokens).
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from fareclass.core.limits import SLOT_FILES_BYTES
from fareclass.engine.base import Prompt

_log = logging.getLogger(__name__)
_DRAIN_S: Final = 0.5
"""A slot whose call was cut may still compute for so long; nobody is sent there meanwhile if another is free."""

Act = Callable[[int, str, str], Awaitable[int | None]]
"""Have the server `save` or `restore` a slot to or from a file of its folder: bytes written or read, None if it can't."""


class _Slot:
    """`owner` is the salt of the project whose prompt it holds, `digests` that prompt's beginnings, `answer` the
    request that it was made for; `parked`: that one may yet go on. `used` orders them by their last use.
    """

    __slots__ = ("answer", "busy", "digests", "drained_at", "id", "owner", "parked", "used")

    def __init__(self, id: int) -> None:
        self.id = id
        self.busy = False
        self.used = 0
        self.drained_at = 0.0
        self.forget()

    def forget(self) -> None:
        """Nothing is known of what it holds."""
        self.owner: str | None = None
        self.digests: tuple[bytes, ...] = ()
        self.answer = ""
        self.parked = False

    def common(self, prompt: Prompt) -> int:
        """How much of the prompt it holds, in bytes."""
        if self.owner != prompt.salt or prompt.prefix is None:
            return 0
        size = 0
        for held, digest, end in zip(self.digests, prompt.prefix.digests, prompt.prefix.ends, strict=False):
            if held != digest:
                break
            size = end
        return size


class Lease:
    """One call's slot, from before it is sent until after it has ended. `slot` is None for a call that the server
    places itself; `reuse`: it may use what the slot holds. `era` is the book's when it was given out; `pending`: it
    counts on what the slot holds, and is not known to be there yet.
    """

    __slots__ = ("_book", "era", "pending", "prompt", "reuse", "slot")

    def __init__(self, book: "SlotBook", slot: int | None, prompt: Prompt, era: int) -> None:
        self._book = book
        self.slot = slot
        self.prompt = prompt
        self.era = era
        self.reuse = False
        self.pending = False

    def begun(self) -> None:
        """The server computes it: no other call gets between it and what its slot held."""
        if self.pending:
            self.pending = False
            self._book.arrived()

    def end(self, now: float, *, begun: bool, whole: bool) -> None:
        """The call is over. Only one that gave a token shows that its prompt has replaced what was there."""
        self.begun()
        self._book.ended(self, now, begun=begun, whole=whole)


class SlotBook:
    """The slots of one server. `folder` takes the files of paused answers; they are gone with the server.

    A call that the server places itself, a stray, may land in any slot that is idle there. So it is sent only while no
    call is on its way that counts on what its slot holds, and while it runs nobody is given a slot. Whoever held one
    since before (an older `era`) leaves it as nobody's.
    """

    def __init__(self, slots: int, folder: Path, act: Act) -> None:
        self._slots = [_Slot(number) for number in range(slots)]
        self._folder = folder
        self._act = act
        self._saved: OrderedDict[str, tuple[Path, int]] = OrderedDict()
        self._unsaved: list[Path] = []
        self._uses = 0
        self._pending = 0
        self._none_pending = asyncio.Event()
        self._none_pending.set()
        self._waiting = 0
        self._strays = 0
        self._era = 0
        self._drained_at = 0.0

    async def take(self, prompt: Prompt, now: float, width: int) -> Lease:
        """The slot for a call: its own answer's, else the one that holds most of its prompt, else the idlest."""
        free = [slot for slot in self._slots if not slot.busy]
        if width > 1 or self._strays or not free:
            return await self._stray(prompt)
        slot = self._own(prompt, free) or self._best(prompt, free, now)
        lost = slot.parked and slot.answer != prompt.id
        self._uses += 1
        slot.used = self._uses
        slot.busy, slot.parked = True, False
        lease = Lease(self, slot.id, prompt, self._era)
        if self._waiting or now < self._drained_at:
            return lease  # without what the slot holds, so that no stray need wait for it
        lease.reuse = slot.owner == prompt.salt
        lease.pending = True
        self._pending += 1
        self._none_pending.clear()
        try:
            if lost:
                await self._save(slot)
            if prompt.beginning and slot.answer != prompt.id and prompt.id in self._saved:
                lease.reuse = await self._restore(slot, prompt.id) or lease.reuse
        except BaseException:
            lease.end(now, begun=False, whole=False)
            raise
        if not lease.reuse:
            lease.begun()
        return lease

    def arrived(self) -> None:
        """A call that counted on what its slot holds is there, or will never be."""
        self._pending -= 1
        if not self._pending:
            self._none_pending.set()

    def ended(self, lease: Lease, now: float, *, begun: bool, whole: bool) -> None:
        """A call has left its slot."""
        if lease.slot is None:
            self._strays -= 1
            if not whole:
                self._drained_at = now + _DRAIN_S
            return
        slot, prompt = self._slots[lease.slot], lease.prompt
        slot.busy = False
        slot.drained_at = now if whole else now + _DRAIN_S
        if not begun or lease.era != self._era or now < self._drained_at:
            slot.forget()
            return
        slot.owner, slot.answer, slot.parked = prompt.salt, prompt.id, not whole and bool(prompt.id)
        slot.digests = () if prompt.prefix is None else prompt.prefix.digests

    def forget(self, answer: str) -> None:
        """Keep nothing any longer for this answer to go on from."""
        for slot in self._slots:
            if slot.answer == answer:
                slot.answer, slot.parked = "", False
        self._drop(answer)

    # -- inside

    def _own(self, prompt: Prompt, free: list[_Slot]) -> _Slot | None:
        if not prompt.beginning or not prompt.id:
            return None
        own = [slot for slot in free if slot.answer == prompt.id and slot.owner == prompt.salt]
        return max(own, key=lambda slot: slot.used, default=None)

    def _best(self, prompt: Prompt, free: list[_Slot], now: float) -> _Slot:
        ready = [slot for slot in free if slot.drained_at <= now] or free
        return min(ready, key=lambda slot: (-slot.common(prompt), slot.parked, slot.used))

    async def _stray(self, prompt: Prompt) -> Lease:
        """The server takes any idle slots for it, so nothing is known of those any more."""
        self._waiting += 1  # from here on nobody new is waited for
        try:
            await self._none_pending.wait()
        finally:
            self._waiting -= 1
        self._strays += 1
        self._era += 1
        for slot in self._slots:
            if not slot.busy:
                slot.forget()
        return Lease(self, None, prompt, self._era)

    async def _save(self, slot: _Slot) -> None:
        """Each time under another name: a save that is done after all, too late, is then read by nobody."""
        while self._unsaved:
            self._unsaved.pop().unlink(missing_ok=True)
        answer, file, size = slot.answer, self._folder / f"{slot.used}", None
        try:
            size = await self._act(slot.id, "save", file.name)
        finally:
            if size is None:
                self._unsaved.append(file)
            if size is None or slot.answer != answer:
                file.unlink(missing_ok=True)
        if size is None:
            _log.warning("a paused answer loses its cache and will be computed again", extra={"request_id": answer})
        elif slot.answer == answer:
            self._saved[answer] = file, size
            while sum(size for _, size in self._saved.values()) > SLOT_FILES_BYTES:
                self._drop(next(iter(self._saved)))

    async def _restore(self, slot: _Slot, answer: str) -> bool:
        file, _ = self._saved.pop(answer)  # first, since another save may make room meanwhile
        try:
            return await self._act(slot.id, "restore", file.name) is not None
        finally:
            file.unlink(missing_ok=True)

    def _drop(self, answer: str) -> None:
        saved = self._saved.pop(answer, None)
        if saved is not None:
            saved[0].unlink(missing_ok=True)
