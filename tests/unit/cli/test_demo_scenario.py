"""The day of `fareclass demo`: who sends what when."""

from collections import Counter

import pytest

from fareclass.cli.demo import scenario
from fareclass.cli.demo.scenario import AGENTS, BANK, CAST, CODE, DEADLINE, FLOOR_RPS, NIGHTLY, RUNAWAY, SPIKES, TAX
from fareclass.engine.sim_text import Question

MINUTES = 6.0
SENDS = scenario.day(MINUTES, seed=1)


def rate(actor, hours):
    """Requests a second of real time that an actor sends in these hours."""
    begin_s, end_s = (scenario.at_s(hour, MINUTES) for hour in hours)
    count = sum(send.actor is actor and begin_s <= send.at_s < end_s for send in SENDS)
    return count / (end_s - begin_s)


def test_the_same_seed_makes_the_same_day():
    assert scenario.day(MINUTES, seed=1) == SENDS
    assert scenario.day(MINUTES, seed=2) != SENDS


def test_the_day_is_in_order_and_as_long_as_it_was_asked_to_be():
    times = [send.at_s for send in SENDS]
    assert times == sorted(times)
    assert times[0] >= 0 and MINUTES * 60 * 0.99 < times[-1] < MINUTES * 60


def test_no_second_asks_more_than_two_cores_can_play():
    assert max(Counter(int(send.at_s) for send in SENDS).values()) <= 60


def test_everybody_does_what_the_story_says():
    assert rate(TAX, DEADLINE) == pytest.approx(3 * FLOOR_RPS, rel=0.15)
    assert rate(TAX, (6, 18)) < FLOOR_RPS
    for spike in SPIKES:
        assert rate(BANK, spike) > 6 * rate(BANK, (9, 12))
    assert rate(AGENTS, RUNAWAY) > 4 * rate(AGENTS, (6, 14))
    assert rate(CODE, (9, 18)) > 3 * rate(CODE, (6, 9))
    assert {send.actor.ask.tier for send in SENDS} == {"reserved", "priority", "default", "flex"}
    assert NIGHTLY.ask.tier == "batch" and not any(send.actor is NIGHTLY for send in SENDS)


def test_a_short_day_is_the_same_day_with_fewer_requests():
    short = scenario.day(MINUTES / 2, seed=1)
    assert len(short) == pytest.approx(len(SENDS) / 2, rel=0.1)
    assert scenario.batch_lines(0.1) == scenario.FEWEST_LINES < scenario.batch_lines(MINUTES)


def test_hours_and_seconds_are_each_others_inverse():
    for hour in (6.0, 12.5, 23.0, 29.0):
        assert scenario.hour_at(scenario.at_s(hour, MINUTES), MINUTES) == pytest.approx(hour)
    assert [scenario.clock(hour) for hour in (6.0, 12.5, 24.0, 29.75)] == ["06:00", "12:30", "00:00", "05:45"]


@pytest.mark.parametrize("actor", CAST, ids=lambda actor: actor.what)
def test_prompts_are_as_long_as_they_say_and_only_cached_ones_begin_alike(actor):
    first, second = scenario.body(actor, 1), scenario.body(actor, 2)
    tokens = Question(first).tokens
    assert actor.ask.words + actor.ask.cached_words < tokens < actor.ask.words + actor.ask.cached_words + 20
    assert first["messages"][-1] != second["messages"][-1]
    assert (first["messages"][0] == second["messages"][0]) == bool(actor.ask.cached_words)
    assert ("service_tier" in first) == (actor is not NIGHTLY)


def test_the_floor_holds_what_it_is_made_for():
    input_tpm, output_tpm = scenario.floor()
    assert input_tpm >= FLOOR_RPS * 60 * Question(scenario.body(TAX, 1)).tokens
    assert output_tpm >= FLOOR_RPS * 60 * TAX.ask.max_tokens
