"""What a floor gives through live HTTP callers (R22): `fareclass serve` as a process, callers in closed loop.

Twelve projects at once, each with a reservation of its own: 1, 8 and 64 callers, streamed and not, with and without
`max_tokens`. Every caller asks again as soon as it has its answer, and so asks for more than the floor all the time;
what is beyond it overflows to default. What was made inside the floor in five minutes is held against floor × time, the
buckets that the gateway keeps for a restart against its ledger, and the ledger against what each caller was told.
"""

import asyncio
import contextlib
import itertools
import math
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.machine import heading
from fareclass.engine.sim_text import Answer
from fareclass.sched.reserves import Floor
from tests.e2e.gateway import PRICE, Gateway, Process

SECONDS = 300
WARM_S = 60
"""Ten answers of each of 64 callers: the first to end are the short ones, so what is learned of them at first is too little."""
WIDTH = 120
REQUESTS = 480
DEMAND = 1.5
HTTP_S = 0.012
"""About what a request takes beside its steps; what matters is only that demand stays above the floor."""
CALLERS = (1, 8, 64)
STOP = (" th",)
"""Answers end before such a word, so that they have lengths of their own, with `max_tokens` and without."""
CAP = 25
PROMPT_TOKENS = 20
UNITS = 60_000_000
"""In one hundredth of a token, as buckets count."""
_NATURAL_TOKENS = 200
_MOST_TOKENS = 1_600


class Combination(NamedTuple):
    """One project: so many callers, who read streams or wait for the whole, and name `max_tokens` or don't."""

    callers: int
    streamed: bool
    capped: bool

    @property
    def model(self) -> str:
        """Each number of callers has an engine of its own, of the pace at which that many ask for enough."""
        return f"for-{self.callers}"

    @property
    def project(self) -> str:
        return f"{self.callers}-{'streamed' if self.streamed else 'whole'}-{'capped' if self.capped else 'free'}"

    @property
    def output_tpm(self) -> int:
        """The floor. It has no factor in common with a bucket's units, so that no wrong token escapes `unexplained`."""
        tpm = round(REQUESTS * mean_tokens(CAP if self.capped else _MOST_TOKENS))
        return next(rate for rate in itertools.count(tpm) if math.gcd(rate, UNITS) == 1)

    def body(self, prompt: str) -> dict[str, Any]:
        asked: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "service_tier": "reserved",
            "stop": list(STOP),
        }
        if self.capped:
            asked["max_tokens"] = CAP
        return asked | ({"stream": True, "stream_options": {"include_usage": True}} if self.streamed else {})


COMBINATIONS = tuple(itertools.starmap(Combination, itertools.product(CALLERS, (True, False), (False, True))))


def mean_tokens(most: int) -> float:
    """How long the simulated engine's answers are."""
    lengths = [Answer(str(number), _NATURAL_TOKENS, most, STOP, "").tokens for number in range(5_000)]
    return sum(lengths) / len(lengths)


