"""`fareclass batch`: what stands in the terminal and in the files afterwards."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.e2e.conftest import Launch, Start
from tests.e2e.gateway import Gateway, chat, simulated
from tests.e2e.queues import tell_after
from tests.e2e.test_batches import line, packed
from tests.e2e.test_consume_trouble import free_port
from tests.e2e.upstream import Upstream
from tests.engine.conftest import eventually


async def begin(
    url: str, key: str, *arguments: str, stderr: int = asyncio.subprocess.STDOUT
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fareclass", "batch", *arguments,
        env={**os.environ, "FARECLASS_URL": url, "FARECLASS_API_KEY": key},
        stdout=asyncio.subprocess.PIPE, stderr=stderr,
    )  # fmt: skip


async def fareclass(gateway: Gateway, *arguments: str, key: str | None = None) -> tuple[int, str]:
    process = await begin(gateway.url, gateway.key if key is None else key, *arguments)
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def until(gateway: Gateway, batch: str, status: str) -> None:
    """Wait until the batch stands so."""

    async def so() -> bool:
        found: str = (await gateway.http.get(f"/batches/{batch}")).json()["status"]
        return found == status

    await eventually(so)


async def test_run_writes_results_and_errors(launch: Launch, tmp_path: Path):
    """R37."""
    gateway = await launch(simulated(base_us=200))
    file = tmp_path / "lines.jsonl"
    file.write_bytes(packed([line(1), line(2)]) + b"no json\n")
    status, said = await fareclass(gateway, "run", str(file))
    assert status == 1 and "completed: 2 of 3 done, 1 failed" in said
    results = [json.loads(each) for each in (tmp_path / "lines.out.jsonl").read_text().splitlines()]
    assert {each["custom_id"] for each in results} == {"line-1", "line-2"}
    assert json.loads((tmp_path / "lines.out.errors.jsonl").read_text())["error"]["line"] == 3
    status, said = await fareclass(gateway, "list")
    assert status == 0 and "completed" in said and "2026" not in said.partition("\n")[0]
    batch = (await gateway.http.get("/batches")).json()["data"][0]["id"]
    status, said = await fareclass(gateway, "show", batch)
    assert status == 0 and batch in said and "completed" in said and f"fareclass batch results {batch}" in said
    status, said = await fareclass(gateway, "cancel", batch)
    assert (status, said) == (0, "completed\n")


async def test_ctrl_c_leaves_a_batch_whose_results_are_fetched_later(
    upstream: Upstream, gateway: Gateway, tmp_path: Path
):
    go_on = asyncio.Event()
    upstream.play = tell_after(go_on)
    file, later = tmp_path / "lines.jsonl", tmp_path / "later.jsonl"
    file.write_bytes(packed([line(number, messages=chat()["messages"]) for number in (1, 2)]) + b"no json\n")
    process = await begin(gateway.url, gateway.key, "run", str(file))
    await upstream.next()
    assert process.stdout is not None
    batch = (await process.stdout.readline()).decode().split()[1]
    await until(gateway, batch, "in_progress")
    process.send_signal(signal.SIGINT)
    said = (await asyncio.wait_for(process.communicate(), 10))[0].decode()
    assert process.returncode == 130 and said.count("\n") == 1 and said.startswith("the batch goes on: ")
    assert f"`fareclass batch show {batch}`" in said and f"`fareclass batch results {batch}`" in said
    status, said = await fareclass(gateway, "show", batch)
    assert status == 0 and "fareclass batch results" not in said
    status, said = await fareclass(gateway, "results", batch, "--output", str(later))
    assert status == 1 and f"{batch} has not ended (in_progress, " in said and f"`fareclass batch show {batch}`" in said
    assert not later.exists()
    go_on.set()
    await until(gateway, batch, "completed")
    status, said = await fareclass(gateway, "results", batch, "--output", str(later))
    assert status == 1 and "completed: 2 of 3 done, 1 failed" in said
    assert {json.loads(each)["custom_id"] for each in later.read_text().splitlines()} == {"line-1", "line-2"}
    assert json.loads((tmp_path / "later.errors.jsonl").read_text())["error"]["line"] == 3


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


@pytest.mark.slow
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


def counted(total: int, completed: int, failed: int) -> dict[str, int]:
    return {"total": total, "completed": completed, "failed": failed}


@asynccontextmanager
async def ended_batch(*contents: web.Response | None, **fields: Any) -> AsyncIterator[str]:
    """A gateway whose batches are over at once, and which answers so when it is asked for results; None: it hangs up.

    `fields` are those in which its batches differ from one that went well.
    """
    left = list(contents)
    batch = {
        "id": "batch_1", "status": "completed", "output_file_id": "file_1", "error_file_id": None,
        "request_counts": counted(1, 1, 0), **fields,
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


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("none/out", "can't be written (No such file or directory)"),
        (".", "can't be written (Is a directory)"),
        ("taken.jsonl", "taken.errors.jsonl can't be written (Is a directory)"),
        ("lines.jsonl", "lines.jsonl would be written over"),
    ],
)
async def test_a_place_that_can_not_be_written_is_told_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, why: str
):
    """Nothing listens there: the first thing that is sent would say so."""
    monkeypatch.chdir(tmp_path)
    Path("taken.errors.jsonl").mkdir()
    Path("lines.jsonl").write_bytes(packed([line(1)]))
    process = await begin(f"http://127.0.0.1:{free_port()}", "fc_key", "run", "lines.jsonl", "--output", output)
    said = (await process.communicate())[0].decode()
    assert process.returncode == 2 and why in said and said.count("\n") == 1, said
    assert sorted(each.name for each in tmp_path.iterdir()) == ["lines.jsonl", "taken.errors.jsonl"]
    assert Path("lines.jsonl").read_bytes() == packed([line(1)])


async def test_results_of_an_earlier_run_stay_while_this_one_has_none(tmp_path: Path):
    file, results = tmp_path / "lines.jsonl", tmp_path / "lines.out.jsonl"
    file.write_bytes(packed([line(1)]))
    results.write_bytes(b"paid for")
    process = await begin(f"http://127.0.0.1:{free_port()}", "fc_key", "run", str(file))
    assert b"can't reach the gateway" in (await process.communicate())[0] and process.returncode == 1
    assert results.read_bytes() == b"paid for"


async def test_a_disk_that_is_full_is_said_in_a_sentence(tmp_path: Path):
    file = tmp_path / "lines.jsonl"
    file.write_bytes(packed([line(1)]))
    (tmp_path / "lines.out.jsonl").symlink_to("/dev/full")
    async with ended_batch(web.Response(body=WHOLE)) as url:
        process = await begin(url, "fc_key", "run", str(file))
        said = (await process.communicate())[0].decode()
    assert process.returncode == 1 and "can't be written: No space left on device" in said and "file_1" in said


OLD = b"of an earlier run"
FAILED = {"status": "failed", "output_file_id": None, "errors": {"data": [{"message": "The file has no lines."}]}}


@pytest.mark.parametrize(
    ("fields", "status", "says", "results", "errors"),
    [
        ({}, 0, "completed: 1 of 1 done, 0 failed", WHOLE, None),
        (
            {"output_file_id": None, "error_file_id": "file_2", "request_counts": counted(1, 0, 1)},
            1,
            "completed: 0 of 1 done, 1 failed",
            None,
            WHOLE,
        ),
        (
            {"status": "cancelled", "request_counts": counted(9, 1, 0)},
            1,
            "cancelled: 1 of 9 done, 0 failed",
            WHOLE,
            None,
        ),
        (FAILED, 1, "failed: The file has no lines.", OLD, OLD),
    ],
)
@pytest.mark.parametrize("command", ["run", "results"])
async def test_how_it_ended_is_in_the_exit_status_and_nothing_of_an_earlier_run_passes_for_its_own(
    tmp_path: Path, command: str, fields: dict[str, Any], status: int, says: str,
    results: bytes | None, errors: bytes | None,
):  # fmt: skip
    """A batch that failed as a whole never ran: what is there is left alone."""
    file = tmp_path / "lines.jsonl"
    file.write_bytes(packed([line(1)]))
    places = tmp_path / "out.jsonl", tmp_path / "out.errors.jsonl"
    for place in places:
        place.write_bytes(OLD)
    what = str(file) if command == "run" else "batch_1"
    async with ended_batch(web.Response(body=WHOLE), **fields) as url:
        process = await begin(url, "fc_key", command, what, "--output", str(places[0]), stderr=asyncio.subprocess.PIPE)
        out, err = (part.decode() for part in await process.communicate())
    assert (process.returncode, says in err, says in out) == (status, status != 0, status == 0), out + err
    assert tuple(place.read_bytes() if place.exists() else None for place in places) == (results, errors)


async def test_results_go_beside_where_one_is_if_no_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    async with ended_batch(web.Response(body=WHOLE)) as url:
        assert await (await begin(url, "fc_key", "results", "batch_1")).wait() == 0
    assert [each.name for each in tmp_path.iterdir()] == ["batch_1.out.jsonl"]


async def test_ctrl_c_while_results_are_waited_for_tells_how_to_get_them(tmp_path: Path):
    file = tmp_path / "lines.jsonl"
    file.write_bytes(packed([line(1)]))
    async with ended_batch(*(web.Response(status=503) for _ in range(9))) as url:
        process = await begin(url, "fc_key", "run", str(file))
        assert process.stdout is not None
        while b"waited for" not in (said := await asyncio.wait_for(process.stdout.readline(), 10)):
            assert said
        process.send_signal(signal.SIGINT)
        said = (await asyncio.wait_for(process.communicate(), 10))[0]
    assert (process.returncode, said.decode()) == (
        130, "the batch has ended: `fareclass batch results batch_1` writes what it has\n",
    )  # fmt: skip


@pytest.mark.parametrize("command", ["run", "results"])
async def test_exit_statuses_are_in_the_help(command: str):
    process = await begin("http://127.0.0.1:1", "fc_key", command, "--help")
    said = " ".join((await process.communicate())[0].decode().split())
    assert "Exit status: 0 if all lines are answered; 1 if lines failed" in said and "130 for Ctrl-C" in said
    assert f"Example: fareclass batch {command} " in said
