"""Reservations through the control plane (R18, R19, R33), on both databases."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from fareclass.config import Price, ReservedPrice
from fareclass.core.limits import EXHAUSTED_S, RESERVATIONS
from fareclass.core.tiers import Tier
from fareclass.flow.compile import compile_snapshot
from fareclass.flow.control import Control
from fareclass.store.database import Store
from fareclass.store.reservations import add_reservation, change_reservation
from tests.wire.admin_plane import make_control
from tests.wire.test_admin import made, refused

PRICE = Price(input=Decimal("0.6"), output=Decimal("2.4"))
FEES = ReservedPrice(input=Decimal("0.021"), output=Decimal("0.084"))
OFFICE = {
    "tz": "Europe/Vienna",
    "weekly": [{"days": ["mon", "tue", "wed", "thu", "fri"], "from": "09:00", "to": "17:00"}],
}
ALONE = {"input_tpm": 29_246, "output_tpm": 2_924}
"""What of each side alone fits on 8 slots of 80,000 and 8,000 tokens a minute: 37 % (R19)."""


@pytest.fixture
def control(store: Store, tmp_path: Path) -> Control:
    return make_control(store, tmp_path, PRICE, FEES)


@pytest.fixture
async def admin(admin: httpx.AsyncClient) -> httpx.AsyncClient:
    assert (await admin.post("/projects", json={"name": "acme"})).status_code == 201
    return admin


def asked(**fields: Any) -> dict[str, Any]:
    return {"project": "acme", "model": "smollm2", "input_tpm": 0, "output_tpm": 1_000, **fields}


def in_days(days: float) -> str:
    return (datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)).isoformat().replace("+00:00", "Z")


async def test_r18_a_reservation_is_in_force_at_once_with_its_fee(admin: httpx.AsyncClient, control: Control) -> None:
    """R18, R33: 10,000 input at 0.021 and 500 output at 0.084 USD an hour for each 1,000."""
    one = await made(admin, "/reservations", asked(input_tpm=10_000, output_tpm=500, overflow="reject"))
    assert (one["status"], one["hourly_usd"], one["ends_at"], one["hours"]) == ("active", "0.252", None, None)
    (floor,) = control.snapshot.reservations[one["project"], "smollm2"]
    assert (floor.id, floor.input_tpm, floor.output_tpm, floor.overflow) == (one["id"], 10_000, 500, None)
    assert (await admin.get(f"/reservations/{one['id']}")).json() == one
    default = await made(admin, "/reservations", asked(output_tpm=1))
    assert default["overflow"] == "default"
    assert control.snapshot.reservations[one["project"], "smollm2"][1].overflow is Tier.DEFAULT


async def test_r18_a_season_with_office_hours(admin: httpx.AsyncClient, control: Control) -> None:
    """R18: kept as it was written, scheduled until its start."""
    body = asked(starts_at=in_days(30), ends_at=in_days(120), hours=OFFICE, overflow="priority")
    season = await made(admin, "/reservations", body)
    assert {name: season[name] for name in ("starts_at", "ends_at", "hours", "overflow", "status")} == {
        "starts_at": body["starts_at"], "ends_at": body["ends_at"], "hours": OFFICE, "overflow": "priority",
        "status": "scheduled",
    }  # fmt: skip
    (floor,) = control.snapshot.reservations[season["project"], "smollm2"]
    assert floor.hours is not None
    assert [(one.days, one.from_minute, one.to_minute) for one in floor.hours.weekly] == [((0, 1, 2, 3, 4), 540, 1020)]


async def test_r18_a_start_that_is_over_is_refused(admin: httpx.AsyncClient) -> None:
    """A wrong year shall not begin at once. The start of one that has begun stays, and may be said again."""
    for over in ("2020-01-01T00:00:00Z", "1970-01-01T00:00:00Z", in_days(-2 / 24 / 60)):
        refused(await admin.post("/reservations", json=asked(starts_at=over)), 400, "invalid", "starts_at")
    one = await made(admin, "/reservations", asked(starts_at=in_days(-0.5 / 24 / 60)))
    assert one["starts_at"] == one["created"], "a request that took its time"
    at = f"/reservations/{one['id']}"
    same = await admin.patch(at, json={"starts_at": one["starts_at"], "overflow": "flex"})
    assert (same.json()["starts_at"], same.json()["overflow"]) == (one["starts_at"], "flex")
    message = refused(await admin.patch(at, json={"starts_at": "2020-01-01T00:00:00Z"}), 400, "invalid", "starts_at")
    assert "has begun already" in message
    later = await made(admin, "/reservations", asked(starts_at=in_days(3)))
    moved = await admin.patch(f"/reservations/{later['id']}", json={"starts_at": "2020-01-01T00:00:00Z"})
    refused(moved, 400, "invalid", "starts_at")


async def test_r19_what_does_not_fit_is_refused_with_what_would(admin: httpx.AsyncClient) -> None:
    """R19: the offer, asked for again, is taken, and then nothing is left."""
    answer = await admin.post("/reservations", json=asked(input_tpm=80_000, output_tpm=2_000))
    message = refused(answer, 409, "insufficient_capacity", None)
    offer = answer.json()["error"]["available"]
    assert f"{offer['input_tpm']} input and {offer['output_tpm']} output tokens" in message
    assert offer["input_tpm"] // 40 == offer["output_tpm"] > 0
    await made(admin, "/reservations", asked(**offer))
    none = await admin.post("/reservations", json=asked(input_tpm=80_000, output_tpm=2_000))
    assert "nothing in the proportion" in refused(none, 409, "insufficient_capacity", None)
    assert none.json()["error"]["available"] == {"input_tpm": 0, "output_tpm": 0}, "one side alone is of no use"
    again = await admin.post("/reservations", json=asked(input_tpm=0, output_tpm=100))
    refused(again, 409, "insufficient_capacity", None)
    left = (ALONE["input_tpm"] - offer["input_tpm"] - offer["output_tpm"] * 10) // 10
    assert again.json()["error"]["available"] == {"input_tpm": 0, "output_tpm": left}
    assert left < 5


async def test_r19_the_calendar_counts_not_the_moment(admin: httpx.AsyncClient) -> None:
    """R19: one that begins next month leaves today's floor until then, and its nights to others."""
    await made(admin, "/reservations", asked(**ALONE | {"input_tpm": 0}, starts_at=in_days(30), hours=OFFICE))
    for fits in (asked(output_tpm=2_000, ends_at=in_days(30)), asked(output_tpm=900, hours=_nights())):
        await made(admin, "/reservations", fits)
    refused(await admin.post("/reservations", json=asked()), 409, "insufficient_capacity", None)