def pool(callers: int, mean: float) -> dict[str, Any]:
    """An engine on which an answer takes as long as so many callers need to ask for `DEMAND` × the floor."""
    step_us = int((callers * 60 / (DEMAND * REQUESTS) - HTTP_S) / (mean + 1.5) * 1e6)
    slots = 8 * callers
    fast = {"chunk_tokens": 65_536, "prefill_tokens_s": 10**9}
    return {
        "engine": {"kind": "simulated", "slots": slots, "base_us": step_us, "sequence_us": 0, **fast},
        "price": PRICE,
        "capacity": {"input_tpm": 10**9, "output_tpm": slots * 60_000_000 // step_us},
        "reserved_price": {"input": "0.021", "output": "0.084"},
    }


class Told(NamedTuple):
    """What an answer's caller was told: the tier that served it, and its output."""

    tier: str
    output: int


class Callers:
    """All callers of one project. `told` is by request id."""

    def __init__(self, combination: Combination, session: aiohttp.ClientSession, url: str) -> None:
        self.combination = combination
        self.told: dict[str, Told] = {}
        self.refused = 0
        self._session = session
        self._url = url

    async def run(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.combination.callers):
                group.create_task(self._one(number))

    async def _one(self, number: int) -> None:
        for count in itertools.count():
            await self._ask(f"{number}/{count} " + "word " * (PROMPT_TOKENS - 6))

    async def _ask(self, prompt: str) -> None:
        body = self.combination.body(prompt)
        async with self._session.post(f"{self._url}/v1/chat/completions", json=body) as response:
            text = await response.read()
        if response.status != 200:
            self.refused += 1
            await asyncio.sleep(1)
            return
        if self.combination.streamed:
            text = next(line[6:] for line in reversed(text.splitlines()) if line.startswith(b"data: {"))
        told = Told(
            response.headers["x-fareclass-served-tier"], msgspec.json.decode(text)["usage"]["completion_tokens"]
        )
        self.told[response.headers["x-request-id"]] = told


class Level(NamedTuple):
    """What was in a floor's output bucket, work in flight aside, at a time of day."""

    at_us: int
    level: int


class Entry(NamedTuple):
    """One row of the ledger."""

    id: str
    tier: str
    output: int
    first_token_us: int
    ended_us: int

    def made(self, from_us: int, to_us: int) -> float:
        """How many of its tokens were made between two times, as if they had come evenly."""
        over_us = max(self.ended_us, self.first_token_us) + 1
        inside_us = max(0, min(to_us, over_us) - max(from_us, self.first_token_us))
        return self.output * inside_us / (over_us - self.first_token_us)


class Books:
    """The gateway's own: its database, read while it runs."""

    def __init__(self, folder: Path, projects: Mapping[str, str]) -> None:
        """`projects` are ids by name."""
        self._file = folder / "db" / "fareclass.db"
        self._projects = projects

    def levels(self) -> dict[str, Level]:
        """The newest checkpoint of each project's floor."""
        with self._open() as database:
            kept = list(database.execute("SELECT at_us, state FROM checkpoints WHERE name LIKE 'levels/%'"))
        floors = [(at_us, msgspec.json.decode(state)["floors"]) for at_us, state in kept]
        return {
            name: Level(at_us, floor[project][3])
            for at_us, floor in floors
            for name, project in self._projects.items()
            if project in floor
        }

    def entries(self, project: str) -> list[Entry]:
        """Of one project, those that got a token."""
        columns = "id, served_tier, output, first_token_us, ended_us"
        query = f"SELECT {columns} FROM ledger WHERE project = ? AND first_token_us IS NOT NULL"  # noqa: S608 - a constant
        with self._open() as database:
            return [Entry(*row) for row in database.execute(query, (self._projects[project],))]

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._file)
        try:
            yield database
        finally:
            database.close()


class Outcome(NamedTuple):
    """One project's five minutes. `asked` and `made` are output tokens as shares of floor × time: of all answers, and
    inside the floor. `clock_us`: by how much the time that explains the bucket's refill differs from the time of day.
    """

    asked: float
    made: float
    requests_a_minute: float
    spilled: float
    unexplained: int
    clock_us: int
    mismatches: int
    refused: int


def judge(callers: Callers, entries: Sequence[Entry], first: Level, last: Level) -> Outcome:
    """Hold floor, ledger and callers against each other, between two checkpoints."""
    tpm = callers.combination.output_tpm
    due = tpm * (last.at_us - first.at_us) / 60e6
    inside = [entry for entry in entries if entry.tier == "reserved"]
    ended = [entry for entry in entries if first.at_us < entry.ended_us <= last.at_us]
    used = sum(entry.output for entry in ended if entry.tier == "reserved")
    # Each microsecond adds 100 × tpm to the bucket; so what is neither a whole number of them nor in the ledger is an error.
    refilled = last.level - first.level + used * 100 * UNITS
    passed_us = round(refilled / (100 * tpm))
    told = {entry.id: Told(entry.tier, entry.output) for entry in entries}
    return Outcome(
        asked=sum(entry.output for entry in ended) / due,
        made=sum(entry.made(first.at_us, last.at_us) for entry in inside) / due,
        requests_a_minute=len(ended) * 60e6 / (last.at_us - first.at_us),
        spilled=sum(entry.tier != "reserved" for entry in ended) / len(ended),
        unexplained=refilled - passed_us * 100 * tpm,
        clock_us=passed_us - (last.at_us - first.at_us),
        mismatches=sum(told.get(request) != one for request, one in callers.told.items()),
        refused=callers.refused,
    )


