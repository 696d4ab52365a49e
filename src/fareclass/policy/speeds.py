"""How fast models are at the moment, by what requests have told (R45). Pure: the time comes as an argument."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from fareclass.core.limits import SPEED_SAMPLES, SPEED_WINDOW_S
from fareclass.core.tiers import Tier

_FRESH_S = 0.5
"""For so long what was worked out is good enough."""


class Speed(NamedTuple):
    """Seconds from start to first token that 95 of 100 requests stay within, and the median of tokens a second.

    The wait in line is not in it: that is known for each moment. `tokens_per_s` is None where answers had one token.
    """

    ttft_p95_s: float
    tokens_per_s: float | None


class _Told(NamedTuple):
    at_s: float
    ttft_s: float
    tokens_per_s: float | None


class _Recent:
    """What one model's requests of one tier have told, newest last."""

    __slots__ = ("looked_s", "speed", "told")

    def __init__(self) -> None:
        self.told: deque[_Told] = deque(maxlen=SPEED_SAMPLES)
        self.speed: Speed | None = None
        self.looked_s = float("-inf")

    def look(self, now_s: float) -> Speed | None:
        if self.speed is None or now_s - self.looked_s >= _FRESH_S:
            while self.told and self.told[0].at_s <= now_s - SPEED_WINDOW_S:
                self.told.popleft()
            self.speed = _speed(self.told)
            self.looked_s = now_s
        return self.speed


class Speeds:
    """Of every model and tier what the last `SPEED_WINDOW_S` told; what is older is forgotten, and nobody knows again."""

    def __init__(self) -> None:
        self._recent: dict[tuple[str, Tier], _Recent] = {}

    def learn(self, model: str, tier: Tier, ttft_s: float, tokens_per_s: float | None, now_s: float) -> None:
        """A request has ended: so long after its start came the first token, and so fast the others."""
        recent = self._recent.get((model, tier))
        if recent is None:
            recent = self._recent[model, tier] = _Recent()
        recent.told.append(_Told(now_s, ttft_s, tokens_per_s))

    def look(self, model: str, tier: Tier, now_s: float) -> Speed | None:
        """How fast it is, None while nobody knows."""
        recent = self._recent.get((model, tier))
        return None if recent is None else recent.look(now_s)


def _speed(told: Sequence[_Told]) -> Speed | None:
    if not told:
        return None
    ttfts = sorted(one.ttft_s for one in told)
    rates = sorted(one.tokens_per_s for one in told if one.tokens_per_s is not None)
    p95 = ttfts[-(-len(ttfts) * 95 // 100) - 1]
    return Speed(p95, rates[len(rates) // 2] if rates else None)
