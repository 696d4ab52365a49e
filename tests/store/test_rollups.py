"""Sums by minute and day, and what is left of the ledger beside them: together always the ledger (R36, R42)."""

import threading
import tracemalloc
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fareclass.core.events import Finished
from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import Burndown
from fareclass.core.tiers import Tier
from fareclass.core.times import DAY_US, MINUTE_US
from fareclass.core.usage import KINDS, Usage
from fareclass.metering.board import tier_board
from fareclass.store import folding, histograms
from fareclass.store.database import Store
from fareclass.store.entries import EntryWriter, Filters, totals
from fareclass.store.folding import Folder
from fareclass.store.ids import first_request_id
from fareclass.store.minutes import read_loads
from fareclass.store.rollup_tables import day_loads, day_spreads, days, minute_spreads, minutes, rollups, stale
from fareclass.store.rollups import Horizon, folded
from fareclass.store.tables import ledger
from tests.store.made import entry

TABLES = (ledger, minutes, days, minute_spreads, day_spreads, day_loads, rollups, stale)
DAY = 20_000 * DAY_US


class Gateway:
    """A ledger's writer and who sums it, as one gateway has them; `again` is a restart."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.again()

    def again(self) -> None:
        horizon = Horizon()
        self.writer = EntryWriter(self.store.claim(), horizon)
        self.folder = Folder(self.store, horizon, {"slow": Burndown(output=500)})

    def fold(self, closed_us: int) -> int:
        """Sum all that is over."""
        for pieces in range(10_000):
            if not self.folder.step(closed_us):
                return pieces
        pytest.fail("there is always something left to sum")


@pytest.fixture
def gateway(store: Store) -> Gateway:
    return Gateway(store)


def at(minute: float, **fields: Any) -> Finished:
    """An entry that ends so many minutes after the day's beginning."""
    ended_us = DAY + int(minute * MINUTE_US)
    usual = {"arrived_us": ended_us - 2_000_000, "started_us": ended_us - 1_900_000, "queue_ms": 100}
    return entry(ended_us=ended_us, **(usual | {"first_token_us": ended_us - 1_000_000} | fields))


def sums(store: Store, *by: str, from_us: int | None = None, to_us: int | None = None, **more: Any) -> list[Any]:
    with store.read() as connection:
        filters = Filters(from_us=from_us, to_us=to_us)
        return [tuple(row.values()) for row in totals(connection, filters, by, **more)]


def of_ledger(store: Store, from_us: int | None = None, to_us: int | None = None) -> dict[Any, list[int]]:
    """By project, tier and outcome: requests, tokens and cost, counted one by one."""
    found: dict[Any, list[int]] = {}
    with store.read() as connection:
        for row in connection.execute(sa.select(ledger)).mappings():
            if (from_us or 0) <= row["ended_us"] < (to_us or 2**62):
                counted = found.setdefault((row["project"], row["served_tier"], row["outcome"]), [0] * 7)
                used = row["first_token_us"] is not None
                parts = [1, *(row[kind] if used else 0 for kind in KINDS), row["cost_pico"]]
                counted[:] = [old + new for old, new in zip(counted, parts, strict=True)]
    return found


def of_report(store: Store, from_us: int | None = None, to_us: int | None = None) -> dict[Any, list[int]]:
    with store.read() as connection:
        filters = Filters(from_us=from_us, to_us=to_us)
        rows = totals(connection, filters, ["project", "served_tier", "outcome"])
    names = "project", "served_tier", "outcome"
    return {tuple(row[name] for name in names): [row[name] for name in ("requests", *KINDS, "cost")] for row in rows}


def stands(store: Store, table: sa.Table) -> list[dict[str, Any]]:
    with store.read() as connection:
        return [dict(row) for row in connection.execute(sa.select(table).order_by(*table.c)).mappings()]


