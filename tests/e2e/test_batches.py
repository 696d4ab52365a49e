"""OpenAI's Files and Batches through the unmodified SDK: what comes back, what is billed, what survives (R37 to R39)."""

import asyncio
import json
import re
import signal
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import openai
import pytest

from fareclass.core import limits
from tests.e2e.conftest import Launch, Start
from tests.e2e.gateway import INPUT_PICO, MODEL, OUTPUT_PICO, Gateway, simulated
from tests.engine.conftest import eventually

ENDED = {"completed", "failed", "expired", "cancelled"}


def line(number: int, **fields: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"Question {number}"}], "max_tokens": 4}
    return {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body | fields}


def packed(lines: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


async def submit(sdk: openai.AsyncOpenAI, content: bytes, **fields: Any) -> Any:
    file = await sdk.files.create(file=("../../etc/lines.jsonl", content), purpose="batch")
    return await sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", **fields
    )


async def reached(sdk: openai.AsyncOpenAI, id: str, holds: Callable[[Any], bool]) -> Any:
    found: list[Any] = []

    async def look() -> bool:
        found.append(await sdk.batches.retrieve(id))
        return holds(found[-1])

    await eventually(look, 30)
    return found[-1]


async def ended(sdk: openai.AsyncOpenAI, id: str) -> Any:
    return await reached(sdk, id, lambda batch: batch.status in ENDED)


async def read(sdk: openai.AsyncOpenAI, file: str | None) -> list[dict[str, Any]]:
    if file is None:
        return []
    return [json.loads(each) for each in (await sdk.files.content(file)).text.splitlines()]


def batch_cost(prompt: int, output: int) -> int:
    """Half of what default costs."""
    return (prompt * INPUT_PICO + output * OUTPUT_PICO) // 2


async def test_a_batch_answers_every_line_and_bills_half(launch: Launch, database: dict[str, str]):
    """R37: half price, nothing of live quotas, results by the caller's own names."""
    gateway = await launch(simulated(slots=8, base_us=200, sequence_us=0) | database)
    await gateway.limit(rpm=1, tpm=1)
    sdk = gateway.sdk()
    batch = await submit(sdk, packed([line(number) for number in range(40)]), metadata={"job": "nightly"})
    assert batch.status == "validating" and batch.metadata == {"job": "nightly"}
    done = await ended(sdk, batch.id)
    assert done.status == "completed" and done.error_file_id is None
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (40, 40, 0)
    answers = await read(sdk, done.output_file_id)
    assert {each["custom_id"] for each in answers} == {f"line-{number}" for number in range(40)}
    assert all(each["response"]["status_code"] == 200 and each["error"] is None for each in answers)
    rows = gateway.rows()
    assert len(rows) == 40 and {row["served_tier"] for row in rows} == {"batch"}
    assert sum(row["cost_pico"] for row in rows) == sum(batch_cost(row["input"], row["output"]) for row in rows)
    assert done.usage.output_tokens == sum(row["output"] for row in rows)
    assert {each["response"]["request_id"] for each in answers} == {row["id"] for row in rows}


async def test_bad_lines_go_to_the_error_file_with_their_number(launch: Launch):
    """R38: the rest runs."""
    gateway = await launch(simulated(base_us=200, sequence_us=0))
    sdk = gateway.sdk()
    lines = [
        packed([line(1)]),
        b"not json\n",
        b"\n",
        packed([line(1)]),
        packed([line(4, stream=True)]),
        packed([line(5, model="nobody")]),
        packed([line(6) | {"url": "/v1/embeddings"}]),
        packed([line(7, messages="none")]),
        b"{" + b" " * limits.BATCH_LINE_BYTES + b"}\n",
        packed([line(9)]).rstrip(),
    ]
    done = await ended(sdk, (await submit(sdk, b"".join(lines))).id)
    assert done.status == "completed"
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (9, 2, 7)
    assert sorted(each["custom_id"] for each in await read(sdk, done.output_file_id)) == ["line-1", "line-9"]
    errors = await read(sdk, done.error_file_id)
    told = {each["error"]["line"]: each["error"]["code"] for each in errors if each["error"] is not None}
    assert told == {
        2: "invalid_json_line", 4: "duplicate_custom_id", 5: "invalid_request", 7: "invalid_url", 9: "line_too_long",
    }  # fmt: skip
    answered = {each["custom_id"]: each["response"]["status_code"] for each in errors if each["response"] is not None}
    assert answered == {"line-5": 404, "line-7": 400}
    assert {each.line for each in done.errors.data} == set(told)


