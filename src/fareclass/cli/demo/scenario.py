"""Who sends what when, on the demo's day: pure, the same for the same seed.

The day begins at six in the morning, so that its evening and its night come last. Only the pattern of arrivals is
squeezed: rates are real requests a second, waits and speeds are those of the fleet.
"""

import random
from collections.abc import Iterator
from itertools import pairwise

from msgspec import Struct

HOURS = 24
DAWN = 6
"""The hour at which the day begins."""
DEADLINE = (18.0, 24.0)
"""The hours before the tax returns are due."""
SPIKES = ((12.0, 13.0), (17.0, 18.0))
"""When people bring their checks: at lunch and after work."""
RUNAWAY = (14.0, 16.0)
"""When an agent runs in a circle."""
NIGHT = 22.0
"""The hour at which the night's batch is handed in."""

LARGE, SMALL = "atlas-70b", "sparrow-8b"
FLOOR_RPS = 4
"""Requests a second that the tax product's floor is made for."""
BATCH_LINES_PER_MINUTE = 70
"""Lines of the night's batch for each minute that the day takes."""
FEWEST_LINES = 20


class Ask(Struct, frozen=True, kw_only=True):
    """What all requests of one caller look like. `cached_words` are the same in each of them, and come first."""

    model: str
    tier: str
    words: int
    max_tokens: int
    cached_words: int = 0


class Actor(Struct, frozen=True, kw_only=True):
    """One product: its project, what it asks, and how often. `rates`: (from this hour on, requests a second)."""

    project: str
    what: str
    workload: str
    shape: str
    ask: Ask
    rates: tuple[tuple[float, float], ...]

    def rate(self, hour: float) -> float:
        """Requests a second at this hour, which may be beyond 24: then it is the next morning."""
        return next((rate for begin, rate in reversed(self.rates) if hour >= begin), 0.0)


class Send(Struct, frozen=True, kw_only=True):
    """One request: when after the start, in seconds, whose, and its number among that actor's."""

    at_s: float
    actor: Actor
    number: int


TAX = Actor(
    project="Ledgerly",
    what="tax returns",
    workload="tax-season",
    shape="seasonal",
    ask=Ask(model=LARGE, tier="reserved", words=300, max_tokens=60),
    rates=((6, 1.0), (9, 3.0), (DEADLINE[0], 3.0 * FLOOR_RPS), (DEADLINE[1], 0.3)),
)
BANK = Actor(
    project="Tillbank",
    what="check deposits",
    workload="check-deposit",
    shape="spiky-critical",
    ask=Ask(model=LARGE, tier="priority", words=500, max_tokens=40),
    rates=((6, 0.5), (SPIKES[0][0], 8.0), (SPIKES[0][1], 0.7), (SPIKES[1][0], 8.0), (SPIKES[1][1], 0.5), (22, 0.2)),
)
CODE = Actor(
    project="Codewren",
    what="code helpers",
    workload="code-help",
    shape="steady",
    ask=Ask(model=LARGE, tier="default", words=60, max_tokens=60, cached_words=1_500),
    rates=((6, 0.5), (9, 4.0), (18, 1.5), (23, 0.3)),
)
QUICK = Actor(
    project="Codewren",
    what="completions",
    workload="code-help",
    shape="steady",
    ask=Ask(model=SMALL, tier="default", words=120, max_tokens=24),
    rates=((6, 1.0), (9, 6.0), (18, 2.0), (23, 0.5)),
)
AGENTS = Actor(
    project="Foragers",
    what="agents",
    workload="agents",
    shape="spiky-tolerant",
    ask=Ask(model=LARGE, tier="flex", words=400, max_tokens=120),
    rates=((6, 2.0), (RUNAWAY[0], 12.0), (RUNAWAY[1], 1.2), (DEADLINE[0], 0.4), (DEADLINE[1], 1.2)),
)
NIGHTLY = Actor(
    project="Nightscribe",
    what="the nightly batch",
    workload="nightly",
    shape="offline",
    ask=Ask(model=LARGE, tier="batch", words=200, max_tokens=100),
    rates=(),
)
CAST = (TAX, BANK, CODE, QUICK, AGENTS, NIGHTLY)


def day_s(minutes: float) -> float:
    """How long the day takes, in seconds."""
    return minutes * 60


def at_s(hour: float, minutes: float) -> float:
    """When an hour of the day comes, in seconds after the start."""
    return (hour - DAWN) / HOURS * day_s(minutes)


def hour_at(seconds: float, minutes: float) -> float:
    """The hour of the day after so many seconds; from 24 on it is the next morning."""
    return DAWN + seconds / day_s(minutes) * HOURS


def clock(hour: float) -> str:
    """An hour as a clock shows it."""
    in_minutes = int(hour * 60 + 1e-6) % (HOURS * 60)
    return f"{in_minutes // 60:02d}:{in_minutes % 60:02d}"


def day(minutes: float, seed: int) -> list[Send]:
    """All requests but the batch, in the order of time: each actor's arrivals are random (Poisson) at its rate."""
    sends = [send for place, actor in enumerate(CAST) for send in _arrivals(actor, minutes, f"{seed}/{place}")]
    return sorted(sends, key=lambda send: send.at_s)


def _arrivals(actor: Actor, minutes: float, seed: str) -> Iterator[Send]:
    draw = random.Random(seed)  # noqa: S311 - no secret: the same day comes again
    number = 0
    turns = [*(begin for begin, _ in actor.rates), DAWN + HOURS]
    for begin, end in pairwise(turns):
        rate, until_s = actor.rate(begin), at_s(end, minutes)
        now_s = at_s(begin, minutes) + draw.expovariate(rate)
        while now_s < until_s:
            yield Send(at_s=now_s, actor=actor, number=number)
            number += 1
            now_s += draw.expovariate(rate)


def batch_lines(minutes: float) -> int:
    """Lines of the night's batch."""
    return max(FEWEST_LINES, round(BATCH_LINES_PER_MINUTE * minutes))


def body(actor: Actor, number: int) -> dict[str, object]:
    """A chat request. A word is one token of the simulated engine; none but the cached ones come twice."""
    ask = actor.ask
    messages: list[dict[str, object]] = []
    if ask.cached_words:
        handbook = {
            "type": "text",
            "text": _words(f"{actor.project} handbook", ask.cached_words),
            "cache_control": {"type": "ephemeral"},
        }
        messages.append({"role": "system", "content": [handbook]})
    messages.append({"role": "user", "content": _words(f"{actor.what} {number}", ask.words)})
    fields = {"model": ask.model, "max_tokens": ask.max_tokens, "messages": messages}
    return fields if ask.tier == "batch" else {**fields, "service_tier": ask.tier, "stream": True}


def _words(seed: str, count: int) -> str:
    draw = random.Random(seed)  # noqa: S311 - no secret
    return " ".join(f"{draw.getrandbits(28):07x}" for _ in range(count))


def floor() -> tuple[int, int]:
    """The tax product's floor: input and output tokens a minute."""
    per_minute = FLOOR_RPS * 60
    return per_minute * (TAX.ask.words + 10), per_minute * TAX.ask.max_tokens
