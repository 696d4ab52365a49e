"""Run the bench and print its table."""

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
from bench.overhead.processes import cores, free_port, measure, running, wait_until_ready
from bench.overhead.targets import Target, bare, gateway, ledger_rows, litellm

_Runs = dict[str, list[dict[str, Any]]]
_SATURATED = 0.95


class Bench:
    """The targets that are up, and what was measured of each, by shape of load."""

    def __init__(self, options: argparse.Namespace, cores: tuple[int, int]) -> None:
        self.options = options
        self.load_core, self.test_core = cores
        self.answers: dict[str, int] = {}
        self.errors: dict[str, int] = {}

    def rounds(self, targets: list[Target], shape: str, **options: object) -> _Runs:
        """Windows of each target in turn."""
        runs: _Runs = {target.name: [] for target in targets}
        for _ in range(self.options.rounds):
            for target in targets:
                result = measure(
                    self.load_core, shape, target.port, target.pid,
                    key=target.key, seconds=self.options.seconds, **options,
                )  # fmt: skip
                runs[target.name].append(result)
                self.answers[target.name] = self.answers.get(target.name, 0) + result["answers"]
                self.errors[target.name] = self.errors.get(target.name, 0) + result["errors"]
        return runs


def _median(runs: list[dict[str, Any]], *path: str) -> float:
    """The median over the rounds of one figure, or of the ratio of two."""
    top, bottom = path[0], path[1] if len(path) > 1 else None
    return statistics.median(float(run[top]) / (max(run[bottom], 1e-9) if bottom else 1) for run in runs)


def _rate(runs: list[dict[str, Any]]) -> float:
    return _median(runs, "requests", "wall_s")


def _busy(runs: list[dict[str, Any]]) -> float:
    """The share of its core that the process under test used: below 95 % something else was the limit."""
    return _median(runs, "cpu_s", "wall_s")


def _closed_table(runs: _Runs, console: Console) -> None:
    table = Table(title="32 connections, closed loop, not streamed")
    for column in (
        "",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "core used",
        "× bare",
        "CPU ms/request",
        "× bare",
        "generator",
    ):
        table.add_column(column, justify="right" if column else "left")
    bare_rate, bare_cost = _rate(runs["bare proxy"]), _median(runs["bare proxy"], "cpu_s", "requests")
    bare_valid = _busy(runs["bare proxy"]) >= _SATURATED
    for name, of_target in runs.items():
        cost, valid = _median(of_target, "cpu_s", "requests"), _busy(of_target) >= _SATURATED
        table.add_row(
            name,
            f"{_rate(of_target):,.0f}",
            f"{_median(of_target, 'p50_ms'):.2f}",
            f"{_median(of_target, 'p99_ms'):.2f}",
            f"{_busy(of_target):.0%}",
            f"{_rate(of_target) / bare_rate:.3f}" if valid and bare_valid else "not valid",
            f"{1e3 * cost:.3f}",
            f"{cost / bare_cost:.2f}",
            f"{_median(of_target, 'generator_busy'):.0%}",
        )
    console.print(table)


def _paced_table(runs: _Runs, console: Console) -> None:
    table = Table(title="200 requests/s, evenly paced")
    for column in ("", "p50 ms", "p99 ms", "added p50 ms"):
        table.add_column(column, justify="right" if column else "left")
    base = _median(runs["upstream"], "p50_ms")
    for name, of_target in runs.items():
        p50 = _median(of_target, "p50_ms")
        table.add_row(name, f"{p50:.2f}", f"{_median(of_target, 'p99_ms'):.2f}", f"{p50 - base:.2f}")
    console.print(table)


def _streams_table(runs: _Runs, console: Console) -> None:
    table = Table(title="400 streams of 50 tokens/s")
    for column in ("", "chunks/s", "CPU µs/chunk", "core used", "× bare"):
        table.add_column(column, justify="right" if column else "left")
    base = _median(runs["bare proxy"], "cpu_s", "events")
    for name, of_target in runs.items():
        cost = _median(of_target, "cpu_s", "events")
        table.add_row(
            name,
            f"{_median(of_target, 'events', 'wall_s'):,.0f}",
            f"{cost * 1e6:.1f}",
            f"{_median(of_target, 'cpu_s', 'wall_s'):.0%}",
            f"{cost / base:.2f}",
        )
    console.print(table)


def _run(options: argparse.Namespace, folder: Path, console: Console) -> None:
    bench = Bench(options, cores())
    port, log = free_port(), folder / "upstream.log"
    upstream = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        words = [sys.executable, "-m", "bench.overhead.upstream", str(port)]
        process = stack.enter_context(running(words, bench.load_core, log))
        wait_until_ready(process, port, "/v1/models", log)
        targets = [stack.enter_context(bare(folder, bench.test_core, upstream))]
        if not options.bare_only:
            targets.append(stack.enter_context(gateway(folder, bench.test_core, upstream)))
        others = [stack.enter_context(litellm(folder, bench.test_core, upstream))] if options.litellm else []
        _closed_table(bench.rounds(targets + others, "closed"), console)
        direct = Target("upstream", port, process.pid)
        _paced_table(bench.rounds([direct, *targets], "paced"), console)
        _streams_table(bench.rounds(targets, "streams", model="paced", connections=400, warmup=3), console)
    console.print("errors: " + ", ".join(f"{name} {count}" for name, count in bench.errors.items()))
    if not options.bare_only:
        rows, answers = ledger_rows(folder), bench.answers["gateway"]
        verdict = "equal" if rows == answers else "NOT EQUAL"
        console.print(f"ledger: {rows:,} completed entries for {answers:,} whole answers: {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="overhead", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one window")
    parser.add_argument("--rounds", type=int, default=3, help="windows of each target")
    parser.add_argument("--litellm", action="store_true", help="beside LiteLLM's proxy; installs it at first")
    parser.add_argument("--bare-only", action="store_true", help="the yardstick alone")
    console = Console(width=120)
    console.print(heading())
    with tempfile.TemporaryDirectory(prefix="fareclass-overhead-") as folder:
        _run(parser.parse_args(), Path(folder), console)


if __name__ == "__main__":
    main()
