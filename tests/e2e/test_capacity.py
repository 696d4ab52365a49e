"""`fareclass bench capacity` as an operator runs it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fareclass.config import load
from tests.e2e.gateway import behind, local, write_settings


def capacity(model: str, file: Path | None = None) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "fareclass", "bench", "capacity", model]
    words += ["--config", str(file)] if file else []
    environ = {"FARECLASS_ADMIN_KEY": "the-operator-chose-this-key", "PATH": ""}
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, env=environ)


@pytest.mark.slow
def test_what_the_built_in_engine_does_goes_into_its_configuration(tmp_path: Path) -> None:
    """R19: the lines printed are ones that the configuration takes, and no database was touched for it."""
    settings: dict[str, Any] = local(slots=2)
    settings["models"]["m"]["engine"]["context_tokens"] = 512
    file = write_settings(tmp_path, settings)
    done = capacity("m", file)
    assert done.returncode == 0, done.stderr
    told = yaml.safe_load(done.stdout)["models"]["m"]["capacity"]
    assert not (tmp_path / "db").exists()
    settings["models"]["m"]["capacity"] = told
    model = load(write_settings(tmp_path, settings), {"FARECLASS_ADMIN_KEY": "the-operator-chose-this-key"}).models["m"]
    assert model.capacity is not None
    assert model.capacity.input_tpm == told["input_tpm"] > model.capacity.output_tpm > 60, "it prefills faster"


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    file = write_settings(tmp_path, behind("http://127.0.0.1:9/v1"))
    unknown, down = capacity("nix", file), capacity("m", file)
    assert (unknown.returncode, down.returncode) == (2, 2)
    assert unknown.stderr == "no model 'nix' in the configuration; there are: m\n"
    built_in = capacity("m")
    assert "--config names a file" in built_in.stderr and "smollm2-135m" in built_in.stderr
    assert "http://127.0.0.1:9" in down.stderr and "Cannot connect" in down.stderr
    assert "Traceback" not in down.stderr
