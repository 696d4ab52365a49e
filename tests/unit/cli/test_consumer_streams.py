"""What Valkey's client must not do to a worker."""

import asyncio

import pytest
from redis.exceptions import ConnectionError as LostConnection

from fareclass.cli.consumer.streams import QueueGone, _reaching


async def test_a_cancellation_that_the_client_loses_is_not_lost():
    """As `asyncio.wait_for` of Python 3.11 loses one that comes as it is done; a worker would read on for ever."""
    begun = asyncio.Event()

    async def read() -> None:
        with _reaching():
            try:
                begun.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_failing_valkey_is_one_that_is_gone_for_now():
    with pytest.raises(QueueGone, match="Connection refused"), _reaching():
        raise LostConnection("Connection refused")
