"""What each API costs: CPU per request and per streamed chunk, against the chat completions of the same gateway.

The engine is a static server, as in `overhead`; the windows of all APIs take turns on the same two cores.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.machine import heading
from bench.overhead.asked import DIALECTS
from bench.overhead.processes import cores, free_port, measure, running, wait_until_ready
from bench.overhead.targets import Target, gateway

_BOUND = 1.6
_BASE = "chat completions"
_Windows = dict[str, list[dict[str, Any]]]


def _turns(options: argparse.Namespace, core: int, target: Target, shape: str, **more: object) -> _Windows:
    """Windows of each API in turn."""
    windows: _Windows = {name: [] for name in DIALECTS}
    for _ in range(options.rounds):
        for name, of_api in windows.items():
            asked: dict[str, object] = {"key": target.key, "seconds": options.seconds, "dialect": name, **more}
            of_api.append(measure(core, shape, target.port, target.pid, **asked))
    return windows


def _cost_us(windows: list[dict[str, Any]], per: str) -> float:
    costs: list[float] = [1e6 * window["cpu_s"] / max(1, window[per]) for window in windows]
    return statistics.median(costs)


def _table(title: str, windows: _Windows, per: str, unit: str, console: Console) -> None:
    table = Table(title=title)
    for column in ("", unit, "× chat completions", "windows", "errors"):
        table.add_column(column, justify="right" if column else "left")
    base = _cost_us(windows[_BASE], per)
    for name, of_api in windows.items():
        cost, errors = _cost_us(of_api, per), sum(window["errors"] for window in of_api)
        each = [1e6 * window["cpu_s"] / max(1, window[per]) for window in of_api]
        verdict = "ok" if cost <= _BOUND * base else "over"
        shown = f"{cost / base:.2f}" + ("" if name == _BASE else f" {verdict}")
        table.add_row(name, f"{cost:.1f}", shown, f"{min(each):.1f} to {max(each):.1f}", str(errors))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="dialects", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one window")
    parser.add_argument("--rounds", type=int, default=3, help="windows of each API")
    options = parser.parse_args()
    console = Console(width=120)
    console.print(heading())
    load_core, test_core = cores()
    port = free_port()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        log = folder / "upstream.log"
        upstream = stack.enter_context(
            running([sys.executable, "-m", "bench.overhead.upstream", str(port)], load_core, log)
        )
        wait_until_ready(upstream, port, "/v1/models", log)
        target = stack.enter_context(gateway(folder, test_core, f"http://127.0.0.1:{port}"))
        closed = _turns(options, load_core, target, "closed")
        _table("32 connections, closed loop, not streamed", closed, "requests", "CPU µs/request", console)
        streams = _turns(options, load_core, target, "streams", model="paced", connections=300, warmup=2.5)
        _table("300 streams of 50 tokens/s", streams, "events", "CPU µs/token", console)


if __name__ == "__main__":
    main()
