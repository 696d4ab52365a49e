"""Floors follow the time of day, whatever it does (R3, R18)."""

from datetime import UTC, datetime

import pytest

from fareclass.core.snapshot import Hours, Reservation, Snapshot, Window
from fareclass.core.tiers import Tier
from fareclass.flow import reserved
from fareclass.flow.reserved import Standing
from fareclass.policy.calendar import in_force
from fareclass.sched.reserves import Floor


class Pool:
    """A pool that remembers which floors it was given."""

    def __init__(self) -> None:
        self.floors: dict[str, Floor] = {}
        self.told = 0

    def set_floors(self, floors: dict[str, Floor]) -> None:
        self.floors = floors
        self.told += 1


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1e6)


def reservation(**fields) -> Reservation:
    plain = {
        "id": "r", "project": "p", "model": "m", "input_tpm": 100, "output_tpm": 10, "overflow": Tier.DEFAULT,
        "starts_us": at("2026-04-01"), "ends_us": at("2026-05-01"),
    }  # fmt: skip
    return Reservation(**plain | fields)


def snapshot(*reservations: Reservation) -> Snapshot:
    by_place: dict[tuple[str, str], tuple[Reservation, ...]] = {}
    for one in reservations:
        by_place[one.project, one.model] = (*by_place.get((one.project, one.model), ()), one)
    return Snapshot(projects={}, keys={}, models={}, quotas={}, books={}, reservations=by_place)


def standing(*reservations: Reservation) -> tuple[Standing, Pool, Snapshot]:
    pool, made = Pool(), snapshot(*reservations)
    return Standing(lambda: made, {"m": pool}), pool, made  # type: ignore[dict-item]


def test_a_season_begins_and_ends_to_the_microsecond():
    """R18"""
    floors, pool, made = standing(reservation())
    for moment, there in (("2026-03-31T23:59:59.999999", False), ("2026-04-01", True), ("2026-05-01", False)):
        floors.look(made, at(moment))
        assert pool.floors == ({"p": Floor(100, 10)} if there else {}), moment


def test_nothing_is_computed_while_nothing_changes():
    floors, pool, made = standing(reservation())
    for second in range(1_000):
        floors.look(made, at("2026-04-02") + second * 1_000_000)
    assert pool.told == 1


def test_office_hours_are_those_of_their_own_zone():
    """R18: nine o'clock in Vienna is seven o'clock UTC in summer."""
    hours = Hours(tz="Europe/Vienna", weekly=(Window((0, 1, 2, 3, 4), 9 * 60, 17 * 60),))
    floors, pool, made = standing(reservation(hours=hours))
    for moment, there in (
        ("2026-04-02T06:59:59", False),
        ("2026-04-02T07:00:00", True),
        ("2026-04-02T14:59:59", True),
        ("2026-04-02T15:00:00", False),
        ("2026-04-04T10:00:00", False),  # a Saturday
    ):
        floors.look(made, at(moment))
        assert bool(pool.floors) is there, moment


def test_a_clock_that_is_set_back_or_forward_is_believed():
    """R18: time synchronisation moves it; what holds is what it says now."""
    floors, pool, made = standing(reservation())
    for moment, there in (("2026-04-30", True), ("2026-03-01", False), ("2027-01-01", False), ("2026-04-15", True)):
        floors.look(made, at(moment))
        assert bool(pool.floors) is there, moment


def test_several_add_up():
    """R3"""
    floors, pool, made = standing(
        reservation(),
        reservation(id="s", input_tpm=1, output_tpm=2, ends_us=None),
        reservation(id="t", project="q"),
        reservation(id="u", model="other"),
    )
    floors.look(made, at("2026-04-02"))
    assert pool.floors == {"p": Floor(101, 12), "q": Floor(100, 10)}
    floors.look(made, at("2026-06-01"))
    assert pool.floors == {"p": Floor(1, 2)}


def test_a_new_snapshot_works_out_only_what_is_new_in_it(monkeypatch: pytest.MonkeyPatch):
    """A thousand calendars are not read again for each command of an operator."""
    asked = []
    monkeypatch.setattr(reserved, "in_force", lambda one, at_us: asked.append(one.id) or in_force(one, at_us))
    hours = Hours(tz="Europe/Vienna", weekly=(Window((0, 1, 2, 3, 4), 9 * 60, 17 * 60),))
    many = [reservation(id=f"r{number}", hours=hours) for number in range(10)]
    floors, pool, made = standing(*many)
    floors.look(made, at("2026-04-02T10:00"))
    assert (len(asked), pool.floors) == (10, {"p": Floor(1_000, 100)})
    changed = [reservation(id="r0", hours=hours, input_tpm=1), *many[1:9], reservation(id="r10")]
    floors.look(snapshot(*changed), at("2026-04-02T10:01"))
    assert (asked[10:], pool.floors) == (["r0", "r10"], {"p": Floor(901, 100)})
    floors.look(snapshot(*changed), at("2026-04-02T15:00"))
    assert pool.floors == {"p": Floor(100, 10)}
    floors.look(snapshot(*changed), at("2026-04-02T14:00"))
    assert pool.floors == {"p": Floor(901, 100)}, "a clock that was set back"


def test_a_new_snapshot_is_in_force_with_the_next_look():
    floors, pool, made = standing()
    floors.look(made, at("2026-04-02"))
    assert pool.floors == {}
    floors.look(snapshot(reservation()), at("2026-04-02"))
    assert pool.floors == {"p": Floor(100, 10)}