async def reserve(gateway: Gateway, project: str, model: str, floor: Floor, overflow: str = "default") -> None:
    """A reservation whose bucket starts out empty: made with one token a minute, then raised.

    A full one would last for minutes of such a demand.
    """
    tiny = {"project": project, "model": model, "input_tpm": 1, "output_tpm": 1, "overflow": overflow}
    made = (await gateway.admin.post("/reservations", json=tiny)).raise_for_status().json()
    (await gateway.admin.patch(f"/reservations/{made['id']}", json=floor._asdict())).raise_for_status()


@contextlib.asynccontextmanager
async def twelve(folder: Path) -> AsyncIterator[tuple[list[Callers], Books]]:
    """A gateway with a project, a key and a floor for each combination; their callers run until the end."""
    mean = (mean_tokens(CAP) + mean_tokens(_MOST_TOKENS)) / 2
    process = Process(folder, {"models": {f"for-{callers}": pool(callers, mean) for callers in CALLERS}})
    gateway = process.gateway()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(process.close)
        stack.push_async_callback(gateway.close)
        callers = []
        for combination in COMBINATIONS:
            secret = (await gateway.new_key(project=combination.project))["secret"]
            floor = Floor(2 * REQUESTS * PROMPT_TOKENS, combination.output_tpm)
            await reserve(gateway, combination.project, combination.model, floor)
            session = aiohttp.ClientSession(
                headers={"authorization": f"Bearer {secret}"}, connector=aiohttp.TCPConnector(limit=0)
            )
            callers.append(Callers(combination, await stack.enter_async_context(session), process.url))
        found = (await gateway.admin.get("/projects", params={"limit": 100})).raise_for_status().json()["data"]
        tasks = [asyncio.create_task(each.run()) for each in callers]
        try:
            yield callers, Books(folder, {project["name"]: project["id"] for project in found})
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result


async def measure(progress: Progress) -> Table:
    """All combinations at once."""
    bar = progress.add_task("twelve projects", total=WARM_S + SECONDS)
    with tempfile.TemporaryDirectory() as name:
        async with twelve(Path(name)) as (callers, books):
            for second in range(WARM_S + SECONDS):
                if second == WARM_S:
                    first = books.levels()
                await asyncio.sleep(1)
                progress.update(bar, completed=second + 1)
            last = books.levels()
            await asyncio.sleep(5)  # till entries and answers of the window's last moment are there
            outcomes = [
                judge(each, books.entries(project), first[project], last[project])
                for each in callers
                for project in [each.combination.project]
            ]
    return _steady_table(outcomes)


def _steady_table(outcomes: Sequence[Outcome]) -> Table:
    title = f"Callers in closed loop over HTTP, floors of {REQUESTS} requests a minute: {SECONDS} s of output against the floor"
    table = Table(title=title, title_justify="left")
    for column in (
        "callers",
        "stream",
        "max_tokens",
        "floor/min",
        "answers/min",
        "asked",
        "made",
        "spilled",
        "wrong",
        "unexpl.",
        "clock, µs",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for one, found in zip(COMBINATIONS, outcomes, strict=True):
        table.add_row(
            str(one.callers),
            "yes" if one.streamed else "no",
            str(CAP) if one.capped else "none",
            f"{one.output_tpm:,}",
            f"{found.requests_a_minute:,.0f}",
            f"{found.asked:.2f} ×",
            f"{found.made - 1:+.2%} {'ok' if abs(found.made - 1) <= 0.01 else 'off'}",
            f"{found.spilled:.0%}",
            str(found.refused + found.mismatches),
            str(found.unexplained),
            f"{found.clock_us:+d}",
        )
    return table


def main() -> None:
    console = Console(width=WIDTH)
    console.print(heading(), soft_wrap=True)
    console.print(
        f"Simulated engines, of the pace at which 1, 8 or 64 callers ask for about {DEMAND} × their floor or more. `made`: output "
        "inside the floor, tokens of answers across the window's rim in proportion. `wrong`: requests that were refused, or "
        "whose ledger entry has another tier or count than the answer. `unexpl.`: fall of the bucket + refill − use by the "
        "ledger, in 1/6,000,000,000 tokens; `clock`: the time of that refill − the time of day."
    )
    with Progress(console=console, transient=True) as progress:
        table = asyncio.run(measure(progress))
    console.print(table)


if __name__ == "__main__":
    main()
