"""A call that is sent again: it joins the work that is under way, or gets the answer that was kept (R48)."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from fareclass.core.limits import REPEAT_BYTES, REPEAT_ENTRY_BYTES, REPEAT_KEY_BYTES, REPEAT_S, REPEAT_WAIT_S
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.wire.arrival import Message, Receive, Send
from fareclass.wire.callers import Callers
from fareclass.wire.dialect import Dialect
from fareclass.wire.http_reply import HttpReply
from fareclass.wire.recording import Recording

_REPEATED = (b"x-fareclass-repeated", b"true")

_Name = tuple[str, bytes]


class Repeat(NamedTuple):
    """What makes two calls of a project the same: the key that the caller sent, and all that was asked."""

    key: bytes
    digest: bytes


def repeat_of(key: bytes, request: Request, raw: bytes) -> Repeat:
    """The call with this body and idempotency key; of Bedrock's, not all that is asked stands in the body.

    Raises:
        Refusal: `invalid`: the key is too long.
    """
    if len(key) > REPEAT_KEY_BYTES:
        raise Refusal(Outcome.INVALID, f"An idempotency key has at most {REPEAT_KEY_BYTES} characters.")
    beside = msgspec.json.encode((request.endpoint, request.model, request.tier_word, request.stream))
    return Repeat(key, blake2b(beside + raw, digest_size=32).digest())


class _Listener:
    """Somebody who hears an answer, at his own pace; has what `Callers` watches."""

    __slots__ = ("_again", "_send", "finished", "gone", "handed", "taken")

    def __init__(self, send: Send, *, again: bool) -> None:
        self._send = send
        self._again = again
        self.finished = False
        self.gone = False
        self.handed = 0
        self.taken = 0

    async def send(self, message: Message) -> None:
        """One message of the answer; who is not its first caller is told so."""
        if self._again and message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], _REPEATED]}
        self.handed += 1
        await self._send(message)
        self.taken += 1
        self.finished = message["type"] == "http.response.body" and not message.get("more_body", False)


class _Work:
    """One answer in the making, and how many hear it."""

    __slots__ = ("_stopped", "digest", "listeners", "patience", "recording", "reply", "task")

    def __init__(self, digest: bytes, request: Request, dialect: Dialect) -> None:
        self.digest = digest
        self.recording = Recording()
        self.reply = HttpReply(self.recording.send, request.id, dialect)
        self.task: asyncio.Task[None] | None = None
        self.listeners = 0
        self.patience: asyncio.TimerHandle | None = None
        self._stopped = False

    def stop(self, *, gone: bool) -> None:
        """End it: nobody is there for it any more (`gone`), or the server ends, which its listeners are told. Once."""
        if not self._stopped and self.task is not None:
            self._stopped = True
            self.reply.gone = gone
            self.task.cancel()


class _Kept(NamedTuple):
    digest: bytes
    recording: Recording
    until_s: float


class Repeats:
    """Work under way and answers kept, by project and idempotency key; `run` is what answers a request (the walk)."""

    def __init__(self, run: Callable[[Request, HttpReply], Awaitable[None]], callers: Callers) -> None:
        self._run = run
        self._callers = callers
        self._works: dict[_Name, _Work] = {}
        self._kept: OrderedDict[_Name, _Kept] = OrderedDict()
        self._kept_bytes = 0

    async def answer(self, request: Request, repeat: Repeat, dialect: Dialect, receive: Receive, send: Send) -> None:
        """Answer a call; work of its own is done for it only where its key is new."""
        name = (request.key.project.id, repeat.key)
        self._forget(asyncio.get_running_loop().time())
        known = self._works.get(name) or self._kept.get(name)
        if known is not None and known.digest != repeat.digest:
            await HttpReply(send, request.id, dialect).refuse(_another_body())
        elif isinstance(known, _Kept):
            await self._again(known.recording, _Listener(send, again=True), receive)
        else:
            listener = _Listener(send, again=known is not None)
            await self._listen(name, known or self._begin(name, request, repeat, dialect), listener, receive)

    async def close(self) -> None:
        """End the work that nobody hears at the moment; each request still settles its holds and its ledger entry."""
        tasks = [work.task for work in self._works.values() if work.task is not None]
        for work in self._works.values():
            work.stop(gone=False)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _again(self, recording: Recording, listener: _Listener, receive: Receive) -> None:
        self._callers.enter(receive, listener)
        try:
            await recording.replay(listener.send)
        except asyncio.CancelledError:
            if not listener.gone:
                raise
        finally:
            self._callers.leave(listener)

    async def _listen(self, name: _Name, work: _Work, listener: _Listener, receive: Receive) -> None:
        work.listeners += 1
        if work.patience is not None:
            work.patience.cancel()
        self._callers.enter(receive, listener)
        try:
            await work.recording.replay(listener.send)
        except asyncio.CancelledError:
            if not listener.gone:
                work.stop(gone=False)
                await work.recording.replay(listener.send, listener.taken)  # how it ended
        finally:
            self._callers.leave(listener)
            work.listeners -= 1
            if not work.listeners:
                # A caller who has lost its connection asks again.
                work.patience = asyncio.get_running_loop().call_later(REPEAT_WAIT_S, self._give_up, name, work)
                if work.recording.done:
                    work.patience.cancel()

    def _give_up(self, name: _Name, work: _Work) -> None:
        """Who comes from now on has new work done."""
        del self._works[name]
        work.stop(gone=True)

    def _begin(self, name: _Name, request: Request, repeat: Repeat, dialect: Dialect) -> _Work:
        work = self._works[name] = _Work(repeat.digest, request, dialect)
        work.task = asyncio.get_running_loop().create_task(self._work(name, work, request))
        return work

    async def _work(self, name: _Name, work: _Work, request: Request) -> None:
        try:
            await self._run(request, work.reply)
        finally:
            if self._works.get(name) is work:
                del self._works[name]
            whole = work.recording.done
            work.recording.close()
            if work.patience is not None:
                work.patience.cancel()
            if whole and not work.reply.refused:  # a refusal is not kept, since to try again may help
                self._keep(name, _Kept(work.digest, work.recording, asyncio.get_running_loop().time() + REPEAT_S))

    def _keep(self, name: _Name, kept: _Kept) -> None:
        self._kept[name] = kept
        self._kept_bytes += kept.recording.size_bytes + REPEAT_ENTRY_BYTES

    def _forget(self, now_s: float) -> None:
        """The oldest answers, those beyond the bounds."""
        while self._kept:
            name, kept = next(iter(self._kept.items()))
            if kept.until_s > now_s and self._kept_bytes <= REPEAT_BYTES:
                break
            del self._kept[name]
            self._kept_bytes -= kept.recording.size_bytes + REPEAT_ENTRY_BYTES


def _another_body() -> Refusal:
    return Refusal(
        Outcome.INVALID,
        "This idempotency key was sent with another call within the last hour; send a new key with a new call.",
        code="idempotency_key_reused",
        retry=False,
    )
