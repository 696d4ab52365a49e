"""R11 for real: slots of the built-in engine are taken from running answers, which later go on from exactly there."""

import asyncio

import pytest

from tests.e2e.callers import COUNT, Listener, whole
from tests.e2e.gateway import MODEL, behind, cost, simulated
from tests.e2e.upstream import tell_in_two
from tests.engine.conftest import eventually

TOKENS = 60
LIST = {"model": MODEL, "prompt": "1, 2, 3, 4, 5, 6, 7, 8,", "temperature": 0}
SHORT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "service_tier": "priority"}


async def test_r11_paused_streams_come_whole_and_in_order(real):
    """Two flex streams fill both slots, two priority requests take them; nobody who reads a stream can tell."""
    asked = (("/chat/completions", COUNT), ("/completions", LIST))
    unbroken = [await whole(real, path, {**body, "max_tokens": TOKENS}) for path, body in asked]
    flex = {"service_tier": "flex", "max_tokens": TOKENS}
    streams = [Listener(real, path, {**body, **flex}) for path, body in asked]
    await eventually(lambda: all(len(stream.chunks) > 5 for stream in streams), 30)
    answers = [asyncio.create_task(whole(real, "/chat/completions", SHORT)) for _ in range(2)]
    await asyncio.gather(*answers)
    assert not any(stream.task.done() for stream in streams), "priority was answered before"
    await asyncio.gather(*(stream.task for stream in streams))
    rows = [row for row in real.rows() if row["served_tier"] == "flex"][-2:]
    assert all(row["pauses"] >= 1 and row["restarts"] == 0 for row in rows)
    assert {row["pauses"] for row in real.rows() if row["served_tier"] == "priority"} == {0}
    for stream, answer, row in zip(streams, unbroken, rows, strict=True):
        choice = answer["choices"][0]
        assert stream.text == (choice["text"] if "text" in choice else choice["message"]["content"])
        assert stream.done
        assert len({(c["id"], c["model"], c["service_tier"]) for c in stream.chunks}) == 1
        usage = stream.chunks[-1]["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (answer["usage"]["prompt_tokens"], TOKENS)
        assert sum(bool(c["choices"] and c["choices"][0]["finish_reason"]) for c in stream.chunks) == 1
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert row["cost_pico"] == cost("flex", usage["prompt_tokens"], TOKENS, cached) and not row["estimated"]
        assert row["longest_gap_ms"] >= row["paused_ms"] // row["pauses"] > 0


async def test_r11_answers_that_are_not_streamed_are_paused_and_continued_too(real):
    """They run streamed upstream; the caller gets one body, with the usage of one unbroken call."""
    body = {**COUNT, "max_tokens": TOKENS}
    unbroken = await whole(real, "/chat/completions", body)
    flex = [asyncio.create_task(whole(real, "/chat/completions", {**body, "service_tier": "flex"})) for _ in range(2)]

    await real.speaks("flex", 2)
    await asyncio.gather(*(whole(real, "/chat/completions", SHORT) for _ in range(2)))
    assert not any(task.done() for task in flex), "priority was answered before"
    for answer in await asyncio.gather(*flex):
        assert answer["choices"] == unbroken["choices"]
        told = {**answer["usage"], "prompt_tokens_details": unbroken["usage"]["prompt_tokens_details"]}
        assert told == unbroken["usage"], "but for what was cached"
        assert answer["object"] == "chat.completion" and answer["service_tier"] == "flex"
    rows = [row for row in real.rows() if row["served_tier"] == "flex"][-2:]
    assert all(row["pauses"] >= 1 and row["output"] == TOKENS for row in rows)


async def test_r11_what_can_not_be_continued_is_left_alone(real):
    """A seeded stream keeps its slot; priority waits for its turn."""
    stream = Listener(real, "/chat/completions", {**COUNT, "service_tier": "flex", "max_tokens": 24, "seed": 1})
    second = Listener(real, "/chat/completions", {**COUNT, "service_tier": "flex", "max_tokens": 24, "seed": 1})
    await eventually(lambda: stream.chunks and second.chunks, 30)
    answer = await whole(real, "/chat/completions", SHORT)
    assert stream.task.done() or second.task.done()
    await asyncio.gather(stream.task, second.task)
    assert stream.done and stream.chunks[-1]["usage"]["completion_tokens"] == 24
    assert [row["pauses"] for row in real.rows()[-3:]] == [0, 0, 0]
    assert answer["usage"]["completion_tokens"] <= 4


async def test_r11_a_paused_stream_is_kept_alive_by_comments(pair, launch, monkeypatch):
    """Clients skip them; here they come every 50 ms instead of every 15 s."""
    monkeypatch.setattr("fareclass.flow.answer.SSE_COMMENT_S", 0.05)
    upstream = pair[0]
    gateway = await launch(behind(upstream.url, slots=1))
    go_on = asyncio.Event()

    upstream.play = tell_in_two(2, go_on)
    flex = asyncio.create_task(gateway.ask(stream=True, service_tier="flex", max_tokens=6))
    await gateway.speaks("flex")
    better = asyncio.create_task(gateway.ask(stream=True, service_tier="priority"))
    await gateway.becomes("paused", 1)
    await asyncio.sleep(0.3)
    go_on.set()
    text = (await flex).text
    assert text.count(": keep-alive\n\n") >= 3
    assert (await better).text.count(": keep-alive") == 0
    before, after = text.split(": keep-alive\n\n")[0], text.split(": keep-alive\n\n")[-1]
    assert " w1" in before and " w2" not in before and " w5" in after and text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_r11_who_was_paused_for_too_long_pays_for_what_it_got(launch, monkeypatch, stream):
    """For nothing where nothing was sent; when to come back is told (R14)."""
    monkeypatch.setattr("fareclass.sched.waits.MAX_PAUSED_S", 0.5)
    gateway = await launch(simulated(slots=1, base_us=20_000))
    flex = asyncio.create_task(gateway.ask(service_tier="flex", max_tokens=2_000, stream=stream))
    await gateway.speaks("flex")
    better = asyncio.create_task(gateway.ask(service_tier="priority", max_tokens=500))
    answer = await flex
    better.cancel()
    await asyncio.gather(better, return_exceptions=True)
    await gateway.idle()
    row = next(row for row in await gateway.recorded(2) if row["served_tier"] == "flex")
    assert row["pauses"] == 1 and row["paused_ms"] >= 500 and row["output"] > 0
    if stream:
        assert "what was sent so far is billed" in answer.text
        assert row["cost_pico"] > 0
    else:
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        assert "billed" not in answer.text
        assert row["cost_pico"] == 0
