"""Work in threads that holds on to something of its caller's."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

_T = TypeVar("_T")


async def to_its_end(function: Callable[..., _T], *arguments: object) -> _T:
    """Run it in a thread that has a descriptor, of which nobody knows what file it is once it was closed and given out
    anew: who is cancelled meanwhile goes on, and closes it, only after that.
    """
    running = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        raise
