"""Floors: what a project bought is there, what it asks beyond goes elsewhere (R8, R20, R21, R22, R23)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fareclass.core.snapshot import Burndown, Capacity
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from fareclass.sched.reserves import Floor, Reserves
from fareclass.sched.ticket import Pause, State, Ticket
from tests.unit.sched.pool import Pool

CAPACITY = Capacity(input_tpm=60_000, output_tpm=6_000)


def reserves(floor: Floor, now: float = 0.0) -> Reserves:
    made = Reserves(CAPACITY, Burndown())
    made.supply(64, 64, now)
    made.set_floors({"p": floor}, now)
    return made


def asks(prompt: int, output: int) -> Ticket:
    return Ticket("t", "p", Tier.DEFAULT, prompt_tokens=prompt, floor_input=prompt * 100, floor_output=output)


def test_both_sides_must_fit_or_nothing_is_taken() -> None:
    """R20, R21: the whole request goes elsewhere if either side is short."""
    floors = reserves(Floor(1_000, 100))
    assert not floors.claim(asks(100, 101 * 2), 0.0) or floors.accounts["p"].output.minute.tokens <= 0
    floors = reserves(Floor(1_000, 100))
    assert floors.claim(asks(10, 60), 0.0)
    assert not floors.claim(asks(10, 60), 0.0)
    assert floors.accounts["p"].input.minute.tokens == 990 * 100, "the refused one took nothing"


def test_a_hold_larger_than_the_bucket_waits_for_a_full_one() -> None:
    """R20"""
    floors = reserves(Floor(1_000, 100))
    assert floors.claim(asks(5_000, 0), 0.0)
    assert not floors.claim(asks(5_000, 0), 1.0), "in debt"
    assert not floors.claim(asks(1, 0), 200.0)
    assert floors.claim(asks(5_000, 0), 300.1)


def test_what_is_made_beyond_the_hold_is_charged_as_it_is_made_and_may_be_debt() -> None:
    """R20: nobody gets past the floor with a small max_tokens that the engine ignores."""
    floors = reserves(Floor(1_000, 100))
    ticket = asks(1, 1)
    assert floors.claim(ticket, 0.0)
    account = floors.accounts["p"]
    account.made(ticket, 150, 0.0)
    assert account.output.minute.tokens == -50 * 100
    assert not floors.claim(asks(1, 1), 0.0)
    account.settle(ticket, Usage(input=1, output=150), 0)
    assert account.output.minute.tokens == -50 * 100
    assert account.output.in_flight == account.input.in_flight == 0


def test_without_a_token_everything_is_given_back() -> None:
    floors = reserves(Floor(1_000, 100))
    ticket = asks(700, 70)
    assert floors.claim(ticket, 0.0)
    floors.accounts["p"].settle(ticket, Usage(), 0)
    assert floors.accounts["p"].input.minute.tokens == 1_000 * 100
    assert floors.accounts["p"].output.minute.tokens == 100 * 100


def test_cached_input_burns_a_tenth() -> None:
    """R24: 1 M of input at 90 % cache hits needs 190 k."""
    assert Burndown().floor_input(Usage(input=100_000, cache_read=900_000)) == 190_000 * 100
    assert Burndown().floor_input(Usage(cache_write_5m=100, cache_write_1h=100)) == 325 * 100


def test_beyond_ten_seconds_of_the_floor_it_ranks_as_priority() -> None:
    """R8: label and price stay reserved."""
    floors = reserves(Floor(6_000, 600))
    ranks = []
    for _ in range(12):
        ticket = asks(100, 10)
        assert floors.claim(ticket, 0.0)
        assert ticket.tier is Tier.RESERVED
        ranks.append(ticket.rank)
    assert ranks == [Tier.RESERVED] * 10 + [Tier.PRIORITY] * 2
    later = asks(100, 10)
    assert floors.claim(later, 1.0)
    assert later.rank is Tier.RESERVED, "a second of the floor has flowed in"


def test_floors_shrink_in_proportion_and_come_back() -> None:
    """R23: the load that 16 slots may carry, on 4 of them."""
    floors = Reserves(CAPACITY, Burndown())
    floors.supply(16, 16, 0.0)
    floors.set_floors({"p": Floor(15_000, 0), "q": Floor(0, 1_000)}, 0.0)
    assert floors.share_ppm == 1_000_000
    floors.supply(16, 4, 0.0)
    assert 0 < floors.share_ppm < 300_000
    rates = [side.minute.per_minute for a in floors.accounts.values() for side in (a.input, a.output)]
    assert rates == [15_000 * floors.share_ppm // 10_000, 0, 0, 1_000 * floors.share_ppm // 10_000]
    floors.supply(16, 16, 1.0)
    assert floors.accounts["p"].input.minute.per_minute == 15_000 * 100


def test_without_any_replica_nothing_is_forgotten() -> None:
    floors = reserves(Floor(1_000, 100))
    floors.supply(64, 0, 0.0)
    floors.supply(64, 64, 1.0)
    assert floors.accounts["p"].input.minute.tokens == 1_000 * 100


def test_closing_and_opening_again_gives_no_minute_away() -> None:
    """R20: office hours that end and begin, or a change of the reservation, keep what was used."""
    floors = reserves(Floor(1_000, 100))
    assert floors.claim(asks(1_000, 100), 0.0)
    floors.set_floors({}, 0.0)
    floors.set_floors({"p": Floor(1_000, 100)}, 0.0)
    assert not floors.claim(asks(1, 1), 0.0)
    assert floors.claim(asks(100, 10), 6.0)


@given(
    st.lists(
        st.tuples(st.integers(0, 20_000_000), st.integers(0, 400), st.integers(0, 400), st.integers(0, 900)),
        max_size=40,
    ),
    st.integers(1, 2_000),
)
def test_over_any_window_no_more_is_charged_than_floor_and_bucket_and_errors(
    calls: list[tuple[int, int, int, int]], tpm: int
) -> None:
    """R22: at most floor × time + bucket + what the estimates were wrong by."""
    floors = reserves(Floor(0, tpm))
    now_us = used = wrong = 0
    for gap_us, hold, _, really in calls:
        now_us += gap_us
        ticket = asks(0, hold)
        if floors.claim(ticket, now_us / 1e6):
            floors.accounts["p"].settle(ticket, Usage(output=really), now_us)
            used += really
            wrong += max(0, really - hold) + max(0, hold - tpm)
    assert used * 60_000_000 <= tpm * (now_us + 60_000_000) + wrong * 60_000_000 + len(calls) * 60 * tpm


# -- in the pool


def claimed(pool: Pool, name: str, project: str = "p", **fields: object) -> Ticket:
    settings = {"prompt_tokens": 10, "continuable": True, "floor_input": 1_000, "floor_output": 10} | fields
    ticket = pool.tickets[name] = Ticket(name, project, Tier.DEFAULT, **settings)  # type: ignore[arg-type]
    assert pool.brain.claim(ticket, pool.now), f"{name} was diverted"
    pool.do(pool.brain.offer(ticket, pool.now, None))
    return ticket


def test_reserved_work_starts_at_once_in_a_full_pool() -> None:
    """R22: a floor that was lent out is back at once."""
    pool = Pool(8, capacity=CAPACITY)
    pool.do(pool.brain.set_floors({"p": Floor(3_000, 300)}, pool.now))
    for number in range(8):
        pool.running(f"f{number}", Tier.FLEX, project="q")
    claimed(pool, "r")
    assert pool.said()[-1].startswith("pause f")
    pool.paused(next(ticket.id for ticket in pool.tickets.values() if ticket.state is State.LEAVING))
    assert "start r on r0" in pool.said()


def test_headroom_is_kept_free_of_what_cannot_be_moved() -> None:
    """R10: streams that can't be continued stay below slots − H; movable work fills the rest."""
    pool = Pool(10, capacity=CAPACITY, headroom=4)
    for number in range(7):
        pool.offer(f"before{number}", Tier.DEFAULT, project=f"a{number}", continuable=False)
    for number in range(7):
        pool.finish(f"before{number}")
    pool.do(pool.brain.set_floors({"p": Floor(3_000, 300)}, pool.now))
    for number in range(8):
        pool.offer(f"n{number}", Tier.DEFAULT, continuable=False)
    assert pool.brain.running(Tier.DEFAULT) == 6
    for number in range(4):
        pool.offer(f"c{number}", Tier.DEFAULT)
    assert pool.brain.running(Tier.DEFAULT) == 10, "movable work passes who the headroom holds back (R12)"
    pool.said()
    for number in range(4):
        claimed(pool, f"r{number}")
    assert [word for word in pool.said() if word.startswith("start")] == [
        f"start r{number} on r0" for number in range(4)
    ]
    pool.do(pool.brain.set_floors({}, pool.now))
    for name in ("n0", "r0", "r1", "r2", "r3"):
        pool.finish(name)
    assert pool.said()[-1] == "start n6 on r0", "without reservations nothing is kept free"


