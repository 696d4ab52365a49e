"""`fareclass bench`: loads the engine of a model, and says what of its pool can be reserved (R19)."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fareclass.app_engines import StartError, engines
from fareclass.cli.progress import Steps
from fareclass.config import Config, ConfigError, LocalEngine, Model, load
from fareclass.engine.calibrate import Calibration, Speed
from fareclass.flow.dispatch import Berth


def measure(name: str, file: Path | None) -> None:
    """Print the capacity of this model's pool as the configuration wants it. Ends the program on a mistake."""
    try:
        config = load(file)
        if name not in config.models:
            where = "configuration" if file else "built-in settings (--config names a file)"
            raise StartError(f"no model {name!r} in the {where}; there are: {', '.join(config.models)}")
        berths, speeds = asyncio.run(_measured(config, name, Console(stderr=True)))
    except (ConfigError, StartError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    Console(stderr=True).print(_table(berths, speeds))
    input_tpm = sum(speed.input_tpm() for speed in speeds)
    output_tpm = sum(speed.output_tpm(berth.slots) for berth, speed in zip(berths, speeds, strict=True))
    typer.echo(f"models:\n  {name}:\n    capacity: {{input_tpm: {input_tpm}, output_tpm: {output_tpm}}}")


async def _measured(config: Config, name: str, console: Console) -> tuple[Sequence[Berth], list[Speed]]:
    """All replicas at once: they are machines of their own, or take turns as they do when they serve."""
    async with AsyncExitStack() as stack:
        with Steps(console) as steps:
            berths = await stack.enter_async_context(engines(config, name, steps))
        with Progress(console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("Loading the engine")
            runs = [_calibration(config.models[name], berth, lambda: progress.advance(task)) for berth in berths]
            progress.update(task, total=sum(run.steps for run in runs))
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(run.run()) for run in runs]
        return berths, [run.result() for run in running]


def _calibration(model: Model, berth: Berth, told: Callable[[], None]) -> Calibration:
    context = model.engine.context_tokens if isinstance(model.engine, LocalEngine) else model.context_tokens
    return Calibration(berth.engine, berth.slots, context, told)


def _table(berths: Sequence[Berth], speeds: Sequence[Speed]) -> Table:
    table = Table()
    for column in ("replica", "slots", "prefill tokens/s", "ms per step of n", "input / min", "output / min"):
        table.add_column(column, justify="left" if column == "replica" else "right")
    for berth, speed in zip(berths, speeds, strict=True):
        table.add_row(
            berth.id,
            str(berth.slots),
            f"{speed.prefill_tokens_s:,.0f}",
            f"{speed.base_s * 1e3:.1f} + {speed.sequence_s * 1e3:.2f} n",
            f"{speed.input_tpm():,}",
            f"{speed.output_tpm(berth.slots):,}",
        )
    return table
