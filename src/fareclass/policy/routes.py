"""Which model of a route serves a request (R45). Pure: all that is known of each model comes as an `Option`."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from fareclass.core.snapshot import Route, RouteRule
from fareclass.core.tiers import Tier
from fareclass.policy.speeds import Speed

ADVANTAGE: Final = 1.2
"""So many times faster another model must be than the one picked last to be picked for its speed."""
_UNKNOWN: Final = 1.0
"""How far a model is off whose speed nobody knows: behind those within the limits, before those beyond."""
_PER_1M: Final = 1_000_000


class Option(NamedTuple):
    """What one model could do for a request now.

    `tier` would serve it there. `quality` is as declared. The request would cost `pico` there (10⁻¹² USD) for `tokens` in all, `output` of them
    made by each sequence, after `wait_s` in line. `speed` None: nobody knows it, and `due` whether this request may
    find out. `serves`: a replica is up, the wait is within the tier's limit, and the prompt fits. `room`: a request
    that asked for reserved fits into the floor there now.
    """

    model: str
    tier: Tier
    quality: float | None
    pico: int
    tokens: int
    output: int
    wait_s: float
    speed: Speed | None
    due: bool = False
    serves: bool = True
    room: bool = True


class Pick(NamedTuple):
    """A model, and the wishes of the rule that it does not meet."""

    model: str
    missed: tuple[str, ...] = ()


def rule_for(route: Route, tier: Tier, workload: str) -> RouteRule:
    """The rule that is in force for requests of this tier (as requested) and workload."""
    return route.by_workload.get(workload) or route.by_tier.get(tier) or route.rule


def wall(rule: RouteRule, option: Option) -> str | None:
    """The limit that this model may not be taken against, None where it may be taken."""
    if rule.quality_min is not None and (option.quality is None or option.quality < rule.quality_min):
        return "quality_min"
    limit = rule.pico_per_1m_max
    if limit is not None and option.pico * _PER_1M > limit * option.tokens:
        return "usd_per_1m_max"
    return None


def order(rule: RouteRule, options: Sequence[Option], last: str = "") -> list[Pick]:
    """Models in the order in which they are to be tried; those behind a wall are not in it.

    First those that serve now, of those the ones with room in the floor that was asked for, of those the ones that
    meet the wishes, else the nearest; then as the rule orders, the cheaper and then the one named first where that
    says nothing. `last` is what was picked the time before: it stays the fastest until another is so by `ADVANTAGE`.
    """
    allowed = [(place, option) for place, option in enumerate(options) if wall(rule, option) is None]
    allowed.sort(
        key=lambda each: (
            not each[1].serves,
            not each[1].room,
            off(rule, each[1]),
            _axis(rule, each[1], last),
            each[1].pico,
            each[0],
        )
    )
    return [Pick(option.model, tuple(name for name, _ in _beyond(rule, option))) for _, option in allowed]


def off(rule: RouteRule, option: Option) -> float:
    """How far a model is from what is wished: 0 if it meets it all, else the worst, as a multiple of the limit."""
    if rule.ttft_p95_ms_max is None and rule.tokens_per_s_min is None:
        return 0.0
    known = option.speed is not None or option.due
    return max((times for _, times in _beyond(rule, option)), default=0.0 if known else _UNKNOWN)


def seconds(option: Option) -> float | None:
    """How long the whole answer is expected to take; None while nobody knows the model's speed."""
    if option.speed is None:
        return None
    rate = option.speed.tokens_per_s
    return option.wait_s + option.speed.ttft_p95_s + (option.output / rate if rate else 0.0)


def _axis(rule: RouteRule, option: Option, last: str) -> float:
    if rule.order_by == "cost":
        return option.pico
    if rule.order_by == "quality":
        return -(option.quality or 0.0)
    known = seconds(option)
    if known is None:
        return 0.0 if option.due else float("inf")
    return known if option.model == last else known * ADVANTAGE


def _beyond(rule: RouteRule, option: Option) -> Iterator[tuple[str, float]]:
    """Each wish that is known not to be met, and how far it is off: more than 1. The wait in line is always known."""
    ttft_p95_s, rate = option.speed or (0.0, None)
    limit_ms, least = rule.ttft_p95_ms_max, rule.tokens_per_s_min
    if limit_ms is not None and (ttft_ms := (option.wait_s + ttft_p95_s) * 1000) > limit_ms:
        yield "ttft_p95_ms_max", ttft_ms / limit_ms
    if least is not None and rate is not None and rate < least:
        yield "tokens_per_s_min", least / max(rate, 1e-9)
