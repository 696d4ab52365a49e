"""What every tier got in a replay: counted as requests end, so that memory does not grow with their number."""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from fareclass.core.capacity import MICRO
from fareclass.core.money import usd
from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import PriceBook
from fareclass.core.tiers import TIERS, Tier
from fareclass.core.usage import Usage
from fareclass.metering.pricing import cost
from fareclass.planner.job import Job

_BITS = 9
"""Of a value the first so many are kept: less than 0.4 % are lost."""


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """Of one measure: nearest ranks, less than 0.4 % off."""

    p50: float
    p95: float
    p99: float


class TierResult(msgspec.Struct, kw_only=True):
    """What became of the requests that asked for one tier; each ended in exactly one outcome.

    `spilled` are those of a reservation that its floor had no room for (R21), whatever became of them. Times are in
    milliseconds, `output_tokens_s` of each answer once it had begun; None where nothing ran. `slot_share` is the part
    of all slots' time that they ran. `cost` is in USD at the served tiers' prices, without fees of reservations.
    """

    tier: str
    requests: int
    completed: int
    throttled: int
    shed: int
    expired: int
    invalid: int
    forbidden: int
    spilled: int
    queue_ms: Quantiles | None
    ttft_ms: Quantiles | None
    whole_ms: Quantiles | None
    output_tokens_s: Quantiles | None
    pauses: int
    restarts: int
    longest_pause_ms: float
    input: int
    cache_read: int
    output: int
    slot_share: float
    cost: str


class ModelResult(msgspec.Struct, kw_only=True):
    """One pool in a replay. `seconds` of the trace's time passed, `used_share` of all slots' time was used.

    `fees` are those of its reservations for that time, in USD (R18); `kept_share` is the least of their floors that was
    kept, below 1 where they are more than fits (R19, R23).
    """

    model: str
    seconds: float
    slots: int
    used_share: float
    fees: str
    kept_share: float
    tiers: list[TierResult]


class Histogram:
    """Counts of whole numbers from 0, each kept by its first nine bits."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, value: int) -> None:
        shift = value.bit_length() - _BITS
        self._counts[value if shift <= 0 else value >> shift << shift] += 1

    def quantiles(self, shares: Sequence[float]) -> list[int] | None:
        """The value that each share of all stays at or below; None if there are none."""
        found: list[int] = []
        total, passed = self._counts.total(), 0
        ranks = [max(1, -int(-share * total // 1)) for share in shares]
        for value in sorted(self._counts):
            passed += self._counts[value]
            while len(found) < len(ranks) and passed >= ranks[len(found)]:
                found.append(value)
        return found if total else None


class Tally:
    """Counts the jobs that asked for one tier."""

    def __init__(self, book: PriceBook) -> None:
        self._book = book
        self._outcomes: Counter[Outcome] = Counter()
        self._queue_us, self._ttft_us, self._whole_us, self._rate = (Histogram() for _ in range(4))
        self._spilled = self._pauses = self._restarts = self._longest_us = self._pico = 0
        self._input = self._cache_read = self._output = 0
        self.busy_us = 0

    def count(self, job: Job, outcome: Outcome) -> None:
        """It has ended so."""
        self._outcomes[outcome] += 1
        self._spilled += job.served is not job.tier
        self.busy_us += job.busy_us
        if job.pauses or job.restarts:
            self._pauses += job.pauses
            self._restarts += job.restarts
            self._longest_us = max(self._longest_us, *job.gaps, 0)
        if job.sent_us is not None:
            self._queue_us.add(job.sent_us - job.arrival_us)
        if job.first_us is not None:
            self._used(job)

    def _used(self, job: Job) -> None:
        assert job.first_us is not None
        self._ttft_us.add(job.first_us - job.arrival_us)
        fresh = job.prompt - job.cache_read
        self._input += fresh
        self._cache_read += job.cache_read
        self._output += job.delivered
        used = Usage(input=fresh, cache_read=job.cache_read, output=job.delivered)
        self._pico += cost(self._book, job.served, used)
        if job.whole_us is not None:
            self._whole_us.add(job.whole_us - job.arrival_us)
            if job.whole_us > job.first_us:
                self._rate.add((job.output - 1) * 1_000_000_000 // (job.whole_us - job.first_us))

    def result(self, tier: Tier, slots_us: int) -> TierResult:
        """All of it; `slots_us` is the time that all slots had."""
        kinds = {outcome: self._outcomes[outcome] for outcome in Outcome}
        return TierResult(
            tier=tier.word,
            requests=self._outcomes.total(),
            completed=kinds[Outcome.COMPLETED],
            throttled=kinds[Outcome.THROTTLED],
            shed=kinds[Outcome.SHED],
            expired=kinds[Outcome.EXPIRED],
            invalid=kinds[Outcome.INVALID],
            forbidden=kinds[Outcome.FORBIDDEN],
            spilled=self._spilled,
            queue_ms=_quantiles(self._queue_us),
            ttft_ms=_quantiles(self._ttft_us),
            whole_ms=_quantiles(self._whole_us),
            output_tokens_s=_quantiles(self._rate),
            pauses=self._pauses,
            restarts=self._restarts,
            longest_pause_ms=self._longest_us / 1_000,
            input=self._input,
            cache_read=self._cache_read,
            output=self._output,
            slot_share=self.busy_us / slots_us if slots_us else 0.0,
            cost=usd(self._pico),
        )


def model_result(
    model: str, tallies: Mapping[Tier, Tally], *, end_us: int, slots: int, busy_us: int, fee_pico: int, kept_ppm: int
) -> ModelResult:
    """What one pool came to; tiers that nobody asked for are left out."""
    results = [tallies[tier].result(tier, end_us * slots) for tier in TIERS if tier in tallies]
    return ModelResult(
        model=model,
        seconds=end_us / 1_000_000,
        slots=slots,
        used_share=busy_us / (end_us * slots) if end_us else 0.0,
        fees=usd(fee_pico),
        kept_share=kept_ppm / MICRO,
        tiers=[result for result in results if result.requests],
    )


def _quantiles(of: Histogram) -> Quantiles | None:
    """In thousandths of what was counted: microseconds as milliseconds, tokens per 1,000 s as tokens a second."""
    found = of.quantiles((0.5, 0.95, 0.99))
    return None if found is None else Quantiles(p50=found[0] / 1e3, p95=found[1] / 1e3, p99=found[2] / 1e3)
