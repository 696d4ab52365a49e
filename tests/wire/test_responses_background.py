"""Promises of background responses: what was promised is kept, whoever hangs up meanwhile (R35)."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fareclass.core.request import Request
from fareclass.core.snapshot import Snapshot
from fareclass.flow.clock import now_us
from fareclass.flow.stored_responses import StoredResponses
from fareclass.store.responses import ResponseRow, put_responses
from fareclass.store.tables import projects
from fareclass.wire.calls import Calls
from fareclass.wire.http_reply import HttpReply
from fareclass.wire.responses import ResponsesEndpoint
from fareclass.wire.responses_background import Background
from tests.engine.conftest import eventually
from tests.migrated import migrated
from tests.wire.plane import FakeWalk
from tests.wire.test_openai_parse import ARRIVAL, KEY


class Slow:
    """A database that writes only when it is told to."""

    def __init__(self) -> None:
        self.writing = threading.Event()
        self.may_write = threading.Event()

    def put(self, *what) -> None:
        self.writing.set()
        assert self.may_write.wait(10)
        put_responses(*what)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    made = Slow()
    monkeypatch.setattr("fareclass.flow.stored_responses.put_responses", made.put)
    return made


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[StoredResponses]:
    store = migrated(tmp_path / "db" / "fareclass.db")
    with store.write() as connection:
        connection.execute(projects.insert(), [{"id": KEY.project.id, "name": "acme", "weight": 1, "created_us": 1}])
    yield StoredResponses(store)
    store.close()


class Gateway:
    """All that runs responses in the background, with a model that says hello."""

    def __init__(self, stored: StoredResponses) -> None:
        snapshot = Snapshot(projects={KEY.project.id: KEY.project}, keys={KEY.id: KEY}, models={}, quotas={}, books={})
        self.walk = FakeWalk()
        self.stored = stored
        self.background = Background(Calls(self.walk), stored, lambda: snapshot)
        self.sent: list[bytes] = []

    async def call(self, arrived_us: int) -> None:
        endpoint = ResponsesEndpoint(keep=lambda answered: None)
        raw = json.dumps({"model": "m", "input": "Hello", "background": True}).encode()
        arrival = msgspec.structs.replace(ARRIVAL, arrived_us=arrived_us)
        request: Request = endpoint.parse(raw, arrival, KEY)

        async def send(message) -> None:
            self.sent.append(message.get("body", b""))

        await self.background.begin(request, HttpReply(send, request.id, endpoint.dialect(arrival, request)))

    async def row(self) -> ResponseRow:
        """As it is in the database."""
        return (await self.stored.find(KEY.project.id, ["resp_1"]))["resp_1"]

    async def over(self) -> bool:
        return (await self.row()).status == "completed"


async def test_r35_a_hang_up_while_it_is_promised_leaves_no_orphan(stored, slow):
    """The promise is on its way to the disk, so the work begins once it is there."""
    gateway = Gateway(stored)
    caller = asyncio.create_task(gateway.call(now_us()))
    await eventually(slow.writing.is_set)
    caller.cancel()
    await asyncio.wait([caller])
    slow.may_write.set()
    await eventually(lambda: gateway.walk.requests)
    await eventually(gateway.over)
    assert caller.cancelled() and len(gateway.walk.requests) == 1
    await gateway.background.close()


async def test_r35_the_gateway_ends_when_its_promises_are_on_disk(stored, slow):
    """And the next start keeps them."""

    async def hang(*_) -> None:
        await asyncio.Event().wait()

    gateway = Gateway(stored)
    gateway.walk.script = hang
    caller = asyncio.create_task(gateway.call(now_us()))
    await eventually(slow.writing.is_set)
    closing = asyncio.create_task(gateway.background.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    slow.may_write.set()
    await closing
    await caller
    assert (await gateway.row()).status == "queued"
    again = Gateway(stored)
    await again.background.open()
    await eventually(again.over)
    await again.background.close()


async def test_r35_a_response_was_created_when_it_was_promised(stored, slow):
    """Also after a restart, which runs it later."""
    slow.may_write.set()
    gateway = Gateway(stored)
    await gateway.call(1_500_000)
    promised = msgspec.json.decode(gateway.sent[-1])
    await eventually(gateway.over)
    assert msgspec.json.decode((await gateway.row()).body)["created_at"] == promised["created_at"] == 1
    await gateway.background.close()
