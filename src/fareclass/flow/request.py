"""The walk of one request: the only place that knows in which order things happen.

    wire (key, body) → model → tier → fields → estimate → hold and line (brain) → engine → caller
    and back: engine ended → slot and hold given back → ledger entry on disk → last byte → metrics

Every way out of `Walk.run` passes `_settle`, so that each request ends in exactly one
`Finished` event with exactly one outcome (R6).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from fareclass.core.events import Finished
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Key, Model, Snapshot
from fareclass.core.usage import Usage
from fareclass.flow.answer import Production
from fareclass.flow.dispatch import Dispatcher
from fareclass.flow.reply import Reply, Served
from fareclass.metering.ledger import Ledger, LedgerUnavailable
from fareclass.metering.pricing import cost
from fareclass.policy.estimate import Estimator, burnt
from fareclass.policy.fields import check_media, upstream_fields
from fareclass.policy.tiers import Terms, asked, check_allowed
from fareclass.sched.ticket import Ticket

_log = logging.getLogger(__name__)
_LEDGER_RETRY_MS = 2_000
_NO_LEDGER = "The gateway can't record usage at the moment, so it takes no new work."


class Arrival(Protocol):
    """What is known of a request that could not be understood."""

    @property
    def id(self) -> str: ...
    @property
    def caller_id(self) -> str: ...
    @property
    def arrived_us(self) -> int: ...


class Walk:
    """Takes requests from the wire to the engines and back."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        dispatchers: Mapping[str, Dispatcher],
        estimator: Estimator,
        ledger: Ledger,
        observe: Callable[[Finished], None],
    ) -> None:
        self._snapshot = snapshot
        self._dispatchers = dispatchers
        self._estimator = estimator
        self._ledger = ledger
        self._observe = observe
        self._background: set[asyncio.Task[None]] = set()

    async def run(self, request: Request, reply: Reply) -> None:
        """Answer or refuse one request. Raises nothing but `CancelledError`."""
        visit = _Visit(request)
        try:
            production = self._admit(request, reply, visit)
            await production.run()
            await self._complete(request, reply, visit, production)
            return
        except Refusal as refusal:
            ending = refusal
        except ConnectionError:
            ending = _hang_up()
        except asyncio.CancelledError:
            if reply.gone:
                await self._settle(visit, _hang_up(), reply=None)
                raise
            # The gateway ends before the request does; this is its last chance to say so.
            ending = Refusal(Outcome.INTERNAL, "The gateway was stopped before the answer was whole. Try again.")
        except Exception:  # noqa: BLE001 - a fault of ours must reach caller and log, and end as one outcome
            _log.exception("a request failed inside the gateway", extra={"request_id": request.id})
            ending = Refusal(Outcome.INTERNAL, f"The gateway failed; its operator finds it as {request.id}.")
        await self._settle(visit, ending, reply)

    def rejected(self, arrival: Arrival, endpoint: str, key: Key | None, refusal: Refusal) -> None:
        """A request ended before it was understood: its one event all the same (R6)."""
        finished = Finished(
            id=arrival.id,
            caller_id=arrival.caller_id,
            endpoint=endpoint,
            outcome=refusal.outcome,
            code=refusal.code or "",
            arrived_us=arrival.arrived_us,
            ended_us=time.time_ns() // 1000,
        )
        if key is not None:
            finished.project, finished.key = key.project.id, key.id
        self._ledger.note(finished)
        self._observe(finished)

    async def close(self) -> None:
        """Wait for the counting of calls whose callers went away."""
        await asyncio.gather(*self._background, return_exceptions=True)

    def _admit(self, request: Request, reply: Reply, visit: "_Visit") -> Production:
        """Everything up to the request's place in line, in one step."""
        snapshot = self._snapshot()
        key = request.key
        model = snapshot.models.get(request.model)
        if model is None:
            raise Refusal(Outcome.NOT_FOUND, f"The model `{request.model[:200]}` does not exist.", param="model")
        visit.model = model
        terms = visit.terms = asked(key, model, request.tier_word)
        check_allowed(terms.requested, key, model)
        check_media(request.media_hosts, model)
        body, dropped = upstream_fields(request, model)
        if not self._ledger.healthy:
            raise Refusal(Outcome.SHED, _NO_LEDGER, retry_after_ms=_LEDGER_RETRY_MS)
        visit.snapshot = snapshot  # from here on tier and price book stay what they are now (R5)
        dispatcher = self._dispatchers[model.name]
        ticket = self._ticket(request, key, model, terms, dispatcher)
        production = visit.production = Production(dispatcher, request, body, ticket, reply)
        production.served = Served(
            request_id=request.id,
            requested=terms.requested,
            served=terms.served,
            queue_ms=0,
            replica="",
            model=model.name,
            upstream_model=model.upstream_model,
            dropped=dropped,
        )
        dispatcher.offer(production.seat, snapshot.quotas.get((key.project.id, model.name)))
        return production

    async def _complete(self, request: Request, reply: Reply, visit: "_Visit", production: Production) -> None:
        """The answer is whole: everything is given back and on disk before its last byte leaves (R35)."""
        usage, estimated = await production.usage()
        body = b"" if request.stream else production.whole(usage)
        self._release(visit, usage, served=True)
        entry = visit.finished(Outcome.COMPLETED, usage, estimated=estimated)
        if not estimated:
            self._estimator.learn(visit.project, request, usage)
        visit.settled = True
        try:
            await self._ledger.append(entry)
            if request.stream:
                await reply.end(usage)
            else:
                await reply.whole(production.served, body)
        except LedgerUnavailable:
            await self._unrecorded(reply, visit, entry)
        except ConnectionError:
            _log.info("the caller went away before the last byte of its answer", extra={"request_id": request.id})
        finally:
            self._observe(entry)

    async def _unrecorded(self, reply: Reply, visit: "_Visit", entry: Finished) -> None:
        """The ledger can't be written: an answer that nobody has seen is withheld and not billed."""
        refusal = Refusal(
            Outcome.INTERNAL,
            "The usage of this answer could not be recorded, so its end was withheld. Try again later.",
            retry_after_ms=_LEDGER_RETRY_MS,
        )
        entry.outcome = Outcome.INTERNAL
        if not reply.started:
            self._ledger.void(entry)
        await _refuse(reply, refusal, visit.served)

    def _ticket(self, request: Request, key: Key, model: Model, terms: Terms, dispatcher: Dispatcher) -> Ticket:
        estimator, width = self._estimator, request.width
        prompt_tokens = estimator.prompt_tokens(model.name, request.prompt_bytes) * width
        continuable = request.continuable and dispatcher.continues(constrained=request.constrained)
        return Ticket(
            request.id,
            key.project.id,
            terms.served,
            prompt_tokens=prompt_tokens,
            width=width,
            weight=float(key.project.weight),
            hold_tokens=estimator.hold_tokens(key.project.id, model, request, prompt_tokens),
            continuable=continuable,
            streamed=request.stream or continuable,
            size_bytes=request.size_bytes,
        )

    def _release(self, visit: "_Visit", usage: Usage, *, served: bool) -> None:
        """Give slot and hold back, the hold corrected to what was used (R25)."""
        if visit.production is not None and visit.model is not None:
            used = usage.input + usage.cache_write_5m + usage.cache_write_1h
            used += burnt(usage.output, visit.model.burndown.output)
            visit.production.release(used, served=served)

    async def _settle(self, visit: "_Visit", refusal: Refusal, reply: Reply | None) -> None:
        """The one way out of a request that was not completed. `reply` is None where the caller is gone already."""
        if visit.settled:
            return
        visit.settled = True
        served, production = visit.served, visit.production
        if served is not None and not served.replica:
            waited_s = asyncio.get_running_loop().time() - visit.request.arrived_s
            served.queue_ms = round(waited_s * 1000)
        ours = refusal.outcome in (Outcome.INTERNAL, Outcome.UPSTREAM_FAILED)
        unseen = reply is not None and not reply.started and ours
        if production is None or production.first_token_s is None or unseen:
            self._release(visit, Usage(), served=False)
            entry = visit.finished(refusal.outcome, visit.estimate(self._estimator), code=refusal.code)
            self._ledger.note(entry)
            self._observe(entry)
        else:
            # What was produced is billed, whatever the outcome (R6). Counting it may ask the engine,
            # so the slot goes back first, and a caller that is gone is not waited with.
            self._release(visit, production.rough_usage(), served=False)
            counting = asyncio.get_running_loop().create_task(self._bill(visit, refusal, production))
            self._background.add(counting)
            counting.add_done_callback(self._background.discard)
            if reply is not None:
                await asyncio.shield(counting)
        if reply is not None and refusal.outcome is not Outcome.CANCELLED:
            await _refuse(reply, refusal, served)

    async def _bill(self, visit: "_Visit", refusal: Refusal, production: Production) -> None:
        usage, estimated = await production.usage()
        entry = visit.finished(refusal.outcome, usage, estimated=estimated, code=refusal.code)
        try:
            await self._ledger.append(entry)
        except LedgerUnavailable:
            _log.exception("an entry waits for the ledger", extra={"request_id": entry.id})
        self._observe(entry)


