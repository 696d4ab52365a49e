"""A worker's life as a process: signals, and what is shown of it."""

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from fareclass.cli.consumer.gateway import WrongKey
from fareclass.cli.consumer.streams import Streams, Unfit
from fareclass.cli.consumer.worker import Worker

_SUMMARY_S = 60.0
_PORT = 6379


def run(
    valkey: str, requests: str, answers: str, group: str, name: str, *, url: str, key: str, tier: str, places: int
) -> None:
    """Work until SIGINT or SIGTERM. Ends the program, with what was wrong, if it can't."""
    console = Console(stderr=True)

    def say(text: str) -> None:
        if console.is_terminal:
            console.print(text, markup=False, highlight=False)
        else:
            print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), text, file=sys.stderr, flush=True)

    async def work() -> None:
        streams = Streams(valkey, requests, answers, group, name)
        try:
            worker = Worker(streams, url, key, tier=tier, places=places, say=say)
        except OSError as error:
            raise Unfit(f"the certificates in SSL_CERT_FILE or SSL_CERT_DIR can't be used: {error}") from None
        say(f"{requests} → {answers} at {place(valkey)}, as {name} of {group}: {places} at once, at tier {tier}")
        await _live(worker, console, f"{requests} → {answers}  ", say)

    try:
        asyncio.run(work())
    except (Unfit, WrongKey) as error:
        typer.secho(str(error), err=True, fg="red")
        raise typer.Exit(1) from None


def place(valkey: str) -> str:
    """Host and port of an address, without the password that may be in it."""
    parts = urlsplit(valkey)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or _PORT}"


async def _live(worker: Worker, console: Console, title: str, say: Callable[[str], None]) -> None:
    """Run it, and show it: as a line that changes on a terminal, elsewhere as a line now and then."""
    task = asyncio.current_task()
    assert task is not None

    def stop() -> None:
        if worker.stopping:
            task.cancel()
        else:
            say("stopping: what runs may end, or is left to others by a second signal")
            worker.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    line = Live(get_renderable=lambda: Text(title + str(worker)), console=console, refresh_per_second=4, transient=True)
    with line if console.is_terminal else nullcontext():
        summing = asyncio.create_task(_sum_up(worker, say)) if not console.is_terminal else None
        try:
            with suppress(asyncio.CancelledError):
                await worker.run()
        finally:
            if summing is not None:
                summing.cancel()
    say(f"stopped: {worker}")


async def _sum_up(worker: Worker, say: Callable[[str], None]) -> None:
    """Every minute in which something changed."""
    said = str(worker)
    while True:
        await asyncio.sleep(_SUMMARY_S)
        if str(worker) != said:
            said = str(worker)
            say(said)
