"""Plans over HTTP and on the command line, out of a real ledger (R43, R44)."""

import asyncio
import json
import random
import signal
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import typer

from fareclass.config import Price, ReservedPrice
from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import Burndown, Capacity
from fareclass.core.tiers import DEFAULT_POLICIES, Tier
from fareclass.core.times import DAY_US, MINUTE_US
from fareclass.core.usage import Usage
from fareclass.engine.sim_replica import Speed
from fareclass.flow import planning
from fareclass.flow.clock import now_us
from fareclass.flow.control import Control
from fareclass.flow.operator_rules import ControlError
from fareclass.flow.planning import Planning, PlanQuery
from fareclass.flow.planning_process import PlanProcess, Task, task_of
from fareclass.metering.pricing import free_book
from fareclass.planner.advice import PlanRow
from fareclass.planner.plan import Subject
from fareclass.planner.pools import Lane, Pool
from fareclass.planner.trace import Arrival
from fareclass.store.asked import askers
from fareclass.store.database import Store
from fareclass.store.entries import EntryWriter
from fareclass.store.folding import Folder
from fareclass.store.records import moment
from fareclass.store.rollups import Horizon
from tests.store.made import entry
from tests.wire.admin_plane import ADMIN_KEY, READ_ONLY_KEY, make_app, make_control
from tests.wire.test_admin_cli import refusal, run

HOURS = 6
PRICE = Price(input=Decimal(1), output=Decimal(4))
RESERVED = ReservedPrice(input=Decimal("0.03"), output=Decimal("0.12"))  # pays above half use


ONE = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