def test_a_report_is_exact_before_during_and_after(store: Store, gateway: Gateway) -> None:
    """R36: whatever of it is summed, in any step, a day that is over is read from its sums alone."""
    gateway.writer.insert(
        [at(minute / 2, cost_pico=2**62 + minute, project=f"proj_{minute % 3}") for minute in range(0, 6000, 10)]
    )
    expected, by_hour = of_ledger(store), sums(store, "served_tier", step_us=60 * MINUTE_US)
    assert of_report(store) == expected
    seen = 0
    while gateway.folder.step(DAY + 2900 * MINUTE_US):
        assert of_report(store) == expected
        seen += 1
    assert seen > 2
    assert sums(store, "served_tier", step_us=60 * MINUTE_US) == by_hour
    for start, end in ((0, 1440), (0.5, 2000.25), (1440, 2880), (700, 701), (2899, 3001), (5, 5)):
        edges = DAY + int(start * MINUTE_US), DAY + int(end * MINUTE_US)
        assert of_report(store, *edges) == of_ledger(store, *edges)
    with store.write() as connection:
        connection.execute(sa.delete(ledger).where(ledger.c.ended_us < DAY + 2900 * MINUTE_US))
    assert of_report(store) == expected, "of what is over the ledger is not asked"
    with store.write() as connection:
        connection.execute(sa.delete(minutes).where(minutes.c.start_us < DAY + 1440 * MINUTE_US))
    assert of_report(store) == expected, "of days that are over the minutes are not asked"


def test_what_comes_late_is_summed_again(store: Store, gateway: Gateway) -> None:
    """R36, R38: late entries, voided ones, and a line that is run again under its id and ends on another day."""
    cut, gone = at(10, id="batch_1_7", outcome=Outcome.CANCELLED, cost_pico=5), at(20, cost_pico=7)
    gateway.writer.insert([cut, gone, at(1500)])
    gateway.fold(DAY + 3000 * MINUTE_US)
    for change in (
        lambda: gateway.writer.insert([at(11)]),
        lambda: gateway.writer.void([gone]),
        lambda: gateway.writer.insert([at(3001, id="batch_1_7", cost_pico=9)]),
        lambda: gateway.writer.insert([at(-3)]),
        lambda: gateway.writer.insert([at(-5000)]),
    ):
        change()
        assert of_report(store) == of_ledger(store), "before it is summed again"
        gateway.fold(DAY + 3000 * MINUTE_US)
        assert of_report(store) == of_ledger(store)
        assert stands(store, stale) == []
    assert sum(row["requests"] for row in stands(store, days)) == 3
    assert {row["outcome"] for row in stands(store, days)} == {"completed", "internal"}


def test_an_entry_that_comes_while_its_minute_is_read_is_not_lost(
    store: Store, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R36: it is too late for the sum and says so, and the sum does not take that word back."""
    gateway.writer.insert([at(1)])
    gateway.folder.step(DAY + 2 * MINUTE_US)
    read = folding._read_minutes

    def slow(connection: sa.Connection, ranges: Sequence[tuple[int, int]]) -> Any:
        found = read(connection, ranges)
        thread = threading.Thread(target=gateway.writer.insert, args=([at(1.5)],))
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), "the ledger waits for nobody who sums"
        return found

    monkeypatch.setattr(folding, "_read_minutes", slow)
    gateway.folder.step(DAY + 2 * MINUTE_US)
    assert of_report(store) == of_ledger(store)
    gateway.folder.step(DAY + 2 * MINUTE_US)
    assert [row["start_us"] for row in stands(store, stale)] == [DAY + MINUTE_US], (
        "it came again, while it was summed again"
    )
    assert of_report(store) == of_ledger(store)
    monkeypatch.undo()
    gateway.fold(DAY + 2 * MINUTE_US)
    assert stands(store, stale) == []
    assert of_report(store) == of_ledger(store)


@pytest.mark.parametrize("table", [minutes, minute_spreads, days, day_loads], ids=lambda table: table.name)
def test_a_kill_anywhere_leaves_it_whole(
    table: sa.Table, store: Store, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R36: between deleting the old sums and writing the new ones."""
    gateway.writer.insert([at(minute) for minute in range(0, 2000, 20)])
    gateway.fold(DAY + 1990 * MINUTE_US)
    gateway.writer.insert([at(700.5)])
    replace = folding._replace

    def killed(connection: sa.Connection, of: sa.Table, *given: Any) -> None:
        replace(connection, of, given[0], [] if of is table else given[1])
        if of is table:
            raise KeyboardInterrupt

    monkeypatch.setattr(folding, "_replace", killed)
    with pytest.raises(KeyboardInterrupt):
        gateway.fold(DAY + 1995 * MINUTE_US)
    monkeypatch.undo()
    assert of_report(store) == of_ledger(store)
    gateway.again()
    gateway.fold(DAY + 1995 * MINUTE_US)
    assert of_report(store) == of_ledger(store)
    assert stands(store, stale) == []


ACTIONS = st.one_of(
    st.tuples(st.just("insert"), st.integers(0, 9), st.integers(0, 2 * 1440), st.booleans()),
    st.tuples(st.just("void"), st.integers(0, 9), st.just(0), st.just(False)),
    st.tuples(st.just("fold"), st.integers(1, 4), st.integers(0, 2 * 1440), st.just(False)),
    st.tuples(st.just("again"), st.just(0), st.just(0), st.just(False)),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ACTIONS, max_size=15))
