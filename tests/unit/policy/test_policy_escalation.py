"""R40: when a key's next requests go as a better tier, for how long, and at what cost."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import Escalation, Key, Model, Project
from fareclass.core.tiers import TIERS, Tier
from fareclass.policy.escalation import Escalator

MODEL = Model(name="m", upstream_model="m", created=0, tiers=frozenset(TIERS))
OFTEN = Escalation(to=Tier.PRIORITY, for_s=60, after_throttles=2)
SLOW = Escalation(to=Tier.PRIORITY, for_s=60, slower_than_ms=5_000, window_s=100)
CAPPED = Escalation(to=Tier.PRIORITY, for_s=60, after_throttles=1, pico_per_day=100)
TODAY = 20_000


def make_key(rule: Escalation, **fields) -> Key:
    return Key(id="key_a", project=Project(id="p", name="p"), name="k", secret=b"", escalation=rule, **fields)


class Caller:
    """One key's requests, at times that the test chooses."""

    def __init__(self, rule: Escalation, spent: int = 0, **fields) -> None:
        self.key = make_key(rule, **fields)
        self.rules = Escalator(TODAY, {"key_a": spent} if spent else {})
        self.now = 1000.0

    def raised(self, asked: Tier = Tier.DEFAULT, price: int = 0, day: int = TODAY, model: Model = MODEL):
        return self.rules.raised(self.key, model, asked, self.now, day, lambda _tier: price)

    def reason(self, **how):
        """Why a request that costs nothing and ends at once is raised; None if it is not."""
        raised = self.raised(**how)
        if raised is None:
            return None
        self.rules.settle("key_a", raised, 0, how.get("day", TODAY))
        return raised.reason

    def ends(self, outcome: Outcome = Outcome.COMPLETED, ms: int = 10, tier: Tier = Tier.DEFAULT, code: str = ""):
        self.rules.learn(self.key, tier, outcome, code, ms, self.now)


@pytest.mark.parametrize("outcome", [Outcome.THROTTLED, Outcome.SHED, Outcome.EXPIRED])
def test_r40_so_many_throttles_in_a_row(outcome):
    caller = Caller(OFTEN)
    caller.ends(outcome)
    assert caller.reason() is None
    caller.ends()
    caller.ends(outcome)
    assert caller.reason() is None, "an answer between them begins the row anew"
    caller.ends(Outcome.UPSTREAM_FAILED)
    caller.ends(outcome)
    assert caller.reason() == "throttled"
    caller.now += 59.9
    assert caller.reason() == "throttled"
    caller.now += 0.2
    assert caller.reason() is None, "its time is over"
    caller.ends(outcome)
    assert caller.reason() is None, "and it counts anew"


def test_r40_a_budget_that_is_used_up_is_no_reason_to_spend_more():
    caller = Caller(OFTEN)
    for _ in range(5):
        caller.ends(Outcome.THROTTLED, code="budget_exceeded")
    assert caller.reason() is None


def test_r40_what_comes_in_meanwhile_does_not_make_it_longer():
    """Requests that were under way when the rule fired, and those of the better tier itself."""
    caller = Caller(OFTEN)
    for _ in range(2):
        caller.ends(Outcome.THROTTLED)
    caller.now += 30
    for _ in range(10):
        caller.ends(Outcome.THROTTLED)
        caller.ends(Outcome.THROTTLED, tier=Tier.PRIORITY)
    caller.now += 30.1
    assert caller.reason() is None


def test_r40_slow_answers():
    caller = Caller(SLOW)
    for _ in range(4):
        caller.ends(ms=6_000)
    assert caller.reason() is None, "four answers say nothing of a p95"
    caller.ends(ms=6_000)
    assert caller.reason() == "slow"


def test_r40_slow_answers_of_long_ago_do_not_count():
    caller = Caller(SLOW)
    for _ in range(4):
        caller.ends(ms=6_000)
    caller.now += 101
    for _ in range(10):
        caller.ends(ms=10)
    assert caller.reason() is None


