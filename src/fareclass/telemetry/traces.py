"""One OpenTelemetry span per request, by the GenAI conventions (R42); what a prompt or an answer says is in none.

A request gets its span's id when it comes, so that the engine can be told whose child it is; the span itself is made
when the request has ended, out of its `Finished`. From then on the SDK's own thread has it: its queue is bounded, and
where no collector takes spans they are dropped. Everything is set by OpenTelemetry's own environment variables.

https://github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/client-inference.md at v0.1.0.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from fareclass import __version__
from fareclass.core.events import Finished
from fareclass.core.limits import CODE_CHARS, SPANS_FLUSH_S
from fareclass.core.outcomes import Outcome
from fareclass.telemetry.states import TraceState

_OPERATIONS: Mapping[str, str] = {"completions": "text_completion", "embeddings": "embeddings"}
_PROVIDER = "fareclass"
_FINE = (Outcome.COMPLETED, Outcome.CANCELLED)
"""A caller that hangs up is no error of anybody's."""
_Value = str | bool | int | float
_log = logging.getLogger(__name__)


class Traces:
    """The spans of one gateway. All methods are for the event loop, and none of them waits but `close`."""

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        """Without an exporter they go where the environment says."""
        # Its logger speaks at every failed batch, once a second; `_Sender` says it once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        told = OTELResourceDetector().detect().attributes
        resource = Resource.create({SERVICE_NAME: "fareclass", SERVICE_VERSION: __version__, **told})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._sampler, self._ids, self._resource = provider.sampler, provider.id_generator, provider.resource
        self._scope = InstrumentationScope("fareclass", __version__)
        self._sender = _Sender(exporter or OTLPSpanExporter())
        self._queue = BatchSpanProcessor(self._sender)
        self._made = 0

    @property
    def state(self) -> TraceState:
        return TraceState(made=self._made, delivered=self._sender.delivered, failed=self._sender.failed)

    def begin(self, traceparent: str | None) -> str:
        """What is told upstream as `traceparent`: a span of ours, below the caller's if there is one, sampled or not."""
        parent = read_traceparent(traceparent)
        trace_id = self._ids.generate_trace_id() if parent is None else parent.trace_id
        above = None if parent is None else set_span_in_context(NonRecordingSpan(parent))
        decision = self._sampler.should_sample(above, trace_id, "request", SpanKind.CLIENT).decision
        sampled = decision is Decision.RECORD_AND_SAMPLE
        return f"00-{trace_id:032x}-{self._ids.generate_span_id():016x}-{int(sampled):02x}"

    def after(self, observe: Callable[[Finished], None]) -> Callable[[Finished], None]:
        """Both: `observe`, then the spans."""

        def each(finished: Finished) -> None:
            observe(finished)
            self.observe(finished)

        return each

    def observe(self, finished: Finished) -> None:
        """Make the spans of a request that has ended; `finished.trace` is what `begin` gave."""
        own = read_traceparent(finished.trace)
        if own is None or not own.trace_flags.sampled:
            return
        own = SpanContext(own.trace_id, own.span_id, is_remote=False, trace_flags=own.trace_flags)
        for span in self._spans(finished, own):
            self._made += 1
            self._queue.on_end(span)

    async def close(self) -> None:
        """Deliver what is left, for `SPANS_FLUSH_S` at most; nothing where no collector takes it."""
        if self._sender.failing:
            self._sender.give_up()
        flushing = threading.Thread(target=self._queue.shutdown, name="last-spans", daemon=True)
        flushing.start()
        await asyncio.to_thread(flushing.join, SPANS_FLUSH_S)
        self._sender.give_up()

    def _spans(self, finished: Finished, own: SpanContext) -> Iterator[ReadableSpan]:
        """The request's span, and below it those of what it waited for."""
        status = Status(StatusCode.UNSET if finished.outcome in _FINE else StatusCode.ERROR)
        first_us = finished.first_token_us
        events = () if first_us is None else (Event("first_token", timestamp=first_us * 1000),)
        operation = _OPERATIONS.get(finished.endpoint, "chat")
        yield ReadableSpan(
            name=f"{operation} {finished.route or finished.model}".strip(),
            context=own,
            parent=read_traceparent(finished.parent),
            resource=self._resource,
            attributes=_attributes(finished, operation),
            events=events,
            kind=SpanKind.CLIENT,
            status=status,
            start_time=finished.arrived_us * 1000,
            end_time=finished.ended_us * 1000,
            instrumentation_scope=self._scope,
        )
        for name, from_us, to_us in _waits(finished):
            context = SpanContext(
                own.trace_id, self._ids.generate_span_id(), is_remote=False, trace_flags=own.trace_flags
            )
            yield ReadableSpan(
                name=name,
                context=context,
                parent=own,
                resource=self._resource,
                start_time=from_us * 1000,
                end_time=to_us * 1000,
                instrumentation_scope=self._scope,
            )


