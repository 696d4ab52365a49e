"""Replays: whose floor, whose quota, which model, what it costs, what is counted."""

import random
from decimal import Decimal

import msgspec
import pytest

from fareclass.config import load
from fareclass.core.snapshot import Capacity, Hours, Quota, Reservation, Window
from fareclass.core.tiers import DEFAULT_POLICIES, Tier
from fareclass.core.usage import KINDS
from fareclass.engine.sim_replica import Speed
from fareclass.metering.pricing import compile_book
from fareclass.planner.pools import Lane, Pool, capacity_of, pools_of, speed_of
from fareclass.planner.replay import ReplayError, replay
from fareclass.planner.results import Histogram, ModelResult, TierResult
from fareclass.planner.trace import Arrival

HOUR_US = 3_600_000_000
MULTIPLIERS = [Decimal(1), Decimal("1.75"), Decimal(1), Decimal("0.5"), Decimal("0.5")]
POOL = Pool(
    model="m",
    lanes=(Lane(slots=8, speed=Speed(limit=10, kv_tokens=50_000)),),
    policies=DEFAULT_POLICIES,
    book=compile_book("m", 1, [Decimal(1)] * len(KINDS), MULTIPLIERS, (Decimal("0.06"), Decimal("0.06"))),
    capacity=Capacity(input_tpm=1_000_000, output_tpm=60_000),
    max_tokens_default=100,
)


def floor(**fields: object) -> Reservation:
    given = {"project": "owner", "input_tpm": 6_000, "output_tpm": 6_000, "overflow": Tier.FLEX, "starts_us": 0}
    return Reservation(id="r", model="m", **(given | fields))  # type: ignore[arg-type]


def every(seconds: float, count: int, **fields: object) -> list[Arrival]:
    given = {"input": 100, "output": 100, "project": "owner"} | fields
    return [Arrival(at_us=int(number * seconds * 1e6), **given) for number in range(count)]  # type: ignore[arg-type]


def run(arrivals: list[Arrival], **more: object) -> ModelResult:
    (result,) = replay(arrivals, {"m": POOL}, **more)  # type: ignore[arg-type]
    return result


def tier(result: ModelResult, of: Tier) -> TierResult:
    return next(each for each in result.tiers if each.tier == of.word)


def test_a_request_goes_at_its_own_tier_or_at_one_drawn() -> None:
    asked = every(1, 200, tier=Tier.FLEX)
    assert [each.tier for each in run(asked).tiers] == ["flex"]
    assert [each.tier for each in run(every(1, 3)).tiers] == ["default"]
    drawn = run(asked, mix={Tier.PRIORITY: 1.0, Tier.DEFAULT: 3.0})
    assert sum(each.requests for each in drawn.tiers) == 200
    assert 25 < tier(drawn, Tier.PRIORITY).requests < 75
    assert drawn == run(asked, mix={Tier.PRIORITY: 1.0, Tier.DEFAULT: 3.0})
    assert drawn != run(asked, mix={Tier.PRIORITY: 1.0, Tier.DEFAULT: 3.0}, seed=2)


def test_what_a_floor_has_no_room_for_spills() -> None:
    """R20, R21: 6,000 tokens a minute of each side are 60 such requests; of 120 about half go as flex and are billed so."""
    result = tier(run(every(0.5, 600, tier=Tier.RESERVED), reservations=[floor()]), Tier.RESERVED)
    assert result.requests == result.completed == 600
    assert 230 < result.spilled < 300  # the bucket is full at first
    assert Decimal(result.cost) == result.spilled * Decimal(200) * Decimal("0.5") / 1_000_000


def test_a_floor_that_rejects_throttles() -> None:
    """R21: overflow `reject`."""
    asked = every(0.5, 600, tier=Tier.RESERVED)
    result = tier(run(asked, reservations=[floor(overflow=None)]), Tier.RESERVED)
    assert 230 < result.throttled < 300 and result.completed == 600 - result.throttled and not result.spilled


def test_a_floor_stands_in_its_hours_and_is_paid_for_them() -> None:
    """R3, R18: outside of its hours a reservation counts as used up; its fee is for the time in force."""
    hours = Hours(tz="UTC", weekly=(Window((3,), 1 * 60, 2 * 60),))  # the epoch began on a Thursday
    result = run(every(60, 180, tier=Tier.RESERVED), reservations=[floor(hours=hours)])
    assert tier(result, Tier.RESERVED).spilled == 120
    assert Decimal(result.fees) == 12 * Decimal("0.06")
    faster = run(every(60, 180, tier=Tier.RESERVED), reservations=[floor(hours=hours)], load=2.0)
    assert tier(faster, Tier.RESERVED).spilled == 120
    assert Decimal(faster.fees) == Decimal(result.fees) / 2


def test_what_does_not_fit_into_the_models_context_is_refused(tmp_path) -> None:
    """R44: as an engine would, whatever its memory has room for."""
    file = tmp_path / "fareclass.yaml"
    file.write_text(
        """
models:
  m: {engine: {kind: simulated, kv_tokens: 100000}, context_tokens: 1000}
  n: {engine: {kind: simulated, kv_tokens: 1000}}
"""
    )
    pools = pools_of(load(file, {}))
    asked = [Arrival(0, 901, 100, model="m"), Arrival(1, 900, 100, model="m"), Arrival(2, 901, 100, model="n")]
    counts = [[(each.requests, each.completed) for each in one.tiers] for one in replay(asked, pools)]
    assert counts == [[(2, 1)], [(1, 0)]]


