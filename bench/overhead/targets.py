"""What is measured: each target is a process under test, with a port, a key and the paths to it."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.overhead.processes import free_port, running, wait_until_ready

LITELLM = "litellm[proxy]==1.106.2"
_GATEWAY = """\
listen: 127.0.0.1:{port}
store: sqlite:///store/fareclass.db
master_key_file: keys/master.key
models:
  static:
    replicas: [{{url: "{upstream}/v1", slots: 1024}}]
    upstream_model: static
    price: {{input: 0.60, output: 2.40}}
  paced:
    replicas: [{{url: "{upstream}/v1", slots: 1024}}]
    upstream_model: paced
    price: {{input: 0.60, output: 2.40}}
"""
_LITELLM = """\
model_list:
  - model_name: static
    litellm_params: {{model: openai/static, api_base: "{upstream}/v1", api_key: none}}
general_settings: {{master_key: sk-bench}}
"""


@dataclass(frozen=True)
class Target:
    name: str
    port: int
    pid: int
    key: str = "none"


@contextlib.contextmanager
def bare(folder: Path, core: int, upstream: str) -> Iterator[Target]:
    port, log = free_port(), folder / "bare.log"
    with running([sys.executable, "-m", "bench.overhead.bare", str(port), upstream], core, log) as process:
        wait_until_ready(process, port, "/v1/models", log)
        yield Target("bare proxy", port, process.pid)


@contextlib.contextmanager
def gateway(folder: Path, core: int, upstream: str) -> Iterator[Target]:
    """The whole gateway, as `fareclass serve` starts it, with a new SQLite store on this disk."""
    port, log, config = free_port(), folder / "gateway.log", folder / "fareclass.yaml"
    config.write_text(_GATEWAY.format(port=port, upstream=upstream))
    words = [sys.executable, "-m", "fareclass", "serve", "--config", str(config)]
    env = {name: "" for name in os.environ if name.startswith("FARECLASS_")} | {"FARECLASS_CONSOLE": "false"}
    with running(words, core, log, env) as process:
        wait_until_ready(process, port, "/readyz", log)
        yield Target("gateway", port, process.pid, (folder / "keys" / "first.key").read_text().strip())


def ledger_rows(folder: Path) -> int:
    """Completed requests in the gateway's ledger, counted once it has ended."""
    with contextlib.closing(sqlite3.connect(folder / "store" / "fareclass.db")) as database:
        count: int = database.execute("SELECT count(*) FROM ledger WHERE outcome = 'completed'").fetchone()[0]
        return count


@contextlib.contextmanager
def litellm(folder: Path, core: int, upstream: str) -> Iterator[Target]:
    """LiteLLM's proxy with one worker and no database, in a venv that is kept in the cache folder."""
    port, log, config = free_port(), folder / "litellm.log", folder / "litellm.yaml"
    config.write_text(_LITELLM.format(upstream=upstream))
    words = [_litellm_program(), "--config", str(config), "--port", str(port), "--num_workers", "1"]
    with running(words, core, log, {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}) as process:
        wait_until_ready(process, port, "/health/liveliness", log)
        yield Target("LiteLLM 1.106.2", port, process.pid, "sk-bench")


def _litellm_program() -> str:
    venv = Path.home() / ".cache" / "fareclass-bench" / LITELLM.replace("[proxy]==", "-")
    program = venv / "bin" / "litellm"
    if not program.exists():
        print(f"installing {LITELLM} into {venv}", file=sys.stderr)
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") or "uv"
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(venv)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(venv), LITELLM], check=True)
    return str(program)
