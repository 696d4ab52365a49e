"""Reports over HTTP and on the command line (R36, R42, R43)."""

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from fareclass.config import Price, ReservedPrice
from fareclass.core.events import Finished
from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import Burndown
from fareclass.core.tiers import Tier
from fareclass.core.times import DAY_US
from fareclass.core.usage import Usage
from fareclass.flow.control import Control
from fareclass.metering import board, percentiles, report
from fareclass.metering.pricing import cost
from fareclass.store.database import Store
from fareclass.store.entries import EntryWriter
from fareclass.store.folding import Folder
from fareclass.store.reservations import add_reservation, change_reservation, keep_terms
from fareclass.store.rollups import Horizon
from tests.store.made import entry
from tests.wire.admin_plane import make_control
from tests.wire.test_admin_cli import WIDE, answering, cells, run

MONTH = int(datetime(2026, 9, 1, tzinfo=UTC).timestamp()) * 1_000_000
END = int(datetime(2026, 10, 1, tzinfo=UTC).timestamp()) * 1_000_000
USAGE = Usage(input=1_000, cache_read=500, output=100)


@pytest.fixture
def control(store: Store, tmp_path: Path) -> Control:
    """Two models, the first with prices of tokens and reservations, and a project."""
    price = Price(input=Decimal("0.6"), output=Decimal("2.4"))
    made = make_control(store, tmp_path, price, ReservedPrice(input=Decimal("0.06"), output=Decimal("0.12")))
    made.create_project("test", "acme")
    return made


class Project:
    """What `acme` did in September 2026."""

    def __init__(self, control: Control) -> None:
        self.control = control
        (found,) = control.projects(after="", limit=1)
        self.id = found.id
        self._writer = EntryWriter(control.store.claim())

    def did(self, day: float, served: Tier = Tier.DEFAULT, **fields: Any) -> Finished:
        """One request, priced by the book in force now."""
        ended_us = MONTH + int(day * DAY_US)
        book = self.control.snapshot.books["smollm2"]
        usage = fields.pop("usage", USAGE)
        times = {"arrived_us": ended_us - 3_000_000, "started_us": ended_us - 2_500_000, "queue_ms": 500}
        given = {"project": self.id, "usage": usage, "requested_tier": served, "served_tier": served}
        given |= {
            "first_token_us": ended_us - 990_000,
            "cost_pico": cost(book, served, usage),
            "pauses": 0,
            "restarts": 0,
        }
        made = entry(ended_us=ended_us, book_version=book.version, **(times | given | fields))
        self._writer.insert([made])
        return made

    def void(self, one: Finished) -> None:
        self._writer.void([one])

    def fold(self, until_us: int = END) -> None:
        folder = Folder(self.control.store, Horizon(), {"smollm2": Burndown()})
        while folder.step(until_us):
            pass


@pytest.fixture
def acme(control: Control) -> Project:
    return Project(control)


async def data(admin: httpx.AsyncClient, path: str, **params: str) -> list[dict[str, Any]]:
    response = await admin.get(path, params=params)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["data"]
    return found


async def table(admin: httpx.AsyncClient, path: str, **params: str) -> list[dict[str, str]]:
    response = await admin.get(path, params=params | {"format": "csv"})
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(response.text)))


async def test_usage_is_the_same_summed_or_not_as_json_and_csv(admin: httpx.AsyncClient, acme: Project) -> None:
    """R36: by tag too, exact decimals in both."""
    for day in (0.5, 1.5, 1.75, 9.1):
        acme.did(day, tags='{"product":"=cmd"}' if day > 9 else '{"product":"search"}', cost_pico=2**62 + 1)
    acme.did(1.6, outcome=Outcome.SHED, first_token_us=None, cost_pico=0, workload="nightly")
    params = {"by": "tag:product,workload", "from": "2026-09-01T00:00:00Z", "step": "86400"}
    before = await data(admin, "/usage", **params)
    acme.fold()
    assert await data(admin, "/usage", **params) == before
    assert [row["cost"] for row in before] == [
        "4611686.018427387905",
        "9223372.03685477581",
        "0",
        "4611686.018427387905",
    ]
    lines = await table(admin, "/usage", **params)
    assert [line["cost"] for line in lines] == [row["cost"] for row in before]
    assert [line["tag"] for line in lines] == ["search", "search", "search", "'=cmd"], "no formula in a spreadsheet"
    assert [line["outcomes.shed"] for line in lines] == ["", "", "1", ""]
    assert (await data(admin, "/usage", tag="product:=cmd"))[0]["requests"] == 1


