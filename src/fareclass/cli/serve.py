"""`fareclass serve`: the gateway as a process, from the first progress bar to the drain."""

import asyncio
import errno
import gc
import math
import resource
import shlex
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
import uvicorn
from rich.console import Console
from uvicorn.loops.auto import auto_loop_factory

from fareclass.app import System, build
from fareclass.app_engines import StartError
from fareclass.cli.example import example_body
from fareclass.cli.first_keys import hand_over, keep_read_only, project_key_file
from fareclass.cli.progress import Steps
from fareclass.config import Config, ConfigError, load
from fareclass.console.keeper import Keeper
from fareclass.console.settings import Settings
from fareclass.telemetry.logs import log_as_json
from fareclass.wire.bounded_http import BoundedHttp

_BACKLOG = 2048
_KEEP_ALIVE_S = 75
_GC_OBJECTS = 50_000
_CUT_OFF_S = 10.0
_DESCRIPTORS = 65_536
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(file: Path | None) -> None:
    """Serve with this configuration file, or the built-in settings, until told to stop. Ends the program on a mistake."""
    log_as_json()
    try:
        settings = load(file)
        _allow_descriptors()
        with _bound_socket(settings) as listener, asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
            runner.run(_live(settings, listener, Console()))
    except (ConfigError, StartError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def _allow_descriptors() -> None:
    """As many connections as the system lets us have: by default many let a program have 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


@contextmanager
def _bound_socket(config: Config) -> Iterator[socket.socket]:
    """The address, taken before anything slow is done; nobody can connect to it yet.

    Raises:
        StartError: somebody else has it, or it is none of this machine's.
    """
    host, port = config.address
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        why = "another program uses it" if error.errno == errno.EADDRINUSE else error.strerror
        raise StartError(
            f"can't listen on {config.listen}: {why}; choose another address with `listen` or FARECLASS_LISTEN"
        ) from None
    with listener:
        yield listener


async def _live(config: Config, listener: socket.socket, console: Console) -> None:
    """Build, serve until told to stop, let running work end, take down. A signal while building ends it cleanly.

    Raises:
        StartError: the system can't be built.
    """
    task = asyncio.current_task()
    assert task is not None
    _on_signals(task.cancel)
    try:
        with Steps(console) as steps:
            system = await build(config, steps)
        _settle_memory()
    except asyncio.CancelledError:
        return
    keeper: Keeper | None = None
    try:
        keeper = _web_console(config, listener, system, console)
        server = _Server(config, system, lambda: _announce(config, system, listener, console))
        _on_signals(server.stop)
        await server.serve([listener])
        await server.end_requests()
    finally:
        if keeper is not None:
            await keeper.close()
        await system.aclose()


def _web_console(config: Config, listener: socket.socket, system: System, console: Console) -> Keeper | None:
    """Start the web console beside the gateway. The gateway waits for nothing of it, and serves without it."""
    port = listener.getsockname()[1]
    address = config.console_address(port)
    if address is None:
        return None
    try:
        keeper = Keeper(*address)
    except OSError as error:
        why = "another program uses it" if error.errno == errno.EADDRINUSE else error.strerror
        console.print(
            f"No console: can't listen on {address[0]}:{address[1]}: {why}; choose another address with `console`, or "
            "false for none",
            style="bold yellow", markup=False, soft_wrap=True,
        )  # fmt: skip
        return None
    system.console.url = config.base_url(keeper.port, address[0])
    system.console.beyond = not config.console_loopback
    tls = config.tls
    keeper.start(
        Settings(
            gateway=config.base_url(port),
            trusted=str(tls.cert) if tls else None,
            cert=str(tls.cert) if tls else None,
            key=str(tls.key) if tls else None,
        )
    )
    return keeper


def _settle_memory() -> None:
    """What stands after the start stays to the end: keep the garbage collector from looking at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_OBJECTS, 20, 50)


def _on_signals(call: Callable[[], object]) -> None:
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, call)


class _Server(uvicorn.Server):
    """uvicorn, ended by `stop` rather than by dying of the signal, which would not be exit status 0."""

    def __init__(self, config: Config, system: System, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                system.asgi,
                interface="asgi3",
                http=BoundedHttp,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=math.ceil(config.drain_s),
                ssl_certfile=config.tls.cert if config.tls else None,
                ssl_keyfile=config.tls.key if config.tls else None,
            )
        )
        self._ready = ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def end_requests(self) -> None:
        """Cut off what still runs, and let each request settle its hold and its ledger entry (R35)."""
        running = [task for task in self.server_state.tasks if not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=_CUT_OFF_S)

    def stop(self) -> None:
        """No new work, running work to its end; asked a second time: now."""
        self.force_exit = self.should_exit
        self.should_exit = True


def _announce(config: Config, system: System, listener: socket.socket, console: Console) -> None:
    """What a newcomer needs, and after the first start no secret."""
    url = f"{config.base_url(listener.getsockname()[1])}/v1"
    reason = system.not_ready()
    if reason is None:
        console.print("Fareclass is ready.", style="bold green")
    else:
        console.print(f"Fareclass is up, but can't serve yet: {reason}.", style="bold yellow", markup=False)
    console.print(f"  URL          {url}", markup=False, highlight=False)
    if system.console.url is not None:
        console.print(f"  Console      {system.console.url}", markup=False, highlight=False)
    if system.first_keys:
        hand_over(system.first_keys, config.master_key_file, console)
    keep_read_only(system.read_only_key, config.master_key_file, console, first=system.first_keys is not None)
    key_file = project_key_file(config.master_key_file)
    if key_file.exists():
        console.print("\nTry it:", style="bold")
        console.print(_curl(url, key_file, next(iter(config.models))), markup=False, highlight=False, soft_wrap=True)


def _curl(url: str, key_file: Path, model: str) -> str:
    """One line that works when pasted; it names the key's file, so that no shell history keeps the key."""
    body = example_body(model, service_tier="priority")
    return (
        f'curl -sS {url}/chat/completions -H "Authorization: Bearer $(cat {shlex.quote(str(key_file))})" '
        f"-H 'Content-Type: application/json' -d {shlex.quote(body)}"
    )