async def test_what_is_no_batch_fails(launch: Launch):
    gateway = await launch(simulated())
    sdk = gateway.sdk()
    done = await ended(sdk, (await submit(sdk, b"\n\n")).id)
    assert done.status == "failed" and done.errors.data[0].code == "empty_file"


async def test_cancel_keeps_what_is_done(launch: Launch):
    """R38: finished lines are kept and billed, the others are not run."""
    gateway = await launch(simulated(slots=4, base_us=20_000))
    sdk = gateway.sdk()
    batch = await submit(sdk, packed([line(number) for number in range(500)]))
    await reached(sdk, batch.id, lambda found: found.request_counts.completed > 4)
    assert (await sdk.batches.cancel(batch.id)).status in {"cancelling", "cancelled"}
    done = await ended(sdk, batch.id)
    assert done.status == "cancelled" and 4 < done.request_counts.completed < 500
    answers = await read(sdk, done.output_file_id)
    assert len(answers) == done.request_counts.completed
    billed = {row["id"] for row in gateway.rows() if row["outcome"] == "completed"}
    assert billed == {each["response"]["request_id"] for each in answers}
    await gateway.idle()


async def test_what_a_cancelled_batch_does_not_deliver_is_free(launch: Launch):
    """R38: its lines had been running for a while."""
    gateway = await launch(simulated(slots=4, base_us=100_000))
    sdk = gateway.sdk()
    batch = await submit(sdk, packed([line(number, max_tokens=2_000) for number in range(4)]))
    await gateway.speaks("batch", 4)
    await sdk.batches.cancel(batch.id)
    assert (await ended(sdk, batch.id)).status == "cancelled"
    await gateway.idle()
    rows = await gateway.recorded(4)
    assert [row["outcome"] for row in rows] == ["cancelled"] * 4
    assert [row["cost_pico"] for row in rows] == [0] * 4


async def test_a_kill_loses_no_line_and_bills_none_twice(start: Start):
    """R38, R35: killed in mid-job and started again, the batch ends with every line once, and an exact bill."""
    process = await start(simulated(slots=8, base_us=3_000, sequence_us=0))
    gateway = process.gateway()
    batch = await submit(gateway.sdk(), packed([line(number) for number in range(400)]))
    for beyond in (40, 120):
        await reached(gateway.sdk(), batch.id, lambda found, beyond=beyond: found.request_counts.completed > beyond)
        process.send(signal.SIGKILL)
        await process.wait()
        await gateway.close()
        process = await start()
        gateway = process.gateway()
    sdk = gateway.sdk()
    done = await ended(sdk, batch.id)
    assert done.status == "completed" and done.request_counts.completed == 400
    answers = await read(sdk, done.output_file_id)
    assert sorted(each["custom_id"] for each in answers) == sorted(f"line-{number}" for number in range(400))
    rows = gateway.rows()
    assert len({row["id"] for row in rows}) == len(rows) == 400
    assert {row["outcome"] for row in rows} == {"completed"}
    assert sum(row["output"] for row in rows) == done.usage.output_tokens == 1_600
    await gateway.close()


