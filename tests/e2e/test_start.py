"""R46: a start waits for no engine that accepts and never answers; what is up serves, and `/readyz` says whether any is."""

import pytest

from fareclass.engine import health
from fareclass.flow import dispatch
from tests.e2e.gateway import behind
from tests.e2e.upstream import Upstream
from tests.engine.conftest import HANG, FakeServer, eventually, fake  # noqa: F401


@pytest.fixture
def hanging(fake: FakeServer, monkeypatch) -> FakeServer:  # noqa: F811
    """It says that it is well, takes every request and never answers one."""
    monkeypatch.setattr(dispatch, "_FIRST_LOOKS_S", 0.2)
    fake.pages["/v1/models"] = {"data": []}
    fake.pieces = [HANG]
    return fake


async def up(gateway) -> list[bool]:
    return [replica["up"] for replica in (await gateway.pool())["replicas"]]


async def test_r46_a_hanging_replica_does_not_hold_up_the_start(hanging, upstream: Upstream, launch):
    gateway = await launch(behind(hanging.url, upstream.url))
    assert (await gateway.http.get(f"{gateway.url}/readyz")).status_code == 200
    assert await up(gateway) == [False, True]
    answers = [await gateway.ask() for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len(upstream.turns) == 4


async def test_r46_where_nothing_answers_the_gateway_says_so_until_something_does(hanging, launch, monkeypatch):
    monkeypatch.setattr(health, "_PROBE_S", 0.5)
    gateway = await launch(behind(hanging.url))
    assert (await gateway.http.get(f"{gateway.url}/readyz")).status_code == 503
    assert (await gateway.ask()).status_code == 503
    hanging.pieces = [
        b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n',
        b"data: [DONE]\n\n",
    ]

    async def ready() -> bool:
        return (await gateway.http.get(f"{gateway.url}/readyz")).status_code == 200

    await eventually(ready)
    assert await up(gateway) == [True]
