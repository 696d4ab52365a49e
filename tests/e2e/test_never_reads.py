"""R14, R15: a caller who opens a stream and never reads it."""

import asyncio
import json
import socket

import httpx
import psutil
import pytest

from fareclass.core.limits import CALLER_STALL_S
from tests.e2e.gateway import Gateway, behind, chat, cost
from tests.e2e.upstream import Turn, Upstream, story, tell
from tests.engine.conftest import eventually

EVENT_CHARS = 50_000
BUFFERS = 32 * 1024 * 1024
"""More than all buffers between the engine and the caller hold, and less than an engine makes in a moment."""
ENDLESS = 9_999


async def pour(turn: Turn) -> None:
    """An engine that is never done, for who asks for that; its events are large, to fill every buffer soon."""
    if turn.body["max_tokens"] != ENDLESS:
        await tell(turn)
        return
    while True:
        await turn.event({"index": 0, "delta": {"content": "x" * EVENT_CHARS}, "finish_reason": None})
        turn.at += 1


def ask_and_never_read(gateway: Gateway) -> socket.socket:
    body = json.dumps(chat(stream=True, max_tokens=ENDLESS)).encode()
    url = httpx.URL(gateway.url)
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.connect((url.host, url.port))
    caller.sendall(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return caller


async def is_taken_for_gone(gateway: Gateway, upstream: Upstream, within_s: float) -> None:
    """Its slot is free after the limit, what was sent is billed, and others are served as if it were not there."""
    upstream.play = pour
    with ask_and_never_read(gateway):
        turn = await upstream.next()
        await eventually(lambda: turn.at > 10)
        await gateway.becomes("running", 1)
        other = await gateway.ask(stream=True)
        assert other.status_code == 200
        assert story(4).split()[-1] in other.text
        await asyncio.wait_for(turn.gone.wait(), within_s)
        await gateway.idle()
    assert turn.at * EVENT_CHARS < BUFFERS, "the engine was held back, nothing piled up in memory"
    served, gone = sorted(await gateway.recorded(2), key=lambda row: row["outcome"], reverse=True)
    assert (served["outcome"], gone["outcome"], gone["estimated"]) == ("completed", "cancelled", 1)
    assert 0 < gone["output"] <= turn.at
    assert gone["cost_pico"] == cost("default", gone["input"], gone["output"])
    assert {(await gateway.ask()).status_code for _ in range(3)} == {200}


async def test_who_never_reads_is_taken_for_gone_and_hinders_nobody(upstream, launch, monkeypatch):
    monkeypatch.setattr("fareclass.wire.callers.CALLER_STALL_S", 0.5)
    await is_taken_for_gone(await launch(behind(upstream.url, slots=2)), upstream, 10)


@pytest.mark.slow
async def test_who_never_reads_is_taken_for_gone_at_the_limit_of_a_real_process(upstream, start):
    """After one to two minutes; the process has grown by no more than the buffers."""
    process = await start(behind(upstream.url, slots=2))
    gateway = process.gateway()
    before = psutil.Process(process.pid).memory_info().rss
    await is_taken_for_gone(gateway, upstream, 2 * CALLER_STALL_S + 10)
    assert psutil.Process(process.pid).memory_info().rss - before < BUFFERS
    await gateway.close()
