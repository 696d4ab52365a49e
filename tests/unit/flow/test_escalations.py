"""R40: what a request teaches the rule of its key."""

import asyncio

import pytest

from fareclass.core.events import Finished
from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import Escalation, Key, Model, Project
from fareclass.core.tiers import TIERS, Tier
from fareclass.flow.escalations import Escalations
from fareclass.policy.escalation import Escalator
from fareclass.policy.estimate import Estimator

RULE = Escalation(to=Tier.PRIORITY, for_s=60, after_throttles=2, slower_than_ms=5_000)
KEY = Key(id="key_a", project=Project(id="p", name="p"), name="k", secret=b"", escalation=RULE)
MODEL = Model(name="m", upstream_model="m", created=0, tiers=frozenset(TIERS))


def why(entries: list[Finished]) -> str | None:
    """Why a request is raised after these have ended."""
    escalator = Escalator(0, {})
    escalations = Escalations(escalator, Estimator())
    for entry in entries:
        escalations.ended(KEY, None, entry)
    now_s = asyncio.get_running_loop().time()
    raised = escalator.raised(KEY, MODEL, Tier.DEFAULT, now_s, 0, lambda _tier: 0)
    return None if raised is None else raised.reason


def ended(first_s: float | None, end_s: float, **fields) -> Finished:
    given = {"id": "r", "endpoint": "e", "outcome": Outcome.COMPLETED, "arrived_us": 0, "ended_us": round(end_s * 1e6)}
    return Finished(**given | {"first_token_us": None if first_s is None else round(first_s * 1e6)} | fields)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (ended(1, 60, streamed=True), None),
        (ended(6, 7, streamed=True), "slow"),
        (ended(1, 6, streamed=False), "slow"),
        (ended(1, 4, streamed=False), None),
        (ended(None, 6, streamed=True, outcome=Outcome.CANCELLED), "slow"),
        (ended(1, 6, streamed=True, outcome=Outcome.CANCELLED), None),
        (ended(1, 6, streamed=False, served_tier=Tier.PRIORITY), None),
        (ended(1, 6, streamed=False, requested_tier=Tier.RESERVED), None),
        (ended(None, 1, outcome=Outcome.SHED, requested_tier=Tier.RESERVED), None),
        (ended(None, 1, outcome=Outcome.SHED), "throttled"),
    ],
)
async def test_r40_a_stream_is_as_slow_as_its_first_token_and_reserved_work_teaches_nothing(entry, reason):
    assert why([entry] * 5) == reason


async def test_r40_what_was_not_billed_after_all_is_not_of_the_days_cap():
    """The ledger failed: budgets have it back, and so has the cap."""
    rule = Escalation(to=Tier.PRIORITY, for_s=60, after_throttles=1, pico_per_day=100)
    key = Key(id="key_a", project=Project(id="p", name="p"), name="k", secret=b"", escalation=rule)
    escalator = Escalator(0, {})
    escalations = Escalations(escalator, Estimator())
    escalations.ended(key, None, ended(None, 1, outcome=Outcome.SHED))
    now_s = asyncio.get_running_loop().time()

    def raised():
        return escalator.raised(key, MODEL, Tier.DEFAULT, now_s, 0, lambda _tier: 60)

    first = raised()
    entry = ended(1, 2, key="key_a", cost_pico=60, served_tier=Tier.PRIORITY)
    escalations.ended(key, first, entry)
    assert first is not None and raised() is None
    escalations.void(entry)
    assert raised() is not None
