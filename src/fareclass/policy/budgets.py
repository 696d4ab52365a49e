"""What projects and keys may spend on demand in a day or month of UTC (R26). Pure: the time of day is an argument.

Amounts are 10⁻¹² USD, times microseconds since the epoch. An account is the id of a project or key. What ended since
the gateway's start is counted here for every account, budgeted or not; what ended before is loaded from the ledger,
once, when an account gets a budget. So nothing is counted twice, whenever that is.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

from fareclass.core.money import usd
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.snapshot import Budget
from fareclass.core.times import DAY_US

Per = Literal["day", "month"]
PERIODS: Final[tuple[Per, ...]] = ("day", "month")
BUSY_RETRY_MS: Final = 1_000
"""When to come back while only the holds of requests under way are in the way: any of them may end."""
_PATIENT_MS: Final = 60_000
"""No client library waits for longer: beyond, it is told not to try again."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAYS_KEPT: Final = 32
"""A month has 31; one more for what is counted late."""


class Limit(NamedTuple):
    """A budget that a request comes under: whose it is, as an account and in words for people."""

    account: str
    owner: str
    budget: Budget


class Spending(NamedTuple):
    """How a budget stands in its present period. `left` may be negative: what was made beyond a hold is debt."""

    spent: int
    held: int
    left: int
    renews_us: int


class Hold:
    """What is kept of some budgets for one request."""

    __slots__ = ("limits", "pico")

    def __init__(self, limits: Sequence[Limit], pico: int) -> None:
        self.limits = limits
        self.pico = pico


class _Account:
    """One project or key: its holds, and what it spent since the gateway's start, by day of UTC since the epoch."""

    __slots__ = ("days", "held")

    def __init__(self) -> None:
        self.held = 0
        self.days: dict[int, int] = {}

    def begin(self, day: int) -> None:
        """Forget the days that no period holds any more."""
        self.days = {kept: pico for kept, pico in self.days.items() if kept > day - _DAYS_KEPT}
        self.days.setdefault(day, 0)


class Budgets:
    """All accounts. Written only in the event loop, but for `load`, which replaces one reference."""

    def __init__(self, since_us: int) -> None:
        """`since_us` is the gateway's start: `load` tells what ended before."""
        self.since_us = since_us
        self._accounts: dict[str, _Account] = {}
        self._before: dict[str, dict[Per, int]] = {}

    def load(self, account: str, before: dict[Per, int]) -> None:
        """What the account spent before `since_us`, in the day and the month that `since_us` is in."""
        self._before[account] = before

    def loaded(self, account: str) -> bool:
        return account in self._before

    def hold(self, limits: Sequence[Limit], pico: int, at_us: int) -> Hold | None:
        """Keep so much of each budget, None where one has it not. What costs nothing is always let through."""
        if pico and any(self.standing(limit.account, limit.budget, at_us).left < pico for limit in limits):
            return None
        for limit in limits:
            self._account(limit.account).held += pico
        return Hold(limits, pico)

    def top_up(self, hold: Hold, pico: int, at_us: int) -> bool:
        """Keep so much more; False, and nothing changed, where a budget has it not."""
        more = self.hold(hold.limits, pico, at_us)
        if more is not None:
            hold.pico += pico
        return more is not None

    def release(self, hold: Hold) -> None:
        """The request is over: nothing is kept for it any more. Idempotent."""
        for limit in hold.limits:
            self._account(limit.account).held -= hold.pico
        hold.pico = 0

    def spend(self, account: str, pico: int, at_us: int) -> None:
        """A request that cost so much has ended; negative takes one back that was voided."""
        found, day = self._account(account), at_us // DAY_US
        if day not in found.days:
            found.begin(day)
        found.days[day] += pico

    def standing(self, account: str, budget: Budget, at_us: int) -> Spending:
        """What was spent in the period of `at_us`, and what is left beside the holds."""
        starts_us, renews_us = period(budget.per, at_us)
        found = self._accounts.get(account)
        spent, held = 0, 0
        if found is not None:
            held = found.held
            spent = sum(pico for day, pico in found.days.items() if starts_us <= day * DAY_US < renews_us)
        if self.since_us >= starts_us:
            spent += self._before.get(account, {}).get(budget.per, 0)
        return Spending(spent, held, budget.pico - spent - held, renews_us)

    def refusal(self, limits: Sequence[Limit], pico: int, at_us: int) -> Refusal:
        """Why `hold` kept nothing: the budget that will be in the way for longest."""
        short = [(self.standing(limit.account, limit.budget, at_us), limit) for limit in limits]
        short = [(standing, limit) for standing, limit in short if standing.left < pico]
        standing, limit = max(short, key=lambda each: (each[1].budget.pico - each[0].spent < pico, each[0].renews_us))
        renews = (_EPOCH + timedelta(microseconds=standing.renews_us)).strftime("%Y-%m-%dT%H:%M:%SZ")
        budget = limit.budget
        what = f"The budget of {limit.owner} is {usd(budget.pico)} USD a {budget.per}"
        needs = f"this request may cost {usd(pico)} USD"
        if pico > budget.pico:
            return _exceeded(f"{what}, and {needs}: ask for a shorter answer, or for a larger budget.", None)
        left = budget.pico - standing.spent
        if left >= pico:
            message = f"{what}. Requests under way may yet cost what is left of it: {usd(left)} USD; {needs}."
            return _exceeded(message, BUSY_RETRY_MS)
        message = f"{what}, of which {usd(max(0, left))} USD is left; {needs}. It renews at {renews}."
        return _exceeded(message, -(-(standing.renews_us - at_us) // 1_000))

    def _account(self, account: str) -> _Account:
        found = self._accounts.get(account)
        if found is None:
            found = self._accounts[account] = _Account()
        return found


def period(per: Per, at_us: int) -> tuple[int, int]:
    """The first microsecond of the day or month of UTC that `at_us` is in, and of the next one."""
    day = (_EPOCH + timedelta(microseconds=at_us)).replace(hour=0, minute=0, second=0, microsecond=0)
    if per == "day":
        return _micros(day), _micros(day + timedelta(days=1))
    first = day.replace(day=1)
    return _micros(first), _micros((first + timedelta(days=31)).replace(day=1))


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _exceeded(message: str, retry_after_ms: int | None) -> Refusal:
    can_help = retry_after_ms is not None and retry_after_ms <= _PATIENT_MS
    return Refusal(
        Outcome.THROTTLED,
        message,
        code="budget_exceeded",
        retry_after_ms=retry_after_ms,
        retry=None if can_help else False,
    )