async def test_the_tier_board_shows_what_each_tier_got(admin: httpx.AsyncClient, acme: Project) -> None:
    """R42: within 1 %, the same from sums as from the ledger."""
    for number in range(100):  # the first has its token before it arrived, as clocks may have it: it has no such time
        acme.did(
            1 + number / 100, arrived_us=MONTH + DAY_US, started_us=MONTH + DAY_US, queue_ms=number, served=Tier.FLEX
        )
    acme.did(
        1.5, requested_tier=Tier.PRIORITY, outcome=Outcome.THROTTLED, first_token_us=None, started_us=None, pauses=2
    )
    before = await data(admin, "/tiers", model="smollm2", project="acme")
    throttled, flex = sorted(before, key=lambda row: str(row["served_tier"]))
    assert (throttled["requested_tier"], throttled["throttled"], throttled["pauses"]) == ("priority", 1, 2)
    assert (throttled["ttft_ms"], throttled["output_tokens_per_s"]) == (None, None)
    assert flex["requests"] == 100
    assert flex["queue_ms"] == pytest.approx({"p50": 49, "p95": 94, "p99": 98}, rel=0.01)
    assert flex["ttft_ms"]["p50"] == pytest.approx(50 * DAY_US / 100_000 - 990, rel=0.001)
    assert flex["inter_token_ms"]["p50"] == pytest.approx(10, rel=0.01)
    assert flex["output_tokens_per_s"]["p50"] == pytest.approx(100, rel=0.01)
    acme.fold(MONTH + int(1.7 * DAY_US))
    assert await data(admin, "/tiers", model="smollm2", project="acme") == before
    acme.fold()
    assert await data(admin, "/tiers", model="smollm2") == before
    assert await data(admin, "/tiers", model="none") == []
    stepped = await data(admin, "/tiers", step="43200")
    assert [row["start"][:13] for row in stepped if row["requested_tier"] == "flex"] == [
        "2026-09-02T00",
        "2026-09-02T12",
    ]
    (line, _) = await table(admin, "/tiers")
    assert {"ttft_ms.p99", "outcomes.completed", "cost"} <= line.keys()
    bare = await admin.get("/tiers", params={"model": "none", "format": "csv"})
    assert bare.text.strip().split(",") == list(line), "the columns do not hang on what there is"


