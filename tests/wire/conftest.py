"""A data plane on a real uvicorn."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn

from fareclass.core.snapshot import Key, Model, Project, Snapshot
from fareclass.core.tiers import Tier
from fareclass.wire.asgi import DataPlane
from tests.wire.plane import SECRET, FakeWalk, Running

LIVE = frozenset({Tier.PRIORITY, Tier.DEFAULT, Tier.FLEX})


@pytest.fixture
def snapshot() -> Snapshot:
    project = Project(id="proj_a", name="acme")
    key = Key(id="key_test", project=project, name="app", secret=SECRET.encode())
    models = {name: Model(name=name, upstream_model="upstream/Model", created=7, tiers=LIVE) for name in ("m", "org/m")}
    return Snapshot(projects={project.id: project}, keys={key.id: key}, models=models, quotas={}, books={})


@pytest.fixture
async def plane(snapshot: Snapshot) -> AsyncIterator[Running]:
    async def fallback(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body", "body": b"fallback"})

    running = Running(FakeWalk())
    app = DataPlane(running.walk, snapshot=lambda: snapshot, ready=lambda: running.not_ready, fallback=fallback)
    config = uvicorn.Config(app, interface="asgi3", port=0, lifespan="off", log_level="error", access_log=False)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    running.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield running
    await server.shutdown()


@pytest.fixture
async def http(plane: Running) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {SECRET}"}
    async with httpx.AsyncClient(base_url=plane.url, headers=headers, timeout=10, verify=False) as client:
        yield client
