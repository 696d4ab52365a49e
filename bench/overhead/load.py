"""The load generator: keep-alive connections on a bare asyncio protocol, request bytes made beforehand.

Three shapes: `closed` (each connection sends as soon as it was answered), `paced` (a fixed
rate, whatever the answers take), `streams` (every connection holds one long stream). After a
warm-up it measures for a time, and reads the CPU of the process under test at both ends of
just that time. Prints one JSON object.
"""

import argparse
import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any, cast

import uvloop

from bench.overhead.asked import DIALECTS, request_bytes
from bench.overhead.upstream import TOKENS_PER_S

STREAM_MARGIN_S = 2.0
"""Streams begin over a second and must outlast the window."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU seconds that a process and all its threads have used, from its own `stat`, without its children's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


class Tally:
    """What the connections saw. `seconds` and `events` only count while `open`; `answers` always does. A token shows by its `mark`."""

    def __init__(self, mark: bytes) -> None:
        self.mark = mark
        self.open = False
        self.answers = 0
        self.errors = 0
        self.events = 0
        self.seconds: list[float] = []


class Connection(asyncio.Protocol):
    """One caller. `again`: send the next request as soon as the last was answered."""

    def __init__(self, request: bytes, tally: Tally, *, again: bool) -> None:
        self._request = request
        self._tally = tally
        self.again = again
        self.busy = False
        self._received = b""
        self._end = b""
        self._need = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self, since: float | None = None) -> None:
        self.busy = True
        self._since = time.perf_counter() if since is None else since
        self.transport.write(self._request)

    def connection_lost(self, _error: Exception | None) -> None:
        if self.busy:
            self._tally.errors += 1

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._need and not self._end:
            self._head()
        if self._need and len(self._received) >= self._need:
            self._answered()
        elif self._end:
            if self._tally.open:
                self._tally.events += data.count(self._tally.mark)
            if self._received.endswith(self._end):
                self._answered()
            else:
                self._received = self._received[-8:]

    def _head(self) -> None:
        stop = self._received.find(b"\r\n\r\n")
        if stop < 0:
            return
        head = self._received[:stop].lower()
        if head[9:12] != b"200":
            self._tally.errors += 1
        at = head.find(b"content-length:")
        if at < 0:
            self._end = b"0\r\n\r\n"
        else:
            self._need = stop + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])

    def _answered(self) -> None:
        tally = self._tally
        tally.answers += 1
        if tally.open:
            tally.seconds.append(time.perf_counter() - self._since)
        self._received, self._end, self._need, self.busy = b"", b"", 0, False
        if self.again:
            self.send()


async def _connect(port: int, request: bytes, tally: Tally, *, again: bool) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(request, tally, again=again), "127.0.0.1", port)
    return connection


async def _window(options: argparse.Namespace, tally: Tally) -> dict[str, Any]:
    """Let it run in, then measure."""
    await asyncio.sleep(options.warmup)
    before_cpu, before = cpu_s(options.pid), time.perf_counter()
    tally.open = True
    await asyncio.sleep(options.seconds)
    tally.open = False
    wall_s, used_s = time.perf_counter() - before, cpu_s(options.pid) - before_cpu
    ordered = sorted(tally.seconds) or [0.0]
    return {
        "wall_s": wall_s,
        "cpu_s": used_s,
        "requests": len(tally.seconds),
        "events": tally.events,
        "p50_ms": ordered[len(ordered) // 2] * 1e3,
        "p99_ms": ordered[len(ordered) * 99 // 100] * 1e3,
    }


async def _closed(options: argparse.Namespace, request: bytes, tally: Tally) -> dict[str, Any]:
    connections = [await _connect(options.port, request, tally, again=True) for _ in range(options.connections)]
    for connection in connections:
        connection.send()
    result = await _window(options, tally)
    for connection in connections:
        connection.again = False
    await _idle(connections)
    return result


async def _paced(options: argparse.Namespace, request: bytes, tally: Tally) -> dict[str, Any]:
    """Latency counts from the moment a request was due, so that a generator that lags can't hide a wait."""
    idle: list[Connection] = [await _connect(options.port, request, tally, again=False) for _ in range(8)]
    everyone = list(idle)
    measuring = asyncio.ensure_future(_window(options, tally))
    due = time.perf_counter()
    while not measuring.done():
        due += 1 / options.rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        connection = next((one for one in everyone if not one.busy), None)
        if connection is None:
            connection = await _connect(options.port, request, tally, again=False)
            everyone.append(connection)
        connection.send(due)
    await _idle(everyone)
    return await measuring


async def _streams(options: argparse.Namespace, request: bytes, tally: Tally) -> dict[str, Any]:
    """Starts are spread over a second, so that the tokens of the streams do not come in one beat.

    The streams are read to their end: a proxy that does not notice who hung up would go on with them
    while the next one is measured.
    """
    connections = []
    for _ in range(options.connections):
        connections.append(await _connect(options.port, request, tally, again=False))
        connections[-1].send()
        await asyncio.sleep(1 / options.connections)
    result = await _window(options, tally)
    await _idle(connections)
    return result


async def _idle(connections: list[Connection]) -> None:
    while any(connection.busy for connection in connections):  # noqa: ASYNC110  # after the run: nothing is measured
        await asyncio.sleep(0.01)
    for connection in connections:
        connection.transport.close()


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """One run; `answers` counts everything that was answered, warm-up included."""
    tally = Tally(DIALECTS[options.dialect].mark)
    shape = {"closed": _closed, "paced": _paced, "streams": _streams}[options.shape]
    streams = options.shape == "streams"
    max_tokens = int(TOKENS_PER_S * (options.warmup + options.seconds + STREAM_MARGIN_S)) if streams else 64
    request = request_bytes(
        options.dialect, options.port, options.key, options.model, stream=streams, max_tokens=max_tokens
    )
    own_s, begun_s = time.process_time(), time.perf_counter()
    result = await shape(options, request, tally)
    busy = (time.process_time() - own_s) / (time.perf_counter() - begun_s)
    return result | {"answers": tally.answers, "errors": tally.errors, "generator_busy": busy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=["closed", "paced", "streams"])
    parser.add_argument("port", type=int)
    parser.add_argument("pid", type=int, help="the process under test")
    parser.add_argument("--key", default="none")
    parser.add_argument("--model", default="static")
    parser.add_argument("--dialect", choices=DIALECTS, default="chat completions")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rate", type=float, default=200.0, help="requests/s of `paced`")
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    print(json.dumps(uvloop.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
