"""The processes of the bench: started, pinned to a core, waited for, ended."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

START_S = 120.0
STOP_S = 30.0


def cores() -> tuple[int, int]:
    """One core for load generator and upstream, the last one for the process under test."""
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        sys.exit("this bench needs two cores: one for the process under test alone")
    return found[0], found[-1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    words: list[str], core: int | None, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process on one core, or on all; told to stop at the end and given time to put its ledger on disk."""
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output, env={**os.environ, **(env or {})})
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    """Wait until `path` answers 200; SystemExit with the process's own words if it ends or never does."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            if connection.getresponse().status == http.client.OK:
                return
        time.sleep(0.05)
    sys.exit(f"{process.args!r} did not become ready:\n{log.read_text(errors='replace')[-4000:]}")


def measure(core: int, shape: str, port: int, pid: int, **options: object) -> dict[str, Any]:
    """One run of the load generator, in a process of its own beside the upstream."""
    words = [sys.executable, "-m", "bench.overhead.load", shape, str(port), str(pid)]
    for name, value in options.items():
        words += [f"--{name}", str(value)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        os.sched_setaffinity(process.pid, {core})
        output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"the load generator failed: {' '.join(words)}")
    result: dict[str, Any] = json.loads(output)
    return result
