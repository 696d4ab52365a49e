"""R42: each request's span, as a collector gets it, by the GenAI conventions."""

import asyncio
import signal
import subprocess
import sys

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.e2e.collector import collecting, values
from tests.e2e.gateway import MODEL, behind, chat, cost, simulated
from tests.e2e.upstream import PROMPT_TOKENS, QUESTION, WORDS, tell, tell_in_two
from tests.engine.conftest import eventually

TRACE, PARENT = "1" * 32, "2" * 16
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
async def collector(monkeypatch):
    """Where gateways of this test send their spans, ten times as soon as usual."""
    async with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=secret")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield found


async def arrived(collector, name, count=1):
    """The spans of this name, once there are so many."""
    await eventually(lambda: len(collector.named(name)) >= count, 20)
    return collector.named(name)


def told_upstream(turn):
    """Trace, span and flags that the engine was told."""
    version, *found = turn.headers["traceparent"].split("-")
    assert version == "00"
    return found


async def test_r42_a_chats_span_says_who_got_what(collector, gateway):
    answer = await gateway.ask(service_tier="priority")
    [span] = await arrived(collector, f"chat {MODEL}")
    row = (await gateway.recorded(1))[0]
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (row["arrived_us"] * 1000, row["ended_us"] * 1000)
    assert span.kind == Span.SPAN_KIND_CLIENT and span.status.code == Status.STATUS_CODE_UNSET
    assert not span.parent_span_id
    told = values(span)
    wanted = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "fareclass",
        "gen_ai.request.model": MODEL,
        "gen_ai.response.model": MODEL,
        "gen_ai.usage.input_tokens": PROMPT_TOKENS,
        "gen_ai.usage.output_tokens": 4,
        "fareclass.request_id": answer.headers["x-request-id"],
        "fareclass.requested_tier": "priority",
        "fareclass.served_tier": "priority",
        "fareclass.outcome": "completed",
        "fareclass.project": row["project"],
        "fareclass.key": row["key"],
        "fareclass.replica": answer.headers["x-fareclass-replica"],
        "fareclass.queue_ms": int(answer.headers["x-fareclass-queue-ms"]),
        "fareclass.pauses": 0,
        "fareclass.cost_pico_usd": cost("priority", PROMPT_TOKENS, 4),
    }
    assert wanted.items() <= told.items()
    assert told.keys().isdisjoint({"error.type", "gen_ai.request.stream"})
    assert [(event.name, event.time_unix_nano) for event in span.events] == [
        ("first_token", row["first_token_us"] * 1000)
    ]
    assert collector.headers[0]["x-collector-key"] == "secret"
    assert collector.resource["service.name"] == "fareclass"
    assert collector.resource["deployment.environment.name"] == "test"


async def test_r42_a_stream_is_its_callers_child_and_the_engines_parent(collector, gateway, upstream):
    """The caller's traceparent names the trace; the engine is told of our span, not of the caller's."""
    await gateway.http.post("/chat/completions", json=chat(stream=True), headers=SAMPLED)
    [span] = await arrived(collector, f"chat {MODEL}")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert told_upstream(upstream.turns[-1]) == [TRACE, span.span_id.hex(), "01"]
    told, row = values(span), gateway.rows()[0]
    assert told["gen_ai.request.stream"] is True
    assert told["gen_ai.response.time_to_first_chunk"] == (row["first_token_us"] - row["arrived_us"]) / 1e6


async def test_r42_a_pause_is_a_span_below_the_requests_own(collector, pair, launch):
    """R11: the continuation is told of the same span; what waited for a slot says for how long."""
    upstream = pair[0]
    gateway = await launch(behind(upstream.url, slots=1))
    go_on = asyncio.Event()
    upstream.play = tell_in_two(2, go_on)
    flex = asyncio.create_task(
        gateway.http.post(
            "/chat/completions", json=chat(stream=True, service_tier="flex", max_tokens=6), headers=SAMPLED
        )
    )
    await gateway.speaks("flex")
    better = asyncio.create_task(gateway.ask(stream=True, service_tier="priority"))
    await gateway.becomes("paused", 1)
    last = asyncio.create_task(gateway.ask(service_tier="flex"))
    await gateway.becomes("waiting", 2, "flex")
    await asyncio.sleep(0.02)
    go_on.set()
    await asyncio.gather(flex, better, last)
    spans = await arrived(collector, f"chat {MODEL}", 3)
    span = next(one for one in spans if one.parent_span_id.hex() == PARENT)
    told = values(span)
    assert told["fareclass.pauses"] == 1 and told["gen_ai.usage.output_tokens"] == 6
    [pause] = await arrived(collector, "pause")
    assert pause.parent_span_id == span.span_id and pause.trace_id == span.trace_id
    assert span.start_time_unix_nano < pause.start_time_unix_nano < pause.end_time_unix_nano < span.end_time_unix_nano
    lasted_ms = (pause.end_time_unix_nano - pause.start_time_unix_nano) / 1e6
    assert 20 <= told["fareclass.paused_ms"] <= lasted_ms + 1
    calls = [told_upstream(turn) for turn in upstream.turns if turn.headers["traceparent"].split("-")[1] == TRACE]
    assert calls == [[TRACE, span.span_id.hex(), "01"]] * 2
    queues = {queue.parent_span_id: queue for queue in collector.named("queue")}
    waited = next(one for one in spans if one.span_id in queues and values(one)["fareclass.queue_ms"] >= 20)
    queue = queues[waited.span_id]
    assert queue.start_time_unix_nano == waited.start_time_unix_nano
    assert (queue.end_time_unix_nano - queue.start_time_unix_nano) / 1e6 == pytest.approx(
        values(waited)["fareclass.queue_ms"], abs=1
    )