def _nights() -> dict[str, Any]:
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    return {
        "tz": "Europe/Vienna",
        "weekly": [{"days": days, "from": "17:00", "to": "24:00"}, {"days": days, "from": "00:00", "to": "09:00"}],
    }


async def test_r19_only_replicas_that_serve_reserved_count(admin: httpx.AsyncClient) -> None:
    await admin.patch("/pools/smollm2/replicas/r1", json={"tiers": ["default", "flex"]})
    answer = await admin.post("/reservations", json=asked(output_tpm=1))
    assert answer.json()["error"]["available"] == {"input_tpm": 0, "output_tpm": 0}


async def test_r19_capacity_is_shown(admin: httpx.AsyncClient) -> None:
    (free,) = (await admin.get("/capacity", params={"model": "smollm2"})).json()["data"]
    assert (free["slots"], free["reservable_slots"], free["input_tpm"], free["output_tpm"]) == (8, 8, 80_000, 8_000)
    assert (free["now"]["free_input_tpm"], free["now"]["free_output_tpm"]) == tuple(ALONE.values())
    later = in_days(10)
    await made(admin, "/reservations", asked(output_tpm=1_000))
    await made(admin, "/reservations", asked(output_tpm=1_500, starts_at=later))
    (sold,) = (await admin.get("/capacity")).json()["data"]
    assert (sold["now"]["sold_output_tpm"], sold["now"]["free_output_tpm"]) == (1_000, 1_924)
    assert (sold["peak"]["at"], sold["peak"]["sold_output_tpm"], sold["peak"]["free_output_tpm"]) == (later, 2_500, 424)


async def test_a_pool_of_unknown_capacity_says_how_to_learn_it(admin: httpx.AsyncClient) -> None:
    answer = await admin.post("/reservations", json=asked(model="meta-llama/Llama-3"))
    assert "fareclass bench capacity meta-llama/Llama-3" in refused(answer, 409, "capacity_unknown", "model")


