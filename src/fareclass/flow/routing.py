"""Routes on a request's way: which of their models it is sent to, and how fast those are found to be (R45)."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from fareclass.core.events import Finished
from fareclass.core.limits import SPEED_TRY_S
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Model, Route, RouteModel, Snapshot
from fareclass.core.tiers import Tier
from fareclass.flow.answer import Production
from fareclass.flow.clock import now_us
from fareclass.flow.dispatch import Dispatcher
from fareclass.flow.prompt_cache import PromptCaches
from fareclass.flow.reserved import Standing
from fareclass.flow.tickets import expected, make_ticket
from fareclass.metering.pricing import cost
from fareclass.policy.caching import Links
from fareclass.policy.estimate import Estimator
from fareclass.policy.fields import check_media, upstream_fields
from fareclass.policy.routes import Option, Pick, order, rule_for, wall
from fareclass.policy.speeds import Speeds
from fareclass.policy.tiers import Claim, asked, check_allowed, meant, not_on_route, usable

_MAY_HELP: Final = frozenset({Outcome.THROTTLED, Outcome.SHED, Outcome.EXPIRED, Outcome.UPSTREAM_FAILED})
"""Ends after which the same request may have better luck later."""
FALLS_OVER: Final = frozenset({Outcome.SHED, Outcome.EXPIRED, Outcome.UPSTREAM_FAILED})
"""Ends of a request that had begun to run, and of which nobody has seen anything, after which another model may try."""
_LASTS: Final = 10_000


def claimed(snapshot: Snapshot, request: Request, model: Model) -> Claim:
    """Which tier a request asks for on a model; raises `Refusal`."""
    if request.job is not None:
        return Claim(Tier.BATCH, Tier.BATCH)
    found = snapshot.reservations.get((request.key.project.id, model.name))
    return asked(request.key, model, request.tier_word, usable(found, now_us()) if found else ())


class Last(msgspec.Struct):
    """What a rule picked last, and when that was a model whose speed nobody knew."""

    model: str = ""
    tried_s: float = float("-inf")


class Way:
    """Of a request that names a route: the model that has it now and those after it.

    `soonest_ms`: when it could be served by one that refused it. `waited_s`: in the lines of those that it has left.
    Of models in `due` it finds out how fast they are, if it goes there first; `last` is to know.
    """

    __slots__ = ("_due", "_last", "_models", "_picks", "_rest", "_tried", "pick", "route", "soonest_ms", "waited_s")

    def __init__(self, route: str, picks: Sequence[Pick], last: Last, due: Collection[str] = ()) -> None:
        self.route = route
        self.pick, *self._rest = self._picks = picks
        self._models = [pick.model for pick in picks]
        self._last = last
        self._due = due
        self._tried = False
        self.soonest_ms: int | None = None
        self.waited_s = 0.0

    @property
    def last(self) -> bool:
        """Whether there is no model left to try."""
        return not self._rest

    def ends(self, refusal: Refusal, *, began: bool, called: str = "") -> bool:
        """Whether this refusal by a model, where the request had begun to run or not, is the whole route's.

        It then says when to come back by the model that can serve again first, where that may help. Else the next has
        it, or the one that it was `called` to, and all others once more.
        """
        if called:
            self.pick = next(pick for pick in self._picks if pick.model == called)
            self._rest = [pick for pick in self._picks if pick is not self.pick]
            return False
        soonest_ms = [each for each in (self.soonest_ms, refusal.retry_after_ms) if each is not None]
        self.soonest_ms = min(soonest_ms, default=None)
        if self.last or (began and refusal.outcome not in FALLS_OVER):
            if refusal.outcome in _MAY_HELP and refusal.retry is not False:
                refusal.retry_after_ms = self.soonest_ms
            return True
        self.pick = self._rest.pop(0)
        return False

    def mark(self, production: Production, max_wait_s: float, now_s: float) -> None:
        """A model is about to try. However many do, nobody stands in line for longer than the tier's limit (R14, R45)."""
        seat, served, model = production.seat, production.served, self.pick.model
        served.route, served.missed = self.route, self.pick.missed
        seat.models, seat.elsewhere = self._models, not self.last
        if self._tried:
            latest_s = now_s + max(0.0, max_wait_s - self.waited_s)
            seat.ticket.deadline = min(latest_s, seat.ticket.deadline or latest_s)
            return
        self._tried = True
        self._last.model = model
        if model in self._due:
            self._last.tried_s = now_s


