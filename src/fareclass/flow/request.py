"""The walk of one request: the only place that knows in which order things happen.

    wire (key, body) → model → tier → fields → estimate → hold and line (brain) → engine → caller
    and back: engine ended → slot and hold given back → ledger entry on disk → last byte → metrics

Every way out of `Walk.run` passes `_settle`, so that each request ends in exactly one
`Finished` event with exactly one outcome (R6).
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from fareclass.core.events import Finished
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Key, Model, Snapshot
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from fareclass.flow.answer import Production
from fareclass.flow.clock import now_us
from fareclass.flow.dispatch import Dispatcher
from fareclass.flow.escalations import Escalations
from fareclass.flow.prompt_cache import PromptCaches
from fareclass.flow.purse import Purses
from fareclass.flow.reply import Reply, Served
from fareclass.flow.reserved import Standing
from fareclass.flow.routing import Routing, claimed
from fareclass.flow.tickets import expected, make_ticket
from fareclass.flow.visit import Visit
from fareclass.metering.ledger import Ledger, LedgerUnavailable
from fareclass.policy.estimate import Estimator
from fareclass.policy.fields import check_media, upstream_fields
from fareclass.policy.tiers import Claim, Terms, check_allowed, exhausted
from fareclass.sched.ticket import Ticket

_log = logging.getLogger(__name__)
_LEDGER_RETRY_MS = 2_000
_RESTART_MS = 5_000
"""A gateway that is started anew is back in so long."""
_NO_LEDGER = "The gateway can't record usage at the moment, so it takes no new work."


class Arrival(Protocol):
    """What is known of a request that could not be understood."""

    @property
    def id(self) -> str: ...
    @property
    def caller_id(self) -> str: ...
    @property
    def arrived_us(self) -> int: ...
    @property
    def traceparent(self) -> str | None: ...


class Walk:
    """Takes requests from the wire to the engines and back. `trace` gives a request its span, below its caller's."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        dispatchers: Mapping[str, Dispatcher],
        standing: Standing,
        routing: Routing,
        escalations: Escalations,
        caches: PromptCaches,
        purses: Purses,
        estimator: Estimator,
        ledger: Ledger,
        observe: Callable[[Finished], None],
        trace: Callable[[str | None], str] | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._dispatchers = dispatchers
        self._standing = standing
        self._routing = routing
        self._escalations = escalations
        self._caches = caches
        self._purses = purses
        self._estimator = estimator
        self._ledger = ledger
        self._observe = observe
        self._trace = trace
        self._background: set[asyncio.Task[None]] = set()

    async def run(self, request: Request, reply: Reply) -> None:
        """Answer or refuse one request. Raises nothing but `CancelledError`."""
        visit = Visit(request)
        if self._trace is not None:
            visit.parent = request.traceparent or ""
            visit.trace = request.traceparent = self._trace(request.traceparent)
        ending: Refusal | None = None
        while ending is None:
            try:
                production = self._admit(request, reply, visit)
                await production.run()
                await self._complete(request, reply, visit, production)
                return
            except Refusal as refusal:
                if not self._falls_over(visit, refusal, reply):
                    ending = refusal.alone()
            except ConnectionError:
                ending = _hang_up()
            except asyncio.CancelledError:
                if reply.gone:
                    await self._settle(visit, _hang_up(), reply=None)
                    raise
                # The gateway ends before the request does; this is its last chance to say so.
                ending = _stopped(visit.production)
            except Exception:  # noqa: BLE001 - a fault of ours must reach caller and log, and end as one outcome
                _log.exception("a request failed inside the gateway", extra={"request_id": request.id})
                ending = Refusal(Outcome.INTERNAL, f"The gateway failed; its operator finds it as {request.id}.")
        await self._settle(visit, ending, reply)

    def check(self, request: Request) -> None:
        """Look at a request whose caller is only promised an answer.

        Raises:
            Refusal: it is one that `run` would refuse whenever its turn came.
        """
        self._understand(self._snapshot(), Visit(request))

    def rejected(self, arrival: Arrival, endpoint: str, key: Key | None, refusal: Refusal) -> None:
        """A request ended before it was understood: its one event all the same (R6)."""
        finished = Finished(
            id=arrival.id,
            caller_id=arrival.caller_id,
            endpoint=endpoint,
            outcome=refusal.outcome,
            code=refusal.code or "",
            arrived_us=arrival.arrived_us,
            ended_us=now_us(),
        )
        if key is not None:
            finished.project, finished.key, finished.workload = key.project.id, key.id, key.workload
        if self._trace is not None:
            finished.parent, finished.trace = arrival.traceparent or "", self._trace(arrival.traceparent)
        self._ledger.note(finished)
        self._observe(finished)

    async def close(self) -> None:
        """Wait for the counting of calls whose callers went away."""
        await asyncio.gather(*self._background, return_exceptions=True)

    def _understand(self, snapshot: Snapshot, visit: Visit) -> tuple[Model, Claim]:
        """Which model and tier are asked for, and that they may be: what depends on nothing that moves."""
        request = visit.request
        model = visit.model = self._model(snapshot, visit)
        claim = claimed(snapshot, request, model)
        visit.terms = Terms(claim.requested, claim.requested)
        check_allowed(claim.requested, visit.key, model)
        check_media(request.media_hosts, model)
        return model, claim

    def _model(self, snapshot: Snapshot, visit: Visit) -> Model:
        """The model that the request names, or the one whose turn it is of the route that it names (R45)."""
        request = visit.request
        if visit.way is None:
            if (model := snapshot.models.get(request.model)) is not None:
                return model
            if (route := snapshot.routes.get(request.model)) is None:
                raise Refusal(Outcome.NOT_FOUND, f"The model `{request.model[:200]}` does not exist.", param="model")
            visit.route = route.name
            visit.way = self._routing.begin(snapshot, route, request)
        return snapshot.models[visit.way.pick.model]

    def _falls_over(self, visit: Visit, refusal: Refusal, reply: Reply) -> bool:
        """Whether the next model of a route may try, and what the last one held is given back (R45)."""
        way, production = visit.way, visit.production
        if way is None or reply.started or visit.settled:
            return False
        began, called = False, ""
        if production is not None:
            began, called = production.started_s is not None, production.seat.called
            way.waited_s += production.seat.waited_s(production.started_s, asyncio.get_running_loop().time())
        if way.ends(refusal, began=began, called=called):
            return False
        if production is not None:
            self._release(visit, Usage(), served=False)
            if production.purse is not None:
                production.purse.close()
        if visit.raised is not None:
            self._escalations.lower(visit.key, visit.raised)
        visit.production = visit.raised = None
        return True

    def _admit(self, request: Request, reply: Reply, visit: Visit) -> Production:
        """Everything up to the request's place in line, in one step."""
        snapshot = self._snapshot()
        model, claim = self._understand(snapshot, visit)
        key, job, request.model = request.key, request.job, model.name
        body, dropped = upstream_fields(request, model)
        if not self._ledger.healthy:
            raise Refusal(Outcome.SHED, _NO_LEDGER, retry_after_ms=_LEDGER_RETRY_MS)
        # From here on tier and price book stay what they are now (R5); those of a batch, what they were then (R33).
        visit.book = snapshot.books[model.name] if job is None else job.books[model.name]
        if key.escalation is not None and job is None:
            visit.raised = self._escalations.raised(request, model, claim, visit.book)
            if visit.raised is not None:
                claim = claim._replace(otherwise=visit.raised.tier)
        dispatcher = self._dispatchers[model.name]
        cached = self._caches.read(request, body, model) if dispatcher.may_cache else None
        likely = expected(self._estimator, request, model, cached)
        ticket = make_ticket(request, model, claim, dispatcher, likely, cached)
        terms = visit.terms = self._terms(claim, ticket, request, snapshot)
        production = visit.production = Production(dispatcher, request, body, ticket, reply)
        production.cached, production.salt = cached, self._caches.salt(key.project.id, model)
        production.served = Served(
            request_id=request.id,
            requested=terms.requested,
            served=ticket.tier,
            spilled=visit.spilled,
            escalated="" if visit.raised is None else visit.raised.reason,
            queue_ms=0,
            replica="",
            model=model.name,
            upstream_model=model.upstream_model,
            dropped=dropped,
            prompt_tokens=ticket.prompt_tokens,
        )
        if visit.way is not None:
            max_wait_s = dispatcher.brain.policies[ticket.tier].max_wait_s
            visit.way.mark(production, max_wait_s, asyncio.get_running_loop().time())
        if snapshot.project_budgets or snapshot.key_budgets:
            self._hold_money(snapshot, model, visit, production)
        quota = snapshot.quotas.get((key.project.id, model.name)) if job is None else None  # R37
        dispatcher.offer(production.seat, quota)
        if quota is not None or ticket.tier is Tier.RESERVED:
            production.served.allowances = dispatcher.allowances(ticket)
        return production

    def _hold_money(self, snapshot: Snapshot, model: Model, visit: Visit, production: Production) -> None:
        """Hold it of the budgets that the request comes under; as it asked, where the better tier costs too much (R26)."""
        assert visit.book is not None
        cached, ticket = production.cached, production.seat.ticket
        writes = cached is not None and bool(cached.prefix.points)
        hold = partial(
            self._purses.open, snapshot, visit.book, visit.request, model, ticket, writes=writes, now_us=now_us()
        )
        try:
            purse = hold()
        except Refusal:
            if visit.raised is None:
                raise
            self._lower(visit, production)
            purse = hold()
        if purse is not None:
            production.hold_to(purse)

    def _lower(self, visit: Visit, production: Production) -> None:
        """Take an escalation back: the request is what it asked for (R40)."""
        assert visit.raised is not None and visit.terms is not None
        self._escalations.lower(visit.key, visit.raised)
        visit.raised = None
        tier, ticket, served = visit.terms.requested, production.seat.ticket, production.served
        visit.terms = Terms(tier, tier)
        ticket.tier = ticket.rank = served.served = tier
        served.escalated = ""

    def _terms(self, claim: Claim, ticket: Ticket, request: Request, snapshot: Snapshot) -> Terms:
        """The terms once the floor was asked: decided and held in one step (R2, R20, R21)."""
        if not claim.claims:
            return Terms(claim.requested, ticket.tier)
        self._standing.look(snapshot, now_us())
        dispatcher = self._dispatchers[request.model]
        if dispatcher.claim(ticket):
            return Terms(Tier.RESERVED, Tier.RESERVED)
        if claim.otherwise is None:
            raise exhausted(dispatcher.claim_wait_s(ticket))
        return Terms(claim.requested, claim.otherwise)

    def _finished(
        self, visit: Visit, outcome: Outcome, usage: Usage, *, code: str | None = None, **more: bool
    ) -> Finished:
        """The event, from which budgets and the key's escalation learn before the caller hears of it."""
        entry = visit.finished(outcome, usage, code=code or "", **more)
        self._purses.settle(None if visit.production is None else visit.production.purse, entry)
        if visit.key.escalation is not None:
            self._escalations.ended(visit.key, visit.raised, entry)
        return entry

    async def _complete(self, request: Request, reply: Reply, visit: Visit, production: Production) -> None:
        """The answer is whole: everything is given back and on disk before its last byte leaves (R35)."""
        usage, estimated = await production.usage()
        # An answer that can't be told is none: it must fail before it is billed.
        answer = None if request.stream else reply.translated(production.served, production.whole(usage), usage)
        self._release(visit, usage, served=True)
        entry = self._finished(visit, Outcome.COMPLETED, usage, estimated=estimated)
        if not estimated:
            self._estimator.learn(visit.project, request, usage, cut=production.cut_by_budget(usage))
        if self._snapshot().routes:
            self._routing.ended(entry, production)
        visit.settled = True
        try:
            reply.billed = True
            await self._ledger.append(entry)
            if answer is None:
                await reply.end(usage)
            else:
                await reply.whole(production.served, answer)
        except LedgerUnavailable:
            await self._unrecorded(reply, visit, entry)
        except ConnectionError:
            _log.info("the caller went away before the last byte of its answer", extra={"request_id": request.id})
        finally:
            self._observe(entry)

    async def _unrecorded(self, reply: Reply, visit: Visit, entry: Finished) -> None:
        """The ledger can't be written: an answer that nobody has seen is withheld and not billed."""
        refusal = Refusal(
            Outcome.INTERNAL,
            "The usage of this answer could not be recorded, so its end was withheld. Try again later.",
            retry_after_ms=_LEDGER_RETRY_MS,
        )
        entry.outcome = Outcome.INTERNAL
        if not reply.started:
            self._ledger.void(entry)
            self._purses.void(entry)
            if visit.raised is not None:
                self._escalations.void(entry)
        await _refuse(reply, refusal, visit.served)

    def _release(self, visit: Visit, usage: Usage, *, served: bool) -> None:
        """Give slot and holds back, the holds corrected to what was used (R20, R25).

        That is the request's end, however long it takes to count: a checkpoint has it, or a restart charges it.
        """
        visit.ended_us = now_us()
        if visit.production is not None:
            visit.production.release(usage, served=served)

    async def _settle(self, visit: Visit, refusal: Refusal, reply: Reply | None) -> None:
        """The one way out of a request that was not completed. `reply` is None where the caller is gone already."""
        if visit.settled:
            return
        visit.settled = True
        served, production = visit.served, visit.production
        if served is not None and not served.replica:
            waited_s = asyncio.get_running_loop().time() - visit.request.arrived_s
            served.queue_ms = round(waited_s * 1000)
        ours = refusal.outcome in (Outcome.INTERNAL, Outcome.UPSTREAM_FAILED, Outcome.EXPIRED)
        # Of a line whose batch has ended meanwhile nobody gets anything (R38).
        unseen = visit.request.job is not None if reply is None else not reply.started and ours
        if production is None or production.first_token_s is None or unseen:
            self._release(visit, Usage(), served=False)
            estimate = visit.estimate(self._estimator)
            entry = self._finished(visit, refusal.outcome, estimate, code=refusal.code, unseen=unseen)
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

    async def _bill(self, visit: Visit, refusal: Refusal, production: Production) -> None:
        usage, estimated = await production.usage()
        entry = self._finished(visit, refusal.outcome, usage, estimated=estimated, code=refusal.code)
        try:
            await self._ledger.append(entry)
        except LedgerUnavailable:
            _log.exception("an entry waits for the ledger", extra={"request_id": entry.id})
        self._observe(entry)


def _stopped(production: Production | None) -> Refusal:
    """The gateway ends before the request does. What never ran is no fault: it had found no room yet."""
    if production is None or production.started_s is None:
        message = "The gateway is being stopped before the request's turn came. Try again once it is back."
        return Refusal(Outcome.SHED, message, retry_after_ms=_RESTART_MS)
    return Refusal(Outcome.INTERNAL, "The gateway was stopped before the answer was whole. Try again.")


def _hang_up() -> Refusal:
    return Refusal(Outcome.CANCELLED, "The caller hung up.")


async def _refuse(reply: Reply, refusal: Refusal, served: Served | None) -> None:
    try:
        await reply.refuse(refusal, served)
    except ConnectionError:
        _log.info("the caller went away before it could be refused")
