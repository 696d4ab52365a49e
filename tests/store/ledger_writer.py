"""A process that appends entries until it is killed; prints an id only once its append has resolved."""

import asyncio
import sys

from fareclass.metering.ledger import Ledger
from fareclass.store.database import Store
from tests.store.made import entry


async def answer_for_ever(url: str) -> None:
    ledger = Ledger(Store(url))

    async def caller(name: int) -> None:
        for number in range(1_000_000):
            made = entry(id=f"req_{name}_{number}")
            await ledger.append(made)
            sys.stdout.write(f"{made.id}\n")
            sys.stdout.flush()

    await asyncio.gather(*(caller(name) for name in range(20)))


asyncio.run(answer_for_ever(sys.argv[1]))
