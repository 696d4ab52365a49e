"""A queue in Valkey or Redis: a stream of requests with a consumer group, and a stream of answers."""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import TimeoutError as TimedOut

from fareclass.cli.consumer.message import Message
from fareclass.core.limits import CONSUME_PLACES

_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 60.0
"""What one command may take: a read brings whole messages."""
_RESP: Final = 2
"""Version of the protocol; replies have another form in the next one."""
_NO_GROUP: Final = "NOGROUP"
_HAS_GROUP: Final = "BUSYGROUP"
_RIGHT_TYPES: Final = (b"stream", b"none")

_PUT: Final = """
local requests, answers, group, id = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local pending = redis.pcall('XPENDING', requests, group, id, id, 1)
if not pending.err and #pending == 0 and #redis.call('XRANGE', requests, id, id) > 0 then
  return 0
end
redis.call('XADD', answers, '*', unpack(ARGV, 3))
redis.pcall('XACK', requests, group, id)
return 1
"""
"""An answer and its acknowledgement in one step, unless another worker was first. A request that was trimmed away, or
whose group is gone, is no longer pending either: its answer is written, for want of a way to tell. Of a group that was
made anew meanwhile nothing is pending, but it has the request again, and answers it then."""
_LEAVE: Final = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
"""
"""To delete a consumer that has something pending would lose it."""


class QueueGone(Exception):
    """Valkey can't be reached or does not answer as it should, at the moment; says why."""


class Unfit(Exception):
    """The worker can't do its work here, and waiting would not help; says why."""


class Streams:
    """One consumer's view of it. Each call may raise `QueueGone`."""

    def __init__(self, url: str, requests: str, answers: str, group: str, name: str) -> None:
        """`url` may hold a password: it is in no message of an error.

        Raises:
            Unfit: it is no address.
        """
        try:
            self._client: Redis = Redis.from_url(
                url,
                protocol=_RESP,
                socket_connect_timeout=_CONNECT_S,
                socket_timeout=_ANSWER_S,
                retry=Retry(NoBackoff(), 1),
            )
        except ValueError:
            raise Unfit("the address of Valkey must be redis://HOST:PORT or rediss://HOST:PORT") from None
        self.identity = (requests, group)
        """What tells its messages from those of other queues."""
        self._requests = requests
        self._answers = answers
        self._group = group
        self._name = name

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def open(self) -> None:
        """Make the group where there is none, from the stream's beginning on.

        Raises:
            Unfit: Valkey does not let us in, or one of the two is no stream.
        """
        try:
            await self._make_group()
            if await self._client.type(self._answers) not in _RIGHT_TYPES:
                raise Unfit(f"{self._answers} is no stream")
        except (AuthenticationError, AuthorizationError) as error:
            raise Unfit(f"Valkey does not let us in: {error}") from None
        except (LostConnection, TimedOut) as error:
            raise QueueGone(str(error)) from None
        except RedisError as error:
            raise Unfit(f"{self._requests} can't be read: {error}") from None

    async def read(self, count: int, block_s: float) -> list[Message]:
        """Up to so many messages that no consumer has been given; waits for the first."""
        block_ms = max(1, round(block_s * 1000))
        with _reaching():
            try:
                found: Any = await self._client.xreadgroup(
                    self._group, self._name, {self._requests: ">"}, count=count, block=block_ms
                )
            except ResponseError as error:
                _check_no_group(error)
                await self._make_group()
                return []
        return [Message(name.decode(), fields) for _, entries in found for name, fields in entries]

    async def left(
        self, count: int, *, own: bool = False, idle_s: float = 0.0, after: str = "", besides: Collection[str] = ()
    ) -> tuple[list[Message], str]:
        """Take over what was given to a consumer (`own`: to this one) and left alone for so long.

        Looks at up to `count` messages behind the id `after`, but those of `besides`; also returns the last id that it
        looked at, empty if there are no more. A message that is not in the stream any more is pending no longer then.
        """
        idle_ms = round(idle_s * 1000)
        first, consumer = f"({after}" if after else "-", self._name if own else None
        with _reaching():
            try:
                pending: Any = await self._client.xpending_range(
                    self._requests, self._group, first, "+", count, consumername=consumer, idle=idle_ms
                )
                seen = {entry["message_id"].decode(): entry["times_delivered"] + 1 for entry in pending}
                wanted = [name for name in seen if name not in besides]
                entries: Any = await self._claim(wanted, idle_ms) if wanted else []
            except ResponseError as error:
                _check_no_group(error)  # the next read makes it
                return [], ""
        last = next(reversed(seen)) if len(seen) == count else ""
        return [Message(name.decode(), fields, seen[name.decode()]) for name, fields in entries if fields], last

    async def keep(self, ids: Iterable[str]) -> None:
        """Say that these are still worked on; does not count as a delivery."""
        with _reaching():
            await self._claim(list(ids), 0, idle=0, justid=True)

    async def hand_over(self, idle_s: float) -> None:
        """Let others take at once what is pending, as if it had been left alone for so long."""
        with _reaching():
            pending: Any = await self._client.xpending_range(
                self._requests, self._group, "-", "+", CONSUME_PLACES, consumername=self._name
            )
            if ids := [entry["message_id"] for entry in pending]:
                await self._claim(ids, 0, idle=round(idle_s * 1000), justid=True)

    async def put(self, id: str, fields: Mapping[bytes, bytes]) -> bool:
        """Write an answer and acknowledge its request in one step.

        False if it is not this group's to answer now: another worker has, or the group was made anew and will.
        """
        pairs = [part for pair in fields.items() for part in pair]
        with _reaching():
            done = await self._run(_PUT, [self._requests, self._answers], [self._group, id, *pairs])
        return bool(done)

    async def leave(self) -> None:
        """Forget this consumer, if nothing of it is pending."""
        with _reaching():
            await self._run(_LEAVE, [self._requests], [self._group, self._name])

    async def _make_group(self) -> None:
        try:
            await self._client.xgroup_create(self._requests, self._group, "0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith(_HAS_GROUP):
                raise

    async def _claim(self, ids: list[Any], idle_ms: int, **more: Any) -> Any:
        return await self._client.xclaim(self._requests, self._group, self._name, idle_ms, ids, **more)

    async def _run(self, script: str, keys: list[str], arguments: list[str | bytes]) -> Any:
        return await self._client.eval(script, len(keys), *keys, *arguments)


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise QueueGone(str(error)) from None
    finally:
        # The client sends with `asyncio.wait_for`, which may lose a cancellation on Python 3.11.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError


def _check_no_group(error: ResponseError) -> None:
    """Pass only where stream or group were deleted."""
    if not str(error).startswith(_NO_GROUP):
        raise error
