"""`fareclass batch`: what stands in the terminal and in the files afterwards."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from tests.e2e.conftest import Launch, Start
from tests.e2e.gateway import Gateway, simulated
from tests.e2e.test_batches import line, packed
from tests.e2e.test_consume_trouble import free_port


async def begin(url: str, key: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fareclass", "batch", *arguments,
        env={**os.environ, "FARECLASS_URL": url, "FARECLASS_API_KEY": key},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


async def fareclass(gateway: Gateway, *arguments: str, key: str | None = None) -> tuple[int, str]:
    process = await begin(gateway.url, gateway.key if key is None else key, *arguments)
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


async def test_a_gateway_that_restarts_is_waited_for(start: Start, tmp_path: Path):
    """As its batch goes on once it is back."""
    settings = {**simulated(slots=4, base_us=20_000), "listen": f"127.0.0.1:{free_port()}"}
    server = await start(settings)
    gateway = server.gateway()
    file = tmp_path / "lines.jsonl"
    file.write_bytes(packed([line(number) for number in range(100)]))
    process = await begin(gateway.url, gateway.key, "run", str(file))
    await gateway.becomes("running", 4)
    server.send(signal.SIGKILL)
    await server.wait()
    assert process.stdout is not None
    said = b""
    while b"waited for" not in said:
        assert not process.stdout.at_eof(), said.decode()
        said += await asyncio.wait_for(process.stdout.readline(), 10)
    await start()
    more, _ = await process.communicate()
    assert process.returncode == 0 and b"the gateway is back" in more and b"completed: 100 of 100 done" in more
    assert (said + more).count(b"waited for") == 1, "it is said once"
    assert len((tmp_path / "lines.out.jsonl").read_text().splitlines()) == 100
    await gateway.close()


@asynccontextmanager
async def ended_batch(*contents: web.Response | None) -> AsyncIterator[str]:
    """A gateway whose batches are over at once, and which answers so when it is asked for results; None: it hangs up."""
    left = list(contents)
    batch = {
        "id": "batch_1", "status": "completed", "output_file_id": "file_1", "error_file_id": None,
        "request_counts": {"total": 1, "completed": 1, "failed": 0},
    }  # fmt: skip

    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        if not request.path.endswith("/content"):
            return web.json_response({"id": "file_0"} if request.path.endswith("/files") else batch)
        if (answer := left.pop(0)) is not None:
            return answer
        broken = web.StreamResponse(headers={"content-length": "1000"})
        await broken.prepare(request)
        await broken.write(b"half of it")
        assert request.transport is not None
        request.transport.close()
        return broken

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


WHOLE = b'{"custom_id": "a"}\n'


@pytest.mark.parametrize(
    ("contents", "status", "says"),
    [
        ([web.Response(body=WHOLE)], 0, "completed: 1 of 1 done"),
        ([None, web.Response(status=503), web.Response(body=WHOLE)], 0, "the gateway is back"),
        (
            [web.json_response({"error": {"message": "The file does not exist."}}, status=404)],
            1,
            "The file does not exist.",
        ),
        ([web.Response(status=404, text="<html>")], 1, "is not a Fareclass gateway"),
        ([web.Response(status=302, text="<html>", headers={"location": "/"})], 1, "is not a Fareclass gateway"),
    ],
)
async def test_results_are_whole_or_it_is_said_in_a_sentence_why_not(
    tmp_path: Path, contents: Sequence[web.Response | None], status: int, says: str
):
    file = tmp_path / "lines.jsonl"
    file.write_bytes(packed([line(1)]))
    async with ended_batch(*contents) as url:
        process = await begin(url, "fc_key", "run", str(file))
        said = (await process.communicate())[0].decode()
    assert (process.returncode, says in said, "Traceback" in said) == (status, True, False), said
    found = tmp_path / "lines.out.jsonl"
    assert found.read_bytes() == WHOLE if status == 0 else not found.exists()


async def test_a_place_where_results_can_not_be_written_is_said_in_a_sentence(tmp_path: Path):
    file = tmp_path / "lines.jsonl"
    file.write_bytes(packed([line(1)]))
    async with ended_batch(web.Response(body=WHOLE)) as url:
        process = await begin(url, "fc_key", "run", str(file), "--output", str(tmp_path / "none" / "out"))
        said = (await process.communicate())[0].decode()
    assert process.returncode == 1 and "can't be written: No such file or directory" in said and "file_1" in said
