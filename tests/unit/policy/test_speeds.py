"""R45: how fast models are, by what requests have told."""

from fareclass.core.limits import SPEED_SAMPLES, SPEED_WINDOW_S
from fareclass.core.tiers import Tier
from fareclass.policy.speeds import Speed, Speeds


def taught(*ttfts: float, rate: float | None = 50.0) -> Speeds:
    speeds = Speeds()
    for ttft_s in ttfts:
        speeds.learn("m", Tier.DEFAULT, ttft_s, rate, 100.0)
    return speeds


def test_r45_p95_and_median():
    speeds = Speeds()
    for number in range(1, 101):
        speeds.learn("m", Tier.DEFAULT, number / 100, float(number), 100.0)
    assert speeds.look("m", Tier.DEFAULT, 100.0) == Speed(0.95, 51.0)
    assert taught(2.0).look("m", Tier.DEFAULT, 100.0) == Speed(2.0, 50.0)
    assert taught(2.0, rate=None).look("m", Tier.DEFAULT, 100.0) == Speed(2.0, None)


def test_r45_each_model_and_tier_is_known_apart():
    speeds = taught(1.0)
    assert speeds.look("m", Tier.FLEX, 100.0) is None
    assert speeds.look("other", Tier.DEFAULT, 100.0) is None


def test_r45_what_is_old_is_forgotten():
    speeds = taught(1.0)
    assert speeds.look("m", Tier.DEFAULT, 100.0 + SPEED_WINDOW_S - 1) == Speed(1.0, 50.0)
    assert speeds.look("m", Tier.DEFAULT, 100.0 + SPEED_WINDOW_S) is None
    speeds.learn("m", Tier.DEFAULT, 3.0, 50.0, 101.0 + SPEED_WINDOW_S)
    assert speeds.look("m", Tier.DEFAULT, 101.0 + SPEED_WINDOW_S) == Speed(3.0, 50.0)


def test_r45_only_the_newest_requests_count():
    speeds = taught(*[9.0] * SPEED_SAMPLES, *[1.0] * SPEED_SAMPLES)
    assert speeds.look("m", Tier.DEFAULT, 100.0) == Speed(1.0, 50.0)
