"""The console that `serve` starts: a process of its own, started again if it dies, ended with the gateway.

Nothing that happens to it touches the gateway. The listening socket stays here, so the address is the console's
however often its process starts.
"""

import asyncio
import logging
import os
import socket
import sys
from contextlib import suppress

import msgspec

from fareclass.console.settings import ChildSettings, Settings

_log = logging.getLogger(__name__)
_FIRST_BACKOFF_S = 1.0
_MAX_BACKOFF_S = 60.0
_STEADY_S = 60.0
_BACKLOG = 128


class Keeper:
    """Keeps one console process on this address.

    Raises:
        OSError: the address is taken, or none of this machine's.
    """

    def __init__(self, host: str, port: int) -> None:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._listener = socket.socket(family, kind, protocol)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(address)
            self._listener.listen(_BACKLOG)
        except OSError:
            self._listener.close()
            raise
        self.port: int = self._listener.getsockname()[1]
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    def start(self, settings: Settings) -> None:
        """Start the process, without waiting for it, and keep it running from now on."""
        self._task = asyncio.get_running_loop().create_task(self._keep(settings))

    async def close(self) -> None:
        """End the process and give the address back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()  # it keeps nothing
            await self._process.wait()
        self._listener.close()

    async def _keep(self, settings: Settings) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = _FIRST_BACKOFF_S
        while True:
            started = loop.time()
            try:
                code: int | str = await self._run(settings)
            except OSError as error:
                code = str(error)
            if loop.time() - started > _STEADY_S:
                backoff_s = _FIRST_BACKOFF_S
            _log.error("the console's process ended; it is started again", extra={"code": code, "after_s": backoff_s})
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)

    async def _run(self, settings: Settings) -> int:
        """One process, to its end; its exit status. It ends when its standard input does, so with us whatever happens."""
        descriptor = self._listener.fileno()
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "fareclass.console.process",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, pass_fds=(descriptor,),
            env=_environment(),
            start_new_session=True,  # a Ctrl-C is for the gateway, which decides when the console ends
        )  # fmt: skip
        assert process.stdin is not None
        told = ChildSettings(settings=settings, fd=descriptor)
        with suppress(ConnectionError):
            process.stdin.write(msgspec.json.encode(told) + b"\n")
            await process.stdin.drain()
        return await process.wait()


def _environment() -> dict[str, str]:
    """Ours without the secrets of the gateway, which the console has no use for."""
    ours = ("FARECLASS_", "PYTEST_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
