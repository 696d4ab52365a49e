"""A data plane and a control plane on a real uvicorn, and the commands that speak to it."""

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
import uvicorn

from fareclass.cli import admin as admin_commands
from fareclass.cli import (
    batch_roots,
    budget,
    check,
    engine,
    invoice,
    local,
    plan,
    reservation,
    route,
    usage,
    webhook,
    workload,
)
from fareclass.core.snapshot import Key, Model, Project, Snapshot
from fareclass.core.tiers import Tier
from fareclass.flow.control import Control
from fareclass.store.database import Store
from fareclass.wire.asgi import DataPlane
from fareclass.wire.project_plane import project_app
from tests.migrated import migrated
from tests.wire.admin_plane import ADMIN_KEY, make_app, make_control
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
    app = DataPlane(
        running.walk,
        snapshot=lambda: snapshot,
        ready=lambda: running.not_ready,
        objects=project_app(lambda: snapshot, []),
        fallback=fallback,
    )
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


@pytest.fixture
def control(store: Store, tmp_path: Path) -> Control:
    return make_control(store, tmp_path)


@pytest.fixture
async def admin(control: Control) -> AsyncIterator[httpx.AsyncClient]:
    """An operator of that control plane."""
    transport = httpx.ASGITransport(app=make_app(control))
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://gw/admin/v1", headers=headers) as client:
        yield client


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A control plane on a real socket."""
    store = migrated(tmp_path / "db" / "fareclass.db")
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(make_app(make_control(store, tmp_path)), log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    store.close()


@pytest.fixture
def program() -> typer.Typer:
    made = typer.Typer()
    for module in (
        admin_commands, budget, reservation, batch_roots, usage, invoice, webhook, workload, route, local, check,
        engine, plan,
    ):  # fmt: skip
        module.register(made)
    return made