def test_r40_a_caller_who_gave_up_waiting_counts_as_slow():
    caller = Caller(SLOW)
    for _ in range(10):
        caller.ends(Outcome.CANCELLED, ms=100)
    assert caller.reason() is None, "who gave up sooner says nothing"
    for _ in range(5):
        caller.ends(Outcome.CANCELLED, ms=5_001)
    assert caller.reason() == "slow"


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=300))
def test_r40_it_fires_exactly_when_the_p95_passes_the_limit(latencies):
    """Against a p95 (nearest rank) of the plain list, taken after each answer, of at most 256."""
    caller = Caller(SLOW)
    expected = False
    for count, ms in enumerate(latencies, 1):
        caller.ends(ms=ms)
        seen = sorted(latencies[max(0, count - 256) : count])
        expected = expected or (len(seen) >= 5 and seen[math.ceil(len(seen) * 95 / 100) - 1] > 5_000)
        assert (caller.reason() == "slow") is expected
        if expected:
            break


def test_r40_only_worse_tiers_are_raised():
    caller = Caller(OFTEN)
    for _ in range(2):
        caller.ends(Outcome.THROTTLED)
    raised = [tier for tier in TIERS if caller.reason(asked=tier)]
    assert raised == [Tier.DEFAULT, Tier.FLEX]


def test_r40_the_tiers_of_key_and_model_are_obeyed():
    for caller, model in (
        (Caller(OFTEN, allowed_tiers=frozenset({Tier.DEFAULT})), MODEL),
        (Caller(OFTEN), Model(name="m", upstream_model="m", created=0, tiers=frozenset({Tier.DEFAULT}))),
    ):
        for _ in range(2):
            caller.ends(Outcome.THROTTLED)
        assert caller.reason(model=model) is None


def test_r40_the_days_cap_holds_with_requests_in_flight():
    caller = Caller(CAPPED)
    caller.ends(Outcome.SHED)
    one, two = caller.raised(price=60), caller.raised(price=60)
    assert one is not None
    assert two is None, "60 are held, 60 more would pass 100"
    caller.rules.settle("key_a", one, 40, TODAY)
    assert caller.raised(price=61) is None
    assert caller.raised(price=60) is not None


def test_r40_the_cap_is_of_a_day_and_survives_a_restart():
    caller = Caller(CAPPED, spent=90)
    caller.ends(Outcome.SHED)
    assert caller.raised(price=11) is None, "what the ledger had of today counts"
    assert caller.raised(price=11, day=TODAY + 1) is not None


def test_r40_requests_that_cost_nothing_end_in_any_number():
    caller = Caller(OFTEN)
    for _ in range(2):
        caller.ends(Outcome.THROTTLED)
    running = [caller.raised(), caller.raised()]
    for raised in running:
        caller.rules.settle("key_a", raised, 0, TODAY)
    assert caller.rules._held == {}


def test_r40_a_changed_rule_begins_anew():
    caller = Caller(OFTEN)
    for _ in range(2):
        caller.ends(Outcome.THROTTLED)
    caller.key = make_key(Escalation(to=Tier.PRIORITY, for_s=60, after_throttles=3))
    assert caller.reason() is None


@given(st.lists(st.tuples(st.sampled_from(["begin", "end"]), st.integers(0, 60), st.integers(0, 60))))
def test_r40_spending_never_passes_the_cap_where_estimates_bound_the_cost(steps):
    """Any order of requests that begin and end, each costing at most what was held."""
    caller = Caller(CAPPED)
    caller.ends(Outcome.SHED)
    running, spent = [], 0
    for step, price, cost in steps:
        if step == "begin" and (raised := caller.raised(price=price)):
            running.append(raised)
        elif step == "end" and running:
            raised = running.pop(0)
            caller.rules.settle("key_a", raised, min(cost, raised.hold_pico), TODAY)
            spent += min(cost, raised.hold_pico)
        assert spent + sum(raised.hold_pico for raised in running) <= 100
    for raised in running:
        caller.rules.settle("key_a", raised, 0, TODAY)
    assert caller.rules._held == {}
