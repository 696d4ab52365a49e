"""Takes requests from one stream, asks the gateway, puts the answers on another: at least once, and billed once (R48)."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from fareclass.cli.consumer.gateway import Gateway
from fareclass.cli.consumer.message import Answer, BadMessage, Message, answer_fields, read_call
from fareclass.cli.consumer.patience import Patience, Stopped, Times
from fareclass.cli.consumer.streams import QueueGone, Streams

_UNREAD: Final = "requests can't be read"
_UNWRITTEN: Final = "answers can't be written"
_LONGEST_S: Final = 10.0
_LEAVE_S: Final = 3.0
"""For telling Valkey at the end what is left; where it is away, others find out by themselves."""


class Worker:
    """Works on up to `places` messages at once until it is stopped. `say` hears of trouble: nothing secret, and nothing
    of what messages hold.
    """

    def __init__(
        self, streams: Streams, url: str, key: str,
        *, tier: str, places: int, say: Callable[[str], None], times: Times = Times(),
    ) -> None:  # fmt: skip
        """`url` and `key` are the gateway's; `tier` is that of messages that name none."""
        self.taken = 0
        self.answered = 0
        self.failed = 0
        """Answers whose status is 400 or more."""
        self._streams = streams
        self._patience = Patience(times, say)
        self._gateway = Gateway(url, key, self._patience)
        self._tier = tier
        self._places = places
        self._held: dict[str, asyncio.Task[None]] = {}
        """What was taken and not answered yet, by id."""
        self._woken = asyncio.Event()
        self._own_after: str | None = ""
        """This consumer's own pending messages are looked through from behind this id on; None once that is done."""
        self._look_at_s = 0.0

    def __str__(self) -> str:
        """How it stands. `running` are also those that wait to be sent again."""
        return (
            f"taken {self.taken}  running {len(self._held)}  waiting {self._patience.waiting}  "
            f"answered {self.answered}  failed {self.failed}"
        )

    async def run(self) -> None:
        """Until `stop`, and then until what runs has ended, at most `drain_s` longer. Cancelled: end at once.

        What stays unanswered then is others' to take.

        Raises:
            Unfit: the streams can't be used.
            WrongKey: the gateway does not take the key, or, later on, no longer. What ran is left unanswered.
        """
        async with self._gateway, self._streams:
            with suppress(Stopped):
                await self._open()
                try:
                    await self._work_all()
                finally:  # in a task of its own: this one may have been cancelled
                    await asyncio.wait({asyncio.create_task(self._leave())}, timeout=_LEAVE_S)

    @property
    def stopping(self) -> bool:
        return self._patience.stopping

    def stop(self) -> None:
        """Take nothing more."""
        self._patience.stop()
        self._woken.set()

    async def _open(self) -> None:
        """Nothing is taken before it is known that it can be answered."""
        tries = 0
        while True:
            try:
                await self._streams.open()
            except QueueGone as error:
                tries += 1
                await self._lost(error, tries)
            else:
                self._patience.found(_UNREAD)
                break
        await self._gateway.check()

    async def _work_all(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                keeping = tasks.create_task(self._keep())
                with suppress(Stopped):
                    await self._take_all(tasks)
                if self._held:
                    await asyncio.wait(self._held.values(), timeout=self._patience.times.drain_s)
                for task in (keeping, *self._held.values()):
                    task.cancel()
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _take_all(self, tasks: asyncio.TaskGroup) -> None:
        tries = 0
        while not self.stopping:
            free = self._places - len(self._held)
            if not free:
                self._woken.clear()
                await self._woken.wait()
                continue
            try:
                messages = await self._take(free)
            except QueueGone as error:
                tries += 1
                self._own_after = ""  # a reply that was lost on its way had messages in it, maybe
                await self._lost(error, tries)
                continue
            tries = 0
            self._patience.found(_UNREAD)
            for message in messages:
                if message.id not in self._held:  # a group that was made anew has it again
                    self.taken += 1
                    self._held[message.id] = tasks.create_task(self._work(message))

    async def _take(self, free: int) -> list[Message]:
        """Messages that were left: own ones, then those of consumers that are gone; if there are none, new ones."""
        times, now_s = self._patience.times, asyncio.get_running_loop().time()
        if self._own_after is not None:
            own, last = await self._streams.left(free, own=True, after=self._own_after, besides=self._held)
            self._own_after = last or None
            return own
        if now_s >= self._look_at_s:
            left, last = await self._streams.left(free, idle_s=times.idle_s, besides=self._held)
            if not last:
                self._look_at_s = now_s + times.look_s
            if left:
                return left
        return await self._streams.read(free, times.block_s)

    async def _work(self, message: Message) -> None:
        if self.stopping:
            return  # the last read brought it; it is left to others
        try:
            answer = await self._answer(message)
        except Stopped:
            return
        await self._put(message, answer)
        del self._held[message.id]
        self._woken.set()

    async def _answer(self, message: Message) -> Answer:
        try:
            call = read_call(message, self._streams.identity, self._tier)
        except BadMessage as bad:
            return bad.answer
        return await self._gateway.ask(call)

    async def _put(self, message: Message, answer: Answer) -> None:
        """Through a stop too: what was paid for is not given up while there is time."""
        tries = 0
        while True:
            try:
                written = await self._streams.put(message.id, answer_fields(message, answer))
            except QueueGone as error:
                tries += 1
                self._patience.lost(_UNWRITTEN, str(error))
                await asyncio.sleep(self._patience.growing_s(tries, _LONGEST_S))
            else:
                break
        self._patience.found(_UNWRITTEN)
        if written:
            self.answered += 1
            self.failed += answer.status >= 400
        else:
            self._patience.say(f"{message.id} was answered already, or is to be once more: its group was made anew")

    async def _keep(self) -> None:
        """However long a request takes, nobody else shall take it for left."""
        while True:
            await asyncio.sleep(self._patience.times.keep_s)
            if self._held:
                with suppress(QueueGone):  # who reads and writes says so, and tries again
                    await self._streams.keep(self._held)

    async def _lost(self, error: QueueGone, tries: int) -> None:
        self._patience.lost(_UNREAD, str(error))
        await self._patience.pause(self._patience.growing_s(tries, _LONGEST_S))

    async def _leave(self) -> None:
        """Tell Valkey what is left, or that nothing is."""
        with suppress(QueueGone):
            await self._streams.hand_over(self._patience.times.idle_s)
            await self._streams.leave()
