"""docs/how-to/clients.md: what a stranger copies works."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fareclass.core.tokens import key_id
from tests.e2e.clients.vercel_sdk import NODE, packages
from tests.e2e.gateway import MODEL, Gateway

GUIDE = Path(__file__).parents[3] / "docs" / "how-to" / "clients.md"


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def gateway(real_process) -> Gateway:
    return real_process.gateway()


def ours(example: str, gateway: Gateway) -> str:
    """With this gateway's address and key, and a short answer."""
    names = {"64": "8", "http://127.0.0.1:8000": gateway.url, "smollm2-135m": MODEL}  # a key may have 64 in it
    keys = {"fc_key_..._...": gateway.key, "fc_key_...": gateway.key, "key_...": key_id(gateway.key.encode())}
    for theirs, own in (names | keys).items():
        example = example.replace(theirs, str(own))
    return example


@pytest.mark.parametrize("example", examples("python"), ids=lambda example: example.split()[1])
def test_the_python_examples_run(gateway, example, capsys, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else LiteLLM's import fetches a table of prices
    exec(ours(example, gateway), {})
    assert capsys.readouterr().out.startswith("flex ")
    assert gateway.rows()[-1]["served_tier"] == "flex"


@pytest.mark.parametrize("example", examples("js"))
def test_the_javascript_example_runs(gateway, example):
    command = [NODE, "--input-type=module", "--eval", ours(example, gateway)]
    done = subprocess.run(command, cwd=packages(), capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("flex "), done.stderr
    assert gateway.rows()[-1]["served_tier"] == "flex"


@pytest.mark.parametrize("example", examples("sh"))
def test_the_commands_run(gateway, example, tmp_path):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = os.environ | {"LLM_USER_PATH": str(tmp_path), "PATH": path}
    command = ["sh", "-e", "-c", ours(example, gateway)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    row = gateway.rows()[-1]
    assert done.stdout.strip() and (row["served_tier"], row["streamed"], row["output"]) == ("flex", 1, 8)
