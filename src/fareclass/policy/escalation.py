"""When a key's next requests go as a better tier than they asked for (R40). Pure: time and day come as arguments."""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import Escalation, Key, Model
from fareclass.core.tiers import Tier

THROTTLED: Final = "throttled"
SLOW: Final = "slow"
LEAST_ANSWERS: Final = 5
"""Fewer answers in the window say nothing of the p95."""
_ANSWERS: Final = 256
"""The newest answers of a key, of which the p95 is taken."""
_ENTRIES: Final = 10_000
_OVERLOAD: Final = frozenset({Outcome.THROTTLED, Outcome.SHED, Outcome.EXPIRED})
"""What counts as a throttle: whatever says "not now", by quota or for lack of capacity."""
_OUT_OF_MONEY: Final = "budget_exceeded"
"""A throttle that no better tier helps against: it costs more."""


class Raised(NamedTuple):
    """A request that goes as `tier`, and why. `hold_pico` of the day's cap is kept for it until it ends."""

    tier: Tier
    reason: str
    hold_pico: int


class _State:
    """What a key's answers have said under one rule. A rule that was changed begins anew."""

    __slots__ = ("answers", "reason", "rule", "slow", "throttles", "until_s")

    def __init__(self, rule: Escalation) -> None:
        self.rule = rule
        self.until_s = float("-inf")
        self.reason = ""
        self.begin()

    def begin(self) -> None:
        self.throttles = self.slow = 0
        self.answers: deque[tuple[float, bool]] = deque()

    def answered(self, now_s: float, *, slow: bool) -> None:
        """Keep one answer, and those of the window."""
        self.answers.append((now_s, slow))
        self.slow += slow
        while len(self.answers) > _ANSWERS or self.answers[0][0] < now_s - self.rule.window_s:
            self.slow -= self.answers.popleft()[1]

    def due(self) -> str:
        """Why the rule fires now; empty if it does not. The p95 is slow where more than 5 % of the answers are."""
        rule, count = self.rule, len(self.answers)
        if rule.after_throttles is not None and self.throttles >= rule.after_throttles:
            return THROTTLED
        return SLOW if count >= LEAST_ANSWERS and self.slow > count // 20 else ""


class Escalator:
    """The rules of all keys at work.

    Only requests that run as a worse tier than `to` teach anything, and while a rule is in force none do: when its
    time is over it counts anew. The states of keys used least recently are forgotten beyond `entries`; what was
    spent is not.
    """

    def __init__(self, day: int, spent: Mapping[str, int], entries: int = _ENTRIES) -> None:
        """`spent` is what escalated requests of each key have cost on `day` (days since the epoch, UTC)."""
        self._entries = entries
        self._states: OrderedDict[str, _State] = OrderedDict()
        self._day = day
        self._spent = dict(spent)
        self._held: dict[str, int] = {}

    def raised(
        self, key: Key, model: Model, asked: Tier, now_s: float, day: int, price: Callable[[Tier], int]
    ) -> Raised | None:
        """Whether a request goes as the rule's tier. `price` is what it may cost there, asked only if the rule fires."""
        rule, state = key.escalation, self._states.get(key.id)
        if rule is None or state is None or state.rule != rule or now_s >= state.until_s:
            return None
        if asked <= rule.to or asked is Tier.BATCH or rule.to not in model.tiers:
            return None
        if key.allowed_tiers is not None and rule.to not in key.allowed_tiers:
            return None
        hold = price(rule.to)
        if rule.pico_per_day is not None and self._used(key.id, day) + hold > rule.pico_per_day:
            return None
        self._held[key.id] = self._held.get(key.id, 0) + hold
        return Raised(rule.to, state.reason, hold)

    def settle(self, key: str, raised: Raised, cost_pico: int, day: int) -> None:
        """An escalated request has ended: its hold becomes what it cost, on the day of its end."""
        self._roll(day)
        if held := self._held.get(key, 0) - raised.hold_pico:
            self._held[key] = held
        else:
            self._held.pop(key, None)
        if cost_pico:
            self._spent[key] = self._spent.get(key, 0) + cost_pico

    def void(self, key: str, cost_pico: int, day: int) -> None:
        """What was settled on a day costs nothing after all. What a new day has forgotten stays forgotten."""
        if day == self._day and cost_pico:
            self._spent[key] -= cost_pico

    def learn(self, key: Key, tier: Tier, outcome: Outcome, code: str, latency_ms: int, now_s: float) -> None:
        """A request of a key with a rule has ended; `tier` is the better one of those asked for and served.

        Throttles count up, an answer begins the row anew. A caller who gave up counts as an answer as slow as he had
        waited, if that was too slow already. Faults and mistakes say nothing.
        """
        rule = key.escalation
        if rule is None or tier <= rule.to or tier is Tier.BATCH or code == _OUT_OF_MONEY:
            return
        state = self._state(key.id, rule)
        if now_s < state.until_s:
            return
        slow = rule.slower_than_ms is not None and latency_ms > rule.slower_than_ms
        if outcome in _OVERLOAD:
            state.throttles += 1
        elif outcome is Outcome.COMPLETED:
            state.throttles = 0
        if outcome is Outcome.COMPLETED or (outcome is Outcome.CANCELLED and slow):
            state.answered(now_s, slow=slow)
        if reason := state.due():
            state.reason, state.until_s = reason, now_s + rule.for_s
            state.begin()

    def _state(self, key: str, rule: Escalation) -> _State:
        state = self._states.get(key)
        if state is None or state.rule != rule:
            state = self._states[key] = _State(rule)
        self._states.move_to_end(key)
        while len(self._states) > self._entries:
            self._states.popitem(last=False)
        return state

    def _used(self, key: str, day: int) -> int:
        self._roll(day)
        return self._spent.get(key, 0) + self._held.get(key, 0)

    def _roll(self, day: int) -> None:
        """A new day. What ends around midnight in another order than it is noted counts on the new one."""
        if day > self._day or day < self._day - 1:
            self._day = day
            self._spent.clear()