def test_any_history_is_the_ledger(store: Store, actions: list[tuple[str, int, int, bool]]) -> None:
    """R36: entries that come, come again under their id, are voided and summed in any order, over restarts."""
    with store.write() as connection:
        for table in TABLES:
            connection.execute(sa.delete(table))
    gateway = Gateway(store)
    written: dict[str, Finished] = {}
    clock = 0
    for action, number, minute, whole in actions:
        if action == "insert":
            outcome = Outcome.COMPLETED if whole else Outcome.CANCELLED
            one = at(minute, id=f"batch_{number}", outcome=outcome, cost_pico=number, project=f"proj_{number % 2}")
            gateway.writer.insert([one])
            written[one.id] = one
        elif action == "void" and f"batch_{number}" in written:
            with store.read() as connection:
                there = connection.scalar(sa.select(ledger.c.ended_us).where(ledger.c.id == f"batch_{number}"))
            gateway.writer.void([at((there - DAY) / MINUTE_US, id=f"batch_{number}")])
        elif action == "fold":
            clock = max(clock, minute)
            for _ in range(number):
                gateway.folder.step(DAY + clock * MINUTE_US)
        elif action == "again":
            gateway.again()
        assert of_report(store) == of_ledger(store)
    gateway.fold(DAY + clock * MINUTE_US)
    assert of_report(store) == of_ledger(store)
    assert stands(store, stale) == []
    with store.read() as connection:
        state = folded(connection)
    assert state.days[1] + DAY_US > state.minutes[1] - MINUTE_US or not state.minutes[1]


