"""A batch beside live traffic: live latency, slots used, memory, lines a second, and whether counts and bill are exact (R38,
R39). First a long one on a simulated fleet, then a short one on the real engine of this machine.

`fareclass serve` runs as a process; live callers on tier default read their streams first without, then with the batch.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psutil
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.machine import heading
from bench.measure import percentile
from bench.overhead.processes import free_port, running, wait_until_ready

PROMPT_WORDS, OUTPUT_TOKENS = 45, 8
SAMPLE_S = 0.5
WARM_SHARE, LAST_SHARE = 0.1, 0.98
MOST_TTFT, LEAST_USED, MOST_MIB = 2.0, 0.95, 64
_ADMIN = "bench-admin-key"
_SETTINGS = """\
listen: 127.0.0.1:{port}
store: sqlite:///store/fareclass.db
data_folder: files
master_key_file: keys/master.key
admin_key_env: FARECLASS_ADMIN_KEY
models:
  m:
    engine: {engine}
    price: {{input: 0.1, output: 0.4}}
"""
_PICO_USD = {"input": 100_000, "output": 400_000}
_HALF = 2


class Setting(NamedTuple):
    """What is measured. `bounds`: whether those of the issue hold for it."""

    name: str
    engine: str
    lines: int
    live_a_second: float
    alone_s: float
    bounds: bool


FLEET = Setting(
    "simulated fleet", "{kind: simulated, replicas: 4, slots: 16, base_us: 20000, sequence_us: 1000}",
    lines=200_000, live_a_second=20.0, alone_s=30.0, bounds=True,
)  # fmt: skip
LOCAL = Setting(
    "real engine", "{kind: local, slots: 4}", lines=500, live_a_second=0.5, alone_s=60.0, bounds=False
)  # fmt: skip


class Sample(NamedTuple):
    """At one moment: lines done, share of the slots in use, memory of the gateway."""

    done: int
    used: float
    resident_mib: float


class Gateway:
    """Speaks to one gateway as caller and as operator."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str, process: psutil.Process) -> None:
        self._session = session
        self._url = url
        self._caller = {"authorization": f"Bearer {key}"}
        self._process = process

    async def call(self, method: str, path: str, **more: Any) -> Any:
        headers = {"authorization": f"Bearer {_ADMIN}"} if path.startswith("/admin") else self._caller
        async with self._session.request(method, self._url + path, headers=headers, **more) as response:
            response.raise_for_status()
            return await response.json()

    async def first_token_s(self) -> float:
        """One live request."""
        body = _body("live", 32) | {"stream": True}
        began = time.perf_counter()
        async with self._session.post(f"{self._url}/v1/chat/completions", json=body, headers=self._caller) as response:
            response.raise_for_status()
            await response.content.readany()
            first_s = time.perf_counter() - began
            await response.read()
        return first_s

    async def sample(self, batch: str) -> tuple[str, Sample]:
        """How the batch is, and how full the pool."""
        found = await self.call("GET", f"/v1/batches/{batch}")
        pool = (await self.call("GET", "/admin/v1/pools"))["data"][0]
        busy = sum(tier["running"] for tier in pool["tiers"].values())
        done = found["request_counts"]["completed"]
        return found["status"], Sample(done, busy / pool["slots"], self._process.memory_info().rss / 2**20)

    async def differs(self, batch: str) -> str:
        """Where counts, tokens and money of an ended batch, its results and the ledger are not the same; empty: nowhere."""
        found = await self.call("GET", f"/v1/batches/{batch}")
        counts, usage = found["request_counts"], found["usage"]
        told = (counts["completed"], usage["input_tokens"], usage["output_tokens"])
        url, headers = f"{self._url}/v1/files/{found['output_file_id']}/content", self._caller
        names, read, made = set[str](), 0, 0
        async with self._session.get(url, headers=headers) as response:
            response.raise_for_status()
            async for raw in _whole_lines(response.content):
                line = json.loads(raw)
                names.add(line["custom_id"])
                read += line["response"]["body"]["usage"]["prompt_tokens"]
                made += line["response"]["body"]["usage"]["completion_tokens"]
        [row] = [row for row in (await self.call("GET", "/admin/v1/usage"))["data"] if row["served_tier"] == "batch"]
        billed = (row["requests"], row["input"], row["output"])
        if not told == (len(names), read, made) == billed:
            return f"told {told}, in the results {(len(names), read, made)}, billed {billed}"
        cost = (read * _PICO_USD["input"] + made * _PICO_USD["output"]) // _HALF
        return "" if round(Decimal(row["cost"]) * 10**12) == cost else f"cost {row['cost']}, not {cost} / 10^12 USD"