async def test_r46_a_failover_is_a_span_below_the_requests_own(collector, pair, launch):
    one, other = pair
    gateway = await launch(behind(one.url, other.url, slots=1))

    async def die(turn):
        await turn.say(2)
        other.play = one.play = tell
        await turn.die()

    one.play = other.play = die
    assert (await gateway.ask(stream=True, max_tokens=6)).text.endswith("data: [DONE]\n\n")
    [span] = await arrived(collector, f"chat {MODEL}")
    assert [below.name for below in collector.below(span) if below.name != "queue"] == ["failover"]
    assert [told_upstream(upstream.turns[-1])[1] for upstream in pair] == [span.span_id.hex()] * 2


@pytest.mark.parametrize(
    ("body", "error", "model"),
    [
        (chat(), "throttled", MODEL),
        (chat(model="a-caller's text"), "not_found", ""),
        (chat(temperature="hot"), "invalid", ""),
        ({"model": MODEL}, "invalid", ""),
    ],
)
async def test_r42_a_refusals_span_says_why(collector, gateway, body, error, model):
    """Before and after it was understood; nothing was used, so no tokens are told."""
    await gateway.limit(rpm=0)
    assert (await gateway.http.post("/chat/completions", json=body, headers=SAMPLED)).status_code >= 400
    [span] = await arrived(collector, f"chat {model}".strip())
    told = values(span)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert told["error.type"] == told["fareclass.outcome"] == error
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert not [name for name in told if name.startswith("gen_ai.usage")] and not span.events
    assert b"a-caller's text" not in b"".join(collector.bodies)


async def test_r42_what_is_said_is_in_no_span(collector, gateway, upstream):
    await gateway.ask(user="somebody@example.com", stop=["a stop"])
    await gateway.ask(stream=True)
    await arrived(collector, f"chat {MODEL}", 2)
    sent = b"".join(collector.bodies)
    assert QUESTION in str(upstream.turns[0].body)
    for text in (QUESTION, WORDS[0], "somebody@example.com", "a stop", gateway.key):
        assert text.encode() not in sent


@pytest.mark.parametrize("sampler", [None, "always_off"])
async def test_r42_what_is_not_sampled_makes_no_span_and_the_engine_is_told_so(
    collector, upstream, launch, monkeypatch, sampler
):
    """The caller decides, unless the operator wants none."""
    if sampler is not None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    gateway = await launch(behind(upstream.url))
    flags = "00" if sampler is None else "01"
    caller = {"traceparent": f"00-{TRACE}-{PARENT}-{flags}"}
    await gateway.http.post("/chat/completions", json=chat(), headers=caller)
    trace, _, told = told_upstream(upstream.turns[-1])
    assert (trace, told) == (TRACE, "00")
    page = (await gateway.http.get(f"{gateway.url}/metrics")).text
    assert 'fareclass_trace_spans_total{state="made"} 0' in page
    if sampler is None:
        await gateway.ask()
        [span] = await arrived(collector, f"chat {MODEL}")
        assert span.trace_id.hex() != TRACE


async def test_r42_a_collector_that_fails_is_told_of_once_and_nobody_waits_for_it(
    collector, launch, monkeypatch, caplog
):
    """Spans are dropped, answers come; when it is back, so are the spans."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    collector.status = 400
    gateway = await launch(simulated())
    for _ in range(6):
        await asyncio.gather(*(gateway.ask(max_tokens=1) for _ in range(20)))

    def said():
        return [record.getMessage() for record in caplog.records if "trace" in record.getMessage().lower()]

    await eventually(said, 20)
    assert (await gateway.ask(max_tokens=1)).status_code == 200
    collector.status = 200

    async def back():
        await gateway.ask(max_tokens=1)
        return bool(collector.spans)

    await eventually(back, 20)
    await eventually(lambda: len(said()) == 2, 20)
    assert "can't be delivered" in said()[0] and "again" in said()[1]


async def test_r42_the_gateways_end_does_not_wait_for_a_collector_that_does_not_answer(monkeypatch, start):
    """It takes connections and says nothing. The log has a line about it, not one a span, and a stop is a stop."""
    kept = []
    silent = await asyncio.start_server(lambda *streams: kept.append(streams), "127.0.0.1", 0)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    process = await start(simulated())
    gateway = process.gateway()
    answers = await asyncio.gather(*(gateway.ask(max_tokens=1) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    await eventually(lambda: "can't be delivered" in process.log.read_text(), 20)
    await gateway.ask(max_tokens=1)
    await gateway.close()
    process.send(signal.SIGTERM)
    assert await process.wait() == 0
    log = process.log.read_text()
    assert kept and log.count("traces can't be delivered") == 1 and '"logger": "opentelemetry' not in log
    silent.close()


def test_r42_without_a_collector_nothing_of_it_is_loaded():
    code = "import sys, fareclass.app; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
