"""What is known of one request while it walks, for its one `Finished` event (R6)."""

import math

import msgspec

from fareclass.core.events import Break, Finished
from fareclass.core.outcomes import Outcome
from fareclass.core.request import Request
from fareclass.core.snapshot import Model, PriceBook
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from fareclass.flow.answer import Production
from fareclass.flow.reply import Served
from fareclass.flow.routing import Way
from fareclass.metering.pricing import cost
from fareclass.policy.escalation import Raised
from fareclass.policy.estimate import Estimator
from fareclass.policy.tiers import Terms, meant

SPILLED = "reservation_exhausted"
"""What `x-fareclass-spilled` says."""


class Visit:
    """Filled in as the request is understood, admitted and served; `ended_us` when its holds are settled.

    `trace` and `parent` are as in `Finished`. `route` and `way` are those of a request that names a route (R45).
    """

    __slots__ = (
        "book", "ended_us", "key", "model", "parent", "production", "raised", "request", "route", "settled",
        "terms", "trace", "way",
    )  # fmt: skip

    def __init__(self, request: Request) -> None:
        self.request = request
        self.settled = False
        self.ended_us = 0
        self.trace = self.parent = self.route = ""
        self.book: PriceBook | None = None
        self.key = request.key
        self.model: Model | None = None
        self.terms: Terms | None = None
        self.production: Production | None = None
        self.raised: Raised | None = None
        self.way: Way | None = None

    @property
    def served(self) -> Served | None:
        """What the caller is told of it, once it was admitted."""
        return None if self.production is None else self.production.served

    @property
    def project(self) -> str:
        return self.key.project.id

    @property
    def spilled(self) -> str:
        """Why a request that asked for reserved is served as another tier (R4, R21)."""
        terms = self.terms
        exceeds = terms is not None and terms.requested is Tier.RESERVED is not terms.served
        return SPILLED if exceeds else ""

    def estimate(self, estimator: Estimator) -> Usage:
        """What a request that got no token would have used: demand that the planner counts (R35)."""
        if self.book is None or self.model is None:
            return Usage()  # it was not admitted
        request = self.request
        prompt_tokens = estimator.prompt_tokens(self.model.name, request.prompt_bytes) * request.width
        return estimator.likely(self.project, self.model, request, prompt_tokens=prompt_tokens)

    def finished(
        self, outcome: Outcome, usage: Usage, *, estimated: bool = False, code: str = "", unseen: bool = False
    ) -> Finished:
        """The event, with its price if there was a first token; what nobody has seen of it for our fault is free."""
        request, key = self.request, self.key
        requested, served = self.terms or self._meant()
        finished = Finished(
            id=request.id,
            caller_id=request.caller_id,
            project=key.project.id,
            key=key.id,
            model="" if self.model is None else self.model.name,
            endpoint=request.endpoint,
            requested_tier=requested,
            served_tier=served,
            outcome=outcome,
            code=code,
            streamed=request.stream,
            usage=usage,
            estimated=estimated,
            arrived_us=request.arrived_us,
            ended_us=self.ended_us,
            workload=key.workload,
            spilled=self.spilled,
            escalated=self.raised is not None,
            width=request.width,
            route=self.route,
            trace=self.trace,
            parent=self.parent,
        )
        if key.tags:
            finished.tags = msgspec.json.encode(key.tags).decode()
        production = self.production
        if production is not None:
            self._add_production(finished, production)
            if production.first_token_s is not None and not unseen:
                self._add_price(finished, production.first_token_s)
        return finished

    def _meant(self) -> Terms:
        """Of a request that ended before its tier was understood: what its caller wrote, if that is a tier at all."""
        request = self.request
        tier = Tier.BATCH if request.job is not None else meant(self.key, request.tier_word)
        tier = Tier.DEFAULT if tier is None else tier
        return Terms(tier, tier)

    def _add_production(self, finished: Finished, production: Production) -> None:
        ticket, request = production.seat.ticket, self.request
        finished.replica = production.replica
        finished.pauses, finished.restarts = ticket.pauses, ticket.restarts + ticket.yields
        finished.paused_ms = round(ticket.paused_s * 1000)
        finished.longest_gap_ms = round(production.longest_gap_s * 1000)
        if production.seat.breaks:
            finished.breaks = self._breaks(production)
        if production.cached is not None:
            finished.prefix = production.cached.shown(finished.usage.prompt)
        if production.started_s is not None:
            finished.started_us = request.arrived_us + round((production.started_s - request.arrived_s) * 1e6)
            finished.queue_ms = production.served.queue_ms

    def _breaks(self, production: Production) -> tuple[Break, ...]:
        """When it had no replica, on the clock of its arrival; the last break may be its end."""
        zero_us, zero_s, end_us = self.request.arrived_us, self.request.arrived_s, self.ended_us
        return tuple(
            Break(kind, *(zero_us + round((at_s - zero_s) * 1e6) if at_s < math.inf else end_us for at_s in times))
            for kind, *times in production.seat.breaks
        )

    def _add_price(self, finished: Finished, first_token_s: float) -> None:
        request = self.request
        finished.first_token_us = request.arrived_us + round((first_token_s - request.arrived_s) * 1e6)
        # The end is the time of day, the rest the loop's clock since the arrival: they may differ by microseconds.
        finished.ended_us = max(finished.ended_us, finished.first_token_us)
        if self.book is not None and self.terms is not None:
            finished.book_version = self.book.version
            finished.cost_pico = cost(self.book, self.terms.served, finished.usage)
