"""`fareclass serve` as a process: what it leaves behind when it is stopped, killed, or read by a thief."""

import asyncio
import signal
import socket
import stat

import httpx
import psutil
import pytest

from tests.e2e.callers import COUNT, Listener
from tests.e2e.gateway import ADMIN_KEY, behind, chat, cost, local, refused_start, runs, simulated
from tests.e2e.upstream import PROMPT_TOKENS, story
from tests.engine.conftest import eventually


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_a_running_stream_finish(upstream, start, number):
    """No new work; what runs and what stands in line is answered whole and in the ledger; exit status 0."""
    process = await start(behind(upstream.url, slots=1))
    gateway = process.gateway()
    go_on = asyncio.Event()

    async def wait(turn):
        await turn.say(2)
        await go_on.wait()
        await turn.say(2)
        await turn.end()

    upstream.play = wait
    stream = Listener(gateway, "/chat/completions", chat())
    await eventually(lambda: stream.chunks)
    in_line = asyncio.create_task(gateway.ask(service_tier="flex", stream=True))
    await gateway.becomes("waiting", 1)
    process.send(number)

    async def closed() -> bool:
        try:
            async with httpx.AsyncClient() as stranger:
                return (await stranger.get(f"{gateway.url}/healthz")).status_code != 200
        except httpx.TransportError:
            return True

    await eventually(closed)
    await asyncio.sleep(0.5)
    assert not stream.task.done(), "it is waited for"
    go_on.set()
    await stream.task
    assert stream.done and stream.text == story(4)
    assert (await in_line).text.endswith("data: [DONE]\n\n")
    assert await process.wait() == 0
    rows = gateway.rows()
    assert [row["outcome"] for row in rows] == ["completed", "completed"]
    assert [row["cost_pico"] for row in rows] == [cost(tier, PROMPT_TOKENS, 4) for tier in ("default", "flex")]
    await gateway.close()


async def never_end(turn):
    await turn.say(3)
    await turn.hang()


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "mine"}])
async def test_what_does_not_end_within_the_drain_time_is_cut_and_billed(upstream, start, headers):
    """R35: its entry is on disk, though nobody waited for it; exit status 0. R48: so it is with a key to repeat it by."""
    process = await start(behind(upstream.url, drain_s=1))
    gateway = process.gateway()

    upstream.play = never_end
    stream = Listener(gateway, "/chat/completions", chat(max_tokens=50), headers)
    await eventually(lambda: stream.text == story(3))
    process.send(signal.SIGTERM)
    assert await process.wait() == 0
    await asyncio.gather(stream.task, return_exceptions=True)
    assert not stream.done
    assert stream.error is not None and "stopped" in stream.error["message"]
    (row,) = gateway.rows()
    assert row["output"] == 3 and row["cost_pico"] == cost("default", row["input"], 3)
    assert row["outcome"] == "internal", "the caller had not gone (R6)"
    await gateway.close()


async def test_whose_turn_never_came_before_the_stop_may_come_again(upstream, start):
    """R6: that is no fault of the gateway's, and nothing is billed."""
    process = await start(behind(upstream.url, slots=1, drain_s=1))
    gateway = process.gateway()
    upstream.play = never_end
    stream = Listener(gateway, "/chat/completions", chat(max_tokens=50))
    await eventually(lambda: stream.text == story(3))
    waiting = asyncio.create_task(gateway.ask())
    await gateway.becomes("waiting", 1)
    process.send(signal.SIGTERM)
    assert await process.wait() == 0
    await asyncio.gather(stream.task, return_exceptions=True)
    answer = await waiting
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert int(answer.headers["retry-after"]) > 0 and "turn" in answer.json()["error"]["message"]
    assert {row["outcome"]: row["cost_pico"] > 0 for row in gateway.rows()} == {"internal": True, "shed": False}
    await gateway.close()


async def test_a_mistake_in_opentelemetrys_variables_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
    assert refused_start(tmp_path, simulated()).startswith(
        "spans can't be sent as OpenTelemetry's variables (OTEL_…) say"
    )


