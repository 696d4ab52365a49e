"""Ledger entries in both databases: whole, once, and summed exactly."""

import sqlalchemy as sa

from fareclass.core.outcomes import Outcome
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from fareclass.metering.report import Names, UsageRow, usage_report
from fareclass.store.database import Store
from fareclass.store.entries import EntryWriter, Filters
from fareclass.store.tables import ledger
from tests.store.made import entry

NOBODY = Names({"proj_a": "acme"}, {})


def write(store: Store, *entries: object) -> None:
    EntryWriter(store.claim()).insert(entries)  # type: ignore[arg-type]


def report(store: Store, by: str = "", step_s: int | None = None, **filters: object) -> list[UsageRow]:
    with store.read() as connection:
        wanted = Filters(**filters)  # type: ignore[arg-type]
        return usage_report(connection, wanted, by=by.split(",") if by else [], step_s=step_s, names=NOBODY)


def test_an_entry_comes_back_as_it_was(store: Store) -> None:
    """R35: every field has its own column, in the right place."""
    given = entry()
    write(store, given)
    with store.read() as connection:
        row = connection.execute(sa.select(ledger)).one()._asdict()
    usage = {kind: row.pop(kind) for kind in Usage.__struct_fields__}
    assert Usage(**usage) == given.usage
    assert row.pop("tags") == {"product": "search"}
    assert row.pop("requested_tier") == "priority"
    assert row.pop("served_tier") == "flex"
    assert row.pop("outcome") == "completed"
    assert row == {name: getattr(given, name) for name in row}


def test_times_that_never_came_stay_empty(store: Store) -> None:
    write(store, entry(started_us=None, first_token_us=None))
    with store.read() as connection:
        assert connection.execute(sa.select(ledger.c.started_us, ledger.c.first_token_us)).one() == (None, None)


def test_writing_twice_keeps_the_first(store: Store) -> None:
    """R35: none is there twice."""
    first = entry(cost_pico=5)
    write(store, first, entry())
    write(store, entry(id=first.id, cost_pico=6), entry())
    with store.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(ledger)).scalar_one() == 3
        assert connection.execute(sa.select(ledger.c.cost_pico).where(ledger.c.id == first.id)).scalar_one() == 5


def test_what_callers_wrote_never_stops_the_ledger(store: Store) -> None:
    """R35: NUL, half a surrogate pair, quotes and SQL in a caller's id or model name."""
    write(store, entry(caller_id="a\0b\ud800'; DROP TABLE ledger;--", model='x\0"%s?'))
    with store.read() as connection:
        found = connection.execute(sa.select(ledger.c.caller_id, ledger.c.model)).one()
    assert tuple(found) == ("a\ufffdb\ufffd'; DROP TABLE ledger;--", 'x\ufffd"%s?')


def test_sums_are_exact_beyond_64_bits(store: Store) -> None:
    """R34: amounts near the edge of a 64-bit integer, whose sum is beyond it."""
    largest = 2**63 - 1
    write(store, *(entry(cost_pico=largest) for _ in range(5)), entry(cost_pico=1))
    (row,) = report(store)
    assert row.cost == "46116860.184273879036"
    assert row.requests == 6


def test_a_report_splits_by_what_is_asked(store: Store) -> None:
    """R36: tiers always, and outcomes, models, tags and time steps where asked."""
    write(
        store,
        entry(ended_us=59_000_000, cost_pico=1),
        entry(ended_us=60_000_000, cost_pico=2, model="other"),
        entry(ended_us=61_000_000, cost_pico=4, served_tier=Tier.PRIORITY, tags="{}"),
        entry(ended_us=62_000_000, cost_pico=0, outcome=Outcome.SHED, first_token_us=None),
    )
    minute = report(store, step_s=60)
    assert [(row.start and row.start.timestamp(), row.served_tier, row.requests) for row in minute] == [
        (0.0, "flex", 1),
        (60.0, "flex", 2),
        (60.0, "priority", 1),
    ]
    assert minute[1].outcomes == {"completed": 1, "shed": 1}
    assert minute[1].input == 1, "the estimates of a refused request are no usage"
    assert {row.model for row in report(store, "model")} == {"smollm2", "other"}
    assert {row.project_name for row in report(store, "project")} == {"acme"}
    assert sorted(str(row.tag) for row in report(store, "tag:product")) == ["None", "search"]
    assert sum(row.requests for row in report(store, "outcome") if row.outcomes == {"shed": 1}) == 1
    assert sum(row.requests for row in report(store, "key", tag=("product", "search"))) == 3
    assert sum(row.requests for row in report(store, from_us=60_000_000, to_us=62_000_000)) == 2
    assert report(store, projects=["proj_none"]) == []


def test_a_voided_entry_costs_nothing(store: Store) -> None:
    """R35: written, but never delivered."""
    gone, kept = entry(cost_pico=5), entry(cost_pico=6)
    write(store, gone, kept)
    EntryWriter(store.claim()).void([gone])
    (row,) = report(store)
    assert row.outcomes == {"completed": 1, "internal": 1}
    assert row.cost == "0.000000000006"
