"""What each way to buy would have meant in waits and refusals: busy traffic through the same scheduler (R44)."""

from collections.abc import Sequence

from msgspec import structs

from fareclass.core.limits import PLAN_REPLAYED, PLAN_SAMPLE, PLAN_SAMPLE_LEAST
from fareclass.core.snapshot import Hours, Reservation, Window
from fareclass.core.tiers import Tier
from fareclass.planner.advice import Waits
from fareclass.planner.cost import WEEK_H, Floor
from fareclass.planner.plan import CURVE
from fareclass.planner.pools import Pool
from fareclass.planner.replay import replay
from fareclass.planner.trace import Arrival

_WAYS = len(CURVE) + 5
_HOUR_MINUTES = 60


class Replayed:
    """Replays one sample of a pool's traffic again and again, with the project's part of it bought another way."""

    def __init__(self, pool: Pool, project: str, sample: Sequence[Arrival]) -> None:
        self._pool, self._project, self._sample = pool, project, sample
        self._known: dict[tuple[Tier, Floor], Waits | None] = {}

    def __call__(self, tier: Tier, floor: Floor) -> Waits | None:
        """What the project's requests would have met at this tier, or reserved with this floor; None without any."""
        reserved = bool(floor.input_tpm or floor.output_tpm)
        key = Tier.RESERVED if reserved else tier, floor
        if key not in self._known:
            self._known[key] = self._run(*key)
        return self._known[key]

    def _run(self, tier: Tier, floor: Floor) -> Waits | None:
        mine = [
            structs.replace(one, tier=tier) if one.project == self._project and one.tier is not Tier.BATCH else one
            for one in self._sample
        ]
        floors = [_reservation(self._project, self._pool.model, floor)] if tier is Tier.RESERVED else []
        found = replay(
            mine, {self._pool.model: self._pool}, model=self._pool.model, reservations=floors, project=self._project
        )
        row = next((one for result in found for one in result.tiers if one.tier == tier.word), None)
        if row is None:
            return None
        return Waits(
            requests=row.requests,
            ttft_p50_ms=None if row.ttft_ms is None else row.ttft_ms.p50,
            ttft_p99_ms=None if row.ttft_ms is None else row.ttft_ms.p99,
            queue_p99_ms=None if row.queue_ms is None else row.queue_ms.p99,
            refused_share=round((row.throttled + row.shed + row.expired) / row.requests, 4),
        )


def sample_size(plans: int) -> int:
    """How many requests each replay of so many plans may have; 0 where that would say nothing."""
    size = min(PLAN_SAMPLE, PLAN_REPLAYED // (_WAYS * max(1, plans)))
    return size if size >= PLAN_SAMPLE_LEAST else 0


def _reservation(project: str, model: str, floor: Floor) -> Reservation:
    hours = None if floor.hours is None else Hours(tz="UTC", weekly=_windows(floor.hours))
    return Reservation(
        id="plan",
        project=project,
        model=model,
        input_tpm=floor.input_tpm,
        output_tpm=floor.output_tpm,
        overflow=Tier.DEFAULT,
        starts_us=-(2**62),
        hours=hours,
    )


def _windows(hours: frozenset[int]) -> tuple[Window, ...]:
    """Each hour of the week by itself: they touch, and that is allowed."""
    return tuple(
        Window((hour // 24,), hour % 24 * _HOUR_MINUTES, (hour % 24 + 1) * _HOUR_MINUTES)
        for hour in range(WEEK_H)
        if hour in hours
    )
