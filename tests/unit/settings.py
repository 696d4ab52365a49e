"""Settings files for the tests of them."""

from pathlib import Path

import pytest

from fareclass.config import ConfigError, load

GOOD = """\
listen: 127.0.0.1:8000
store: sqlite:///fareclass.db
models:
  smollm2-135m:
    engine: {kind: local, slots: 8}
  llama-70b:
    replicas:
      - {url: "http://gpu-1:8000/v1", slots: 64, api_key_env: GPU1_KEY}
      - {url: "http://gpu-2:8000/v1", slots: 64, tiers: [reserved, fast]}
    upstream_model: meta-llama/Llama-3.3-70B-Instruct
    price: {input: 0.60, output: 2.40}
    tier_prices: {priority: 2}
  fleet:
    engine: {kind: simulated, replicas: 4}
tiers:
  priority: {price: 1.80, max_batch: 0.5, max_wait_s: 20}
  flex: {price: 0.25}
"""

DATA = Path(__file__).parents[1] / "data"


def problems(file: Path, env: dict[str, str] | None = None) -> list[str]:
    """The mistakes found, without the folder in front."""
    with pytest.raises(ConfigError) as caught:
        load(file, env or {})
    return [problem.replace(f"{file.parent}/", "") for problem in caught.value.problems]


def one_model(line: str) -> str:
    return f"models:\n  m:\n    engine: {{kind: simulated}}\n    {line}\n"


def replica(line: str) -> str:
    return f'models:\n  m:\n    replicas:\n      - {{url: "http://a/v1", slots: 1, {line}}}\n'