@pytest.fixture
def control(store: Store, tmp_path: Path) -> Control:
    """A model with prices, and a project that asked steadily for six hours, six times a minute, of two workloads."""
    made = make_control(store, tmp_path, PRICE, RESERVED)
    project = made.create_project("test", "acme").id
    start_us = (now_us() // MINUTE_US - HOURS * 60) * MINUTE_US
    draw = random.Random(1)
    entries = []
    for number in range(HOURS * 360):
        at_us = start_us + number * 10_000_000 + draw.randrange(9_000_000)
        shed, nightly = number % 50 == 7, number % 3 == 0
        entries.append(
            entry(
                project=project,
                model="smollm2",
                usage=Usage(input=draw.randrange(80, 120), output=draw.randrange(15, 25)),
                workload="nightly" if nightly else "search",
                requested_tier=Tier.FLEX if nightly else Tier.DEFAULT,
                outcome=Outcome.SHED if shed else Outcome.COMPLETED,
                first_token_us=None if shed else at_us + 100_000,
                arrived_us=at_us,
                started_us=at_us,
                ended_us=at_us + 500_000,
                tags="{}",
            )
        )
    writer = EntryWriter(store.claim())
    for first in range(0, len(entries), 500):
        writer.insert(entries[first : first + 500])
    folder = Folder(store, Horizon(), {"smollm2": Burndown()})
    while folder.step(now_us() // MINUTE_US * MINUTE_US - 60 * MINUTE_US):
        pass
    return made


def pool() -> Pool:
    return Pool(
        model="smollm2",
        lanes=(Lane(slots=4, speed=Speed(limit=6)),),
        policies=DEFAULT_POLICIES,
        book=free_book("smollm2"),
        capacity=Capacity(input_tpm=1_000_000, output_tpm=60_000),
    )


async def rows(admin: httpx.AsyncClient, **body: Any) -> list[dict[str, Any]]:
    response = await admin.post("/plan", json=body)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["data"]
    return found


async def test_a_ledger_becomes_advice(admin: httpx.AsyncClient) -> None:
    """R43, R44: what was shed counts too; the floor lies at the demand; each workload gets a tier and a reason."""
    since = _iso(now_us() - HOURS * 3_600_000_000)
    (row,) = await rows(admin, project="acme", model="smollm2")
    assert row["start"] >= since[:13]
    assert (row["project_name"], row["model"]) == ("acme", "smollm2")
    assert row["input"]["p50"] == pytest.approx(600, rel=0.1)
    assert row["output"]["p50"] == pytest.approx(120, rel=0.1)
    assert row["break_even_input"] == row["break_even_output"] == 0.5
    best = row["alternatives"][-1]
    assert best["reserve"]["input_tpm"] == pytest.approx(600, rel=0.25)
    assert best["saving_share"] > 0.2
    assert Decimal(best["month_usd"]) < Decimal(row["alternatives"][0]["month_usd"])
    tiers = {one["workload"]: one["proposal"] for one in row["workloads"]}
    assert (tiers["search"]["shape"], tiers["search"]["tier"]) == ("steady", "reserved")
    assert tiers.keys() == {"search", "nightly"} and all(one["reason"] for one in tiers.values())
    assert sum(one["share"] for one in row["workloads"]) == pytest.approx(1.0, abs=0.001)
    assert row["season"] is None and row["alternatives"][0]["waits"] is None


@ONE
async def test_the_read_only_key_may_ask_and_nobody_may_ask_for_nonsense(admin: httpx.AsyncClient) -> None:
    """R51: a trace is in the body; nothing that a caller names is opened."""
    reader = {"Authorization": f"Bearer {READ_ONLY_KEY}"}
    assert (await admin.post("/plan", json={"project": "acme"}, headers=reader)).status_code == 200
    for body, status, field in (
        ({"project": "nobody"}, 404, "project"),
        ({"model": "none"}, 404, "model"),
        ({"from": "2999-01-01T00:00:00Z"}, 400, "from"),
        ({"from": "2020-01-01T00:00:00Z"}, 400, "from"),
        ({"trace": []}, 400, "trace"),
        ({"trace": "/etc/passwd"}, 400, "trace"),
        ({"trace": [{"timestamp": 0, "input_tokens": 1, "output_tokens": 1}]}, 404, "model"),
        ({"path": "/etc/passwd"}, 400, "path"),
    ):
        response = await admin.post("/plan", json=body)
        assert (response.status_code, response.json()["error"]["field"]) == (status, field), response.text
    back = [{"timestamp": at, "input_tokens": 1, "output_tokens": 1} for at in (5, 4)]
    refused = await admin.post("/plan", json={"model": "smollm2", "trace": back})
    assert refused.status_code == 400 and refused.json()["error"]["field"] == "trace[1].timestamp"


@ONE
async def test_a_trace_in_the_body_is_planned_for(admin: httpx.AsyncClient) -> None:
    trace = [
        {"timestamp": 2 * number, "input_tokens": 100, "output_tokens": 20, "project": "mine"} for number in range(600)
    ]
    (row,) = await rows(admin, model="smollm2", trace=trace)
    assert (row["project"], row["minutes"], row["input"]["p50"]) == ("mine", 20, 3_000)
    assert row["alternatives"][-1]["reserve"]["input_tpm"] == pytest.approx(3_000, rel=0.2)


@ONE
async def test_a_plan_begins_where_it_is_asked_to(admin: httpx.AsyncClient) -> None:
    """Not at the hour before, when perhaps nobody asked for anything yet."""
    since_us = (now_us() // 60_000_000 - 30) * 60_000_000
    (row,) = await rows(admin, **{"project": "acme", "from": _iso(since_us - 20_000_000)})
    assert (row["minutes"], row["start"][:16]) == (30, _iso(since_us)[:16])


@ONE
async def test_one_plan_at_a_time_with_waits_out_of_the_scheduler(control: Control) -> None:
    """R44: where the pool's speed is known, the busiest time is replayed for each way to buy."""
    planner = Planning(control, {"smollm2": pool()})
    query = PlanQuery(project="acme", from_us=now_us() - HOURS * 3_600_000_000)
    first = asyncio.create_task(planner.plan(query))
    await asyncio.sleep(0)
    with pytest.raises(ControlError, match="one at a time"):
        await planner.plan(query)
    (row,) = await first
    waits = [one.waits for one in row.alternatives]
    assert all(one is not None and one.requests > 5 and one.ttft_p99_ms for one in waits)
    assert len(await planner.plan(query)) == 1


@pytest.fixture
def idle(store: Store, tmp_path: Path) -> Control:
    """The model with its prices, and nobody who asked."""
    return make_control(store, tmp_path, PRICE, RESERVED)


@ONE
async def test_what_fails_of_a_plan_is_said_in_its_row(idle: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was asked for no token has none."""

    def broken(subject: Subject, *more: Any) -> Task:
        task = task_of(subject, *more)
        return msgspec.structs.replace(task, kinds=b"12345678") if subject.project == "bad" else task

    monkeypatch.setattr(planning, "task_of", broken)
    trace = [
        Arrival(at_us=number * 1_000_000, input=tokens, output=tokens, project=project, model="smollm2")
        for number in range(120)
        for project, tokens in (("bad", 50), ("good", 40), ("silent", 0))
    ]
    bad, good = await Planning(idle, {}).plan(PlanQuery(trace=trace))
    assert (bad.project, bad.failed, bad.alternatives, bad.minutes) == ("bad", True, [], 2)
    assert bad.advice == "No plan was made: that of bad on smollm2 failed, and the gateway's log says how."
    assert (good.project, good.failed, len(good.alternatives)) == ("good", False, 5)
    with pytest.raises(ControlError, match="no plan was made: that of bad on smollm2 failed"):
        await Planning(idle, {}).plan(PlanQuery(trace=[one for one in trace if one.project == "bad"]))


@ONE
async def test_who_only_sent_batches_has_no_plan(idle: Control) -> None:
    """R43: no reservation serves them."""
    at_us = now_us() - 600_000_000
    times = dict.fromkeys(("arrived_us", "started_us", "first_token_us", "ended_us"), at_us)
    batch = entry(project="p", model="smollm2", requested_tier=Tier.BATCH, usage=Usage(input=9, output=9), **times)
    EntryWriter(idle.store.claim()).insert([batch])
    with idle.store.read() as connection:
        assert askers(connection, at_us - DAY_US, now_us()) == []
    assert await Planning(idle, {}).plan(PlanQuery()) == []


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """A plan's read of the store: that it has begun, and that it may end."""
    begun, may_end = threading.Event(), threading.Event()

    def slow(*_: object) -> list[tuple[str, str]]:
        begun.set()
        assert may_end.wait(20)
        return []

    monkeypatch.setattr(planning, "askers", slow)
    yield begun, may_end
    may_end.set()


@ONE
async def test_what_takes_too_long_is_told_in_time(
    idle: Control, read: tuple[threading.Event, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "PLAN_S", 0.05)
    planner = Planning(idle, {})
    with pytest.raises(ControlError, match="takes longer than"):
        await planner.plan(PlanQuery())
    assert not read[1].is_set()
    with pytest.raises(ControlError, match="one at a time"):
        await planner.plan(PlanQuery())
    read[1].set()


@ONE
async def test_who_hangs_up_ends_his_plan_once_its_read_has_ended(
    idle: Control, read: tuple[threading.Event, threading.Event]
) -> None:
    begun, may_end = read
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not begun.is_set():
            return {"type": "http.request", "body": b"{}", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def answered() -> int:
        return (await client.post("/plan", json={})).status_code

    app = make_app(idle)
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gw/admin/v1", headers=headers) as client:
        first = asyncio.create_task(app(_scope(headers), receive, _nowhere))
        assert await asyncio.to_thread(begun.wait, 20)
        gone.set()
        await asyncio.wait_for(first, 20)
        assert await answered() == 409
        may_end.set()
        for _ in range(1_000):
            status = await answered()
            if status != 409:
                break
            await asyncio.sleep(0.01)
        assert status == 200


@ONE
async def test_a_plan_without_its_caller_has_no_process(idle: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()

    class Endless(PlanProcess):
        async def plan(self, task: Task) -> PlanRow:
            begun.put_nowait(await self._running())
            await asyncio.Event().wait()
            raise AssertionError(task)

    monkeypatch.setattr(planning, "PlanProcess", Endless)
    trace = [Arrival(at_us=0, input=9, output=9, model="smollm2")]
    plan = asyncio.create_task(Planning(idle, {}).plan(PlanQuery(trace=trace)))
    process = await asyncio.wait_for(begun.get(), 20)
    plan.cancel()
    assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL


@ONE
async def test_a_trace_may_be_as_long_as_is_said(admin: httpx.AsyncClient) -> None:
    """5,000 requests with every field fit into the body; one more is too many."""
    row = {
        "timestamp": 1_790_000_000.123456, "input_tokens": 100_000, "output_tokens": 10_000, "cache_read_tokens": 10_000,
        "project": "search-team-production", "model": "meta-llama/Llama-3.3-70B-Instruct", "tier": "priority",
    }  # fmt: skip
    fits = await admin.post("/plan", json={"trace": [row] * 5_000})
    assert (fits.status_code, fits.json()["error"]["field"]) == (404, "trace")
    more = await admin.post("/plan", json={"trace": [row] * 5_001})
    assert (more.status_code, more.json()["error"]["field"]) == (400, "trace")


def test_the_command_asks_the_gateway(program: typer.Typer, url: str) -> None:
    assert run(program, url, "plan").strip() == "Nobody asked for anything in this time."
    assert run(program, url, "plan", "--json").strip() == "[]"
    assert "no project 'nobody'" in refusal(program, url, "plan", "--project", "nobody")
    assert "is for --trace" in refusal(program, url, "plan", "--price", "input=1")


def test_a_trace_file_is_planned_for_without_a_gateway(program: typer.Typer, tmp_path: Path) -> None:
    trace = tmp_path / "day.csv"
    lines = (f"{number * 3},1000,200" for number in range(1_200))
    trace.write_text("timestamp,input_tokens,output_tokens\n" + "\n".join(lines))
    nowhere = "http://127.0.0.1:1"
    prices = ("input=1", "output=4", "reserved_input=0.03", "reserved_output=0.12")
    words = ("plan", "--trace", str(trace), *(word for price in prices for word in ("--price", price)))
    (row,) = json.loads(run(program, nowhere, *words, "--json"))
    assert row["alternatives"][-1]["reserve"]["input_tpm"] == pytest.approx(20_000, rel=0.2)
    out = run(program, nowhere, *words, "--season", env={"COLUMNS": "100"})
    assert "Reserve " in out and "all-priority" in out and "P99" in out and "least" in out
    assert "no season can be forecast" in out
    assert max(map(len, out.splitlines())) <= 100
    config = tmp_path / "fareclass.yaml"
    config.write_text(
        "models:\n  m:\n    engine: {kind: simulated, slots: 8}\n    price: {input: 1, output: 4}\n"
        "    reserved_price: {input: 0.03, output: 0.12}\n"
    )
    (row,) = json.loads(run(program, nowhere, "plan", "--trace", str(trace), "--config", str(config), "--json"))
    assert row["model"] == "m" and row["alternatives"][-1]["waits"]["requests"] > 200
    assert "needs prices" in refusal(program, nowhere, "plan", "--trace", str(trace))
    assert "reserved_output must be given" in refusal(program, nowhere, *words[:-2])
    trace.unlink()
    assert "can't be read" in refusal(program, nowhere, *words)


def _scope(headers: dict[str, str]) -> dict[str, Any]:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    path = "/admin/v1/plan"
    return {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": raw, "root_path": ""}


async def _nowhere(_message: object) -> None:
    """The answer to somebody who has gone."""


def _iso(at_us: int) -> str:
    return moment(at_us).isoformat()
