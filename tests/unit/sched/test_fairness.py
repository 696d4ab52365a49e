"""Fair shares inside a tier (R8)."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from fareclass.core.tiers import Tier
from fareclass.sched.ticket import State
from tests.unit.sched.pool import Pool

SLOTS = 4


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), weights=st.tuples(st.sampled_from([1.0, 2.0, 3.0]), st.sampled_from([1.0, 2.0])))
def test_two_projects_that_always_have_work_drift_apart_no_further_than_the_bound(
    seed: int, weights: tuple[float, float]
) -> None:
    """R8: 2 × max(largest input weight, slots × largest output weight), per unit of weight."""
    dice = random.Random(seed)
    pool = Pool(SLOTS, continuable=False)
    largest_input, largest_output, number = 1500, 120, 0
    served = {"a": 0.0, "b": 0.0}
    share = dict(zip("ab", weights, strict=True))
    left: dict[str, int] = {}

    def refill() -> None:
        nonlocal number
        for project in "ab":
            waiting = [t for t in pool.tickets.values() if t.project == project and t.state is State.WAITING]
            for _ in range(12 - len(waiting)):
                number += 1
                pool.offer(str(number), Tier.FLEX, project=project, weight=share[project],
                           prompt_tokens=dice.choice([1, 100, largest_input]))  # fmt: skip
                left[str(number)] = dice.choice([1, 10, largest_output])

    started = []
    for slot in range(SLOTS):
        pool.running(f"before{slot}", Tier.RESERVED, project="c")
    pool.on_start = started.append
    refill()
    for slot in range(SLOTS):
        pool.finish(f"before{slot}")
    bound = 2 * max(largest_input, SLOTS * 2 * largest_output)
    for _ in range(400):
        refill()
        while started:
            ticket = started.pop(0)
            served[ticket.project] += ticket.prompt_tokens / share[ticket.project]
            pool.do(pool.brain.first_token(ticket, pool.now))
        running = [t for t in pool.tickets.values() if t.state is State.RUNNING]
        ticket = dice.choice(sorted(running, key=lambda t: t.seq))
        tokens = min(left[ticket.id], dice.choice([1, 5, 40]))
        left[ticket.id] -= tokens
        pool.brain.produced(ticket, tokens, pool.now)
        served[ticket.project] += 2 * tokens / share[ticket.project]
        if not left[ticket.id]:
            pool.finish(ticket.id)
        assert abs(served["a"] - served["b"]) <= bound


def test_a_project_that_was_idle_saves_nothing_up() -> None:
    """R8: it is lifted to the smallest active counter."""
    pool = Pool(1, continuable=False)
    pool.running("x", Tier.FLEX, project="busy")
    for number in range(6):
        pool.offer(f"busy{number}", Tier.FLEX, project="busy", prompt_tokens=100)
    last = "x"
    for number in range(3):
        pool.finish(last)
        last = f"busy{number}"
        pool.stream(last, tokens=100)
    for number in range(6):
        pool.offer(f"idle{number}", Tier.FLEX, project="idle", prompt_tokens=100)
    pool.said()
    order = []
    for _ in range(6):
        pool.finish(last)
        last = pool.said()[0].split()[1]
        order.append(last[:4])
        pool.stream(last, tokens=100)
    assert sorted(order) == ["busy"] * 3 + ["idle"] * 3, "from now on they take turns"


def test_inside_a_project_first_come_first_served_and_batch_by_its_deadline() -> None:
    """R8."""
    pool = Pool(1, continuable=False)
    pool.running("x", Tier.RESERVED)
    for name, deadline in (("late", 900.0), ("soon", 300.0), ("later", 950.0)):
        pool.offer(name, Tier.BATCH, deadline=deadline)
    for name in ("first", "second"):
        pool.offer(name, Tier.FLEX)
    pool.said()
    for name in ("x", "first", "second", "soon", "late"):
        pool.finish(name)
    assert [line.split()[1] for line in pool.said()] == ["first", "second", "soon", "late", "later"]