class Routing:
    """Orders the models of routes for each request. What was picked last is remembered by route, tier and workload."""

    def __init__(
        self,
        dispatchers: Mapping[str, Dispatcher],
        standing: Standing,
        caches: PromptCaches,
        estimator: Estimator,
    ) -> None:
        self._dispatchers = dispatchers
        self._standing = standing
        self._caches = caches
        self._estimator = estimator
        self._speeds = Speeds()
        self._lasts: dict[tuple[str, Tier, str], Last] = {}
        for dispatcher in dispatchers.values():
            dispatcher.came_up = self._came_up

    def begin(self, snapshot: Snapshot, route: Route, request: Request) -> Way:
        """The models to try, best first; those that can't take such a request at all are left out.

        Raises:
            Refusal: none can.
        """
        if request.path == "/embeddings":
            raise Refusal(
                Outcome.INVALID,
                f"`{route.name[:200]}` is a route: embeddings of different models can't be compared. Name a model.",
                param="model",
            )
        now_s = asyncio.get_running_loop().time()
        found: list[tuple[Claim, Option]] = []
        causes: list[Refusal] = []
        cached = any(self._dispatchers[each.model].may_cache for each in route.models)
        links = self._caches.links(request) if cached else None
        for member in route.models:
            try:
                found.append(self._option(snapshot, request, member, links, now_s))
            except Refusal as refusal:
                causes.append(refusal.alone())
        if not found:
            raise _none_can(snapshot, route, request, causes)
        tier, workload = found[0][0].requested, request.key.workload
        rule, last = rule_for(route, tier, workload), self._last(route, tier, workload)
        due = now_s - last.tried_s >= SPEED_TRY_S
        options = [option._replace(due=due and option.speed is None) for _, option in found]
        picks = order(rule, options, last.model)
        if not picks:
            names = sorted({name for option in options if (name := wall(rule, option)) is not None})
            raise Refusal(
                Outcome.FORBIDDEN,
                f"No model of the route `{route.name[:200]}` may serve this request on tier {tier.word}: "
                f"it is beyond the route's {' and '.join(names)}.",
                param="model",
            )
        return Way(route.name, picks, last, [option.model for option in options if option.due])

    def ended(self, entry: Finished, production: Production) -> None:
        """An answer is whole: how fast its model was. Nothing is known of one that came in one piece."""
        started_s, first_s, seat = production.started_s, production.first_token_s, production.seat
        if not seat.ticket.streamed or started_s is None or first_s is None:
            return
        made, took_s = entry.usage.output // entry.width, seat.active_at - first_s - seat.ticket.paused_s
        rate = (made - 1) / took_s if made > 1 and took_s > 0 else None
        self._speeds.learn(entry.model, entry.served_tier, first_s - started_s, rate, seat.active_at)

    def _came_up(self, model: str) -> None:
        for dispatcher in self._dispatchers.values():
            dispatcher.send_to(model)

    def _last(self, route: Route, tier: Tier, workload: str) -> Last:
        place = route.name, tier, workload if workload in route.by_workload else ""
        last = self._lasts.get(place)
        if last is None:
            if len(self._lasts) >= _LASTS:
                self._lasts.clear()
            last = self._lasts[place] = Last()
        return last

    def _option(
        self, snapshot: Snapshot, request: Request, member: RouteModel, links: Links | None, now_s: float
    ) -> tuple[Claim, Option]:
        """What a model could do for a request; raises `Refusal` for what it may not do."""
        model, job = snapshot.models[member.model], request.job
        claim = claimed(snapshot, request, model)
        check_allowed(claim.requested, request.key, model)
        check_media(request.media_hosts, model)
        dispatcher = self._dispatchers[model.name]
        body, _ = upstream_fields(request, model)
        cached = self._caches.read(request, body, model, links) if dispatcher.may_cache else None
        likely = expected(self._estimator, request, model, cached)
        room = False
        if claim.claims:
            self._standing.look(snapshot, now_us())
            room = dispatcher.claim_wait_s(make_ticket(request, model, claim, dispatcher, likely, cached)) == 0
        tier = Tier.RESERVED if room or claim.otherwise is None else claim.otherwise
        brain = dispatcher.brain
        wait_s = brain.wait_s(tier, now_s)
        return claim, Option(
            model=model.name,
            tier=tier,
            quality=member.quality,
            pico=cost(snapshot.books[model.name] if job is None else job.books[model.name], tier, likely),
            tokens=likely.prompt + likely.output,
            output=likely.output // request.width,
            wait_s=wait_s,
            speed=self._speeds.look(model.name, tier, now_s),
            serves=dispatcher.ready
            and wait_s <= brain.policies[tier].max_wait_s
            and _fits(request, model, likely.prompt),
            room=room or claim.requested is not Tier.RESERVED,
        )


def _none_can(snapshot: Snapshot, route: Route, request: Request, causes: Sequence[Refusal]) -> Refusal:
    """Why no model of a route can take a request; that of the first, where they differ."""
    if not causes:
        return Refusal(
            Outcome.NOT_FOUND, f"No model of the route `{route.name[:200]}` is there any more.", param="model"
        )
    tier = meant(request.key, request.tier_word)
    if tier is not None and all(each.outcome is Outcome.FORBIDDEN and each.param == "service_tier" for each in causes):
        models = [snapshot.models[member.model] for member in route.models]
        return not_on_route(tier, route.name, request.key, models)
    return causes[0]


def _fits(request: Request, model: Model, prompt_tokens: int) -> bool:
    """Whether prompt and answer have room in the model's context, as far as that is known."""
    least = prompt_tokens // request.width + (request.max_tokens or 1)
    return model.context_tokens is None or least <= model.context_tokens
