"""The demo's own gateway: a process with a temporary folder, and its control plane."""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp

from fareclass.cli.demo.scenario import LARGE, SMALL
from fareclass.store.master_key import read_master_key

HOST = "127.0.0.1"
_START_S = 60.0
_STOP_S = 10.0
_LOG_LINES = 5
_PORT_TRIES = 50
_OK = 300
_LARGE_ENGINE = {"kind": "simulated", "replicas": 2, "slots": 16, "base_us": 20_000, "sequence_us": 1_000}
_SMALL_ENGINE = {"kind": "simulated", "replicas": 1, "slots": 8, "base_us": 8_000, "sequence_us": 1_000}
PRICE = MappingProxyType({"input": Decimal("0.60"), "output": Decimal("2.40")})
"""USD per 1 M tokens of the large model at tier default."""


class DemoFailed(Exception):
    """The demo can't go on; says why."""


class GatewayAway(DemoFailed):
    """The gateway could not be reached; if it has died, its watch says so."""


def settings(port: int) -> dict[str, Any]:
    """The gateway's configuration: two models on three replicas, none of which computes anything."""
    return {
        "listen": f"{HOST}:{port}",
        "store": "sqlite:///db/fareclass.db",
        "data_folder": "files",
        "master_key_file": "keys/master.key",
        "drain_s": 1,
        "models": {
            LARGE: {
                "engine": _LARGE_ENGINE,
                "price": {kind: str(usd) for kind, usd in PRICE.items()},
                "reserved_price": {"input": 0.021, "output": 0.084},
                "capacity": {"input_tpm": 1_300_000, "output_tpm": 53_000},
            },
            SMALL: {
                "engine": _SMALL_ENGINE,
                "price": {"input": 0.10, "output": 0.40},
                "capacity": {"input_tpm": 900_000, "output_tpm": 30_000},
            },
        },
    }


def settings_file(folder: Path) -> Path:
    """Where a gateway that keeps everything in this folder finds its settings."""
    return folder / "fareclass.yaml"


class Gateway:
    """The running process. `said` is what it printed while it started."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process, port: int) -> None:
        self.folder = folder
        self.url = f"http://{HOST}:{port}"
        self.said: list[str] = []
        self._process = process

    @property
    def admin_key_file(self) -> Path:
        return self.folder / "keys" / "admin.key"

    @property
    def reader_key_file(self) -> Path:
        return self.folder / "keys" / "read-only.key"

    @property
    def admin_key(self) -> str:
        return read_master_key(self.folder / "keys" / "master.key").admin_key()

    @property
    def read_only_key(self) -> str:
        return read_master_key(self.folder / "keys" / "master.key").read_only_key()

    async def ready(self) -> None:
        """Wait until it says how to be called.

        Raises:
            DemoFailed: it ended before that.
        """
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.said.append(line.decode().rstrip())
            if self.said[-1].startswith("curl "):
                return
        await self.watch()

    async def watch(self) -> None:
        """Return never, while it runs.

        Raises:
            DemoFailed: it has ended.
        """
        assert self._process.stdout is not None
        while await self._process.stdout.readline():
            pass  # nobody else reads what it says; a full pipe would stop it
        status = await self._process.wait()
        log = (self.folder / "log.jsonl").read_text(errors="replace").splitlines()[-_LOG_LINES:]
        last_words = "".join(f"\n{line}" for line in log) or " none"
        raise DemoFailed(f"the gateway ended with status {status}; its last words:{last_words}")

    def kill(self) -> None:
        """End it at once."""
        if self._process.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        """End it: running work may end for a second, then at once."""
        for number, wait_s in ((signal.SIGTERM, _STOP_S / 2), (signal.SIGTERM, _STOP_S / 2), (signal.SIGKILL, None)):
            if self._process.returncode is not None:
                return
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._process.wait()


@asynccontextmanager
async def started() -> AsyncIterator[Gateway]:
    """A gateway in a temporary folder, which is removed after it has ended.

    Raises:
        DemoFailed: it does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="fareclass-demo-"))
    try:
        port = _free_port()
        settings_file(folder).write_text(json.dumps(settings(port)))  # JSON is YAML
        environ = {name: value for name, value in os.environ.items() if not name.startswith("FARECLASS_")}
        with (folder / "log.jsonl").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "fareclass.cli.demo.process", str(folder),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, env=environ,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends the gateway
            )  # fmt: skip
        gateway = Gateway(folder, process, port)
        try:
            try:
                async with asyncio.timeout(_START_S):
                    await gateway.ready()
            except TimeoutError:
                raise DemoFailed(f"the gateway did not start within {_START_S:.0f} s") from None
            yield gateway
        finally:
            await _ended(gateway)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _ended(gateway: Gateway) -> None:
    """Stop it, whatever happens; a second Ctrl-C waits for nothing."""
    stopping = asyncio.create_task(gateway.stop())
    try:
        await asyncio.shield(stopping)
    except asyncio.CancelledError:
        gateway.kill()
        await stopping
        raise


def _free_port() -> int:
    """A port that nobody uses, with a free one behind it, for the console."""
    for _ in range(_PORT_TRIES):
        with socket.socket() as first, socket.socket() as second:
            first.bind((HOST, 0))
            port: int = first.getsockname()[1]
            with suppress(OSError, OverflowError):
                second.bind((HOST, port + 1))
                return port
    raise DemoFailed(f"found no two free ports in a row on {HOST}")


class Control:
    """The control plane, or the API with a project's key."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self._session = session
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"}

    async def call(self, method: str, path: str, json: object = None, **more: Any) -> dict[str, Any]:
        """What it answers.

        Raises:
            DemoFailed: with its own words, if it refuses.
        """
        try:
            async with self._session.request(
                method, self._url + path, json=json, headers=self._headers, **more
            ) as answer:
                found: dict[str, Any] = await answer.json()
                if answer.status >= _OK:
                    raise DemoFailed(f"{method} {path}: {answer.status} {found}")
                return found
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise GatewayAway(f"{method} {path}: {error!r}") from None
