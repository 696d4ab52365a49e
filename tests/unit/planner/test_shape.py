"""Known shapes and the tiers that are proposed for them (R41, R44)."""

import numpy as np
import pytest

from fareclass.core.tiers import Tier
from fareclass.planner.demand import Series
from fareclass.planner.shape import Asked, propose
from tests.unit.planner.demands import DAY

AT = np.arange(14 * DAY)
DRAW = np.random.default_rng(1)
STEADY = DRAW.gamma(20, 50, len(AT))
DAILY = STEADY * (1 + 0.9 * np.sin(AT / DAY * 2 * np.pi))
SPIKY = np.where(DRAW.random(len(AT)) < 0.02, STEADY * 50, STEADY * 0.2)
BURSTS = np.repeat(DRAW.choice([0.02, 12.0], 14 * 24, p=[0.9, 0.1]), 60) * STEADY
RARE = np.where(AT % 5_000 == 7, STEADY, 0.0)
DEFAULT, FLEX, PRIORITY, BATCH = ({tier: 1.0} for tier in (Tier.DEFAULT, Tier.FLEX, Tier.PRIORITY, Tier.BATCH))


@pytest.mark.parametrize(
    ("minutes", "asked", "shape", "tier"),
    [
        (STEADY, Asked(DEFAULT), "steady", "reserved"),
        (DAILY, Asked(DEFAULT), "seasonal", "reserved"),
        (BURSTS, Asked(DEFAULT), "spiky-critical", "default"),
        (BURSTS, Asked(DEFAULT, refused=0.05), "spiky-critical", "priority"),
        (BURSTS, Asked(PRIORITY), "spiky-critical", "priority"),
        (SPIKY, Asked(DEFAULT), "spiky-critical", "default"),
        (BURSTS, Asked(FLEX), "spiky-tolerant", "flex"),
        (DAILY, Asked(FLEX), "spiky-tolerant", "flex"),
        (RARE, Asked(DEFAULT), "experiment", "default"),
        (RARE, Asked(FLEX), "experiment", "flex"),
        (STEADY, Asked(BATCH), "offline", "batch"),
    ],
)
def test_a_shape_has_its_tier(minutes: Series, asked: Asked, shape: str, tier: str) -> None:
    found = propose(minutes, asked, reserving_saves=True)
    assert (found.shape, found.tier) == (shape, tier)
    assert found.reason.endswith(".") and not found.reason[0].islower()


def test_where_no_reservation_pays_none_is_proposed() -> None:
    found = propose(STEADY, Asked(DEFAULT), reserving_saves=False)
    assert found.tier == "default" and "does not pay" in found.reason


def test_nothing_has_figures_too() -> None:
    found = propose(np.zeros(10), Asked({}), reserving_saves=False)
    assert (found.shape, found.figures.busy_share) == ("experiment", 0.0)
