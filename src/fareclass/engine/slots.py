"""Which slot of a llama.cpp server holds whose prompt, so that no project's call ever finds another's (R31).

llama.cpp reuses what its slot happens to hold, whoever asked for it. So each call is sent to a slot by number, and
may reuse what is there only if its own project used that slot last. That holds where the server keeps prompts
nowhere else: its cache in main memory, which all slots share, must be off. What a paused answer would lose with
its slot is written to a file first, and read back when it goes on (about 6 ms each for 700 tokens).
"""

import hashlib
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
    """One call's slot, from before it is sent until after it has ended. `slot` is None for a call of several
    sequences, which the server places itself; `reuse`: it may use what the slot holds.
    """

    __slots__ = ("_book", "_prompt", "reuse", "slot")

    def __init__(self, book: "SlotBook", slot: int | None, prompt: Prompt, *, reuse: bool) -> None:
        self._book = book
        self._prompt = prompt
        self.slot = slot
        self.reuse = reuse

    def end(self, now: float, *, begun: bool, whole: bool) -> None:
        """The call is over. Only one that gave a token shows that its prompt has replaced what was there."""
        self._book.ended(self.slot, self._prompt, now, begun=begun, whole=whole)


class SlotBook:
    """The slots of one server. `folder` takes the files of paused answers; they are gone with the server."""

    def __init__(self, slots: int, folder: Path, act: Act) -> None:
        self._slots = [_Slot(number) for number in range(slots)]
        self._folder = folder
        self._act = act
        self._saved: OrderedDict[str, int] = OrderedDict()
        self._strays = 0
        self._uses = 0

    async def take(self, prompt: Prompt, now: float, width: int) -> Lease:
        """The slot for a call: its own answer's, else the one that holds most of its prompt, else the idlest."""
        free = [] if width > 1 or self._strays else [slot for slot in self._slots if not slot.busy]
        if not free:
            return self._stray(prompt)
        slot = self._own(prompt, free) or self._best(prompt, free, now)
        lost = slot.answer if slot.parked and slot.answer != prompt.id else ""
        reuse = slot.owner == prompt.salt
        slot.busy = True
        slot.parked = False
        self._uses += 1
        slot.used = self._uses
        if lost:
            await self._save(slot, lost)
        if prompt.beginning and slot.answer != prompt.id and prompt.id in self._saved:
            reuse = await self._restore(slot, prompt) or reuse
        return Lease(self, slot.id, prompt, reuse=reuse)

    def ended(self, number: int | None, prompt: Prompt, now: float, *, begun: bool, whole: bool) -> None:
        """A call has left its slot."""
        if number is None:
            self._strays -= 1
            return
        slot = self._slots[number]
        slot.busy = False
        slot.drained_at = now if whole else now + _DRAIN_S
        if not begun or self._strays:
            slot.forget()
            return
        slot.owner, slot.answer, slot.parked = prompt.salt, prompt.id, not whole
        slot.digests = () if prompt.prefix is None else prompt.prefix.digests

    # -- inside

    def _own(self, prompt: Prompt, free: list[_Slot]) -> _Slot | None:
        if not prompt.beginning or not prompt.id:
            return None
        own = [slot for slot in free if slot.answer == prompt.id and slot.owner == prompt.salt]
        return max(own, key=lambda slot: slot.used, default=None)

    def _best(self, prompt: Prompt, free: list[_Slot], now: float) -> _Slot:
        ready = [slot for slot in free if slot.drained_at <= now] or free
        return min(ready, key=lambda slot: (-slot.common(prompt), slot.parked, slot.used))

    def _stray(self, prompt: Prompt) -> Lease:
        """The server takes any idle slots for it, so nothing is known of those, nor of any while it runs."""
        self._strays += 1
        for slot in self._slots:
            if not slot.busy:
                slot.forget()
        return Lease(self, None, prompt, reuse=False)

    async def _save(self, slot: _Slot, answer: str) -> None:
        size = await self._act(slot.id, "save", _file(answer))
        if size is None:
            _log.warning("a paused answer loses its cache and will be computed again", extra={"request_id": answer})
            return
        self._saved[answer] = size
        while sum(self._saved.values()) > SLOT_FILES_BYTES:
            self._drop(next(iter(self._saved)))

    async def _restore(self, slot: _Slot, prompt: Prompt) -> bool:
        read = await self._act(slot.id, "restore", _file(prompt.id))
        self._drop(prompt.id)
        return read is not None

    def _drop(self, answer: str) -> None:
        del self._saved[answer]
        (self._folder / _file(answer)).unlink(missing_ok=True)


def _file(answer: str) -> str:
    return hashlib.blake2b(answer.encode(), digest_size=16).hexdigest()
