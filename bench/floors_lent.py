"""A project alone on a pool, and an owner who comes back to a floor that was lent out (R22), through live HTTP callers.

`fareclass serve` as a process with four simulated replicas, in real time. Alone, a project asks for twice what the pool
does: inside its floor, beyond it as priority; beside it all of that as priority. Then others hold every slot that they
can get while the owner is away, and it returns with callers enough for 1.25 × its floor.
"""

import asyncio
import contextlib
import itertools
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import loads
from bench.floors_live import reserve
from bench.loads import SLOTS, SPEED
from bench.machine import heading
from fareclass.core.capacity import load_micro
from tests.e2e.gateway import MODEL, PRICE, Gateway, Process

REPLICAS = 4
PROMPT, OUTPUT = 200, 200
"""Tokens: the words of the prompts, and the simulated engine's own mean."""
WARM_S, ALONE_S = 20, 60
LENT_S, BACK_S = 20, 12
WIDTH = 120
CAPACITY = loads.capacity(REPLICAS)
FLOOR = loads.sold(REPLICAS, PROMPT, OUTPUT)
_EVENT = msgspec.json.Decoder(dict[str, Any])


class Lent(NamedTuple):
    """To which tier the floor was lent; `width` 2 can neither be paused nor, once it has begun, restarted."""

    tier: str
    width: int


LENT = (Lent("flex", 1), Lent("default", 1), Lent("priority", 1), Lent("flex", 2), Lent("priority", 2))


class Callers:
    """Callers of one project who read streams, and ask again as soon as each has ended. Tokens are counted as they come:
    `seconds` since the start, by the tier that served them.
    """

    def __init__(self, url: str, secret: str, tier: str, *, width: int = 1) -> None:
        self.seconds: dict[str, Counter[int]] = {}
        self.refused = 0
        self._url = url
        self._headers = {"authorization": f"Bearer {secret}"}
        self._tier = tier
        self._width = width
        self._time = asyncio.get_running_loop().time
        self._start_s = 0.0

    @contextlib.asynccontextmanager
    async def asking(self, count: int) -> AsyncIterator[None]:
        """So many of them, until the end."""
        self._start_s = self._time()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=self._headers, connector=connector) as session:
            tasks = [asyncio.create_task(self._one(session, number)) for number in range(count)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    raise result

    async def _one(self, session: aiohttp.ClientSession, number: int) -> None:
        for count in itertools.count():
            prompt = f"{number}/{count}/{self._start_s} " + "word " * (PROMPT - 10)
            body = {
                "model": MODEL, "messages": [{"role": "user", "content": prompt}],
                "service_tier": self._tier, "n": self._width, "stream": True,
            }  # fmt: skip
            async with session.post(f"{self._url}/v1/chat/completions", json=body) as response:
                if response.status != 200:
                    self.refused += 1
                    await asyncio.sleep(1)
                    continue
                made = self.seconds.setdefault(response.headers["x-fareclass-served-tier"], Counter())
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        made[int(self._time() - self._start_s)] += _words(line)

    def made(self, first: int, last: int, tier: str | None = None) -> int:
        """Tokens from one second up to, not including, another: of one tier, or of all."""
        counted = self.seconds.values() if tier is None else [self.seconds.get(tier, Counter())]
        return sum(tokens for each in counted for second, tokens in each.items() if first <= second < last)


def _words(line: bytes) -> int:
    """Tokens of an event: the simulated engine's words are one each."""
    choices = _EVENT.decode(line[6:])["choices"]
    return sum(len(choice["delta"].get("content", "").split()) for choice in choices)


@contextlib.asynccontextmanager
async def pool(*, overflow: str = "default") -> AsyncIterator[tuple[Gateway, str, str]]:
    """A gateway, and the secrets of the owner of all that may be sold, and of somebody else."""
    engine = {
        "kind": "simulated",
        "replicas": REPLICAS,
        "slots": SLOTS,
        "base_us": SPEED.base_us,
        "sequence_us": SPEED.sequence_us,
    }
    model = {
        "engine": engine,
        "price": PRICE,
        "capacity": msgspec.structs.asdict(CAPACITY),
        "reserved_price": {"input": "0.021", "output": "0.084"},
    }  # fmt: skip
    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.closing(Process(Path(name), {"models": {MODEL: model}})) as process,
    ):
        gateway = process.gateway()
        owner, other = [(await gateway.new_key(project=project))["secret"] for project in ("owner", "other")]
        await reserve(gateway, "owner", MODEL, FLOOR, overflow)
        yield gateway, owner, other
        await gateway.close()