def _body(name: str, tokens: int) -> dict[str, Any]:
    prompt = f"{name} " + "word " * PROMPT_WORDS
    return {"model": "m", "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens}


def _lines(count: int) -> Iterator[bytes]:
    for number in range(count):
        body = _body(str(number), OUTPUT_TOKENS)
        line = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        yield json.dumps(line).encode() + b"\n"


async def _whole_lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    rest = b""
    async for block in content.iter_any():
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line


async def _live(gateway: Gateway, a_second: float, times: list[float]) -> None:
    """Callers who come at random, until cancelled."""
    rng = random.Random(1)
    async with asyncio.TaskGroup() as group:

        async def one() -> None:
            times.append(await gateway.first_token_s())

        while True:
            group.create_task(one())
            await asyncio.sleep(rng.expovariate(a_second))


@asynccontextmanager
async def _callers(gateway: Gateway, a_second: float) -> AsyncIterator[list[float]]:
    times: list[float] = []
    task = asyncio.create_task(_live(gateway, a_second, times))
    try:
        yield times
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _run_batch(gateway: Gateway, file: Path, lines: int) -> tuple[str, list[Sample], float]:
    """Upload, make and follow it to its end; its id, the samples, and how long it ran."""
    form = aiohttp.FormData({"purpose": "batch"})
    with file.open("rb") as content:
        form.add_field("file", content, filename="lines.jsonl")
        uploaded = await gateway.call("POST", "/v1/files", data=form)
    made = {"input_file_id": uploaded["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = (await gateway.call("POST", "/v1/batches", json=made))["id"]
    began, status, samples = time.perf_counter(), "", list[Sample]()
    with Progress(console=Console(stderr=True)) as bars:
        bar = bars.add_task("lines", total=lines)
        while status != "completed":
            await asyncio.sleep(SAMPLE_S)
            status, sample = await gateway.sample(batch)
            samples.append(sample)
            bars.update(bar, completed=sample.done)
            if status in {"failed", "expired", "cancelled"}:
                sys.exit(f"the batch ended as {status}")
    return batch, samples, time.perf_counter() - began


async def _measure(gateway: Gateway, folder: Path, setting: Setting) -> bool:
    """Print the table; whether all bounds hold."""
    file, lines = folder / "lines.jsonl", setting.lines
    with file.open("wb") as out:
        out.writelines(_lines(lines))
    async with _callers(gateway, setting.live_a_second) as alone:
        await asyncio.sleep(setting.alone_s)
    async with _callers(gateway, setting.live_a_second) as beside:
        batch, samples, took_s = await _run_batch(gateway, file, lines)
    differs = await gateway.differs(batch)
    steady = [sample for sample in samples if lines * WARM_SHARE <= sample.done <= lines * LAST_SHARE]
    used = sum(sample.used for sample in steady) / len(steady)
    grown_mib = max(sample.resident_mib for sample in steady) - steady[0].resident_mib
    slower = percentile(beside, 0.99) / percentile(alone, 0.99)
    table = Table(title=f"{lines:,} lines, {setting.name}, {setting.live_a_second} live requests/s")
    for column in ("what", "measured", "bound"):
        table.add_column(column)
    rows = (
        ("live TTFT p99 alone", f"{percentile(alone, 0.99) * 1e3:.0f} ms", ""),
        (
            "live TTFT p99 beside the batch",
            f"{percentile(beside, 0.99) * 1e3:.0f} ms = {slower:.2f} ×",
            f"≤ {MOST_TTFT} ×",
        ),
        ("slots in use", f"{used:.1%}", f"≥ {LEAST_USED:.0%}"),
        ("growth of memory", f"{grown_mib:.0f} MiB", f"≤ {MOST_MIB} MiB"),
        ("lines a second", f"{lines / took_s:.1f}", ""),
        ("counts, results, ledger, cost", differs or "the same", "the same"),
    )
    for what, measured, bound in rows:
        table.add_row(what, measured, bound if setting.bounds or bound == "the same" else "")
    Console(width=120).print(table)
    held = slower <= MOST_TTFT and used >= LEAST_USED and grown_mib <= MOST_MIB
    return not differs and (held or not setting.bounds)


async def _run(setting: Setting) -> bool:
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        settings = folder / "fareclass.yaml"
        settings.write_text(_SETTINGS.format(port=port, engine=setting.engine))
        words = [sys.executable, "-m", "fareclass", "serve", "--config", str(settings)]
        log = folder / "log"
        with running(words, None, log, {"FARECLASS_ADMIN_KEY": _ADMIN, "FARECLASS_CONSOLE": "false"}) as process:
            wait_until_ready(process, port, "/readyz", log)
            key = (folder / "keys" / "first.key").read_text().strip()
            timeout = aiohttp.ClientTimeout(total=600)
            async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
                gateway = Gateway(session, f"http://127.0.0.1:{port}", key, psutil.Process(process.pid))
                return await _measure(gateway, folder, setting)


def main() -> None:
    parser = argparse.ArgumentParser(prog="batch", description=__doc__)
    parser.add_argument("--lines", type=int, default=FLEET.lines, help="on the simulated fleet; 0 leaves it out")
    parser.add_argument("--local-lines", type=int, default=LOCAL.lines, help="on the real engine; 0 leaves it out")
    options = parser.parse_args()
    os.environ.setdefault("NO_COLOR", "1")
    Console(width=120).print(heading())
    asked = (FLEET._replace(lines=options.lines), LOCAL._replace(lines=options.local_lines))
    held = [asyncio.run(_run(setting)) for setting in asked if setting.lines]
    if not all(held):
        sys.exit("a bound does not hold")


if __name__ == "__main__":
    main()