async def test_r48_what_goes_on_for_a_caller_who_may_come_back_ends_with_the_gateway(upstream, start):
    """R35: its caller has hung up, its entry is on disk all the same."""
    process = await start(behind(upstream.url, drain_s=60))
    gateway = process.gateway()

    upstream.play = never_end
    stream = Listener(gateway, "/chat/completions", chat(max_tokens=50), {"idempotency-key": "mine"})
    await eventually(lambda: stream.text == story(3))
    stream.task.cancel()
    await asyncio.gather(stream.task, return_exceptions=True)
    process.send(signal.SIGTERM)
    assert await process.wait() == 0
    (row,) = gateway.rows()
    assert (row["outcome"], row["output"]) == ("internal", 3)
    await gateway.close()


async def test_a_second_signal_cuts_off_at_once_and_still_settles_the_ledger(upstream, start):
    """R35: what was sent is recorded. An answer of which nothing was sent is refused in our own words, unbilled."""
    process = await start(behind(upstream.url, drain_s=60))
    gateway = process.gateway()

    upstream.play = never_end
    stream = Listener(gateway, "/chat/completions", chat(max_tokens=50))
    await eventually(lambda: stream.text == story(3))
    whole = asyncio.create_task(gateway.ask(max_tokens=50))
    await eventually(lambda: len(upstream.turns) == 2)
    process.send(signal.SIGTERM)
    await eventually(lambda: not gateway_listens(process))
    process.send(signal.SIGTERM)
    assert await process.wait() == 0
    await asyncio.gather(stream.task, return_exceptions=True)
    answer = await whole
    assert answer.status_code == 500 and "stopped" in answer.json()["error"]["message"]
    rows = gateway.rows()
    assert sorted(row["outcome"] for row in rows) == ["internal", "internal"]
    assert min(row["cost_pico"] for row in rows) == 0 < max(row["cost_pico"] for row in rows)
    await gateway.close()