async def test_r18_a_change_is_checked_without_the_old_self(admin: httpx.AsyncClient, control: Control) -> None:
    one = await made(admin, "/reservations", asked(output_tpm=2_000))
    at = f"/reservations/{one['id']}"
    more = await admin.patch(at, json={"output_tpm": 2_924, "overflow": "flex", "ends_at": in_days(5)})
    assert (more.json()["output_tpm"], more.json()["overflow"]) == (2_924, "flex")
    assert control.snapshot.reservations[one["project"], "smollm2"][0].output_tpm == 2_924
    refused(await admin.patch(at, json={"output_tpm": 2_925}), 409, "insufficient_capacity", None)
    assert (await admin.patch(at, json={"ends_at": None})).json()["ends_at"] is None
    refused(await admin.patch(at, json={"starts_at": in_days(1)}), 400, "invalid", "starts_at")


async def test_r18_a_change_that_takes_no_more_is_never_refused(admin: httpx.AsyncClient) -> None:
    """Though the pool has shrunk below what is sold."""
    one = await made(admin, "/reservations", asked(output_tpm=2_900))
    await admin.patch("/pools/smollm2/replicas/r1", json={"slots": 1})
    fewer = await admin.patch(f"/reservations/{one['id']}", json={"output_tpm": 2_000, "overflow": "flex"})
    assert fewer.json()["output_tpm"] == 2_000
    refused(await admin.post("/reservations", json=asked(output_tpm=1)), 409, "insufficient_capacity", None)


async def test_r18_the_fee_is_that_of_the_making(admin: httpx.AsyncClient) -> None:
    """R33: until its tokens change."""
    one = await made(admin, "/reservations", asked(output_tpm=1_000))
    dearer = {"input": "0.6", "output": "2.4", "reserved_output": "0.168"}
    book = (await admin.put("/prices/smollm2", json=dearer)).json()
    assert (book["reserved_input"], book["reserved_output"]) == ("0.021", "0.168")
    at = f"/reservations/{one['id']}"
    assert (await admin.patch(at, json={"overflow": "flex"})).json()["hourly_usd"] == "0.084"
    assert (await admin.patch(at, json={"output_tpm": 500})).json()["hourly_usd"] == "0.084"
    assert (await admin.patch(at, json={"output_tpm": 1_000})).json()["hourly_usd"] == "0.168"