async def test_a_stop_bills_no_line_twice(start: Start):
    """R38: what was running at an orderly stop is run again, and billed as what its caller got."""
    process = await start(simulated(slots=4, base_us=12_000) | {"drain_s": 0})
    gateway = process.gateway()
    batch = await submit(gateway.sdk(), packed([line(number, max_tokens=8) for number in range(40)]))
    await reached(gateway.sdk(), batch.id, lambda found: found.request_counts.completed > 2)
    process.send(signal.SIGTERM)
    assert await process.wait() == 0
    await gateway.close()
    gateway = (await start()).gateway()
    done = await ended(gateway.sdk(), batch.id)
    assert done.request_counts.completed == 40
    rows = gateway.rows()
    assert len(rows) == 40 and {row["outcome"] for row in rows} == {"completed"}
    assert sum(row["output"] for row in rows) == done.usage.output_tokens
    await gateway.close()


async def test_objects_of_other_projects_are_not_there(launch: Launch):
    """R51: by id they can't be seen, used or deleted."""
    gateway = await launch(simulated())
    batch = await submit(gateway.sdk(), packed([line(1)]))
    other = gateway.caller((await gateway.new_key("other"))["secret"])
    file = f"/files/{batch.input_file_id}"
    for method, path in (
        ("GET", file), ("GET", f"{file}/content"), ("DELETE", file),
        ("GET", f"/batches/{batch.id}"), ("POST", f"/batches/{batch.id}/cancel"),
    ):  # fmt: skip
        response = await other.request(method, path)
        assert response.status_code == 404 and response.json()["error"]["code"] == "not_found"
    made = await other.post(
        "/batches",
        json={"input_file_id": batch.input_file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"},
    )
    assert made.status_code == 400 and made.json()["error"]["param"] == "input_file_id"
    assert (await other.get("/files")).json()["data"] == (await other.get("/batches")).json()["data"] == []
    stranger = await gateway.caller("fc_nobody").get(file)
    assert stranger.status_code == 401
    assert (await ended(gateway.sdk(), batch.id)).status == "completed"


async def test_a_key_without_the_batch_tier_makes_none(launch: Launch):
    """R3."""
    gateway = await launch(simulated())
    key = await gateway.new_key(allowed_tiers=["default"])
    with pytest.raises(openai.PermissionDeniedError):
        await submit(openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key["secret"]), packed([line(1)]))


async def test_files_are_listed_read_and_deleted(launch: Launch):
    """R37; a name with a path in it is a name."""
    gateway = await launch(simulated())
    sdk = gateway.sdk()
    made = [
        await sdk.files.create(
            file=(name, b"x" * 3_000_000), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
        )
        for name in ("../../a", "/etc/passwd")
    ]
    assert made[0].expires_at == made[0].created_at + 3600 and made[0].bytes == 3_000_000
    assert {each.id async for each in sdk.files.list(limit=1)} == {each.id for each in made}
    stored = {path.name for path in (gateway.folder / "files").iterdir() if path.is_file()}
    assert stored == {each.id for each in made}
    assert (gateway.folder / "files").stat().st_mode & 0o077 == 0
    assert (await sdk.files.content(made[1].id)).content == b"x" * 3_000_000
    assert (await sdk.files.delete(made[0].id)).deleted
    with pytest.raises(openai.NotFoundError):
        await sdk.files.retrieve(made[0].id)
    assert {path.name for path in (gateway.folder / "files").iterdir() if path.is_file()} == {made[1].id}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "multipart/form-data; boundary=x"),
        (b"--x\r\n", "multipart/form-data; boundary=x"),
        (b"{}", "application/json"),
        (b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc', "multipart/form-data; boundary=x"),
        (b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n', "multipart/form-data; boundary=x"),
    ],
)  # fmt: skip
async def test_forms_that_are_none_are_refused_and_leave_nothing(launch: Launch, content: bytes, kind: str):
    gateway = await launch(simulated())
    response = await gateway.http.post("/files", content=content, headers={"content-type": kind})
    assert response.status_code == 400 and response.json()["error"]["message"]
    assert not list((gateway.folder / "files" / "uploads").iterdir())


