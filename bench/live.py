"""The tiers on the real built-in engine: `fareclass serve` as a process, and callers who read their streams over HTTP.

How many requests a second the engine can do is measured first; the load is a multiple of that.
A caller with the `reserved` tier would need a reservation, so priority is the best tier here.
"""

import asyncio
import contextlib
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from math import isnan
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec
import psutil
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.measure import NONE, pair, percentile
from bench.overhead.processes import free_port, running, wait_until_ready
from fareclass.core.tiers import Tier

SEED = 1
SLOTS = 4
LOAD = 2.0
SECONDS = 48
CALIBRATE_S = 15
WARM_S = 4
DRAIN_S = 60
BACKLOG = 2 * SLOTS
SPLIT = {Tier.PRIORITY: 0.25, Tier.DEFAULT: 0.40, Tier.FLEX: 0.35}
PROMPT_WORDS = (20, 80)
OUTPUT_TOKENS = (20, 60)
WORDS = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
]
_SETTINGS = """\
listen: 127.0.0.1:{port}
store: sqlite:///store/fareclass.db
master_key_file: keys/master.key
models:
  smollm2:
    engine: {{kind: local, slots: {slots}, context_tokens: 512}}
{tiers}"""
_ONE_LINE = "tiers:\n  default: {max_wait_s: 3600}\n"
"""First come, first served is the gateway with one tier for everybody, and all the patience in the world."""


class Ask(NamedTuple):
    """One request of the load, due `at_s` after the start."""

    at_s: float
    tier: Tier
    prompt: str
    tokens: int


class Stream:
    """One request as its caller saw it; times of the loop's clock. `backlog` requests have no due time of their own."""

    def __init__(self, ask: Ask, due_s: float, *, backlog: bool) -> None:
        self.ask = ask
        self.due_s = due_s
        self.backlog = backlog
        self.refused = False
        self.first_s: float | None = None
        self.last_s = 0.0
        self.events = 0
        self.tokens = 0
        self.done = False
        self.task = asyncio.current_task()

    @property
    def begun(self) -> bool:
        return self.first_s is not None

    @property
    def whole(self) -> bool:
        """Every token came: as many events as the engine counts tokens, as many as asked for, and the end mark."""
        return self.done and self.events == self.tokens == self.ask.tokens

    def read(self, line: bytes, now: float) -> bool:
        """One line of the stream; whether it brought a token."""
        if line.startswith(b"data: [DONE]"):
            self.done = True
        if not line.startswith(b"data: {"):
            return False
        event = msgspec.json.decode(line[6:])
        if event.get("usage"):
            self.tokens = event["usage"]["completion_tokens"]
        if not event.get("choices") or not event["choices"][0]["delta"].get("content"):
            return False
        self.first_s = self.first_s or now
        self.last_s = now
        self.events += 1
        return True


class Run(NamedTuple):
    """One load, and what became of it. `ended_s` is when the time was up, `output_s` tokens a second until then,
    `others_cores` what programs that have no part in it took of the machine.
    """

    streams: list[Stream]
    ended_s: float
    output_s: float
    others_cores: float
    pauses: int
    restarts: int