class Clock:
    """The time of day, for commands on reservations."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> int:
        return int(self.at.timestamp() * 1e6)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """From a Monday on."""
    made = Clock(datetime(2027, 1, 4, tzinfo=UTC))
    monkeypatch.setattr("fareclass.flow.reserving.now_us", made)
    return made


async def test_r18_the_fee_accrues_for_each_whole_minute(admin: httpx.AsyncClient, clock: Clock) -> None:
    """R34: exactly, each at the fee that stands when it is full, until the end."""
    one = await made(admin, "/reservations", asked(output_tpm=1, ends_at="2027-01-04T03:00:00Z"))
    at, pico = f"/reservations/{one['id']}", Decimal("0.0000014")
    assert one["accrued_usd"] == "0"

    async def accrued(**fields: Any) -> Decimal:
        answer = await (admin.patch(at, json=fields) if fields else admin.get(at))
        return Decimal(answer.json()["accrued_usd"])

    clock.at += timedelta(minutes=90, seconds=30)
    assert await accrued() == 90 * pico
    assert await accrued(output_tpm=3) == 90 * pico
    clock.at += timedelta(seconds=29)
    assert await accrued() == 90 * pico
    clock.at += timedelta(seconds=1)
    assert await accrued() == 93 * pico
    clock.at -= timedelta(minutes=5)
    assert await accrued(overflow="flex") == 90 * pico, "a clock that was set back takes nothing away"
    clock.at += timedelta(days=1)
    over = (await admin.get(at)).json()
    assert (over["status"], over["in_force"]) == ("ended", False)
    assert Decimal(over["accrued_usd"]) == 90 * pico + 90 * 3 * pico


async def test_r18_the_fee_counts_weekly_hours_only(admin: httpx.AsyncClient, clock: Clock) -> None:
    one = await made(admin, "/reservations", asked(hours=OFFICE))
    at = f"/reservations/{one['id']}"
    assert (one["hourly_usd"], one["status"], one["in_force"]) == ("0.084", "active", False)
    clock.at += timedelta(days=28, hours=12)
    assert (await admin.get(at)).json()["in_force"]
    assert (await admin.patch(at, json={"hours": None})).json()["accrued_usd"] == "13.776", "20 days, and 4 hours"
    clock.at += timedelta(hours=24)
    assert (await admin.delete(at)).json()["accrued_usd"] == "15.792"
    clock.at += timedelta(hours=24)
    assert (await admin.get("/reservations")).json()["data"][0]["accrued_usd"] == "15.792"


async def test_r18_cancelled_it_frees_the_pool_and_is_exhausted_for_a_day(
    admin: httpx.AsyncClient, control: Control
) -> None:
    """R3: cancelled before its start it is none."""
    running = await made(admin, "/reservations", asked(output_tpm=2_900, ends_at=in_days(9)))
    over = (await admin.delete(f"/reservations/{running['id']}")).json()
    assert (over["status"], over["ends_at"]) == ("cancelled", running["ends_at"])
    assert (await admin.delete(f"/reservations/{running['id']}")).json() == over
    (floor,) = control.snapshot.reservations[running["project"], "smollm2"]
    assert floor.ends_us is not None
    assert floor.ends_us <= datetime.now(UTC).timestamp() * 1e6
    refused(await admin.patch(f"/reservations/{running['id']}", json={"output_tpm": 1}), 409, "ended", None)
    later = await made(admin, "/reservations", asked(output_tpm=2_900, starts_at=in_days(3)))
    await admin.delete(f"/reservations/{later['id']}")
    assert [one.id for one in control.snapshot.reservations[running["project"], "smollm2"]] == [running["id"]]


async def test_r3_a_day_after_its_end_it_is_none(admin: httpx.AsyncClient, control: Control) -> None:
    one = await made(admin, "/reservations", asked())
    now_us = int(datetime.now(UTC).timestamp() * 1_000_000)
    for ago_s, left in ((EXHAUSTED_S - 60, 1), (EXHAUSTED_S + 60, 0)):
        ended = now_us - ago_s * 1_000_000
        with control.store.write() as connection:
            change_reservation(connection, one["id"], {"starts_us": ended - 1, "ends_us": ended})
            snapshot = compile_snapshot(connection, control._master, control.models)
        assert sum(map(len, snapshot.reservations.values())) == left
    assert (await admin.get("/reservations")).json()["data"][0]["status"] == "ended"


async def test_every_change_is_audited_and_listed(admin: httpx.AsyncClient) -> None:
    one = await made(admin, "/reservations", asked())
    await admin.patch(f"/reservations/{one['id']}", json={"overflow": "flex"})
    await admin.delete(f"/reservations/{one['id']}")
    audit = (await admin.get("/audit")).json()["data"]
    assert [entry["action"] for entry in audit[:3]] == [
        "reservation.cancel", "reservation.update", "reservation.create",
    ]  # fmt: skip
    assert (audit[1]["before"]["overflow"], audit[1]["after"]["overflow"]) == ("default", "flex")
    other = await made(admin, "/reservations", asked())
    first = (await admin.get("/reservations", params={"project": "acme", "model": "smollm2", "limit": 1})).json()
    rest = (await admin.get("/reservations", params={"after": first["next"]})).json()
    assert [each["id"] for each in first["data"] + rest["data"]] == [one["id"], other["id"]]
    assert (await admin.get("/reservations", params={"model": "none"})).json()["data"] == []


async def test_a_model_has_so_many_reservations_at_most(admin: httpx.AsyncClient, control: Control) -> None:
    one = await made(admin, "/reservations", asked())
    row = {
        "project": one["project"], "model": "smollm2", "input_tpm": 0, "output_tpm": 0, "overflow": "default",
        "starts_us": 1, "minute_pico": 0, "created_us": 1,
    }  # fmt: skip
    with control.store.write() as connection:
        for number in range(RESERVATIONS - 1):
            add_reservation(connection, {"id": f"rsv_{number}", **row})
    refused(await admin.post("/reservations", json=asked()), 409, "too_many", None)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"output_tpm": 0}, "input_tpm"),
        ({"output_tpm": -1}, "output_tpm"),
        ({"input_tpm": 10**13}, "input_tpm"),
        ({"overflow": "batch"}, "overflow"),
        ({"overflow": "reserved"}, "overflow"),
        ({"overflow": "gold"}, "overflow"),
        ({"starts_at": "2999-01-01T00:00:00Z"}, "starts_at"),
        ({"ends_at": "2999-01-01T00:00:00Z"}, "ends_at"),
        ({"ends_at": "2020-01-01T00:00:00Z"}, "ends_at"),
        ({"ends_at": "2027-01-01"}, "ends_at"),
        ({"hours": {"tz": "Europe/Vienna", "weekly": []}}, "hours.weekly"),
        ({"hours": {**OFFICE, "tz": "Europe/Wien"}}, "hours.tz"),
        ({"hours": {**OFFICE, "tz": "../../etc/passwd"}}, "hours.tz"),
        ({"hours": {**OFFICE, "tz": "Europe"}}, "hours.tz"),
        ({"hours": {**OFFICE, "tz": "localtime"}}, "hours.tz"),
        ({"hours": {**OFFICE, "tz": "posixrules"}}, "hours.tz"),
        ({"hours": {**OFFICE, "tz": "Factory"}}, "hours.tz"),
        ({"hours": {**OFFICE, "tz": "right/UTC"}}, "hours.tz"),
        ({"hours": {**OFFICE, "tz": "posix/Europe/Vienna"}}, "hours.tz"),
        ({"hours": {"tz": "UTC", "weekly": [{"days": ["monday"], "from": "09:00", "to": "17:00"}]}}, "hours.weekly[0].days"),
        ({"hours": {"tz": "UTC", "weekly": [{"days": [], "from": "09:00", "to": "17:00"}]}}, "hours.weekly[0].days"),
        ({"hours": {"tz": "UTC", "weekly": [{"days": ["mon"], "from": "9:00", "to": "17:00"}]}}, "hours.weekly[0].from"),
        ({"hours": {"tz": "UTC", "weekly": [{"days": ["mon"], "from": "09:00", "to": "24:01"}]}}, "hours.weekly[0].to"),
        ({"hours": {"tz": "UTC", "weekly": [{"days": ["mon"], "from": "22:00", "to": "06:00"}]}}, "hours.weekly[0].to"),
    ],
)  # fmt: skip
async def test_bad_input_is_told_with_its_field(admin: httpx.AsyncClient, fields: Any, field: str) -> None:
    answer = await admin.post("/reservations", json=asked(**fields))
    message = answer.json()["error"]["message"]
    if field == "hours.weekly":
        assert answer.status_code == 400
    else:
        refused(answer, 400, "invalid", field)
    assert "two windows" in message or "22:00" not in str(fields)
    assert (await admin.get("/reservations")).json()["data"] == []


async def test_what_is_not_there_is_404(admin: httpx.AsyncClient) -> None:
    refused(await admin.post("/reservations", json=asked(project="nobody")), 404, "not_found", "project")
    refused(await admin.post("/reservations", json=asked(model="gpt-9")), 404, "not_found", "model")
    refused(await admin.get("/capacity?model=gpt-9"), 404, "not_found", "model")
    for method in ("GET", "PATCH", "DELETE"):
        answer = await admin.request(method, "/reservations/rsv_none", json={})
        refused(answer, 404, "not_found", "reservation")


# Prices


async def test_a_fee_that_does_not_accrue_exactly_is_refused(admin: httpx.AsyncClient) -> None:
    """R34: with the nearest ones that do."""
    body = {"input": 1, "output": 1, "reserved_input": "0.02"}
    message = refused(await admin.put("/prices/smollm2", json=body), 400, "invalid", "reserved_input")
    assert "0.01999998 and 0.02000004" in message
    for bad in ("-1", "NaN", "1e300", "10001"):
        answer = await admin.put("/prices/smollm2", json={"input": 1, "output": 1, "reserved_output": bad})
        refused(answer, 400, "invalid", "reserved_output")


def test_r33_the_files_fee_is_taken_over_where_it_changed(store: Store, tmp_path: Path) -> None:
    """As other prices: one that was set through the control plane outlives a restart until the file changes."""
    made = make_control(store, tmp_path, PRICE, FEES)
    made.set_prices("me", "smollm2", PRICE, {}, (Decimal("0.042"), None))

    def now(fees: ReservedPrice | None) -> tuple[int, int]:
        book = make_control(store, tmp_path, PRICE, fees).snapshot.books["smollm2"]
        return book.reserved_input, book.reserved_output

    assert now(FEES) == (700_000, 1_400_000)
    assert now(ReservedPrice(input=Decimal("0.021"), output=Decimal("0.168"))) == (350_000, 2_800_000)
    assert now(None) == (0, 0)
