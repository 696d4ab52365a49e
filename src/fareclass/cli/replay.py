"""`fareclass replay`: a trace through the scheduler and a simulated fleet, in virtual time (R44)."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from fareclass.cli.control_client import parse_pairs
from fareclass.cli.output import show
from fareclass.config import ConfigError, load
from fareclass.core.limits import QUOTA
from fareclass.core.snapshot import Reservation
from fareclass.core.tiers import BY_WORD, Tier
from fareclass.planner.pools import Pool, pools_of
from fareclass.planner.replay import ReplayError, replay
from fareclass.planner.results import ModelResult, Quantiles, TierResult
from fareclass.planner.trace import TraceError, read_trace

_COLUMNS = {
    "model": "MODEL",
    "tier": "TIER",
    "requests": "REQUESTS",
    "completed": "DONE",
    "throttled": "THROTTLED",
    "shed": "SHED",
    "expired": "EXPIRED",
    "spilled": "SPILLED",
    "queue": "WAIT-S 50/99",
    "ttft": "TTFT-S 50/95/99",
    "rate": "TOKENS/S",
    "pauses": "PAUSES",
    "slots": "SLOTS",
    "cost": "USD",
}
_RARE = {"invalid": "INVALID", "forbidden": "FORBIDDEN"}
"""Outcomes that have a column where there are any."""


def run(
    trace: Path,
    config: Path | None,
    *,
    model: str | None,
    tier: str | None,
    mix: str | None,
    reserve: Sequence[str],
    speed: float,
    seed: int,
    as_json: bool,
) -> None:
    """Replay and show. Ends the program on a mistake, saying what and where."""
    if tier is not None and mix is not None:
        raise typer.BadParameter("--tier and --mix exclude each other", param_hint="'--mix'")
    shares = {_tier(tier, "--tier"): 1.0} if tier is not None else _shares(mix)
    floors = [_floor(*pair) for pair in parse_pairs(reserve, "--reserve").items()]
    try:
        pools = _pools(config, model)
        with _Shown(Console(stderr=True)) as shown:
            results = replay(
                read_trace(trace),
                pools,
                mix=shares,
                seed=seed,
                load=speed,
                model=model,
                reservations=[msgspec.structs.replace(floor, model=name) for floor in floors for name in pools],
                told=shown,
            )
    except (ConfigError, TraceError, ReplayError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    if as_json:
        show(msgspec.to_builtins(results), {}, as_json=True)
        return
    rows = [_row(result, each) for result in results for each in result.tiers]
    several = {} if len(results) > 1 else {"model"}
    columns = {name: heading for name, heading in _COLUMNS.items() if name not in several}
    columns |= {name: heading for name, heading in _RARE.items() if any(row[name] for row in rows)}
    show(rows, columns, as_json=False)
    for result in results:
        typer.echo(_sum(result))


class _Shown:
    """How far a replay is; nothing where there is no terminal."""

    def __init__(self, console: Console) -> None:
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._progress.add_task("Replaying", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, count: int, at_us: int) -> None:
        said = f"Replaying: {count:,} requests, {timedelta(seconds=at_us // 1_000_000)} of the trace"
        self._progress.update(self._task, description=said)


def _pools(file: Path | None, model: str | None) -> Mapping[str, Pool]:
    config = load(file)
    pools = pools_of(config)
    asked = config.models if model is None else [model]
    slow = [name for name in asked if name in config.models and name not in pools]
    if slow and (model is not None or not pools):
        raise ReplayError(
            f"the speed of {', '.join(slow)} is not known: set `capacity` in the configuration "
            "(`fareclass bench capacity` measures it), or use `engine: {kind: simulated}`"
        )
    return {model: pools[model]} if model in pools else pools


def _shares(mix: str | None) -> dict[Tier, float] | None:
    if mix is None:
        return None
    shares = {}
    for word, share in parse_pairs(mix.split(","), "--mix").items():
        try:
            shares[_tier(word, "--mix")] = float(share)
        except ValueError:
            raise typer.BadParameter(f"{share!r} is no share, such as 0.3", param_hint="'--mix'") from None
    if not all(0 <= share < 1e6 for share in shares.values()) or not sum(shares.values()) > 0:
        raise typer.BadParameter("shares must be from 0 on, and one of them more", param_hint="'--mix'")
    return shares


def _tier(word: str, option: str) -> Tier:
    tier = BY_WORD.get(word.strip())
    if tier is None:
        raise typer.BadParameter(f"must be one of {', '.join(BY_WORD)}, not {word!r}", param_hint=f"'{option}'")
    return tier


def _floor(project: str, tokens: str) -> Reservation:
    """`INPUT_TPM:OUTPUT_TPM`, from the first to the last request."""
    sides = tokens.split(":")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) <= QUOTA for side in sides):
        raise typer.BadParameter(
            "must be PROJECT=INPUT_TPM:OUTPUT_TPM, such as tax=400000:60000", param_hint="'--reserve'"
        )
    input_tpm, output_tpm = map(int, sides)
    return Reservation(
        id=project,
        project=project,
        model="",
        input_tpm=input_tpm,
        output_tpm=output_tpm,
        overflow=Tier.DEFAULT,
        starts_us=0,
    )


def _row(result: ModelResult, of: TierResult) -> dict[str, Any]:
    return {
        **msgspec.to_builtins(of),
        "model": result.model,
        "queue": _seconds(of.queue_ms, "p50", "p99"),
        "ttft": _seconds(of.ttft_ms, "p50", "p95", "p99"),
        "rate": "" if of.output_tokens_s is None else f"{of.output_tokens_s.p50:.0f}",
        "slots": f"{of.slot_share:.1%}",
    }


def _seconds(of: Quantiles | None, *names: str) -> str:
    return "" if of is None else "/".join(_brief(getattr(of, name) / 1_000) for name in names)


def _brief(seconds: float) -> str:
    return f"{seconds:.{3 if seconds < 1 else 1 if seconds < 100 else 0}f}"


def _sum(result: ModelResult) -> str:
    fees = "" if result.fees == "0" else f"; fees of reservations: {result.fees} USD"
    if result.kept_share < 1:
        fees += f"; only {result.kept_share:.0%} of the floors were kept: they are more than fits"
    span = timedelta(seconds=round(result.seconds))
    return f"{result.model}: {span} on {result.slots} slots, {result.used_share:.1%} of their time used{fees}"