def test_headroom_follows_the_floors_in_force() -> None:
    """R10: H = ceil(a + 2.5 √a) for even arrivals, at most nine tenths of the slots."""
    pool = Pool(16, 16, capacity=CAPACITY)
    assert pool.brain.headroom.limit is None
    pool.do(pool.brain.set_floors({"p": Floor(7_500, 0)}, pool.now))
    assert pool.brain.headroom.slots == 9  # a = 4
    pool.do(pool.brain.set_floors({"p": Floor(60_000, 0)}, pool.now))
    assert pool.brain.headroom.slots == 28  # what fits is a little below; ten per cent stay free for others
    pool.do(pool.brain.set_floors({}, pool.now))
    assert pool.brain.headroom.limit is None


def test_a_burst_beyond_the_floor_gives_way_to_who_is_inside_his() -> None:
    """R8, R22: only bursts of other owners can make reserved work wait, and they are paused for it."""
    pool = Pool(12, capacity=CAPACITY)
    pool.do(pool.brain.set_floors({"a": Floor(6_000, 600), "b": Floor(6_000, 600)}, pool.now))
    for number in range(12):
        claimed(pool, f"a{number}", "a", floor_input=10_000)
        pool.stream(f"a{number}")
    assert [pool.tickets[f"a{number}"].rank for number in (9, 10)] == [Tier.RESERVED, Tier.PRIORITY]
    inside = claimed(pool, "b", "b")
    assert inside.rank is Tier.RESERVED
    assert pool.said()[-1] in ("pause a10", "pause a11")


