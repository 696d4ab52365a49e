"""The demo from its start to Ctrl-C: a gateway, what is on it, the day, the summary."""

import asyncio
import os
import signal
import sys
import webbrowser
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import aiohttp
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from fareclass.cli.demo import scenario, stage, story
from fareclass.cli.demo.gateway import DemoFailed, Gateway, started
from fareclass.cli.demo.play import Play
from fareclass.cli.demo.stage import Stage
from fareclass.cli.demo.tally import Tally

_SEED = 1
_REFRESH_S = 0.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(minutes: float) -> None:
    """Play the day, then stay up until Ctrl-C. Ends the program, with what was wrong, if a part breaks."""
    console = Console()
    try:
        asyncio.run(_demo(minutes, console))
    except* DemoFailed as errors:
        for error in _leaves(errors):
            typer.secho(str(error), err=True, fg="red")
        raise typer.Exit(1) from None


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _demo(minutes: float, console: Console) -> None:
    """Everything; a signal ends it cleanly at any moment."""
    task = asyncio.current_task()
    assert task is not None
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        console.print("Starting a gateway…", style="dim")
        async with started() as gateway, _session() as session:
            made = await stage.build(session, gateway)
            _welcome(gateway, console)
            async with asyncio.TaskGroup() as group:
                group.create_task(gateway.watch())
                since = f"{datetime.now(UTC):%Y-%m-%dT%H:%M}"
                await _day(Play(session, gateway, made, Tally(), minutes, _SEED), made, minutes, console)
                _say(console, "What the planner makes of these minutes, which are far too few for a plan:")
                _command(gateway, f"plan --project {scenario.TAX.project} --from {since}", console)
                _say(console, "Everything stays up until Ctrl-C, which stops it and removes its folder.")
                await asyncio.Event().wait()
    console.print("Stopped; nothing is left of it.", style="dim")


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=600), trust_env=False
    )


async def _day(play: Play, made: Stage, minutes: float, console: Console) -> None:
    """The day with its story beside it, and then the summary."""
    begun_s = asyncio.get_running_loop().time()
    for text in story.opening(made, minutes):
        _say(console, text)
    async with _table(play, console), asyncio.TaskGroup() as group:
        beside = [group.create_task(play.look()), group.create_task(_tell(play, console))]
        await play.run()
        await beside[1]
        beside[0].cancel()
    lasted = (asyncio.get_running_loop().time() - begun_s) / 60
    console.print("\nThe day in numbers", style="bold")
    console.print(_shown(play.tally, None))
    for text in story.summary(play.tally, made, lasted):
        _say(console, text)


async def _tell(play: Play, console: Console) -> None:
    for hour, words in story.beats(play.minutes):
        await play.until(hour)
        _say(console, words(play.tally), scenario.clock(hour))


@asynccontextmanager
async def _table(play: Play, console: Console) -> AsyncIterator[None]:
    """The tiers below the story, on a terminal: elsewhere they come at the end alone."""
    if not console.is_terminal:
        yield
        return

    async def refresh(live: Live) -> None:
        while True:
            live.update(_shown(play.tally, play.now_hour), refresh=True)
            await asyncio.sleep(_REFRESH_S)

    with Live(console=console, auto_refresh=False, transient=True) as live:
        refreshing = asyncio.create_task(refresh(live))
        try:
            yield
        finally:
            refreshing.cancel()


def _shown(tally: Tally, hour: float | None) -> Table:
    title = None if hour is None else f"\n{scenario.clock(hour)}   waits and first tokens: p50 / p99"
    shown = Table(title=title, title_justify="left", title_style="bold cyan", box=None, padding=(0, 1, 0, 0))
    for place, name in enumerate(story.COLUMNS):
        shown.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in story.table(tally):
        shown.add_row(*row)
    return shown


def _say(console: Console, text: str, time: str = "") -> None:
    line = Table.grid(padding=(0, 1, 0, 0))
    line.add_column(width=5, style="bold cyan")
    line.add_column()
    line.add_row(time, text)
    console.print(line, markup=False, highlight=False)


def _welcome(gateway: Gateway, console: Console) -> None:
    """Where it can be watched; the key only on a terminal, once."""
    link = next((line.split()[-1] for line in gateway.said if line.strip().startswith("Console")), None)
    shown = console.is_terminal
    key = f"{gateway.read_only_key}   (reads only; the admin key is in {gateway.admin_key_file})"
    lines = [("Gateway", gateway.url), ("Console", link), ("Key", key if shown else f"in {gateway.reader_key_file}")]
    for name, value in lines:
        if value is not None:
            console.print(f"  {name:<9}{value}", markup=False, highlight=False, soft_wrap=True)
    console.print("\nThe pools, in another terminal:")
    _command(gateway, "top", console)
    console.print()
    if link is not None and shown and (sys.platform in {"darwin", "win32"} or _has_display()):
        webbrowser.open(link)


def _command(gateway: Gateway, words: str, console: Console) -> None:
    """A line to paste, which reads the key from its file."""
    line = f"  FARECLASS_ADMIN_KEY=$(cat {gateway.reader_key_file}) fareclass {words} --url {gateway.url}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
