"""Who waits for reports, and for whose (R42)."""

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from fareclass.flow.control import Control
from fareclass.flow.reporting import Reports, UsageQuery
from fareclass.metering.report import UsageRow
from fareclass.store.database import Store
from fareclass.wire import admin_reports
from tests.engine.conftest import eventually
from tests.wire.admin_plane import ADMIN_KEY, make_app, make_control


@pytest.fixture
def control(store: Store, tmp_path: Path) -> Control:
    return make_control(store, tmp_path)


async def test_two_reports_are_made_at_once_and_none_in_the_event_loop(
    admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, together = set(), [], threading.Barrier(2, timeout=10)
    made = admin_reports.csv_answer

    def watched(*given: Any) -> Any:
        me = threading.get_ident()
        running.add(me)
        together.wait()
        until = time.monotonic() + 0.2
        while len(running) <= 2 and time.monotonic() < until:
            time.sleep(0.01)
        most.append(len(running))
        together.wait()
        running.discard(me)
        return made(*given)

    monkeypatch.setattr(admin_reports, "csv_answer", watched)
    answers = await asyncio.gather(*(admin.get("/usage?format=csv") for _ in range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert most == [2] * 4


class Held:
    """Reports that are made, until they may end."""

    def __init__(self) -> None:
        self.begun: list[str | None] = []
        self.may_end = threading.Event()

    def usage(self, query: UsageQuery) -> list[UsageRow]:
        self.begun.append(query.model)
        if query.from_us is None:
            assert self.may_end.wait(20)
        return []


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    made = Held()
    monkeypatch.setattr(Reports, "usage", made.usage)
    yield made
    made.may_end.set()


async def test_who_hangs_up_in_line_for_a_report_gets_none_made(control: Control, held: Held) -> None:
    """Two are being made, one waits whose caller goes, and another that comes after him."""
    app, gone = make_app(control), asyncio.Event()

    async def ask(model: str, hangs_up: asyncio.Event) -> int:
        messages = [{"type": "http.request", "body": b"", "more_body": False}]
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await hangs_up.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"authorization", f"Bearer {ADMIN_KEY}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/admin/v1/usage", "root_path": "", "headers": headers,
                 "query_string": f"model={model}".encode()}  # fmt: skip
        await app(scope, receive, send)
        return int(sent[0]["status"]) if sent else 0

    stays = asyncio.Event()
    first = [asyncio.create_task(ask(model, stays)) for model in ("a", "b")]
    await eventually(lambda: len(held.begun) == 2)
    leaver = asyncio.create_task(ask("left", gone))
    await asyncio.sleep(0)
    last = asyncio.create_task(ask("c", stays))
    gone.set()
    await asyncio.wait_for(leaver, 10)
    held.may_end.set()
    assert await asyncio.gather(*first, last) == [200] * 3
    assert sorted(str(model) for model in held.begun) == ["a", "b", "c"]


async def test_reports_of_the_last_minutes_wait_for_no_long_ones(admin: httpx.AsyncClient, held: Held) -> None:
    """R42: a live picture stays live."""
    long = [asyncio.create_task(admin.get("/usage?model=m")) for _ in range(3)]
    await eventually(lambda: len(held.begun) == 2)
    since = (datetime.now(UTC) - timedelta(seconds=60)).isoformat()
    answer = await asyncio.wait_for(admin.get("/usage", params={"model": "live", "from": since}), 10)
    assert (answer.status_code, held.begun[-1]) == (200, "live")
    held.may_end.set()
    assert [answer.status_code for answer in await asyncio.gather(*long)] == [200] * 3