def test_a_burst_waits_for_other_owners_alone() -> None:
    """R8, R22: it ranks as priority, yet goes ahead of all priority work on demand, and takes a slot of it."""
    pool = Pool(2, capacity=CAPACITY)
    pool.do(pool.brain.set_floors({"p": Floor(6_000, 600)}, pool.now))
    assert claimed(pool, "all of ten seconds", floor_input=100_000).rank is Tier.RESERVED
    pool.finish("all of ten seconds", used=100)
    for name in ("x", "y"):
        pool.running(name, Tier.PRIORITY, project="q")
    for number in range(3):
        pool.offer(f"waits{number}", Tier.PRIORITY, project=f"q{number}")
    pool.said()
    assert claimed(pool, "burst", floor_input=10_000, floor_output=100).rank is Tier.PRIORITY
    (told,) = pool.said()
    assert told in ("pause x", "pause y")
    pool.paused(told[-1])
    assert pool.said() == ["start burst on r0"]


def test_who_comes_at_once_does_not_prefill_on_the_same_replica() -> None:
    """R11, R22: where a slot is being freed a prompt is coming, so the next takes its slot elsewhere."""
    pool = Pool(2, 2, 2, capacity=CAPACITY)
    pool.do(pool.brain.set_floors({"p": Floor(6_000, 600)}, pool.now))
    for number in range(6):
        pool.running(f"x{number}", Tier.FLEX, project="q")
    for number in range(3):
        claimed(pool, f"r{number}", prompt_tokens=500)
    leaving = [ticket.replica for ticket in pool.tickets.values() if ticket.state is State.LEAVING]
    assert sorted(str(replica) for replica in leaving) == ["r0", "r1", "r2"]