def gateway_listens(process) -> bool:
    """Whether new connections are still taken."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", httpx.URL(process.url).port)) == 0


async def test_an_answer_leaves_in_one_piece_and_one_without_a_body_leaves_too(upstream, launch):
    """A caller is woken once; nothing stays behind where nothing follows the head."""
    gateway = await launch(behind(upstream.url))
    with socket.create_connection((gateway.http.base_url.host, gateway.http.base_url.port)) as caller:
        caller.settimeout(10)
        for method, length in (("GET", b"15"), ("HEAD", b"15"), ("GET", b"15")):
            await asyncio.to_thread(caller.sendall, f"{method} /healthz HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head, _, body = (await asyncio.to_thread(caller.recv, 65_536)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ") and b"content-length: " + length in head
            assert body == (b'{"status":"ok"}' if method == "GET" else b"")


async def test_a_head_that_never_ends_fills_no_memory(upstream, launch):
    """R14: nobody has shown a key yet, so 64 KiB of headers are the end."""
    gateway = await launch(behind(upstream.url))
    address = gateway.http.base_url
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 80_000)
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 431 ")
    writer.close()


async def test_kill_9_leaves_no_engine_behind_and_ctrl_c_lets_the_engine_finish(start):
    """R35: what had been answered before is in the ledger, and the next start serves. Ctrl-C in a terminal, like
    the stop of an init system, signals the engine's process too; a stream that could not go on elsewhere ends whole."""
    process = await start(local(slots=1))
    gateway = process.gateway()
    answer = (await gateway.ask(max_tokens=2)).raise_for_status()
    (engine,) = process.engines()
    lost = Listener(gateway, "/chat/completions", {**COUNT, "max_tokens": 200})
    await eventually(lambda: lost.chunks, 30)
    process.send(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    await asyncio.gather(lost.task, return_exceptions=True)
    await eventually(lambda: not runs(engine), 5)
    assert [row["id"] for row in gateway.rows()] == [answer.headers["x-request-id"]]
    await gateway.close()

    process = await start()
    gateway = process.gateway()
    stream = Listener(gateway, "/chat/completions", {**COUNT, "max_tokens": 30, "seed": 1})
    await eventually(lambda: len(stream.chunks) > 3, 30)
    (engine,) = process.engines()
    process.send_group(signal.SIGINT)
    await stream.task
    assert stream.error is None and stream.done
    assert stream.chunks[-1]["usage"]["completion_tokens"] == 30
    assert await process.wait() == 0
    assert not runs(engine)
    assert [(row["outcome"], row["pauses"]) for row in gateway.rows()] == [("completed", 0)] * 2
    await gateway.close()


async def test_kill_9_under_load_loses_no_answered_request_and_doubles_none(upstream, start, database):
    """R35: sixteen callers ask as fast as they can; each answer that came whole is in the ledger once."""
    process = await start(behind(upstream.url, slots=16, **database))
    gateway = process.gateway()
    answered: list[str] = []

    async def ask_on(caller):
        for number in range(1000):
            name = f"{caller}-{number}"
            answer = await gateway.http.post(
                "/chat/completions", json=chat(stream=number % 2 == 0), headers={"x-request-id": name}
            )
            assert answer.status_code == 200 and ("[DONE]" in answer.text) == (number % 2 == 0)
            answered.append(name)

    callers = [asyncio.create_task(ask_on(caller)) for caller in range(16)]
    await eventually(lambda: len(answered) > 300, 30)
    process.send(signal.SIGKILL)
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(result, httpx.TransportError) for result in results), results
    recorded = [row["caller_id"] for row in gateway.rows() if row["outcome"] == "completed"]
    assert len(recorded) == len(set(recorded))
    assert set(answered) <= set(recorded)
    assert len(recorded) - len(answered) <= 16, "at most what was on its way"
    await gateway.close()
    again = (await start()).gateway()
    report = (await again.admin.get("/usage")).json()["data"]
    assert sum(row["requests"] for row in report) == len(again.rows()) == len(recorded)
    await again.close()


async def test_r51_no_secret_is_in_the_log_the_database_or_the_process_list(upstream, start):
    """Whatever happens to keys: used, wrong, revoked, in the wrong place, in a request that fails inside an engine."""
    process = await start(behind(upstream.url))
    gateway = process.gateway()
    made = await gateway.new_key()
    caller = gateway.caller(made["secret"])
    assert (await caller.post("/chat/completions", json=chat())).status_code == 200
    assert (
        await caller.post("/chat/completions", json=chat(user=made["secret"], model=made["secret"]))
    ).status_code == 404
    assert (await caller.get("/models", params={"key": made["secret"]})).status_code == 200
    assert (await gateway.http.get(f"{gateway.url}/{made['secret']}")).status_code == 404
    upstream.play = fail
    assert (await caller.post("/chat/completions", json=chat())).status_code == 502
    await gateway.admin.delete(f"/keys/{made['id']}")
    assert (await caller.post("/chat/completions", json=chat())).status_code == 401
    listed = (await gateway.admin.get("/keys")).text + (await gateway.admin.get("/audit")).text
    shown = " ".join(psutil.Process(process._process.pid).cmdline())
    process.send(signal.SIGTERM)
    assert await process.wait() == 0
    files = [process.log, *(gateway.folder / "db").iterdir()]
    kept = b"".join(file.read_bytes() for file in files)
    for secret in (gateway.key, ADMIN_KEY, (gateway.folder / "keys" / "master.key").read_text().split()[-1]):
        assert secret.encode() not in kept and secret not in listed and secret not in shown
    proof = made["secret"].rpartition("_")[2]
    assert proof not in listed and proof not in shown
    assert proof.encode() not in process.log.read_bytes()
    for file in (gateway.folder / "keys").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    await gateway.close()


async def fail(turn):
    await turn.answer({"error": {"message": f"bad key {turn.headers.get('authorization')}"}}, 500)
