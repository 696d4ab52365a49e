"""R42: spans made of what has ended."""

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from fareclass.core.events import Break
from fareclass.core.limits import CODE_CHARS
from fareclass.core.outcomes import Outcome
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from fareclass.telemetry.traces import Traces, read_traceparent
from fareclass.telemetry.wanted import wanted
from tests.unit.telemetry_page import finished

CALLER = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.fixture
async def spans_of():
    """The spans of these requests, as an exporter gets them: the request's own first."""
    exporter = InMemorySpanExporter()
    traces = Traces(exporter)

    def spans(*requests):
        for request in requests:
            request.trace = request.trace or traces.begin(request.parent)
            traces.observe(request)
        traces._queue.force_flush()
        return exporter.get_finished_spans()

    yield spans
    await traces.close()


@pytest.mark.parametrize(
    ("endpoint", "operation"),
    [("chat", "chat"), ("completions", "text_completion"), ("embeddings", "embeddings"), ("messages", "chat")],
)
async def test_operations_have_the_conventions_names(spans_of, endpoint, operation):
    [span, *_] = spans_of(finished(endpoint=endpoint))
    assert span.name == f"{operation} m" and span.attributes["gen_ai.operation.name"] == operation


async def test_r45_a_route_is_what_was_asked_for_and_its_model_what_answered(spans_of):
    [span, *_] = spans_of(finished(route="cheapest"))
    assert span.name == "chat cheapest"
    assert (span.attributes["gen_ai.request.model"], span.attributes["gen_ai.response.model"]) == ("cheapest", "m")


async def test_input_includes_what_a_cache_took_part_in(spans_of):
    usage = Usage(input=100, cache_read=20, cache_write_5m=7, cache_write_1h=3, output=51)
    [span, *_] = spans_of(finished(usage=usage))
    told = {name: value for name, value in span.attributes.items() if "usage" in name}
    assert told == {
        "gen_ai.usage.input_tokens": 130,
        "gen_ai.usage.output_tokens": 51,
        "gen_ai.usage.cache_read.input_tokens": 20,
        "gen_ai.usage.cache_write.input_tokens": 10,
    }


async def test_what_it_waited_for_is_below_it(spans_of):
    breaks = (Break("pause", 1_200_000, 1_300_000), Break("failover", 1_500_000, 2_000_000))
    own, *below = spans_of(finished(breaks=breaks))
    assert [(one.name, one.start_time, one.end_time) for one in below] == [
        ("queue", 0, 200_000_000),
        ("pause", 1_200_000_000, 1_300_000_000),
        ("failover", 1_500_000_000, 2_000_000_000),
    ]
    assert {one.parent.span_id for one in below} == {own.context.span_id}
    assert len({one.context.span_id for one in below}) == 3


async def test_what_waited_in_vain_shows_its_wait_and_no_usage(spans_of):
    """Its usage is an estimate (R35)."""
    flex = {"requested_tier": Tier.FLEX, "served_tier": Tier.FLEX, "started_us": None, "first_token_us": None}
    own, queue = spans_of(finished(outcome=Outcome.EXPIRED, queue_ms=0, **flex))
    assert (queue.name, queue.start_time, queue.end_time) == ("queue", 0, 2_000_000_000)
    assert own.status.status_code is StatusCode.ERROR and own.attributes["error.type"] == "expired"
    assert not [name for name in own.attributes if "usage" in name]


async def test_a_hang_up_is_no_error_and_a_strange_code_is_cut(spans_of):
    gone, _, failed, _ = spans_of(
        finished(outcome=Outcome.CANCELLED), finished(outcome=Outcome.INVALID, code="x" * 10_000)
    )
    assert gone.status.status_code is StatusCode.UNSET and "error.type" not in gone.attributes
    assert failed.attributes["fareclass.code"] == "x" * CODE_CHARS
    assert failed.attributes["error.type"] == "invalid", "few words, as a back end groups by it"


async def test_a_request_is_in_its_callers_trace(spans_of):
    span, *_ = spans_of(finished(parent=CALLER))
    assert f"{span.context.trace_id:032x}" == "a" * 32 and f"{span.parent.span_id:016x}" == "b" * 16
    assert span.parent.is_remote


@pytest.mark.parametrize(
    "told",
    [None, "", f"00-{'0' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'0' * 16}-01", f"ff-{'a' * 32}-{'b' * 16}-01"],
)
async def test_a_traceparent_that_names_nothing_begins_a_trace(spans_of, told):
    assert read_traceparent(told) is None
    span, *_ = spans_of(finished(parent=told or ""))
    assert span.parent is None and span.context.is_valid


async def test_what_its_caller_does_not_sample_is_dropped(spans_of):
    assert spans_of(finished(parent=CALLER[:-2] + "00")) == ()


@pytest.mark.parametrize(
    ("environ", "are"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_spans_are_made_for_who_takes_them(environ, are):
    assert wanted(environ) is are
