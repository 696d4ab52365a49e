"""A gateway under test, as a process of its own or inside the test's loop, and what one sees of it from outside."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import psycopg
from prometheus_client.parser import text_string_to_metric_families
from psycopg.rows import dict_row

from fareclass.app import build
from fareclass.cli.serve import _bound_socket, _Server
from fareclass.config import load
from fareclass.engine.model_file import fetch_default_model
from tests.e2e.upstream import QUESTION
from tests.engine.conftest import eventually
from tests.migrated import migrated

ADMIN_KEY = "the-operator-chose-this-key"
MODEL = "m"
INPUT_PICO, OUTPUT_PICO = 100_000, 400_000
"""Prices of `MODEL` at tier default, in 10⁻¹² USD a token."""
PRICE = {"input": "0.1", "output": "0.4"}
FACTORS = {"priority": 1.75, "default": 1.0, "flex": 0.5}


def cost(tier: str, prompt: int, output: int, cached: int = 0) -> int:
    """What a request costs by R32, R33 and the prices above; `cached` tokens of the prompt were read from a cache."""
    return round(((prompt - cached) * INPUT_PICO + cached * INPUT_PICO // 10 + output * OUTPUT_PICO) * FACTORS[tier])


def behind(*urls: str, slots: int = 4, **more: Any) -> dict[str, Any]:
    """Settings of a gateway before these servers."""
    replicas = [{"url": url, "slots": slots} for url in urls]
    return {"models": {MODEL: {"replicas": replicas, "price": PRICE}}, **more}


def simulated(**engine: Any) -> dict[str, Any]:
    """Settings of a gateway with an engine that needs no model."""
    return {"models": {MODEL: {"engine": {"kind": "simulated", **engine}, "price": PRICE}}}


def local(slots: int) -> dict[str, Any]:
    """Settings of a gateway with the real built-in engine."""
    engine = {"kind": "local", "slots": slots, "model_file": str(fetch_default_model()), "context_tokens": 1024}
    return {"models": {MODEL: {"engine": engine, "price": PRICE}}}


def chat(**fields: Any) -> dict[str, Any]:
    """A chat request; without more, one of four tokens on tier default."""
    asked = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 4, **fields}
    return {name: value for name, value in asked.items() if value is not None}


def write_settings(folder: Path, settings: dict[str, Any]) -> Path:
    """A configuration file (JSON is YAML) for a gateway that keeps everything below this folder."""
    file = folder / "fareclass.yaml"
    own = {
        "listen": "127.0.0.1:0",
        "store": "sqlite:///db/fareclass.db",
        "data_folder": "files",
        "master_key_file": "keys/master.key",
        "admin_key_env": "FARECLASS_ADMIN_KEY",
        "console": False,
    }
    file.write_text(json.dumps(own | settings))
    return file


class Gateway:
    """What users, operators and auditors see of one gateway."""

    def __init__(self, url: str, key: str, folder: Path) -> None:
        self.url = url
        self.key = key
        self.folder = folder
        self._clients: list[httpx.AsyncClient | openai.AsyncOpenAI] = []
        self.http = self.caller(key)
        self.admin = self.caller(ADMIN_KEY, "/admin/v1")

    def caller(self, key: str, path: str = "/v1") -> httpx.AsyncClient:
        """A client with this key."""
        headers = {"authorization": f"Bearer {key}"}
        client = httpx.AsyncClient(base_url=self.url + path, headers=headers, timeout=60, verify=False)
        self._clients.append(client)
        return client

    def sdk(self) -> openai.AsyncOpenAI:
        client = openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=60)
        self._clients.append(client)
        return client

    async def ask(self, **fields: Any) -> httpx.Response:
        return await self.http.post("/chat/completions", json=chat(**fields))

    async def new_key(self, project: str | None = None, **fields: Any) -> dict[str, Any]:
        """A key of the first project, or of a new one of this name."""
        if project is not None:
            (await self.admin.post("/projects", json={"name": project})).raise_for_status()
        body = {"project": project or "default", "name": f"key {os.urandom(4).hex()}", **fields}
        made: dict[str, Any] = (await self.admin.post("/keys", json=body)).raise_for_status().json()
        return made

    async def limit(self, project: str = "default", **limits: float) -> None:
        """Set a project's quota."""
        (await self.admin.put(f"/quotas/{project}/{MODEL}", json=limits)).raise_for_status()

    async def pool(self) -> dict[str, Any]:
        """The model's pool as the operator sees it."""
        pool: dict[str, Any] = (await self.admin.get("/pools")).raise_for_status().json()["data"][0]
        return pool

    async def count(self, what: str, tier: str | None = None) -> int:
        """How many are `running`, `waiting` or `paused` in the pool."""
        tiers = (await self.pool())["tiers"]
        return sum(tiers[word][what] for word in tiers if tier in {None, word})

    async def becomes(self, what: str, count: int, tier: str | None = None) -> None:
        """Wait until so many are."""

        async def reached() -> bool:
            return await self.count(what, tier) == count

        await eventually(reached)

    async def speaks(self, tier: str, count: int = 1) -> None:
        """Wait until so many of the tier run and all that run have given their first token."""

        async def spoken() -> bool:
            pool = await self.pool()
            prefilling = any(replica["prefill_backlog_tokens"] for replica in pool["replicas"])
            return pool["tiers"][tier]["running"] == count and not prefilling

        await eventually(spoken, 30)

    async def idle(self) -> None:
        """Wait until no slot and no place in line is taken."""

        async def empty() -> bool:
            pool = await self.pool()
            taken = [tier[what] for tier in pool["tiers"].values() for what in ("running", "waiting", "paused")]
            return not any(taken) and not any(replica["prefill_backlog_tokens"] for replica in pool["replicas"])

        await eventually(empty)

    def rows(self) -> list[dict[str, Any]]:
        """The ledger as it is on disk, in order of arrival."""
        store = json.loads((self.folder / "fareclass.yaml").read_text())["store"]
        if store.startswith("postgresql:"):
            with psycopg.connect(store, row_factory=dict_row) as server:
                return server.execute("SELECT * FROM ledger ORDER BY id").fetchall()
        with sqlite3.connect(self.folder / "db" / "fareclass.db") as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute("SELECT * FROM ledger ORDER BY id")]

    async def recorded(self, count: int) -> list[dict[str, Any]]:
        """The ledger once it has so many entries."""
        await eventually(lambda: len(self.rows()) >= count)
        return self.rows()

    async def counted(self) -> Counter[str]:
        """Requests by outcome, out of the metrics."""
        page = (await self.http.get(f"{self.url}/metrics")).raise_for_status().text
        counts: Counter[str] = Counter()
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name == "fareclass_requests_total":
                    counts[sample.labels["outcome"]] += int(sample.value)
        return counts

    async def close(self) -> None:
        for client in self._clients:
            await (client.close() if isinstance(client, openai.AsyncOpenAI) else client.aclose())