@pytest.mark.parametrize("days", [2, 20])
async def test_percentiles_count_idle_minutes(days: int, admin: httpx.AsyncClient, acme: Project) -> None:
    """R43: exact up to seven days, within 1 % beyond; refused requests are demand."""
    for minute in range(100):
        acme.did((minute + 0.5) / 1440, usage=Usage(input=1000 + minute, cache_read=1000, output=minute))
    acme.did(
        200 / 1440, outcome=Outcome.THROTTLED, first_token_us=None, usage=Usage(input=9_999, output=1), cost_pico=0
    )
    acme.fold(MONTH + 15 * DAY_US)
    times = {"from": "2026-09-01T00:00:00Z", "to": f"2026-09-{days + 1:02}T00:00:00Z"}
    (row,) = await data(admin, "/percentiles", project="acme", **times)
    assert (row["project_name"], row["model"], row["minutes"], row["busy_minutes"]) == (
        "acme",
        "smollm2",
        days * 1440,
        101,
    )
    assert row["input"]["p90"] == 0
    assert row["busy_input"]["max"] == 9_999
    close = 0.01 if days > 7 else 0
    assert row["busy_input"]["p25"] == pytest.approx(1_125, rel=close)
    assert row["busy_output"]["p50"] == pytest.approx(49, rel=close)
    rank = -(-days * 1440 * 99 // 100) - (days * 1440 - 101)
    assert row["input"]["p99"] == pytest.approx(1_099 + rank if rank > 0 else 0, rel=close)
    (line,) = await table(admin, "/percentiles", **times)
    assert line["busy_input.max"] == "9999"


async def test_an_invoice_is_the_sum_of_its_lines(admin: httpx.AsyncClient, acme: Project, control: Control) -> None:
    """R36, R34, R18: fee, use of the floor, usage by kind, overflow apart, what was not delivered; to the last digit."""
    reservation = {"id": "rsv_1", "project": acme.id, "model": "smollm2", "input_tpm": 1_000, "output_tpm": 0}
    with control.change() as connection:
        more = {"overflow": "default", "starts_us": MONTH - DAY_US, "created_us": MONTH, "minute_pico": 7_000_001}
        add_reservation(connection, reservation | more | {"ends_us": MONTH + DAY_US + 90_000_000})
    acme.did(0.5, Tier.RESERVED, usage=Usage(input=14_415, output=5))
    acme.did(0.6, Tier.PRIORITY)
    acme.did(0.7, spilled="reservation_exhausted", requested_tier=Tier.RESERVED)
    acme.void(acme.did(0.8))
    (book,) = control.prices()
    control.set_prices("test", "smollm2", Price(input=Decimal("1.2"), output=Decimal(book.output)), {})
    acme.did(20, Tier.PRIORITY)
    acme.did(31)
    for summed in (False, True):
        if summed:
            acme.fold()
        (invoice,) = await data(admin, "/invoices", month="2026-09")
        lines = invoice["lines"]
        assert sum(Decimal(line["amount"]) for line in lines) == Decimal(invoice["total"])
        fee, *usage, credit = lines
        assert (fee["minutes"], fee["amount"]) == (1441, "0.010087001441")
        assert (fee["input_utilisation"], "output_utilisation" in fee) == ("0.0100", False)
        assert {(line["kind"], line["served_tier"], line["token_kind"]): line["amount"] for line in usage} == {
            ("usage", "reserved", "input"): "0",
            ("usage", "reserved", "output"): "0",
            ("usage", "priority", "input"): "0.00315",
            ("usage", "priority", "cache_read"): "0.0001575",
            ("usage", "priority", "output"): "0.00084",
            ("usage", "default", "input"): "0.0006",
            ("usage", "default", "cache_read"): "0.00003",
            ("usage", "default", "output"): "0.00024",
            ("overflow", "default", "input"): "0.0006",
            ("overflow", "default", "cache_read"): "0.00003",
            ("overflow", "default", "output"): "0.00024",
        }
        prices = {(line["served_tier"], line["token_kind"]): line.get("unit_price") for line in usage}
        assert (prices["priority", "input"], prices["priority", "output"], prices["default", "input"]) == (
            None,
            "4.2",
            "0.6",
        )
        assert (credit["kind"], credit["amount"]) == ("credit", "-0.00087")
        rows = await table(admin, "/invoices", month="2026-09", project="acme")
        assert [row["amount"] for row in rows] == [line["amount"] for line in lines]
    assert await data(admin, "/invoices", month="2026-07") == []
    assert (await data(admin, "/invoices", month="2026-07", project="acme"))[0]["total"] == "0"


async def test_fees_of_months_add_up_over_changes(admin: httpx.AsyncClient, acme: Project, control: Control) -> None:
    """R18: what a reservation was in a month is what that month's invoice says, whatever it became."""
    before = {"until_us": MONTH + DAY_US, "pico": 2_880 * 10, "part_us": 30_000_000}
    with control.change() as connection:
        place = {"id": "rsv_1", "project": acme.id, "model": "smollm2", "overflow": "default", "created_us": MONTH}
        floor = {"input_tpm": 60, "output_tpm": 30, "starts_us": MONTH - DAY_US - 30_000_000, "minute_pico": 10}
        add_reservation(connection, place | floor)
        keep_terms(connection, "rsv_1", MONTH + DAY_US)
        new = {"input_tpm": 600, "minute_pico": 100, "settled": before, "ends_us": END + DAY_US}
        change_reservation(connection, "rsv_1", new)
    found = {}
    for month in ("2026-08", "2026-09", "2026-10"):
        ((line,),) = [invoice["lines"] for invoice in await data(admin, "/invoices", month=month, project="acme")]
        found[month] = int(Decimal(line["amount"]) * 10**12)
        assert line["input_tpm"] == (60 if month == "2026-08" else 600)
    assert found["2026-08"] == 1_440 * 10
    assert found["2026-09"] == 1_440 * 10 + 29 * 1_440 * 100
    assert sum(found.values()) == 2_880 * 10 + 30 * 1_440 * 100


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/invoices?month=2026-13", "month"),
        ("/invoices?month=september", "month"),
        ("/invoices", "month"),
        ("/invoices?month=2026-09&project=nobody", "project"),
        ("/percentiles?from=2126-01-01T00:00:00Z", "from"),
        ("/percentiles?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from"),
        ("/tiers?step=0", "step"),
        ("/tiers?key=a", "key"),
        ("/usage?format=xml", "format"),
        ("/usage?by=project,project", "by"),
        ("/usage?by=tag:a,tag:a", "by"),
    ],
)
async def test_mistakes_are_named(path: str, field: str, admin: httpx.AsyncClient) -> None:
    response = await admin.get(path)
    assert response.status_code in {400, 404}
    assert response.json()["error"]["field"] == field


