"""`fareclass batch`: what stands in the terminal and in the files afterwards."""

import asyncio
import json
import os
import sys
from pathlib import Path

from tests.e2e.conftest import Launch
from tests.e2e.gateway import Gateway, simulated
from tests.e2e.test_batches import line, packed


async def fareclass(gateway: Gateway, *arguments: str, key: str | None = None) -> tuple[int, str]:
    environ = {**os.environ, "FARECLASS_URL": gateway.url, "FARECLASS_API_KEY": gateway.key if key is None else key}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fareclass", "batch", *arguments,
        env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def test_run_writes_results_and_errors(launch: Launch, tmp_path: Path):
    """R37."""
    gateway = await launch(simulated(base_us=200))
    file = tmp_path / "lines.jsonl"
    file.write_bytes(packed([line(1), line(2)]) + b"no json\n")
    status, said = await fareclass(gateway, "run", str(file))
    assert status == 0 and "completed: 2 of 3 done, 1 failed" in said
    results = [json.loads(each) for each in (tmp_path / "lines.out.jsonl").read_text().splitlines()]
    assert {each["custom_id"] for each in results} == {"line-1", "line-2"}
    assert json.loads((tmp_path / "lines.out.errors.jsonl").read_text())["error"]["line"] == 3
    status, said = await fareclass(gateway, "list")
    assert status == 0 and "completed" in said and "2026" not in said.partition("\n")[0]
    batch = (await gateway.http.get("/batches")).json()["data"][0]["id"]
    status, said = await fareclass(gateway, "show", batch)
    assert status == 0 and batch in said and "completed" in said
    status, said = await fareclass(gateway, "cancel", batch)
    assert (status, said) == (0, "completed\n")


async def test_mistakes_are_told(launch: Launch, tmp_path: Path):
    gateway = await launch(simulated())
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b"\n")
    assert await fareclass(gateway, "run", str(file), key="fc_no") != (0, "")
    status, said = await fareclass(gateway, "run", str(file), key="fc_no")
    assert status == 1 and "API key is wrong" in said
    status, said = await fareclass(gateway, "run", str(file))
    assert status == 1 and "The file has no lines." in said
    status, said = await fareclass(gateway, "show", "batch_no")
    assert status == 1 and "does not exist" in said
    status, said = await fareclass(gateway, "list", key="")
    assert status == 1 and "FARECLASS_API_KEY" in said