class _Visit:
    """What is known of one request while it walks, for its one `Finished` event."""

    __slots__ = ("key", "model", "production", "request", "settled", "snapshot", "terms")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.settled = False
        self.snapshot: Snapshot | None = None
        self.key = request.key
        self.model: Model | None = None
        self.terms: Terms | None = None
        self.production: Production | None = None

    @property
    def served(self) -> Served | None:
        """What the caller is told of it, once it was admitted."""
        return None if self.production is None else self.production.served

    @property
    def project(self) -> str:
        return self.key.project.id

    def estimate(self, estimator: Estimator) -> Usage:
        """What a request that got no token would have used: demand that the planner counts (R35)."""
        if self.snapshot is None or self.model is None:
            return Usage()  # it was not admitted
        request = self.request
        return Usage(
            input=estimator.prompt_tokens(self.model.name, request.prompt_bytes) * request.width,
            output=estimator.output_tokens(self.project, self.model, request.max_tokens) * request.width,
        )

    def finished(self, outcome: Outcome, usage: Usage, *, estimated: bool = False, code: str | None = None) -> Finished:
        """The event, with its price if there was a first token."""
        request, key, production = self.request, self.key, self.production
        finished = Finished(
            id=request.id,
            caller_id=request.caller_id,
            endpoint=request.endpoint,
            outcome=outcome,
            code=code or "",
            streamed=request.stream,
            usage=usage,
            estimated=estimated,
            arrived_us=request.arrived_us,
            ended_us=time.time_ns() // 1000,
        )
        if self.model is not None:
            finished.model = self.model.name
        finished.project, finished.key = key.project.id, key.id
        if key.tags:
            finished.tags = msgspec.json.encode(key.tags).decode()
        if self.terms is not None:
            finished.requested_tier, finished.served_tier = self.terms
        if production is not None:
            self._add_production(finished, production)
        return finished

    def _add_production(self, finished: Finished, production: Production) -> None:
        ticket, request = production.seat.ticket, self.request
        finished.replica = production.replica
        finished.pauses, finished.restarts = ticket.pauses, ticket.restarts + ticket.yields
        finished.paused_ms = round(ticket.paused_s * 1000)
        finished.longest_gap_ms = round(production.longest_gap_s * 1000)
        if production.started_s is not None:
            finished.started_us = request.arrived_us + round((production.started_s - request.arrived_s) * 1e6)
            finished.queue_ms = production.served.queue_ms
        if production.first_token_s is not None and self.snapshot is not None and self.terms is not None:
            finished.first_token_us = request.arrived_us + round((production.first_token_s - request.arrived_s) * 1e6)
            book = self.snapshot.books[finished.model]
            finished.book_version = book.version
            finished.cost_pico = cost(book, self.terms.served, finished.usage)


def _hang_up() -> Refusal:
    return Refusal(Outcome.CANCELLED, "The caller hung up.")


async def _refuse(reply: Reply, refusal: Refusal, served: Served | None) -> None:
    try:
        await reply.refuse(refusal, served)
    except ConnectionError:
        _log.info("the caller went away before it could be refused")