class Callers:
    """Sends a load to a gateway; with `one_tier` all of it as `default`."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, one_tier: bool) -> None:
        self._session = session
        self._url = url
        self._one_tier = one_tier
        self._time = asyncio.get_running_loop().time
        self.streams: list[Stream] = []
        self.tokens = 0

    async def ask(self, ask: Ask, *, backlog: bool = False) -> None:
        stream = Stream(ask, self._time(), backlog=backlog)
        self.streams.append(stream)
        body = {
            "model": "smollm2",
            "messages": [{"role": "user", "content": ask.prompt}],
            "max_tokens": ask.tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "service_tier": "default" if self._one_tier else ask.tier.word,
        }
        async with self._session.post(f"{self._url}/v1/chat/completions", json=body) as response:
            stream.refused = response.status in {429, 503}
            if not stream.refused:
                response.raise_for_status()
            async for line in response.content:
                self.tokens += stream.read(line, self._time())

    async def run(self, asks: list[Ask], draw: Callable[[], Ask] | None, told: Callable[[float], None]) -> Run:
        """Send what is due when it is due, and `draw` in an endless backlog; then let what has begun come to its end."""
        before, others_s, start_s = await self._counted(), _others_cpu_s(), self._time()
        tasks = [asyncio.create_task(self._closed_loop(draw, start_s + SECONDS)) for _ in range(BACKLOG) if draw]
        for ask in asks:
            await asyncio.sleep(start_s + ask.at_s - self._time())
            tasks.append(asyncio.create_task(self.ask(ask)))
            told(ask.at_s)
        await asyncio.sleep(start_s + SECONDS - self._time())
        ended_s, output_s, others_cores = self._time(), self.tokens / SECONDS, (_others_cpu_s() - others_s) / SECONDS
        await self._end(tasks)
        counted = await self._counted()
        counted.subtract(before)
        pauses, restarts = counted["fareclass_pauses"], counted["fareclass_restarts"]
        return Run(self.streams, ended_s, output_s, others_cores, pauses, restarts)

    async def rate(self, draw: Callable[[], Ask]) -> float:
        """Requests a second that the engine can do: callers in a closed loop, as many as it has slots."""
        until_s = self._time() + CALIBRATE_S
        tasks = [asyncio.create_task(self._closed_loop(draw, until_s)) for _ in range(SLOTS)]
        await asyncio.sleep(WARM_S)
        before, since_s = self.tokens, self._time()
        await asyncio.sleep(until_s - since_s)
        rate = (self.tokens - before) / (self._time() - since_s)
        await self._end(tasks)
        return rate / (sum(OUTPUT_TOKENS) / 2)

    async def _closed_loop(self, draw: Callable[[], Ask], until_s: float) -> None:
        while self._time() < until_s:
            await self.ask(draw(), backlog=True)

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        """Hang up on what has not begun, and read what has to its end."""
        for stream in self.streams:
            if stream.task is not None and not stream.begun:
                stream.task.cancel()
        _, late = await asyncio.wait(tasks, timeout=DRAIN_S)
        for task in late:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _counted(self) -> Counter[str]:
        """The gateway's counters, over all labels."""
        async with self._session.get(f"{self._url}/metrics") as response:
            text = await response.text()
        counted: Counter[str] = Counter()
        for family in text_string_to_metric_families(text):
            if family.type == "counter":
                counted[family.name] += round(sum(one.value for one in family.samples if one.name.endswith("_total")))
        return counted


def _others_cpu_s() -> float:
    """CPU time since the machine's start of everything but this bench, the gateway and its engine."""
    here = psutil.Process()
    ours = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    every = psutil.cpu_times()
    return float(every.user + every.nice + every.system - sum(one.user + one.system for one in ours))


@contextlib.asynccontextmanager
async def gateway(*, one_tier: bool) -> AsyncIterator[Callable[[], Callers]]:
    """`fareclass serve` in a folder of its own; yields a maker of callers."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        settings, log = folder / "fareclass.yaml", folder / "log"
        settings.write_text(_SETTINGS.format(port=port, slots=SLOTS, tiers=_ONE_LINE if one_tier else ""))
        words = [sys.executable, "-m", "fareclass", "serve", "--config", str(settings)]
        env = {name: "" for name in os.environ if name.startswith("FARECLASS_")} | {"FARECLASS_CONSOLE": "false"}
        with running(words, None, log, env) as process:
            await asyncio.to_thread(wait_until_ready, process, port, "/readyz", log)
            headers = {"Authorization": f"Bearer {(folder / 'keys' / 'first.key').read_text().strip()}"}
            connector = aiohttp.TCPConnector(limit=0)
            timeout = aiohttp.ClientTimeout(total=None)
            async with aiohttp.ClientSession(headers=headers, connector=connector, timeout=timeout) as session:
                yield lambda: Callers(session, f"http://127.0.0.1:{port}", one_tier=one_tier)


def draws(seed: int) -> Callable[[], Ask]:
    """Endless flex requests; prompts differ from their first words on, so that none finds another's prefix cached."""
    draw = random.Random(seed)

    def one() -> Ask:
        words = " ".join(draw.choices(WORDS, k=draw.randint(*PROMPT_WORDS)))
        return Ask(0.0, Tier.FLEX, f"{words}. Write a very long story with these words.", draw.randint(*OUTPUT_TOKENS))

    return one


def load(rate: float) -> list[Ask]:
    """Poisson arrivals at `LOAD` times `rate` requests a second, split over the tiers."""
    draw, asked, asks = random.Random(SEED), draws(SEED), []
    at_s = draw.expovariate(LOAD * rate)
    while at_s < SECONDS:
        tier = draw.choices(list(SPLIT), list(SPLIT.values()))[0]
        asks.append(asked()._replace(at_s=at_s, tier=tier))
        at_s += draw.expovariate(LOAD * rate)
    return asks