async def test_what_is_too_long_is_refused_before_it_is_read(
    admin: httpx.AsyncClient, acme: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R36, R42, R43: it says what to narrow."""
    for number in range(4):
        acme.did(number / 1440)
    acme.did(1, model="other")
    for module in (board, report, percentiles):
        monkeypatch.setattr(module, "USAGE_ROWS", 1)
    monkeypatch.setattr(board, "read_spreads", lambda *_: pytest.fail("its histograms were read"))
    for path, field in (("/tiers?step=7", "step"), ("/percentiles?from=2026-09-01T00:00:00Z", "project")):
        response = await admin.get(path)
        assert (response.status_code, response.json()["error"]["field"]) == (400, field)
        assert "more than 1 rows" in response.json()["error"]["message"]


def test_reports_in_the_terminal(program: typer.Typer, url: str) -> None:
    """Nothing is nothing; CSV has its head all the same."""
    for words in (["usage"], ["tiers"], ["percentiles"], ["invoice"]):
        assert run(program, url, *words).strip() == "none"
        assert json.loads(run(program, url, *words, "--json")) == []
    assert run(program, url, "invoice", "--month", "2026-09", "--csv").startswith("project,project_name,month,kind")
    assert run(program, url, "usage", "--csv").startswith("start,")


def test_an_invoice_reads_well(program: typer.Typer) -> None:
    lines = [
        {"kind": "reservation", "model": "m", "reservation": "rsv_0123456789ab", "minutes": 43200, "hourly_usd": "0.42",
         "input_utilisation": "0.8125", "amount": "302.4"},
        {"kind": "overflow", "model": "m", "served_tier": "default", "token_kind": "cache_read", "quantity": 17,
         "unit_price": "0.06", "amount": "0.00000102"},
        {"kind": "credit", "model": "m", "amount": "-0.5"},
    ]  # fmt: skip
    invoice = {"project": "proj_a", "project_name": "acme", "month": "2026-09", "until": "2026-10-01T00:00:00Z"}
    body = json.dumps({"data": [invoice | {"lines": lines, "total": "301.90000102"}], "next": None}).encode()
    with answering(body) as url:
        shown = run(program, url, "invoice", "--month", "2026-09", env={"COLUMNS": "120"}).splitlines()
    assert all(len(line) <= 120 for line in shown)
    assert shown[0] == "acme, 2026-09, until 2026-10-01T00:00Z"
    assert cells(shown[2])[:3] == ["reservation", "m", "rsv_0123456789ab, 81.2% / - used"]
    assert cells(shown[3])[2:] == ["default cache_read", "17", "0.06", "0.00000102"]
    assert shown[-1] == "total 301.90000102 USD"


def test_percentiles_read_well(program: typer.Typer) -> None:
    side = {"p25": 0, "p50": 0, "p90": 5, "p99": 7, "max": 9}
    row = {"project": "proj_a", "project_name": "acme", "model": "m", "minutes": 1000, "busy_minutes": 125}
    row |= {"input": side, "output": side, "busy_input": side, "busy_output": side}
    with answering(json.dumps({"data": [row], "next": None}).encode()) as url:
        shown = run(program, url, "percentiles", env=WIDE).splitlines()
    assert [cells(line)[2] for line in shown[1:]] == ["input", "output"]
    assert cells(shown[1])[-1] == "12.5 %"