@asynccontextmanager
async def in_process(folder: Path, settings: dict[str, Any]) -> AsyncIterator[Gateway]:
    """The whole gateway in this loop, on a port of its own."""
    config = load(write_settings(folder, settings), {"FARECLASS_ADMIN_KEY": ADMIN_KEY})
    if "store" not in settings:
        migrated(folder / "db" / "fareclass.db").close()
    system = await build(config, lambda _step: None)
    assert system.first_keys is not None
    with _bound_socket(config) as listener:
        listening = asyncio.Event()
        server = _Server(config, system, listening.set)
        task = asyncio.create_task(server.serve([listener]))
        await listening.wait()
        gateway = Gateway(f"http://127.0.0.1:{listener.getsockname()[1]}", system.first_keys.project, folder)
        try:
            yield gateway
        finally:
            await gateway.close()
            server.stop()
            server.stop()
            await task
            await server.end_requests()
            await system.aclose()


SERVE = (sys.executable, "-m", "fareclass", "serve", "--config")


def refused_start(folder: Path, settings: dict[str, Any] | None = None) -> str:
    """What `fareclass serve` says when it can't start; with `settings` None, with those of the start before."""
    file = write_settings(folder, settings) if settings is not None else folder / "fareclass.yaml"
    environ = {**os.environ, "FARECLASS_ADMIN_KEY": ADMIN_KEY}
    done = subprocess.run([*SERVE, file], env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    return done.stderr


class Process:
    """`fareclass serve` in a process group of its own. `log` is where its log goes, `said` what it printed."""

    def __init__(self, folder: Path, settings: dict[str, Any] | None = None) -> None:
        """With `settings` None it is started again with those it had."""
        self.folder = folder
        self.log = folder / "log.jsonl"
        file = write_settings(folder, settings) if settings is not None else folder / "fareclass.yaml"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*SERVE, file],
                stdout=subprocess.PIPE, stderr=log, start_new_session=True,
                env={**os.environ, "FARECLASS_ADMIN_KEY": ADMIN_KEY},
            )  # fmt: skip
        self.said = ""
        self.curl = self._wait_for_curl()
        self.url = self.curl.split()[2].partition("/v1")[0]

    def _wait_for_curl(self) -> str:
        """The line to paste, which is the last that it prints."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said += line.decode()
            if line.startswith(b"curl "):
                return line.decode()
        raise AssertionError(f"it did not start: {self.log.read_text()}")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def key(self) -> str:
        return (self.folder / "keys" / "first.key").read_text().strip()

    def gateway(self) -> Gateway:
        return Gateway(self.url, self.key, self.folder)

    def engines(self) -> list[psutil.Process]:
        """The processes of its built-in engines."""
        found = psutil.Process(self._process.pid).children(recursive=True)
        return [child for child in found if "fareclass.engine.local_server" in child.cmdline()]

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def send_group(self, number: signal.Signals) -> None:
        """As a terminal does at Ctrl-C, and an init system at a stop."""
        os.killpg(self._process.pid, number)

    async def wait(self) -> int:
        """Its exit status."""
        return await asyncio.to_thread(self._process.wait, 30)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
