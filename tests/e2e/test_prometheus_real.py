"""R42 with the real tools: Prometheus scrapes a gateway and answers queries, promtool judges page, rules and their tests."""

import asyncio
import os
import re
import shutil
import socket
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from fareclass.core.tiers import TIERS
from fareclass.core.usage import KINDS
from tests.e2e.busy import Busy, reservable
from tests.e2e.gateway import ADMIN_KEY, MODEL, Gateway, in_process
from tests.e2e.test_prometheus import ALERTS, MONITORING, asked, panels, rules
from tests.engine.conftest import eventually

pytestmark = pytest.mark.slow
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
WAVES = 3
QUIET = {"Waiting: webhooks and spans"}
"""A panel of which one curve needs a collector of traces that fails for a rate of more than 0: it is at 0."""


@pytest.fixture(scope="session")
def prometheus() -> str:
    """The program; installed where it may be."""
    found = shutil.which("prometheus")
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # which starts no service
        for command in (("apt-get", "update"), ("apt-get", "install", "-y", "--no-install-recommends", "prometheus")):
            subprocess.run(command, env=environ, capture_output=True, timeout=300, check=False)
        found = shutil.which("prometheus")
    if found is None:
        pytest.skip("no Prometheus here, and it can't be installed (Debian's package `prometheus`, as root)")
    return found


@pytest.fixture
def promtool(prometheus: str):
    """Run promtool; what it says where it finds fault is the failure."""

    def run(*words: str | Path, given: str = "") -> str:
        command = ["promtool", *map(str, words)]
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


class Prometheus:
    """One that runs for a test: `folder` has its configuration and data."""

    def __init__(self, program: str, folder: Path, gateway: Gateway) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self._api = httpx.AsyncClient(base_url=f"http://{address}/api/v1", timeout=20)
        self._log = (folder / "prometheus.log").open("wb")
        words = [
            program,
            f"--config.file={configured(folder, gateway)}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
        ]
        self._process = subprocess.Popen(words, stdout=self._log, stderr=self._log)

    async def query(self, expression: str) -> list[dict[str, Any]]:
        answer = await self._api.get("/query", params={"query": expression})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    async def values(self, expression: str, *labels: str) -> dict[Any, float]:
        """What it answers, by one label or several."""
        found = {}
        for one in await self.query(expression):
            words = tuple(one["metric"].get(label, "") for label in labels)
            found[words if len(words) > 1 else words[0] if words else ""] = float(one["value"][1])
        return found

    async def rules(self) -> list[dict[str, Any]]:
        groups = (await self._api.get("/rules")).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def ready(self) -> None:
        async def is_up() -> bool:
            try:
                begun = (await self._api.get("/status/runtimeinfo")).status_code == 200
            except httpx.TransportError:
                return False
            return begun and (await self.values("up", "job")) == {"fareclass": 1}

        await eventually(is_up, 60)

    async def close(self) -> None:
        await self._api.aclose()
        self._process.terminate()
        await asyncio.to_thread(self._process.wait, 30)
        self._log.close()


