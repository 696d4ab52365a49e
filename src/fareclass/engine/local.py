"""The built-in engine: llama.cpp on this machine's CPU, in a process of its own that this module owns.

The process listens on a loopback port that the system picked and wants a random key, so that
nobody else on the machine can use it. If it dies it is started again, later each time. It
never outlives the gateway: see `local_server`.
"""

import asyncio
import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from fareclass.engine.base import EngineFailed, Prompt, Traits
from fareclass.engine.local_settings import Settings, server_environment, usable_cores
from fareclass.engine.model_file import chat_template
from fareclass.engine.openai_http import HttpCall, HttpEngine, Timeouts
from fareclass.engine.probe import Findings
from fareclass.engine.tools import CALL_OPENING
from fareclass.engine.upstream import Flavour

_log = logging.getLogger(__name__)
_SPARE_SLOTS: Final = 2
"""Slots beyond the scheduler's, so that a call being cancelled does not hold up the next (R17)."""
_START_S: Final = 120.0
_STOP_S: Final = 2.0
_FIRST_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 30.0
_STEADY_S: Final = 60.0
_LAST_LINES: Final = 12
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder made there is the owner's alone
_FOLDER: Final = "fareclass-slots"


class LocalEngine:
    """One replica that the gateway runs itself.

    `slots` is what the scheduler may use at once; `context_tokens` is prompt and answer of
    each. `threads` bounds the CPU it takes; None is every core this process may use.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        model_path: Path,
        *,
        model_name: str,
        slots: int,
        context_tokens: int = 4096,
        threads: int | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._session = session
        self._timeouts = timeouts
        self._settings = Settings(
            model_path=str(model_path),
            model_name=model_name,
            slots=slots + _SPARE_SLOTS,
            context_tokens=context_tokens,
            threads=threads or usable_cores(),
            api_key="",
            parent=os.getpid(),
            folder=None,
            chat_template=chat_template(model_path),
        )
        self._process: asyncio.subprocess.Process | None = None
        self._http: HttpEngine | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._log_task: asyncio.Task[None] | None = None
        self._folder: Path | None = None
        self._traits = Traits(flavour=Flavour.LLAMA)

    @property
    def traits(self) -> Traits:
        return self._traits

    @property
    def pid(self) -> int | None:
        """The engine's process, None while it is down."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the process and keep it running from now on.

        Raises:
            EngineFailed: it did not start; the message ends with the last lines of its log.
        """
        await self._launch()
        self._keeper = asyncio.create_task(self._keep_running())

    async def open(self, prompt: Prompt) -> HttpCall:
        return await self._running().open(prompt)

    def forget(self, id: str) -> None:
        if self._http is not None:
            self._http.forget(id)

    async def healthy(self) -> bool:
        return self._http is not None and await self._http.healthy()

    async def probe(self) -> Traits:
        self._traits = await self._running().probe()
        return self._traits

    async def count_tokens(self, text: str) -> int | None:
        return None if self._http is None else await self._http.count_tokens(text)

    async def count_prompt(self, body: Mapping[str, Any]) -> int | None:
        return None if self._http is None else await self._http.count_prompt(body)

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        await self._stop()

    def _running(self) -> HttpEngine:
        if self._http is None:
            raise EngineFailed("unreachable", "the local engine is not running; it is being started again")
        return self._http

    async def _launch(self) -> None:
        self._folder = await asyncio.to_thread(_make_folder)
        settings = msgspec.structs.replace(self._settings, api_key=secrets.token_urlsafe(32), folder=str(self._folder))
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "fareclass.engine.local_server",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=server_environment(),
        )  # fmt: skip
        try:
            async with asyncio.timeout(_START_S):
                line = await self._greet(process, settings)
            url = msgspec.json.decode(line, type=dict[str, str])["url"]
        except (TimeoutError, OSError, msgspec.DecodeError, KeyError) as error:
            await self._stop()
            raise EngineFailed("unreachable", self._why(settings)) from error
        except asyncio.CancelledError:
            await self._stop()
            raise
        self._http = HttpEngine(
            self._session,
            f"{url}/v1",
            settings.model_name,
            api_key=settings.api_key,
            timeouts=self._timeouts,
            call_opening=CALL_OPENING if settings.chat_template else "",
        )
        self._http.keep_slots(settings.slots, self._folder)
        # A new process is the same engine: what the probe found stays true, and R31 holds from its first request.
        self._http.assume(Findings(traits=self._traits))

    async def _greet(self, process: asyncio.subprocess.Process, settings: Settings) -> bytes:
        """Tell the process what to run; returns the line that it answers with once it serves."""
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise OSError("the process has no pipes")
        self._log_task = asyncio.create_task(self._read_log(process.stderr))
        process.stdin.write(msgspec.json.encode(settings) + b"\n")
        return await process.stdout.readline()

    def _why(self, settings: Settings) -> str:
        log = "\n  ".join(self._lines) or "(it said nothing)"
        return f"the local engine did not start with {settings.model_path}; its last words:\n  {log}"

    async def _keep_running(self) -> None:
        """Start the process again whenever it ends, with a back-off that a steady run resets."""
        loop = asyncio.get_running_loop()
        backoff_s = _FIRST_BACKOFF_S
        while True:
            started = loop.time()
            if self._process is not None:
                code = await self._process.wait()
                _log.error("the local engine's process ended", extra={"code": code, "last_lines": list(self._lines)})
            await self._stop()
            if loop.time() - started > _STEADY_S:
                backoff_s = _FIRST_BACKOFF_S
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)
            try:
                await self._launch()
            except (EngineFailed, OSError) as error:
                _log.error("the local engine could not be started again", extra={"cause": str(error)})

    async def _stop(self) -> None:
        """End the process, if it runs; it holds nothing that a kill could spoil."""
        process, self._process, self._http = self._process, None, None
        if process is not None:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
            await process.wait()
        folder, self._folder = self._folder, None
        if folder is not None:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        if self._log_task is not None:
            await asyncio.wait([self._log_task], timeout=_STOP_S)
            self._log_task.cancel()
            self._log_task = None

    async def _read_log(self, stream: asyncio.StreamReader) -> None:
        while line := await _line(stream):
            text = line.decode("utf-8", "replace").rstrip()
            self._lines.append(text[:500])
            _log.debug("engine", extra={"line": text})


def _make_folder() -> Path:
    """A folder that only this user can read, in memory where there is such a place; what a killed gateway left goes."""
    base = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    for left in base.glob(f"{_FOLDER}-*"):
        pid = left.name.split("-")[2]
        if pid.isdigit() and not _runs(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER}-{os.getpid()}-", dir=base))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line, or a piece of one that is too long for the reader."""
    try:
        return await stream.readline()
    except ValueError:
        return await stream.read(65536)