def test_reserved_without_a_reservation_rides_as_reserved() -> None:
    result = tier(run(every(0.5, 100, tier=Tier.RESERVED)), Tier.RESERVED)
    assert result.completed == 100 and not result.spilled and result.cost == "0"


def test_quotas_throttle_their_project_alone() -> None:
    """R25: nothing of reserved or batch work counts against it."""
    asked = sorted(
        every(1, 120, tier=Tier.PRIORITY) + every(1, 120, tier=Tier.BATCH) + every(1, 120, project="other"),
        key=lambda arrival: arrival.at_us,
    )
    result = run(asked, quotas={("owner", "m"): Quota(rpm=10)})
    assert 85 < tier(result, Tier.PRIORITY).throttled < 105
    assert not tier(result, Tier.BATCH).throttled and not tier(result, Tier.DEFAULT).throttled


def test_only_one_project_may_be_counted() -> None:
    asked = sorted(every(1, 50) + every(1, 70, project="other"), key=lambda arrival: arrival.at_us)
    assert tier(run(asked, project="other"), Tier.DEFAULT).requests == 70


def test_what_no_memory_holds_is_invalid() -> None:
    result = tier(run([Arrival(0, 50_000, 1), Arrival(1, 10, 10)]), Tier.DEFAULT)
    assert result.invalid == 1 and result.completed == 1


def test_cached_tokens_take_no_time_and_cost_as_reads() -> None:
    cold = tier(run(every(5, 20, input=8_000)), Tier.DEFAULT)
    warm = tier(run(every(5, 20, input=80, cache_read=7_920)), Tier.DEFAULT)
    assert cold.ttft_ms is not None and warm.ttft_ms is not None
    assert warm.ttft_ms.p50 < cold.ttft_ms.p50 / 5
    assert (warm.input, warm.cache_read) == (1_600, 158_400)


def test_load_lets_requests_come_faster() -> None:
    asked = every(1, 600, output=200)
    assert run(asked).seconds == pytest.approx(600, abs=15)
    assert run(asked, load=10).seconds == pytest.approx(60, abs=30)
    assert run(asked, load=10).used_share > 2 * run(asked).used_share


def test_a_model_without_a_pool_is_told() -> None:
    pools = {"m": POOL, "n": msgspec.structs.replace(POOL, model="n")}
    with pytest.raises(
        ReplayError, match="for model 'gpt'; send all of it to one with --model; models that can be replayed: m"
    ):
        run(every(1, 1, model="gpt"))
    assert run(every(1, 1, model="gpt"), model="m").model == "m"
    with pytest.raises(
        ReplayError, match="that name no model; send all of it to one with --model; models that can be replayed: m, n"
    ):
        replay(every(1, 1), pools)
    both = replay(every(1, 1, model="n") + every(1, 2, model="m"), pools)
    assert {result.model: result.tiers[0].requests for result in both} == {"n": 1, "m": 2}


def test_nothing_to_replay_is_no_result() -> None:
    assert replay([], {"m": POOL}) == []


def test_pools_come_from_the_configuration(tmp_path) -> None:
    """Simulated engines as they are, others by what their capacity says; what has neither has no speed."""
    file = tmp_path / "fareclass.yaml"
    file.write_text(
        """
models:
  sim: {engine: {kind: simulated, replicas: 2, slots: 32, base_us: 5000, lead_steps: 1}, price: {input: 0.6, output: 2.4}}
  real:
    replicas:
      - {url: "http://gpu-1:8000/v1", slots: 48}
      - {url: "http://gpu-2:8000/v1", slots: 16, tiers: [priority]}
    capacity: {input_tpm: 4000000, output_tpm: 600000}
  slow: {replicas: [{url: "http://gpu-3:8000/v1", slots: 8}]}
"""
    )
    pools = pools_of(load(file, {}))
    assert list(pools) == ["sim", "real"]
    sim = pools["sim"]
    assert sim.slots == 64 and sim.lanes[0].speed == Speed(limit=34, base_us=5_000, lead_steps=1)
    assert sim.book.rates[Tier.FLEX][-1] == 1_200_000
    real = pools["real"]
    assert [lane.slots for lane in real.lanes] == [48, 16] and real.lanes[1].tiers == {Tier.PRIORITY}
    done = [capacity_of(lane.speed, lane.slots) for lane in real.lanes]
    assert sum(each.input_tpm for each in done) == pytest.approx(4_000_000, rel=0.02)
    assert sum(each.output_tpm for each in done) == pytest.approx(600_000, rel=0.02)


@pytest.mark.parametrize("slots", [1, 8, 256])
@pytest.mark.parametrize("output_tpm", [600, 120_000, 3_000_000])
def test_a_speed_does_what_its_capacity_says(slots: int, output_tpm: int) -> None:
    asked = Capacity(input_tpm=output_tpm * 7, output_tpm=output_tpm)
    done = capacity_of(speed_of(asked, slots, slots), slots)
    assert done.output_tpm == pytest.approx(asked.output_tpm, rel=0.05)
    assert done.input_tpm <= asked.input_tpm * 1.05


def test_histograms_are_less_than_half_a_percent_off() -> None:
    draw = random.Random(1)
    values = sorted(int(draw.lognormvariate(9, 3)) for _ in range(5_000))
    histogram = Histogram()
    assert histogram.quantiles((0.5,)) is None
    for value in values:
        histogram.add(value)
    shares = (0.0, 0.01, 0.5, 0.99, 1.0)
    for share, found in zip(shares, histogram.quantiles(shares) or (), strict=True):
        assert found == pytest.approx(values[max(0, -int(-share * 5_000 // 1) - 1)], rel=0.004)
