"""A request becomes what the scheduler moves: a ticket with its holds (R8, R20, R25, R49)."""

from fareclass.core.request import Request
from fareclass.core.snapshot import Model
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from fareclass.engine.upstream import CONTINUES
from fareclass.flow.dispatch import Dispatcher
from fareclass.flow.prompt_cache import CachedPrompt
from fareclass.policy.estimate import Estimator
from fareclass.policy.tiers import Claim
from fareclass.sched.ticket import NOWHERE, Ticket


def expected(estimator: Estimator, request: Request, model: Model, cached: CachedPrompt | None) -> Usage:
    """What a request will probably use on this model."""
    prompt_tokens = estimator.prompt_tokens(model.name, request.prompt_bytes) * request.width
    read = 0 if cached is None else cached.known_tokens(prompt_tokens)
    return estimator.likely(request.key.project.id, model, request, prompt_tokens=prompt_tokens, read=read)


def make_ticket(
    request: Request,
    model: Model,
    claim: Claim,
    dispatcher: Dispatcher,
    likely: Usage,
    cached: CachedPrompt | None,
) -> Ticket:
    """Its ticket for this model's pool, of what it is `expected` to use."""
    key, job = request.key, request.job
    continuable = request.continuable and dispatcher.continues(constrained=request.constrained)
    return Ticket(
        request.id,
        key.project.id,
        Tier.RESERVED if claim.otherwise is None else claim.otherwise,
        rank=Tier.DEFAULT if job is not None and job.raised else None,
        prompt_tokens=likely.prompt,
        width=request.width,
        weight=float(key.project.weight),
        hold_tokens=model.burndown.quota_tokens(likely),
        floor_input=model.burndown.floor_input(likely),
        floor_output=likely.output,
        continuable=continuable,
        # In a whole answer llama.cpp repeats what its caller began, in a stream it does not.
        streamed=request.stream or continuable or CONTINUES in request.body,
        size_bytes=request.size_bytes,
        holders=NOWHERE if cached is None else cached.holders,
        deadline=request.deadline_s if job is None else job.deadline_s,
    )
