"""`fareclass replay`: what it prints of a small trace, and what it says of mistakes."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fareclass.cli import local

CONFIG = """
models:
  sim: {engine: {kind: simulated, slots: 4}, price: {input: 1, output: 2}, reserved_price: {input: 0.06, output: 0.06}}
  slow: {replicas: [{url: "http://gpu:8000/v1", slots: 8}]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration and a trace: an hour with a request of 1,000 tokens in and 100 out every five seconds."""
    (tmp_path / "fareclass.yaml").write_text(CONFIG)
    rows = [f"{number * 5},1000,100,tax\n" for number in range(720)]
    (tmp_path / "trace.csv").write_text("timestamp,input_tokens,output_tokens,project\n" + "".join(rows))
    return tmp_path


def replay(folder: Path, *words: str, trace: str = "trace.csv") -> tuple[int, str]:
    program = typer.Typer()
    local.register(program)
    config = "--config", str(folder / "fareclass.yaml")
    done = CliRunner().invoke(program, ["replay", str(folder / trace), *config, *words], env={"COLUMNS": "200"})
    return done.exit_code, done.output


def test_a_table_with_a_row_for_each_tier(folder: Path) -> None:
    status, said = replay(folder, "--model", "sim", "--mix", "priority=1,flex=1")
    assert status == 0
    heading, priority, flex, last = said.splitlines()
    assert heading.split()[:4] == ["TIER", "REQUESTS", "DONE", "THROTTLED"]
    assert priority.startswith("priority") and flex.startswith("flex")
    assert int(priority.split()[1]) + int(flex.split()[1]) == 720
    assert "invalid" not in said.lower()
    assert last.startswith("sim: 0:59:5") and "on 4 slots" in last


def test_json_has_everything(folder: Path) -> None:
    status, said = replay(folder, "--model", "sim", "--json")
    (result,) = json.loads(said)
    (tier,) = result["tiers"]
    assert status == 0 and result["model"] == "sim"
    assert (tier["tier"], tier["requests"], tier["completed"], tier["cost"]) == ("default", 720, 720, "0.864")
    assert tier["ttft_ms"]["p50"] <= tier["ttft_ms"]["p99"] < 1_000


def test_a_floor_and_a_load(folder: Path) -> None:
    """R20, R21: 6,000 tokens of input a minute bear half of what comes, and a quarter of it at twice the speed."""
    asked = "--model", "sim", "--tier", "reserved", "--reserve", "tax=6000:1000", "--json"
    for speed, spilled in (("1", 0.5), ("2", 0.75)):
        (result,) = json.loads(replay(folder, *asked, "--speed", speed)[1])
        (tier,) = result["tiers"]
        assert tier["spilled"] / tier["requests"] == pytest.approx(spilled, abs=0.03)
        assert result["seconds"] == pytest.approx(3_600 / float(speed), abs=10)
        assert float(result["fees"]) == pytest.approx(0.42 / float(speed), rel=0.01)
        assert result["kept_share"] == 1


def test_floors_that_do_not_fit_are_told(folder: Path) -> None:
    """R19, R23."""
    said = replay(folder, "--model", "sim", "--tier", "reserved", "--reserve", "tax=6000:6000")[1]
    assert "% of the floors were kept: they are more than fits" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            (),
            "the trace has requests that name no model; send all of it to one with --model; models that can be replayed: sim",
        ),
        (("--model", "slow"), "the speed of slow is not known: set `capacity` in the configuration"),
        (("--model", "none"), "there is no model 'none'; models that can be replayed: sim"),
        (("--tier", "gold"), "must be one of reserved, priority, default, flex, batch, not 'gold'"),
        (("--mix", "flex"), "must be NAME=VALUE"),
        (("--mix", "flex=much"), "'much' is no share"),
        (("--mix", "flex=nan"), "shares must be from 0 on"),
        (("--mix", "flex=0"), "shares must be from 0 on, and one of them more"),
        (("--mix", "flex=1", "--tier", "flex"), "--tier and --mix exclude each other"),
        (("--reserve", "tax=1"), "must be PROJECT=INPUT_TPM:OUTPUT_TPM"),
        (("--speed", "0"), "greater than or equal to 0.001"),
    ],
)
def test_mistakes_are_told(folder: Path, words: tuple[str, ...], told: str) -> None:
    two = CONFIG + "  more: {engine: {kind: simulated}}\n" if not words else CONFIG
    (folder / "fareclass.yaml").write_text(two)
    status, said = replay(folder, *words)
    assert status == 2
    assert told.replace(" ", "") in "".join(said.replace("│", "").split()).replace("sim,more", "sim")


def test_mistakes_of_trace_and_configuration_are_told(folder: Path) -> None:
    (folder / "bad.csv").write_text("timestamp,input_tokens,output_tokens\n1,x,3\n")
    status, said = replay(folder, trace="bad.csv")
    assert status == 2 and "bad.csv:2: input_tokens: must be a number of tokens" in said
    (folder / "fareclass.yaml").write_text("models: {sim: {}}\n")
    status, said = replay(folder)
    assert status == 2 and "fareclass.yaml" in said and "Traceback" not in said
