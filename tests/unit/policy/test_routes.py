"""R45: which model of a route goes first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fareclass.core.snapshot import Route, RouteModel, RouteRule
from fareclass.core.tiers import Tier
from fareclass.policy.routes import ADVANTAGE, Option, order, rule_for, seconds, wall
from fareclass.policy.speeds import Speed

FAST, SLOW = Speed(0.2, 100.0), Speed(3.0, 20.0)


def option(model: str = "a", **fields) -> Option:
    plain = {
        "tier": Tier.DEFAULT, "quality": 0.7, "pico": 1_000, "tokens": 1_000, "output": 100, "wait_s": 0.0, "speed": FAST
    }  # fmt: skip
    return Option(model, **(plain | fields))


SMALL = option("small", quality=0.5, pico=100)
MIDDLE = option("middle", quality=0.7, pico=500, speed=Speed(0.5, 50.0))
LARGE = option("large", quality=0.9, pico=2_000, speed=Speed(1.5, 25.0))
FLEET = (LARGE, SMALL, MIDDLE)


def names(rule: RouteRule, *options: Option, last: str = "") -> list[str]:
    return [pick.model for pick in order(rule, options, last)]


@pytest.mark.parametrize(
    ("rule", "first"),
    [
        (RouteRule(order_by="cost"), "small"),
        (RouteRule(order_by="cost", quality_min=0.7), "middle"),
        (RouteRule(order_by="cost", quality_min=0.8), "large"),
        (RouteRule(order_by="latency"), "small"),
        (RouteRule(order_by="latency", quality_min=0.6), "middle"),
        (RouteRule(order_by="quality"), "large"),
        (RouteRule(order_by="quality", ttft_p95_ms_max=1_000), "middle"),
        (RouteRule(order_by="quality", tokens_per_s_min=60), "small"),
        (RouteRule(order_by="quality", pico_per_1m_max=600_000), "middle"),
        (RouteRule(order_by="quality", pico_per_1m_max=499_999), "small"),
    ],
)
def test_r45_the_rule_says_who_goes_first(rule, first):
    assert names(rule, *FLEET)[0] == first


def test_r45_quality_and_price_are_walls():
    """No model behind them is taken, whatever the others do."""
    down = [each._replace(serves=False) for each in (MIDDLE, LARGE)]
    assert names(RouteRule(order_by="cost", quality_min=0.7), SMALL, *down) == ["middle", "large"]
    assert names(RouteRule(order_by="cost", quality_min=0.95), *FLEET) == []
    assert names(RouteRule(order_by="quality", pico_per_1m_max=1), *FLEET) == []
    assert wall(RouteRule(order_by="quality", quality_min=0.1), option(quality=None)) == "quality_min"


def test_r45_speeds_are_wishes():
    """Where no model meets them the nearest goes first, and what it misses is told."""
    near = option("near", speed=Speed(2.5, 100.0))
    far = option("far", pico=1, speed=Speed(6.0, 10.0))
    picks = order(RouteRule(order_by="cost", ttft_p95_ms_max=2_000, tokens_per_s_min=50), [far, near])
    assert picks == [("near", ("ttft_p95_ms_max",)), ("far", ("ttft_p95_ms_max", "tokens_per_s_min"))]


def test_r45_the_wait_in_line_counts_at_once():
    """It is known now, while what was measured is of requests before: traffic moves when the limit breaks."""
    rule = RouteRule(order_by="cost", ttft_p95_ms_max=1_000)
    cheap, dear = option("cheap", pico=1), option("dear", pico=2)
    assert names(rule, cheap, dear)[0] == "cheap"
    assert names(rule, cheap._replace(wait_s=0.9), dear)[0] == "dear"
    assert names(rule, cheap._replace(wait_s=1.1, speed=None, due=True), dear)[0] == "dear"
    assert names(RouteRule(order_by="latency"), cheap._replace(wait_s=5.0), dear)[0] == "dear"


def test_r45_what_cant_serve_goes_last():
    rule = RouteRule(order_by="cost")
    assert names(rule, SMALL._replace(serves=False), *FLEET[::2]) == ["middle", "large", "small"]
    reserved = MIDDLE._replace(room=False)
    assert names(rule, reserved, LARGE) == ["large", "middle"], "the floor has no room there (R20)"


def test_r45_a_model_of_unknown_speed_is_tried_now_and_then():
    rule = RouteRule(order_by="cost", ttft_p95_ms_max=1_000)
    unknown, good, bad = option("unknown", pico=1, speed=None), option("good", pico=2), option("bad", speed=SLOW)
    assert names(rule, bad, good, unknown._replace(due=True)) == ["unknown", "good", "bad"]
    assert names(rule, bad, good, unknown) == ["good", "unknown", "bad"]
    fastest = RouteRule(order_by="latency")
    assert names(fastest, bad, good, unknown._replace(due=True)) == ["unknown", "good", "bad"]
    assert names(fastest, bad, good, unknown) == ["good", "bad", "unknown"]
    assert names(RouteRule(order_by="cost"), bad, good, unknown)[0] == "unknown", "its speed matters to nobody"


def test_r45_a_little_faster_is_no_reason_to_move():
    rule = RouteRule(order_by="latency")
    one, other = option("one", speed=Speed(1.0, None)), option("other", speed=Speed(1.1, None))
    assert names(rule, one, other, last="other")[0] == "other"
    assert names(rule, one, other._replace(speed=Speed(1.0 * ADVANTAGE + 0.01, None)), last="other")[0] == "one"
    assert names(rule, one, other)[0] == "one"


def test_r45_a_workloads_rule_goes_before_a_tiers():
    plain, tier, use = (RouteRule(order_by=order_by) for order_by in ("cost", "latency", "quality"))
    route = Route(
        name="r",
        created=0,
        models=(RouteModel(model="a"),),
        rule=plain,
        by_tier={Tier.PRIORITY: tier},
        by_workload={"chat": use},
    )
    assert rule_for(route, Tier.PRIORITY, "chat") is use
    assert rule_for(route, Tier.PRIORITY, "other") is tier
    assert rule_for(route, Tier.FLEX, "") is plain


SPEEDS = st.none() | st.builds(Speed, st.floats(0.001, 100), st.none() | st.floats(0.1, 1_000, allow_subnormal=False))
OPTIONS = st.lists(
    st.builds(
        Option,
        st.sampled_from("abcdefgh"),
        st.just(Tier.DEFAULT),
        st.floats(0, 1),
        st.integers(0, 10**15),
        st.integers(1, 10**6),
        st.integers(0, 10**5),
        st.floats(0, 1_000),
        SPEEDS,
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    max_size=8,
    unique_by=lambda each: each.model,
)
RULES = st.builds(
    RouteRule,
    order_by=st.sampled_from(["quality", "latency", "cost"]),
    quality_min=st.none() | st.floats(0, 1),
    pico_per_1m_max=st.none() | st.integers(0, 10**16),
    ttft_p95_ms_max=st.none() | st.integers(1, 10**5),
    tokens_per_s_min=st.none() | st.floats(0.1, 1_000),
)


def admissible(rule: RouteRule, each: Option) -> bool:
    """Judged by the words of the rule alone."""
    limit = rule.ttft_p95_ms_max
    if each.speed is None or not (each.serves and each.room):
        return False
    within = limit is None or (each.wait_s + each.speed.ttft_p95_s) * 1000 <= limit
    rate = each.speed.tokens_per_s
    fast = rule.tokens_per_s_min is None or rate is None or rate >= rule.tokens_per_s_min
    good = rule.quality_min is None or each.quality >= rule.quality_min
    cheap = rule.pico_per_1m_max is None or each.pico * 10**6 <= rule.pico_per_1m_max * each.tokens
    return within and fast and good and cheap


@given(RULES, OPTIONS)
def test_r45_no_admissible_model_is_better_than_the_first(rule, options):
    """On the axis that the rule orders by; only one whose speed nobody knows may go before all of them."""
    picks = order(rule, options)
    by_name = {each.model: each for each in options}
    assert sorted(pick.model for pick in picks) == sorted(each.model for each in options if wall(rule, each) is None)
    able = [each for each in options if admissible(rule, each)]
    if not able:
        return
    first = by_name[picks[0].model]
    assert admissible(rule, first) or first.speed is None
    if rule.order_by == "cost":
        assert first.pico <= min(each.pico for each in able)
    elif rule.order_by == "quality":
        assert first.quality >= max(each.quality for each in able)
    elif first.speed is not None:
        assert seconds(first) <= min(seconds(each) for each in able)
    else:
        assert first.due


@given(RULES, OPTIONS, st.integers(0, 7))
def test_r45_a_model_that_cant_serve_is_passed_over(rule, options, place):
    """The others keep their order, whoever it is."""
    before = names(rule, *options)
    hit = options[place % len(options)].model if options else ""
    after = names(rule, *(each._replace(serves=each.serves and each.model != hit) for each in options))
    assert [name for name in after if name != hit] == [name for name in before if name != hit]
    up = {each.model for each in options if each.serves} - {hit}
    if up & set(after):
        assert after[0] in up