@pytest.mark.parametrize("state", ["queued", "running"])
def test_reserved_work_is_not_refused_for_the_length_of_the_line(state: str) -> None:
    """R22: others may fill the line; a request whose holds fit still joins it."""
    pool = Pool(1, capacity=CAPACITY, continuable=False)
    pool.do(pool.brain.set_floors({"p": Floor(3_000, 300)}, pool.now))
    pool.running("x", Tier.PRIORITY, project="q", continuable=False)
    for number in range(3):
        pool.offer(f"b{number}", Tier.BATCH, project="q", size_bytes=200 * 1024 * 1024)
    ticket = claimed(pool, "r", size_bytes=30 * 1024 * 1024)
    if state == "running":
        pool.finish("x")
    assert ticket.state.name == {"queued": "WAITING", "running": "RUNNING"}[state]
    assert not any(isinstance(effect, Pause) for effect in pool.log)


def test_nobody_is_paused_for_who_the_headroom_holds_back() -> None:
    """R10, R11: eight that can't be moved come, one may start; one flex stream gives way, not eight."""
    pool = Pool(10, capacity=CAPACITY, headroom=9)
    pool.do(pool.brain.set_floors({"p": Floor(3_000, 300)}, pool.now))
    for number in range(10):
        pool.running(f"f{number}", Tier.FLEX, project="q")
    pool.said()
    for number in range(8):
        pool.offer(f"n{number}", Tier.PRIORITY, project="q", continuable=False)
    assert len([word for word in pool.said() if word.startswith("pause")]) == 1


def test_one_too_wide_for_the_headroom_runs_alone() -> None:
    """R10, R49: it would wait in vain, and everybody of its project behind it."""
    pool = Pool(8, capacity=CAPACITY, headroom=7)
    pool.do(pool.brain.set_floors({"p": Floor(3_000, 300)}, pool.now))
    pool.offer("wide", Tier.DEFAULT, width=4, continuable=False)
    assert pool.said() == ["start wide on r0"]
    pool.offer("next", Tier.DEFAULT, continuable=False)
    assert pool.said() == []
    pool.finish("wide")
    assert pool.said() == ["start next on r0"]


def test_a_night_without_a_request_is_no_burst() -> None:
    """R10: office hours begin with the headroom of the day before."""
    pool = Pool(16, 16, capacity=CAPACITY)
    pool.do(pool.brain.set_floors({"p": Floor(7_500, 7_500)}, pool.now))
    evenly = pool.brain.headroom.slots
    for number in range(400):
        pool.now += (0.2, 1.8, 0.6, 1.4)[number % 4] if number != 200 else 8 * 3_600.0
        claimed(pool, f"r{number}", floor_input=100, floor_output=1)
        pool.finish(f"r{number}")
    assert pool.brain.headroom.slots <= evenly


def test_a_replica_that_is_free_is_not_kept_for_who_waits_for_another() -> None:
    """R12, R16, R52: it waits for the gate of the replica that holds its prompt; the other one serves who comes."""
    pool = Pool(8, 8)
    pool.offer("long", Tier.DEFAULT, prompt_tokens=2_500, holders={"r0": 1})
    assert pool.said() == ["start long on r0"]
    pool.offer("holder", Tier.DEFAULT, prompt_tokens=2_100, holders={"r0": 2_000})
    assert pool.said() == []
    pool.offer("small", Tier.DEFAULT, project="q")
    assert pool.said() == ["start small on r1"]
