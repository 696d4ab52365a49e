"""What became of the demo's requests, as its callers saw it: pure counting."""

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal

from msgspec import Struct

_REFUSED = 429
_SERVED = 200


class Done(Struct, frozen=True, kw_only=True):
    """One request that is over. `hour` is when it was sent; `status` 0 if the gateway could not be reached.

    `ttft_ms` is from sending it to the first piece of the answer, None where that never came; `whole`: it came to its end.
    """

    project: str
    hour: float
    requested: str
    served: str
    status: int
    queue_ms: int = 0
    ttft_ms: float | None = None
    whole: bool = False


class Books(Struct, frozen=True, kw_only=True):
    """What the gateway has of one served tier since the start: pauses of answers, tokens read from caches, cost in USD."""

    pauses: int = 0
    cache_read: int = 0
    usd: Decimal = Decimal(0)


class Tally:
    """All that is over. `sent` counts what was sent, by requested tier; `books` are the gateway's, by served tier."""

    def __init__(self) -> None:
        self.done: list[Done] = []
        self.sent: dict[str, int] = {}
        self.books: dict[str, Books] = {}
        self.batch_lines = self.batch_done = 0

    def send(self, tier: str) -> None:
        """A request goes out."""
        self.sent[tier] = self.sent.get(tier, 0) + 1

    def of(
        self,
        project: str | None = None,
        hours: tuple[float, float] = (-math.inf, math.inf),
        requested: str | None = None,
        served: str | None = None,
    ) -> list[Done]:
        """Those of a project, sent from one hour to before another, of a requested or served tier."""
        return [
            one
            for one in self.done
            if hours[0] <= one.hour < hours[1]
            and project in {None, one.project}
            and requested in {None, one.requested}
            and served in {None, one.served}
        ]


def answered(found: Iterable[Done]) -> list[Done]:
    """Those that got their whole answer."""
    return [one for one in found if one.whole]


def cut(found: Iterable[Done]) -> int:
    """How many were served, but not to their end."""
    return sum(one.status == _SERVED and not one.whole for one in found)


def throttled(found: Iterable[Done]) -> int:
    """How many were refused for a limit of their own (429); flex that found no room in time is none of them."""
    return sum(one.status == _REFUSED for one in found)


def shed(found: Iterable[Done]) -> int:
    """How many found no room, or no gateway."""
    return sum(one.status not in {_SERVED, _REFUSED} for one in found)


def ttfts(found: Iterable[Done]) -> list[float]:
    """Times to the first token, in ms."""
    return [one.ttft_ms for one in found if one.ttft_ms is not None]


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest of the values that so large a share of them does not exceed; None of none."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def seconds(value_ms: float | None) -> str:
    """Milliseconds as people read them."""
    if value_ms is None:
        return "–"
    return f"{value_ms:.0f} ms" if value_ms < 1_000 else f"{value_ms / 1_000:.1f} s"


def spread(values: Sequence[float]) -> str:
    """Half of them, and 99 of 100, take no longer: p50 and p99."""
    if not values:
        return "none yet"
    return f"{seconds(percentile(values, 0.5))} / {seconds(percentile(values, 0.99))}"
