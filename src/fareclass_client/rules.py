"""When the next requests go as a better tier, and what that may cost in a day (R40)."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

_ANSWERS: Final = 256
"""The newest answers, of which the p95 is taken."""
_PICO: Final = 10**12
_DAY_S: Final = 86_400


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Send requests as `to` for `for_s` after so many throttles (429, 503) in a row, or slow answers.

    Slow is a p95 over the last `window_s` beyond `slower_than_s`, where one answer is enough: the time until the
    first event of a stream, or until the whole of any other answer. None switches a trigger off. Only requests whose
    tier is one of `from_tiers` are raised or counted; one without a tier is `auto`.

    `usd_per_day` caps what raised requests cost in a day of UTC, by `usd_per_million`: the prices of a million tokens
    of input and of output at tier `to`. It is counted in this process, from its start.

    Raises:
        ValueError: no trigger, a number out of range, or a cap without prices.
    """

    to: str = "priority"
    for_s: float = 60.0
    after_throttles: int | None = 2
    slower_than_s: float | None = 5.0
    window_s: float = 300.0
    from_tiers: frozenset[str] = frozenset({"auto", "default", "flex"})
    usd_per_day: Decimal | str | None = None
    usd_per_million: tuple[Decimal | str, Decimal | str] | None = None
    prices: tuple[int, int] = field(init=False, default=(0, 0))
    """10⁻¹² USD a token of input and output."""
    pico_per_day: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Check, and turn money into integers."""
        if self.after_throttles is None and self.slower_than_s is None:
            raise ValueError("rules need after_throttles, slower_than_s or both")
        for name in ("after_throttles", "slower_than_s", "for_s", "window_s"):
            if (number := getattr(self, name)) is not None and not number > 0:
                raise ValueError(f"{name} must be more than 0")
        if self.usd_per_day is None:
            return
        if self.usd_per_million is None:
            raise ValueError("usd_per_day needs usd_per_million: the prices of input and output at the better tier")
        price_in, price_out = map(Decimal, self.usd_per_million)
        object.__setattr__(self, "prices", (_whole(price_in * 1_000_000), _whole(price_out * 1_000_000)))
        object.__setattr__(self, "pico_per_day", _whole(Decimal(self.usd_per_day) * _PICO))

    def cost(self, input_tokens: int, output_tokens: int) -> int:
        """In 10⁻¹² USD; 0 where there is no cap."""
        return input_tokens * self.prices[0] + output_tokens * self.prices[1]


class Escalation:
    """Rules at work, for any number of threads."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._lock = threading.Lock()
        self._until_s = self._off_until_s = float("-inf")
        self._throttles = self._slow = 0
        self._answers: deque[tuple[float, bool]] = deque()
        self._day = self._spent = self._held = 0

    def take(self, hold_pico: int) -> bool:
        """Whether a request that may cost so much goes as the better tier. If so, `settle` must follow."""
        with self._lock:
            now_s = time.monotonic()
            if not self._off_until_s <= now_s < self._until_s:
                return False
            self._roll()
            cap = self.rules.pico_per_day
            if cap is not None and self._spent + self._held + hold_pico > cap:
                return False
            self._held += hold_pico
            return True

    def settle(self, hold_pico: int, cost_pico: int) -> None:
        """A raised request has ended, at this cost."""
        with self._lock:
            self._roll()
            self._held -= hold_pico
            self._spent += cost_pico

    def refused(self) -> None:
        """The better tier is not for this caller: leave it alone for a while."""
        with self._lock:
            self._off_until_s = time.monotonic() + self.rules.for_s

    def throttled(self) -> None:
        with self._lock:
            self._throttles += 1
            self._fire()

    def answered(self, seconds: float) -> None:
        with self._lock:
            self._throttles = 0
            limit, now_s = self.rules.slower_than_s, time.monotonic()
            slow = limit is not None and seconds > limit
            self._answers.append((now_s, slow))
            self._slow += slow
            while len(self._answers) > _ANSWERS or self._answers[0][0] < now_s - self.rules.window_s:
                self._slow -= self._answers.popleft()[1]
            self._fire()

    def _fire(self) -> None:
        """What comes in while the rules are in force teaches nothing: after it they count anew."""
        now_s = time.monotonic()
        often = self.rules.after_throttles is not None and self._throttles >= self.rules.after_throttles
        if now_s >= self._until_s and (often or self._slow > len(self._answers) // 20):
            self._until_s = now_s + self.rules.for_s
        if now_s < self._until_s:
            self._throttles = self._slow = 0
            self._answers.clear()

    def _roll(self) -> None:
        day = int(time.time()) // _DAY_S
        if day != self._day:
            self._day, self._spent = day, 0


def _whole(pico: Decimal) -> int:
    if not (pico.is_finite() and pico >= 0 and pico == pico.to_integral_value()):
        raise ValueError("amounts in USD must be 0 or more, with at most 12 decimals (6 for prices)")
    return int(pico)