async def measure(progress: Progress) -> Table:
    """The engine's rate, then the best tier alone, all of the load with tiers, and all of it in one line."""

    async def run(title: str, callers: Callers, asks: list[Ask], draw: Callable[[], Ask] | None) -> Run:
        task = progress.add_task(title, total=SECONDS)
        done = await callers.run(asks, draw, lambda at_s: progress.update(task, completed=at_s))
        progress.update(task, completed=SECONDS)
        return done

    runs = {}
    task = progress.add_task("the engine's rate", total=None)
    async with gateway(one_tier=False) as callers:
        rate = await callers().rate(draws(SEED + 1))
        progress.update(task, total=1, completed=1)
        asks = load(rate)
        best = [ask for ask in asks if ask.tier is Tier.PRIORITY]
        runs["priority\nalone"] = await run("priority alone", callers(), best, None)
        runs["Fareclass"] = await run("Fareclass", callers(), asks, draws(SEED + 2))
    async with gateway(one_tier=True) as callers:
        runs["first\ncome"] = await run("first come, first served", callers(), asks, None)
    return _table(rate, runs)


def _table(rate: float, runs: dict[str, Run]) -> Table:
    alone = next(iter(runs.values()))
    base_s, base_ms = percentile(_ttft(alone, Tier.PRIORITY), 0.99), _token_ms(alone, Tier.PRIORITY)
    table = Table(
        title=f"SmolLM2-135M on the CPU, {SLOTS} slots; load {LOAD} × the {rate:.2f} requests/s that it can do",
        title_justify="left",
    )
    table.add_column("times in s: p50/p99", min_width=34)
    for name in runs:
        table.add_column(name, justify="right", min_width=13)

    def row(label: str, tell: Callable[[Run], str]) -> None:
        table.add_row(label, *(tell(run) for run in runs.values()))

    def tier_rows(tier: Tier) -> None:
        row(f"{tier.word}: requests", lambda run: str(len(_sent(run, tier)) or "-"))
        row("  TTFT", lambda run: pair(percentile(_ttft(run, tier), 0.5), percentile(_ttft(run, tier), 0.99)))
        if tier is Tier.PRIORITY:
            row("  TTFT p99 × alone", lambda run: f"{percentile(_ttft(run, tier), 0.99) / base_s:.2f}")
            row("  ms per token × alone", lambda run: f"{_token_ms(run, tier) / base_ms:.2f}")
        row("  ms per token, pauses included", lambda run: _number(_token_ms(run, tier)))
        row("  refused", lambda run: str(sum(stream.refused for stream in _sent(run, tier))))

    for tier in SPLIT:
        tier_rows(tier)
        table.add_section()
    row("output tokens/s, backlog included", lambda run: f"{run.output_s:.1f}")
    row("pauses", lambda run: str(run.pauses))
    row("restarts", lambda run: str(run.restarts))
    row("streams whole / begun", _whole)
    row("cores used by other programs", lambda run: f"{max(0.0, run.others_cores):.2f}")
    return table


def _sent(run: Run, tier: Tier) -> list[Stream]:
    return [stream for stream in run.streams if stream.ask.tier is tier and not stream.backlog]


def _ttft(run: Run, tier: Tier) -> list[float]:
    """What has no token yet counts with its wait so far."""
    return [(stream.first_s or run.ended_s) - stream.due_s for stream in _sent(run, tier) if not stream.refused]


def _token_ms(run: Run, tier: Tier) -> float:
    spent = [(s.last_s - s.first_s, s.events - 1) for s in _sent(run, tier) if s.whole and s.first_s is not None]
    tokens = sum(events for _, events in spent)
    return 1e3 * sum(seconds for seconds, _ in spent) / tokens if tokens else NONE


def _number(value: float) -> str:
    return "-" if isnan(value) else f"{value:.0f}"


def _whole(run: Run) -> str:
    begun = [stream for stream in run.streams if stream.begun]
    return f"{sum(stream.whole for stream in begun)} / {len(begun)}"


def main(console: Console) -> None:
    """Some three minutes."""
    console.print(
        f"Prompts of {PROMPT_WORDS[0]} to {PROMPT_WORDS[1]} words, {OUTPUT_TOKENS[0]} to {OUTPUT_TOKENS[1]} tokens of output, "
        f"{SECONDS} s a run, then what has begun is read to its end. Split "
        + " / ".join(f"{share:.0%} {tier.word}" for tier, share in SPLIT.items())
        + f"; behind it, in Fareclass alone, {BACKLOG} flex callers who always ask again. No reserved: that tier needs a "
        "reservation. A request without a token at the end counts with its wait so far. "
        f"Before the start the machine's load average was {os.getloadavg()[0]:.1f}."
    )
    with Progress(console=console, transient=True) as progress:
        table = asyncio.run(measure(progress))
    console.print(table)
