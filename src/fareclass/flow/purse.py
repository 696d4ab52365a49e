"""A request's money on its way: what is held of its budgets, topped up while its answer grows, and settled (R26)."""

from typing import Final

from fareclass.core.events import Finished
from fareclass.core.request import Request
from fareclass.core.snapshot import Model, PriceBook, Snapshot
from fareclass.core.tiers import Tier
from fareclass.core.usage import KINDS, Usage
from fareclass.metering.pricing import cost
from fareclass.policy.budgets import Budgets, Hold, Limit
from fareclass.policy.estimate import Estimator
from fareclass.sched.ticket import Ticket

TOP_UP_TOKENS: Final = 256
_OUTPUT: Final = KINDS.index("output")
_UNCACHED: Final = [KINDS.index(kind) for kind in ("input", "cache_write_5m", "cache_write_1h")]
_EVER: Final = 2**62
"""Tokens that what costs nothing is paid for."""


class Purse:
    """What is held for one request. `cap_tokens` is the output per sequence that it must stay within if it can't be
    topped up, None where the hold is for all that it may make.
    """

    __slots__ = ("_book", "_budgets", "_hold", "_most", "_tier", "cap_tokens")

    def __init__(
        self, budgets: Budgets, hold: Hold, book: PriceBook, tier: Tier, most: int | None, cap_tokens: int | None
    ) -> None:
        self._budgets = budgets
        self._hold = hold
        self._book = book
        self._tier = tier
        self._most = most
        self.cap_tokens = cap_tokens

    def paid_tokens(self, usage: Usage, now_us: int) -> int | None:
        """How much more output the hold is good for, after a top-up where this usage is beyond it; None if that did not fit."""
        rate = self._book.rates[self._tier][_OUTPUT]
        left = self._hold.pico - cost(self._book, self._tier, usage)
        if left < 0:
            to_come = TOP_UP_TOKENS if self._most is None else self._most - usage.output
            more = min(TOP_UP_TOKENS, to_come if to_come > 0 else TOP_UP_TOKENS) * rate
            if not self._budgets.top_up(self._hold, more - left, now_us):
                return None
            left = more
        return left // rate if rate else _EVER

    def close(self) -> None:
        """The request has ended, or never began. Idempotent."""
        self._budgets.release(self._hold)


class Purses:
    """The two ends of a request's way: its hold at admission, its cost when it has ended."""

    def __init__(self, budgets: Budgets, estimator: Estimator) -> None:
        self._budgets = budgets
        self._estimator = estimator

    def open(
        self,
        snapshot: Snapshot,
        book: PriceBook,
        request: Request,
        model: Model,
        ticket: Ticket,
        *,
        writes: bool,
        now_us: int,
    ) -> Purse | None:
        """Hold what it may cost at most, or, where that does not fit, what it will probably cost; None without a budget.

        `writes`: parts of its prompt may be billed as written to a cache.

        Raises:
            Refusal: neither fits.
        """
        limits = _limits(snapshot, request)
        if not limits or ticket.tier is Tier.RESERVED:
            return None
        width = request.width
        rates = book.rates[ticket.tier]
        prompt = ticket.prompt_tokens * max(rates[kind] for kind in (_UNCACHED if writes else _UNCACHED[:1]))
        bound = _most_tokens(request, model, ticket.prompt_tokens // width)
        most = None if bound is None else bound * width
        if most is not None:
            hold = self._budgets.hold(limits, prompt + most * rates[_OUTPUT], now_us)
            if hold is not None:
                return Purse(self._budgets, hold, book, ticket.tier, most, None)
        learned = self._estimator.likely_output_tokens(request.key.project.id, model.name)
        likely = min(model.max_tokens_default, TOP_UP_TOKENS) if learned is None else max(1, learned)
        likely = likely if bound is None else min(likely, bound)
        pico = prompt + likely * width * rates[_OUTPUT]
        hold = self._budgets.hold(limits, pico, now_us)
        if hold is None:
            raise self._budgets.refusal(limits, pico, now_us)
        return Purse(self._budgets, hold, book, ticket.tier, most, likely)

    def settle(self, purse: Purse | None, entry: Finished) -> None:
        """The request has ended: what it cost counts in the period of its end, and its hold is given back."""
        if purse is not None:
            purse.close()
        self._spend(entry, entry.cost_pico)

    def void(self, entry: Finished) -> None:
        """An entry that was settled turned out not to be billed."""
        self._spend(entry, -entry.cost_pico)

    def _spend(self, entry: Finished, pico: int) -> None:
        if pico and entry.served_tier is not Tier.RESERVED:
            self._budgets.spend(entry.project, pico, entry.ended_us)
            self._budgets.spend(entry.key, pico, entry.ended_us)


def _limits(snapshot: Snapshot, request: Request) -> list[Limit]:
    key = request.key
    limits = []
    if (budget := snapshot.project_budgets.get(key.project.id)) is not None:
        limits.append(Limit(key.project.id, f"project {key.project.name!r}", budget))
    if (budget := snapshot.key_budgets.get(key.id)) is not None:
        limits.append(Limit(key.id, f"key {key.name!r}", budget))
    return limits


def _most_tokens(request: Request, model: Model, prompt_tokens: int) -> int | None:
    """What one sequence may have of output at most, None if nothing bounds it."""
    room = None if model.context_tokens is None else max(0, model.context_tokens - prompt_tokens)
    bounds = [bound for bound in (request.max_tokens, room) if bound is not None]
    return min(bounds) if bounds else None
