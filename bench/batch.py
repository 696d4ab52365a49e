"""A batch beside live traffic on a simulated fleet: live latency, slots used, memory, lines a second (R38, R39).

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
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psutil
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.measure import percentile
from bench.overhead.processes import free_port, running, wait_until_ready

LINES = 200_000
PROMPT_WORDS, OUTPUT_TOKENS = 45, 8
LIVE_A_SECOND = 20.0
ALONE_S = 30.0
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
    engine: {{kind: simulated, replicas: 4, slots: 16, base_us: 20000, sequence_us: 1000}}
    price: {{input: 0.1, output: 0.4}}
"""


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


def _body(name: str, tokens: int) -> dict[str, Any]:
    prompt = f"{name} " + "word " * PROMPT_WORDS
    return {"model": "m", "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens}


def _lines(count: int) -> Iterator[bytes]:
    for number in range(count):
        body = _body(str(number), OUTPUT_TOKENS)
        line = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        yield json.dumps(line).encode() + b"\n"


async def _live(gateway: Gateway, times: list[float]) -> None:
    """Callers who come at random, until cancelled."""
    rng = random.Random(1)
    async with asyncio.TaskGroup() as group:

        async def one() -> None:
            times.append(await gateway.first_token_s())

        while True:
            group.create_task(one())
            await asyncio.sleep(rng.expovariate(LIVE_A_SECOND))


@asynccontextmanager
async def _callers(gateway: Gateway) -> AsyncIterator[list[float]]:
    times: list[float] = []
    task = asyncio.create_task(_live(gateway, times))
    try:
        yield times
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _run_batch(gateway: Gateway, file: Path, lines: int) -> tuple[list[Sample], float]:
    """Upload, make and follow it to its end; the samples, and how long it ran."""
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
    return samples, time.perf_counter() - began


async def _measure(gateway: Gateway, folder: Path, lines: int) -> bool:
    """Print the table; whether all bounds hold."""
    file = folder / "lines.jsonl"
    with file.open("wb") as out:
        out.writelines(_lines(lines))
    async with _callers(gateway) as alone:
        await asyncio.sleep(ALONE_S)
    async with _callers(gateway) as beside:
        samples, took_s = await _run_batch(gateway, file, lines)
    steady = [sample for sample in samples if lines * WARM_SHARE <= sample.done <= lines * LAST_SHARE]
    used = sum(sample.used for sample in steady) / len(steady)
    grown_mib = max(sample.resident_mib for sample in steady) - steady[0].resident_mib
    slower = percentile(beside, 0.99) / percentile(alone, 0.99)
    table = Table(title=f"{lines:,} lines beside {LIVE_A_SECOND:.0f} live requests a second")
    for heading in ("what", "measured", "bound"):
        table.add_column(heading)
    table.add_row("live TTFT p99 alone", f"{percentile(alone, 0.99) * 1e3:.0f} ms", "")
    table.add_row(
        "live TTFT p99 beside the batch",
        f"{percentile(beside, 0.99) * 1e3:.0f} ms = {slower:.2f} ×",
        f"≤ {MOST_TTFT} ×",
    )
    table.add_row("slots in use", f"{used:.1%}", f"≥ {LEAST_USED:.0%}")
    table.add_row("growth of memory", f"{grown_mib:.0f} MiB", f"≤ {MOST_MIB} MiB")
    table.add_row("lines a second", f"{lines / took_s:.0f}", "")
    Console().print(table)
    return slower <= MOST_TTFT and used >= LEAST_USED and grown_mib <= MOST_MIB


async def _run(lines: int) -> bool:
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        settings = folder / "fareclass.yaml"
        settings.write_text(_SETTINGS.format(port=port))
        words = [sys.executable, "-m", "fareclass", "serve", "--config", str(settings)]
        log = folder / "log"
        with running(words, None, log, {"FARECLASS_ADMIN_KEY": _ADMIN}) as process:
            wait_until_ready(process, port, "/readyz", log)
            key = (folder / "keys" / "first.key").read_text().strip()
            timeout = aiohttp.ClientTimeout(total=600)
            async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
                gateway = Gateway(session, f"http://127.0.0.1:{port}", key, psutil.Process(process.pid))
                return await _measure(gateway, folder, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=LINES)
    os.environ.setdefault("NO_COLOR", "1")
    if not asyncio.run(_run(parser.parse_args().lines)):
        sys.exit("a bound does not hold")


if __name__ == "__main__":
    main()
