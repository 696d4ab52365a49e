"""`fareclass demo` as a newcomer runs it, on a day of three seconds."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.gateway import runs

TIERS = ("reserved", "priority", "default", "flex", "batch")


class Demo:
    """The program in a session of its own, as one in a terminal is. Its gateway's folder is below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fareclass", "demo", "--minutes", "0.05"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "TMPDIR": str(folder), "COLUMNS": "200", "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip

    def until(self, words: str) -> None:
        """Read on to a line with these words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if words in line:
                return
        raise AssertionError(self.said)

    @property
    def gateway(self) -> psutil.Process:
        (found,) = psutil.Process(self.process.pid).children()
        return found

    def ended(self) -> int:
        """Its exit status, once it is over."""
        rest, _ = self.process.communicate(timeout=30)
        self.said += rest
        return self.process.returncode

    def numbers(self) -> dict[str, list[str]]:
        """The cells of the last table, by tier."""
        rows = (line.split() for line in self.said.partition("The day in numbers")[2].splitlines())
        return {row[0]: row[1:] for row in rows if row and row[0] in TIERS}


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path)
    yield demo
    if demo.process.poll() is None:
        os.killpg(demo.process.pid, signal.SIGKILL)
        demo.process.communicate()


def test_a_day_is_told_to_its_end_and_leaves_nothing_behind(demo):
    """R22: everybody is served on the tier of theirs, and the floor throttles nobody."""
    demo.until("Everything stays up")
    started = [demo.gateway, *demo.gateway.children(recursive=True)]
    assert re.search(r"Console +http://127\.0\.0\.1:\d+$", demo.said, re.MULTILINE), demo.said
    assert [entry.name.startswith("fareclass-demo-") for entry in demo.folder.iterdir()] == [True]
    demo.process.send_signal(signal.SIGINT)
    assert demo.ended() == 0, demo.said
    assert not any(map(runs, started)) and [*demo.folder.iterdir()] == []
    numbers = demo.numbers()
    assert set(numbers) == set(TIERS)
    assert all(int(served.replace(",", "")) > 0 for _, served, *_ in numbers.values()), demo.said
    held = re.search(
        r"The floor held: of Ledgerly's (\d+) requests (\d+) ran inside it, 0 throttled and 0 shed", demo.said
    )
    assert held and int(held[1]) >= int(held[2]) > 0
    assert "; 0 did not come to their end" in " ".join(demo.said.split())
    assert "fc_" not in demo.said, "no key is shown where there is no terminal"


def test_a_gateway_that_dies_is_told(demo):
    demo.until("The day begins")
    started = [demo.gateway, *demo.gateway.children(recursive=True)]
    demo.gateway.kill()
    assert demo.ended() == 1
    psutil.wait_procs(started, timeout=30)
    assert not any(map(runs, started))
    assert "the gateway ended with status -9" in demo.said
    assert [*demo.folder.iterdir()] == []


def test_ctrl_c_ends_it_at_any_moment(demo):
    demo.until("Starting a gateway")
    demo.process.send_signal(signal.SIGINT)
    assert demo.ended() == 0, demo.said
    assert [*demo.folder.iterdir()] == [] and "Stopped" in demo.said


def test_kill_9_leaves_neither_gateway_nor_folder_behind(demo):
    demo.until("The day begins")
    started = [demo.gateway, *demo.gateway.children(recursive=True)]
    demo.process.kill()
    gone, alive = psutil.wait_procs(started, timeout=30)
    assert gone and not any(map(runs, alive))
    assert [*demo.folder.iterdir()] == []