def test_ids_of_new_requests_need_no_look_into_the_ledger(store: Store, gateway: Gateway) -> None:
    """They say when they were made; every other id may have been there before."""
    gateway.writer.insert([at(0)])
    gateway.fold(DAY + 5 * MINUTE_US)
    statements: list[str] = []
    sa.event.listen(store._engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    fresh = first_request_id(DAY + 6 * MINUTE_US)
    gateway.writer.insert([at(7, id=fresh)])
    assert [text for text in statements if text.startswith("SELECT")] == []
    gateway.writer.insert([at(7, id="batch_1_1"), at(7, id=first_request_id(DAY))])
    assert len([text for text in statements if text.startswith("SELECT")]) == 1


def test_old_minutes_go_and_old_days_stay_right(
    store: Store, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R42: kept 90 days, here one; what changes in a day after that makes it whole again."""
    monkeypatch.setattr(folding, "MINUTE_DAYS", 1)
    monkeypatch.setattr(folding, "SUM_DAYS", 3)
    gateway.writer.insert([at(minute) for minute in range(0, 6 * 1440, 480)])
    gateway.fold(DAY + 6 * DAY_US)
    assert min(row["start_us"] for row in stands(store, minutes)) >= DAY + 5 * DAY_US
    assert min(row["start_us"] for row in stands(store, days)) == DAY + 3 * DAY_US
    assert of_report(store) == of_ledger(store)
    before = {row["start_us"]: row["requests"] for row in stands(store, days)}
    gateway.writer.insert([at(4 * 1440 + 17), at(10)])
    assert of_report(store) == of_ledger(store)
    read, lengths = folding._read_minutes, []

    def watched(connection: sa.Connection, ranges: Sequence[tuple[int, int]]) -> Any:
        lengths.append(sum(last - first for first, last in ranges))
        return read(connection, ranges)

    monkeypatch.setattr(folding, "_read_minutes", watched)
    gateway.fold(DAY + 6 * DAY_US)
    assert max(lengths) == 10 * MINUTE_US, "a busy day comes back in pieces"
    assert of_report(store) == of_ledger(store)
    assert stands(store, stale) == []
    assert min(row["start_us"] for row in stands(store, minutes)) >= DAY + 5 * DAY_US
    after = {row["start_us"]: row["requests"] for row in stands(store, days)}
    assert after == before | {DAY + 4 * DAY_US: before[DAY + 4 * DAY_US] + 1}


def test_a_ledger_from_before_is_summed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """R36: of a gateway that was upgraded, in pieces."""
    EntryWriter(store.claim()).insert([at(minute * 4) for minute in range(700)])
    monkeypatch.setattr(folding, "FOLD_ENTRIES", 200)
    gateway = Gateway(store)
    assert gateway.fold(DAY + 3000 * MINUTE_US) >= 5
    assert sum(row["requests"] for row in stands(store, minutes)) == 700
    assert of_report(store) == of_ledger(store)


def test_minutes_are_told_with_what_was_refused(store: Store, gateway: Gateway) -> None:
    """R43, R24, R35: burn-down units, summed or not; batches and what could never run are no demand."""
    usage = Usage(input=100, cache_write_5m=40, cache_write_1h=10, cache_read=55, output=7)
    gateway.writer.insert(
        [
            at(1, usage=usage, model="slow"),
            at(1.5, usage=usage, model="slow", outcome=Outcome.THROTTLED, first_token_us=None),
            at(1.6, usage=usage, model="slow", outcome=Outcome.NOT_FOUND, first_token_us=None),
            at(1.7, usage=usage, model="slow", requested_tier=Tier.BATCH),
            at(3, usage=usage, model="slow"),
            *(at(minute, usage=usage, project=f"proj_{name}") for name in "Bßb_" for minute in (3, 1)),
        ]
    )
    weights = {"slow": Burndown(output=500)}
    named = ["proj_B", "proj__", "proj_b", "proj_ß"]

    def told(**kind: bool) -> dict[tuple[str, str], Any]:
        with store.read() as connection:
            found = list(read_loads(connection, weights, None, None, (DAY, DAY + DAY_US), **kind))
        assert [each[:2] for each in found] == [
            *((name, "smollm2") for name in named[:2]),
            ("proj_a", "slow"),
            *((name, "smollm2") for name in named[2:]),
        ], "each once, in order, whatever the database's language"
        return {(owner, model): loads for owner, model, loads in found}

    for until in (0, 2, 1440):
        gateway.fold(DAY + until * MINUTE_US)
        slow = told(exact=True)["proj_a", "slow"]
        assert sorted(zip(slow.inputs, slow.outputs, strict=True)) == [(176, 35), (351, 70)]
        assert (slow.max_input, slow.max_output, slow.packed) == (351, 70, [])
    packed = told(exact=False)["proj_a", "slow"]
    assert (packed.inputs, packed.max_output, len(packed.packed)) == ([], 70, 1)


def test_a_long_board_takes_no_more_memory_than_a_short_one(
    store: Store, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R42: 600 steps; a histogram that is laid out takes 72 kB, and a text of the whole ledger more than there is."""
    texts: list[int] = []
    parse = histograms.parse

    def watched(given: Iterable[str]) -> Any:
        given = list(given)
        texts.extend(map(len, given))
        return parse(given)

    gateway.writer.insert([at(minute + 0.5) for minute in range(600)])
    gateway.fold(DAY + 300 * MINUTE_US)
    monkeypatch.setattr(histograms, "parse", watched)
    with store.read() as connection:
        tracemalloc.start()
        rows = tier_board(connection, Filters(), 45)
        alone = tier_board(connection, Filters(), None)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(rows) == 600
    assert {row.ttft_ms for row in rows} == {row.ttft_ms for row in alone}
    assert max(texts) < 30, "the codes of one minute"
    assert peak < 15_000_000


def test_requests_of_no_project_are_among_those_of_all(store: Store, gateway: Gateway) -> None:
    """R42: histograms of all projects together have an empty name; nothing is summed twice, or not at all."""
    gateway.writer.insert([at(1, project=""), at(1), at(1500)])
    gateway.fold(DAY + 3000 * MINUTE_US)
    with store.read() as connection:
        (row,) = tier_board(connection, Filters(from_us=DAY, to_us=DAY + DAY_US), None)
    assert row.requests == 2
    assert {one["project"] for one in stands(store, minute_spreads)} == {"", "proj_a"}
    assert len(stands(store, day_spreads)) == 4
