"""The examples of the documents run: commands and Python, each on a gateway with the document's own settings."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from fareclass import __main__ as program
from fareclass.core.tokens import key_id
from tests.engine.conftest import eventually
from tests.test_docs import ROOT, blocks, commands

CONTROL = {"project", "key", "quota", "price", "pool", "usage", "workload", "reservation", "batch-roots"}
"""Commands that speak to a running gateway."""


class Gateway(NamedTuple):
    """`fareclass serve` with a document's own settings, and its folder."""

    url: str
    folder: Path

    @property
    def key(self) -> str:
        return next(self.folder.rglob("first.key")).read_text().strip()

    def run(self, text: str) -> list[str]:
        """A Python example against this gateway; what it printed."""
        text = re.sub(r"http://127\.0\.0\.1:\d+", self.url, text).replace("fc_key_...", self.key)
        example = [sys.executable, "-c", text.replace("smollm2-135m", "demo-70b")]
        name = key_id(self.key.encode()) or ""
        names = {"OPENAI_API_KEY": self.key, "AWS_SECRET_ACCESS_KEY": self.key, "AWS_ACCESS_KEY_ID": name}
        env = os.environ | names | {"AWS_DEFAULT_REGION": "us-east-1"}
        done = subprocess.run(
            example, cwd=self.folder, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


@pytest.fixture
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateway]:
    """Started from the block of settings that holds `request.param`, on a free port, keeping all in a folder of its own."""
    settings = next(block.text for block in blocks("yaml") if request.param in block.text)
    (tmp_path / "batches").mkdir()
    settings = settings.replace("/srv/batches", str(tmp_path / "batches"))
    settings = settings.replace("smollm2-135m:\n    engine: {kind: local}", "demo-70b:\n    engine: {kind: simulated}")
    (tmp_path / "fareclass.yaml").write_text(settings)
    ours = {"FARECLASS_LISTEN": "127.0.0.1:0", "FARECLASS_CONSOLE": "false"}
    if "store:" not in settings:
        ours |= {"FARECLASS_STORE": "sqlite:///store/db", "FARECLASS_MASTER_KEY_FILE": "one/keys/master.key"}
    secrets = dict.fromkeys(re.findall(r"_env: (\w+)", settings), "secret")
    with subprocess.Popen(
        [sys.executable, "-m", "fareclass", "serve", "--config", "fareclass.yaml"],
        cwd=tmp_path, env=os.environ | secrets | ours, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("curl "))
        try:
            yield Gateway(line.split()[2].partition("/v1")[0], tmp_path)
        finally:
            process.terminate()
        assert process.wait(30) == 0


def run_commands(path: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run, in order, all commands of a document that speak to a gateway; how many there were."""
    ours = [(where, words) for where, words in commands(path) if words[0] in CONTROL]
    for where, words in ours:
        run_command(words, where, gateway, monkeypatch)
    return len(ours)


def run_command(words: list[str], where: str, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(gateway.folder)
    monkeypatch.setenv("FARECLASS_URL", gateway.url)
    monkeypatch.setenv("FARECLASS_MASTER_KEY_FILE", "one/keys/master.key")
    batches = str(gateway.folder / "batches")
    monkeypatch.setattr(sys, "argv", ["fareclass", *(each.replace("/srv/batches", batches) for each in words)])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 0, where


@pytest.mark.parametrize("gateway", ["# fleet.yaml"], indirect=True)
def test_the_readmes_examples_run(gateway: Gateway, monkeypatch: pytest.MonkeyPatch):
    """R1: one parameter, and the answer says which tier it was."""
    readme = ROOT / "README.md"
    for block in blocks("python", readme):
        assert gateway.run(block.text)[0].startswith("priority ")
    assert run_commands(readme, gateway, monkeypatch) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("gateway", ["# fleet.yaml"], indirect=True)
def test_the_callers_examples_run(gateway: Gateway):
    paths = [ROOT / "docs" / "how-to" / f"{name}.md" for name in ("call", "responses")]
    said = [gateway.run(block.text) for path in paths for block in blocks("python", path)]
    assert [said[n][0].split()[0] for n in (0, 1, 2, 4)] == ["default", "x-request-id", "flex", "completed"]


@pytest.mark.slow
@pytest.mark.parametrize("gateway", ["# fleet.yaml"], indirect=True)
def test_the_examples_of_escalation_run(gateway: Gateway, monkeypatch: pytest.MonkeyPatch):
    document = ROOT / "docs" / "how-to" / "escalate.md"
    assert [gateway.run(block.text) for block in blocks("python", document)] == [["default"]]
    assert run_commands(document, gateway, monkeypatch) == 8


@pytest.mark.parametrize("gateway", ["# fleet.yaml"], indirect=True)
def test_the_operators_examples_run(gateway: Gateway, monkeypatch: pytest.MonkeyPatch):
    assert run_commands(ROOT / "docs" / "how-to" / "operate.md", gateway, monkeypatch) >= 10


@pytest.mark.parametrize("gateway", ["slots: 1}"], indirect=True)
def test_the_tutorials_stream_is_paused_and_whole(gateway: Gateway, monkeypatch: pytest.MonkeyPatch):
    """R11: the priority request takes the only slot; the flex stream goes on behind it and loses nothing."""
    tutorial = ROOT / "docs" / "tutorial.md"
    tiers, pause = blocks("python", tutorial)
    assert [line.split()[0] for line in gateway.run(tiers.text)] == ["priority", "default", "flex"]
    said = [line.partition("s  ")[2] for line in gateway.run(pause.text)]
    assert [line.partition(",")[0] for line in said] == [
        "flex: begins",
        "priority: begins",
        "priority: whole",
        "flex: whole",
    ]
    assert run_commands(tutorial, gateway, monkeypatch) >= 3
    metrics = httpx.get(f"{gateway.url}/metrics").text
    assert re.search(r'^fareclass_pauses_total\{.*service_tier="flex".*\} 1$', metrics, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("gateway", ["batch_folders: [/srv/batches]"], indirect=True)
async def test_the_examples_of_batches_run(gateway: Gateway, monkeypatch: pytest.MonkeyPatch):
    """R37: one batch by each API, from a file, from the call itself and from a folder that an operator has opened."""
    document = ROOT / "docs" / "how-to" / "batch.md"
    [line] = blocks("json", document)
    (gateway.folder / "requests.jsonl").write_text(line.text.replace("smollm2-135m", "demo-70b"))
    folder = gateway.folder / "batches" / "search"
    (folder / "in").mkdir(parents=True)
    asked = {"messages": [{"role": "user", "content": [{"text": "Name a river."}]}]}
    (folder / "in" / "a.jsonl").write_text(json.dumps({"recordId": "1", "modelInput": asked}) + "\n")
    run_command(["project", "update", "default", "--name", "search-team"], "the first key's", gateway, monkeypatch)
    assert run_commands(document, gateway, monkeypatch) == 1
    said = [gateway.run(block.text) for block in blocks("python", document)]
    assert said[:2] == [[], []]
    assert said[2][0] in {"Submitted", "Validating", "InProgress", "Completed"}
    await eventually(lambda: [*folder.glob("out/*/manifest.json.out")], 30)
    [answer] = [json.loads(line) for path in folder.glob("out/*/a.jsonl.out") for line in path.open()]
    assert answer["modelOutput"]["output"]["message"]["content"][0]["text"]
