"""Escalation at a request's two ends: its tier on the way in, what it teaches on the way out (R40)."""

import asyncio

from fareclass.core.events import Finished
from fareclass.core.request import Request
from fareclass.core.snapshot import Key, Model, PriceBook
from fareclass.core.tiers import Tier
from fareclass.core.times import DAY_US
from fareclass.core.usage import Usage
from fareclass.flow.clock import now_us
from fareclass.metering.pricing import cost
from fareclass.policy.escalation import Escalator, Raised
from fareclass.policy.estimate import Estimator
from fareclass.policy.tiers import Claim


class Escalations:
    """Asked only for keys that have a rule."""

    def __init__(self, escalator: Escalator, estimator: Estimator) -> None:
        self._escalator = escalator
        self._estimator = estimator

    def raised(self, request: Request, model: Model, claim: Claim, book: PriceBook) -> Raised | None:
        """Whether this request goes as a better tier. One that claims a floor never does.

        Of the day's cap as much is held as it may cost by its `max_tokens`; without that, by the output to expect.
        """
        if claim.claims:
            return None

        def price(tier: Tier) -> int:
            output = request.max_tokens
            if output is None:
                output = self._estimator.output_tokens(request.key.project.id, model, None)
            prompt = self._estimator.prompt_tokens(model.name, request.prompt_bytes)
            return cost(book, tier, Usage(input=prompt * request.width, output=output * request.width))

        now_s, day = asyncio.get_running_loop().time(), request.arrived_us // DAY_US
        return self._escalator.raised(request.key, model, claim.requested, now_s, day, price)

    def lower(self, key: Key, raised: Raised) -> None:
        """A request that was raised goes as it asked for all the same."""
        self._escalator.settle(key.id, raised, 0, now_us() // DAY_US)

    def void(self, entry: Finished) -> None:
        """What escalated and has ended turned out not to be billed."""
        self._escalator.void(entry.key, entry.cost_pico, entry.ended_us // DAY_US)

    def ended(self, key: Key, raised: Raised | None, entry: Finished) -> None:
        """A request of a key with a rule has ended. What it cost counts on the day of its end."""
        if raised is not None:
            self._escalator.settle(key.id, raised, entry.cost_pico, entry.ended_us // DAY_US)
        first_us = entry.first_token_us if entry.streamed else None
        latency_ms = ((first_us or entry.ended_us) - entry.arrived_us) // 1000
        now_s = asyncio.get_running_loop().time()
        tier = min(entry.requested_tier, entry.served_tier)
        self._escalator.learn(key, tier, entry.outcome, entry.code, latency_ms, now_s)
