"""R15: who reads nothing of a file that he asked for is taken for gone."""

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest

from fareclass.deadlines import Deadlines
from fareclass.wire.project_plane import StreamedFile


@pytest.mark.parametrize("ranges", [None, "bytes=0-700000", "bytes=0-9,200000-700000"])
async def test_r15_a_file_that_nobody_reads_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: str | None
):
    """Whole or in ranges; its task ends too."""
    monkeypatch.setattr("fareclass.wire.project_plane.CALLER_STALL_S", 0.1)
    file = tmp_path / "file"
    file.write_bytes(b"x" * 1_000_000)
    never = asyncio.Event()
    handed: list[bytes] = []

    async def send(message: Any) -> None:
        handed.append(message.get("body", b""))
        if len(handed) > 2:
            assert str(file) in {each.path for each in psutil.Process().open_files()}
            await never.wait()

    async def receive() -> Any:
        await never.wait()

    headers = [] if ranges is None else [(b"range", ranges.encode())]
    scope = {"type": "http", "method": "GET", "headers": headers, "asgi": {"spec_version": "2.3"}}
    async with asyncio.timeout(5):
        await StreamedFile(file, Deadlines())(scope, receive, send)
    assert len(handed) == 3
    assert str(file) not in {each.path for each in psutil.Process().open_files()}