def configured(folder: Path, gateway: Gateway) -> Path:
    """The example, for this gateway, which listens beyond loopback and so wants the admin key (R51); scraped each second."""
    settings = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    key = folder / "admin.key"
    key.write_text(ADMIN_KEY)
    settings["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    settings["rule_files"] = [str(ALERTS)]
    job = settings["scrape_configs"][0]
    job["static_configs"] = [{"targets": [gateway.url.removeprefix("http://")]}]
    job["authorization"] = {"credentials_file": str(key)}
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


@pytest.fixture
async def scraped(prometheus: str, tmp_path: Path):
    """A gateway and the Prometheus that scrapes it."""
    folder = tmp_path / "gateway"
    folder.mkdir()
    async with in_process(folder, reservable(listen="0.0.0.0:0", insecure_listen=True)) as gateway:
        assert (await gateway.http.get(f"{gateway.url}/metrics")).status_code == 401, "not without the admin key"
        server = Prometheus(prometheus, tmp_path, gateway)
        try:
            await server.ready()
            yield gateway, server
        finally:
            await server.close()


async def test_r42_what_prometheus_has_scraped_is_what_the_ledger_has(scraped):
    gateway, prometheus = scraped
    busy = await Busy.begin(gateway, answers=3)
    await busy.wave()
    total = len(gateway.rows())
    await eventually(lambda: has_seen(prometheus, total), 20)
    await busy.wave(WAVES)
    rows = gateway.rows()
    await eventually(lambda: has_seen(prometheus, len(rows)), 20)
    counted = await prometheus.values(
        "sum by (service_tier, resolved_service_tier, outcome) (fareclass_requests_total)",
        "service_tier", "resolved_service_tier", "outcome",
    )  # fmt: skip
    assert counted == Counter((row["requested_tier"], row["served_tier"], row["outcome"]) for row in rows)
    answered = [row for row in rows if row["first_token_us"] is not None]
    tokens = await prometheus.values("sum by (kind) (fareclass_tokens_total)", "kind")
    assert tokens == {kind: sum(row[kind] for row in answered) for kind in KINDS}
    tiers = Counter(row["served_tier"] for row in answered)
    assert set(tiers) == {tier.word for tier in TIERS}
    for name in ("time_to_first_token_seconds", "request_duration_seconds"):
        by_tier = f"sum by (resolved_service_tier) (fareclass_{name}_count)"
        assert await prometheus.values(by_tier, "resolved_service_tier") == tiers
    waits_s = await prometheus.values("sum(fareclass_queue_wait_seconds_sum)")
    assert waits_s[""] == pytest.approx(sum(row["queue_ms"] for row in rows if row["started_us"] is not None) / 1000)
    inside = [row for row in rows if row["served_tier"] == "reserved"]
    used = await prometheus.values("sum by (side) (fareclass_floor_used_tokens_total)", "side")
    assert used["output"] == sum(row["output"] for row in inside) > 0
    assert used["input"] == pytest.approx(sum(row["input"] + 0.1 * row["cache_read"] for row in inside))
    assert (await prometheus.values("fareclass_floor_tokens_per_minute", "side")) == {"input": 2_000, "output": 12}
    await check_worked_out(prometheus)
    await check_questions(prometheus)


async def has_seen(prometheus: Prometheus, requests: int) -> bool:
    return (await prometheus.values("sum(fareclass_requests_total)")).get("") == requests


async def check_worked_out(prometheus: Prometheus) -> None:
    """The expressions of the reference. In the second waves default answered 2 × `WAVES` and shed `WAVES`."""
    available, utilised, _ = re.findall(r"^```text\n(.*?)```", REFERENCE.read_text(), re.MULTILINE | re.DOTALL)
    found = await prometheus.values(available, "resolved_service_tier")
    assert found == pytest.approx(dict.fromkeys((tier.word for tier in TIERS), 1.0) | {"default": 2 / 3})
    shares = await prometheus.values(utilised, "side")
    assert shares["input"] > 0 < shares["output"]


async def check_questions(prometheus: Prometheus) -> None:
    """Each curve of the dashboard has something to show; each rule is sound."""
    for one in asked():
        expression = one.expression.replace("$__rate_interval", "1m")
        found = await prometheus.query(re.sub(r"\$\w+", ".*", expression))
        if one.place in {panel["title"] for panel in panels()} - QUIET:
            assert found or "batch_window_left" in expression, one
    await eventually(lambda: evaluated(prometheus), 20)
    assert {rule["name"] for rule in await prometheus.rules()} == {rule["alert"] for rule in rules()}


async def evaluated(prometheus: Prometheus) -> bool:
    found = await prometheus.rules()
    assert {rule["health"] for rule in found} <= {"ok", "unknown"}, found
    return all(rule["health"] == "ok" for rule in found)


async def test_r42_a_model_without_a_replica_raises_its_alarms(scraped):
    gateway, prometheus = scraped
    await Busy.begin(gateway)
    path = f"/pools/{MODEL}/replicas/{(await gateway.pool())['replicas'][0]['id']}"
    (await gateway.admin.patch(path, json={"drain": True})).raise_for_status()

    async def pending() -> bool:
        alerts = await prometheus.values("ALERTS", "alertname")
        return {"FareclassReplicaDown", "FareclassNoReplica"} <= alerts.keys()

    await eventually(pending, 20)


def test_promtool_finds_no_fault_with_the_rules_and_their_tests_pass(promtool):
    promtool("check", "rules", ALERTS)
    promtool("check", "config", MONITORING / "prometheus.yaml")
    assert "SUCCESS" in promtool("test", "rules", MONITORING / "alerts_test.yaml")


async def test_promtool_finds_no_fault_with_the_page(promtool, launch):
    gateway = await launch(reservable())
    await (await Busy.begin(gateway)).wave()
    page = (await gateway.http.get(f"{gateway.url}/metrics")).text
    assert await asyncio.to_thread(promtool, "check", "metrics", given=page) == ""