class _Sender(SpanExporter):
    """Sends spans, in the SDK's thread, and says once when they can't be delivered, and when they can again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self.delivered = self.failed = 0
        self.failing = False
        self._exporter = exporter
        self._over = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE if self._over.is_set() else self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed:
            self.failed += len(spans)
        else:
            self.delivered += len(spans)
        if failed and not self.failing:
            _log.warning("traces can't be delivered, and are dropped until they can: look at OTEL_EXPORTER_OTLP_*")
        elif self.failing and not failed:
            _log.warning("traces are delivered again", extra={"failed_spans": self.failed})
        self.failing = failed
        return result

    def give_up(self) -> None:
        """Send no more, and end the try that is under way; idempotent."""
        if not self._over.is_set():
            self._over.set()
            self._exporter.shutdown()

    def shutdown(self) -> None:
        self.give_up()


def read_traceparent(traceparent: str | None) -> SpanContext | None:
    """The span that a sound `traceparent` names, None without any (W3C Trace Context)."""
    if not traceparent:
        return None
    version, trace_id, span_id, flags = traceparent.split("-")
    context = SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16) & 1)
    )
    return context if context.is_valid and version != "ff" else None


def _waits(finished: Finished) -> Iterator[tuple[str, int, int]]:
    """What it waited for: its turn, and to go on; in microseconds since the epoch."""
    if finished.queue_ms and finished.started_us is not None:
        yield "queue", finished.arrived_us, finished.started_us
    elif finished.outcome is Outcome.EXPIRED and finished.started_us is None:
        yield "queue", finished.arrived_us, finished.ended_us
    for one in finished.breaks:
        yield one.kind, one.from_us, one.to_us


def _attributes(finished: Finished, operation: str) -> dict[str, _Value]:
    """By the GenAI conventions; and our own, under `fareclass.`, of what these have no word for."""
    found: dict[str, _Value] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _PROVIDER,
        "fareclass.request_id": finished.id,
        "fareclass.endpoint": finished.endpoint,
        "fareclass.outcome": finished.outcome.value,
        "fareclass.requested_tier": finished.requested_tier.word,
        "fareclass.served_tier": finished.served_tier.word,
        "fareclass.queue_ms": finished.queue_ms,
        "fareclass.pauses": finished.pauses,
        "fareclass.paused_ms": finished.paused_ms,
        "fareclass.restarts": finished.restarts,
    }
    if finished.outcome not in _FINE:
        found["error.type"] = finished.outcome.value
    if finished.streamed:
        found["gen_ai.request.stream"] = True
    if finished.escalated:
        found["fareclass.escalated"] = True
    texts = (
        ("gen_ai.request.model", finished.route or finished.model),
        ("fareclass.code", finished.code[:CODE_CHARS]),
        ("fareclass.project", finished.project),
        ("fareclass.key", finished.key),
        ("fareclass.workload", finished.workload),
        ("fareclass.replica", finished.replica),
        ("fareclass.spilled", finished.spilled),
    )
    found |= {name: text for name, text in texts if text}
    if finished.first_token_us is not None:
        found |= _answer(finished, finished.first_token_us)
    return found


def _answer(finished: Finished, first_token_us: int) -> dict[str, _Value]:
    """Of what was produced. Input includes what was read from or written to a cache."""
    usage = finished.usage
    found: dict[str, _Value] = {
        "gen_ai.response.model": finished.model,
        "gen_ai.usage.input_tokens": usage.prompt,
        "gen_ai.usage.output_tokens": usage.output,
        "fareclass.cost_pico_usd": finished.cost_pico,
    }
    if finished.streamed:
        found["gen_ai.response.time_to_first_chunk"] = (first_token_us - finished.arrived_us) / 1e6
    if usage.cache_read:
        found["gen_ai.usage.cache_read.input_tokens"] = usage.cache_read
    if usage.cache_write_5m or usage.cache_write_1h:
        found["gen_ai.usage.cache_write.input_tokens"] = usage.cache_write_5m + usage.cache_write_1h
    return found