async def test_a_project_has_only_so_much_room(launch: Launch, monkeypatch: pytest.MonkeyPatch):
    """R51: uploads are bounded in bytes and files."""
    gateway = await launch(simulated())
    monkeypatch.setattr("fareclass.flow.files.PROJECT_FILE_BYTES", 2_000_000)
    sdk = gateway.sdk()
    await sdk.files.create(file=("a", b"x" * 1_500_000), purpose="batch")
    with pytest.raises(openai.RateLimitError, match="delete some"):
        await sdk.files.create(file=("b", b"x" * 1_500_000), purpose="batch")
    monkeypatch.setattr("fareclass.flow.files.PROJECT_FILES", 1)
    with pytest.raises(openai.RateLimitError, match="1 files"):
        await sdk.files.create(file=("c", b"x"), purpose="batch")
    assert not list((gateway.folder / "files" / "uploads").iterdir())


async def test_a_closed_window_names_what_is_left(launch: Launch, monkeypatch: pytest.MonkeyPatch):
    """R38: what ran in time is kept, the rest is in the error file as expired."""
    monkeypatch.setattr("fareclass.wire.batches._WINDOW_S", 2)
    gateway = await launch(simulated(slots=2, base_us=50_000))
    sdk = gateway.sdk()
    done = await ended(sdk, (await submit(sdk, packed([line(number) for number in range(300)]))).id)
    assert done.status == "expired" and done.expired_at
    answers, errors = await read(sdk, done.output_file_id), await read(sdk, done.error_file_id)
    assert {each["error"]["code"] for each in errors} == {"batch_expired"}
    assert len(answers) == done.request_counts.completed > 0
    assert sorted(each["custom_id"] for each in answers + errors) == sorted(f"line-{number}" for number in range(300))
    await gateway.idle()


async def test_a_closing_window_goes_ahead_of_flex(launch: Launch, monkeypatch: pytest.MonkeyPatch):
    """R13: behind flex that never ends the batch would not run at all; as it closes, its lines rank as default."""
    monkeypatch.setattr("fareclass.wire.batches._WINDOW_S", 12)
    monkeypatch.setattr("fareclass.flow.batch_job._LOOK_S", 0.2)
    gateway = await launch(simulated(slots=2, base_us=2_000))
    flex = [asyncio.create_task(_keep_asking(gateway)) for _ in range(6)]
    sdk = gateway.sdk()
    try:
        batch = await submit(sdk, packed([line(number) for number in range(30)]))
        await eventually(lambda: _at_risk(gateway), 30)
        done = await ended(sdk, batch.id)
    finally:
        for task in flex:
            task.cancel()
        await asyncio.gather(*flex, return_exceptions=True)
    assert done.status == "completed" and done.request_counts.completed == 30
    rows = [row for row in gateway.rows() if row["id"].startswith(batch_id(done))]
    assert {row["served_tier"] for row in rows} == {"batch"}
    assert sum(row["cost_pico"] for row in rows) == sum(batch_cost(row["input"], row["output"]) for row in rows)


async def _at_risk(gateway: Gateway) -> bool:
    """Whether operators see that it needs help, and what it is given (R42)."""
    page = (await gateway.http.get(f"{gateway.url}/metrics")).text
    shown = [line for line in page.splitlines() if re.match("fareclass_batch(es_at_risk|_raised_lines) [1-9]", line)]
    return len(shown) == 2


def batch_id(batch: Any) -> str:
    return str(batch.id)


async def _keep_asking(gateway: Gateway) -> None:
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {gateway.key}"}, timeout=60) as http:
        while True:
            body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 50}
            await http.post(f"{gateway.url}/v1/chat/completions", json=body | {"service_tier": "flex"})


async def test_a_batch_on_the_real_engine(real: Gateway):
    """The built-in engine answers a small batch."""
    sdk = real.sdk()
    done = await ended(sdk, (await submit(sdk, packed([line(number) for number in range(6)]))).id)
    assert done.status == "completed" and done.request_counts.completed == 6
    answers = await read(sdk, done.output_file_id)
    assert all(each["response"]["body"]["choices"][0]["message"]["content"] for each in answers)