async def alone(tier: str) -> tuple[float, float]:
    """Output tokens a minute inside the floor, and in all."""
    async with pool(overflow="priority") as (gateway, owner, _):
        callers = Callers(gateway.url, owner, tier)
        async with callers.asking(2 * REPLICAS * SLOTS):
            await asyncio.sleep(WARM_S + ALONE_S)
    window = WARM_S, WARM_S + ALONE_S
    return callers.made(*window, "reserved") * 60 / ALONE_S, callers.made(*window) * 60 / ALONE_S


async def alone_table() -> Table:
    table = Table(
        title=f"Alone on {REPLICAS} replicas, asking 2 × what they do: output tokens a minute", title_justify="left"
    )
    for column in ("inside the floor", "beyond it, as priority", "all as priority", "of that"):
        table.add_column(column, justify="right")
    inside, whole = await alone("reserved")
    _, plain = await alone("priority")
    share = whole / plain
    table.add_row(
        f"{inside:,.0f} of {FLOOR.output_tpm:,}",
        f"{whole - inside:,.0f}",
        f"{plain:,.0f}",
        f"{share:.1%} {'ok' if share >= 0.99 else 'under'}",
    )
    return table


async def back(lent: Lent) -> list[str]:
    """One row: the others for a while, then the owner too."""
    slots = REPLICAS * SLOTS
    load = load_micro(*FLOOR, CAPACITY, slots)
    async with pool() as (gateway, owner, other):
        others = Callers(gateway.url, other, lent.tier, width=lent.width)
        callers = Callers(gateway.url, owner, "reserved")
        async with others.asking(3 * slots // 2 // lent.width):
            await asyncio.sleep(LENT_S)
            taken, headroom = await gateway.count("running"), (await gateway.pool())["headroom"]["slots"]
            async with callers.asking(-(-5 * load // 4_000_000)):
                await asyncio.sleep(BACK_S)
    a_second = FLOOR.output_tpm / 60
    second = callers.made(1, 2, "reserved") / a_second
    return [
        lent.tier,
        "no" if lent.width > 1 else "yes",
        f"{taken} of {slots}",
        str(headroom),
        f"{callers.made(0, 1, 'reserved') / a_second:.0%}",
        f"{second:.0%} {'ok' if second >= 0.95 else 'under'}",
        f"{callers.made(2, BACK_S, 'reserved') / a_second / (BACK_S - 2):.0%}",
        str(callers.made(0, BACK_S) - callers.made(0, BACK_S, "reserved")),
        str(callers.refused),
    ]


async def back_table(progress: Progress) -> Table:
    table = Table(
        title=f"An owner comes back: {REPLICAS} replicas, lent out for {LENT_S} s; output against its floor",
        title_justify="left",
    )
    for column in (
        "lent to", "movable", "slots taken", "headroom", "second 1", "second 2", f"seconds 3 to {BACK_S}", "spilled", "refused",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column == "lent to" else "right")
    for lent in progress.track(LENT, description="owner comes back"):
        table.add_row(*await back(lent))
    return table


async def measure(progress: Progress) -> None:
    task = progress.add_task("alone", total=None)
    progress.console.print(await alone_table())
    progress.remove_task(task)
    progress.console.print(await back_table(progress))


def main() -> None:
    """Some six minutes."""
    console = Console(width=WIDTH)
    console.print(heading(), soft_wrap=True)
    console.print(
        f"Replica: {SLOTS} slots, step 8 ms + 1.5 ms × sequences. As much is reserved as may be sold for requests of "
        f"{PROMPT} / {OUTPUT} tokens. Tokens count in the second in which they reached their caller."
    )
    with Progress(console=console, transient=True) as progress:
        asyncio.run(measure(progress))


if __name__ == "__main__":
    main()
