"""Anthropic's Message Batches through the unmodified SDK: what comes back, what is billed, who may see it (R37, R38, R51)."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anthropic
import httpx
import pytest

from fareclass.flow import batch_split
from fareclass.flow.batches import file_of
from fareclass.wire import anthropic_batches
from tests.e2e.conftest import Launch, Start
from tests.e2e.gateway import MODEL, Gateway, simulated
from tests.e2e.test_batches import batch_cost
from tests.engine.conftest import eventually

FAST = {"slots": 8, "base_us": 200, "sequence_us": 0}
PATH = "/v1/messages/batches"


def asked(name: str, **params: Any) -> dict[str, Any]:
    given = {"model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": f"Question {name}"}]}
    return {"custom_id": name, "params": given | params}


@pytest.fixture
async def clients() -> AsyncIterator[Callable[[Gateway], anthropic.AsyncAnthropic]]:
    made: list[anthropic.AsyncAnthropic] = []

    def make(gateway: Gateway) -> anthropic.AsyncAnthropic:
        made.append(anthropic.AsyncAnthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0))
        return made[-1]

    yield make
    for client in made:
        await client.close()


async def reached(sdk: anthropic.AsyncAnthropic, id: str, holds: Callable[[Any], bool]) -> Any:
    found: list[Any] = []

    async def look() -> bool:
        found.append(await sdk.messages.batches.retrieve(id))
        counts = found[-1].request_counts
        total.add(counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired)
        return holds(found[-1])

    total: set[int] = set()
    await eventually(look, 30)
    assert len(total) == 1, "the sum of all counts is always that of the requests"
    return found[-1]


async def ended(sdk: anthropic.AsyncAnthropic, id: str) -> Any:
    return await reached(sdk, id, lambda batch: batch.processing_status == "ended")


async def results(sdk: anthropic.AsyncAnthropic, id: str) -> dict[str, Any]:
    found = [each async for each in await sdk.messages.batches.results(id)]
    named = {each.custom_id: each.result for each in found}
    assert len(named) == len(found), "each once"
    return named


async def test_r37_a_batch_answers_every_request_and_bills_half(launch: Launch, clients):
    gateway = await launch(simulated(**FAST))
    await gateway.limit(rpm=1, tpm=1)
    sdk = clients(gateway)
    batch = await sdk.messages.batches.create(requests=[asked(f"q-{number}") for number in range(40)])
    assert (batch.type, batch.processing_status, batch.request_counts.processing) == (
        "message_batch",
        "in_progress",
        40,
    )
    assert batch.id.startswith("msgbatch_") and batch.results_url is None and batch.expires_at > batch.created_at
    done = await ended(sdk, batch.id)
    assert (done.request_counts.succeeded, done.request_counts.processing) == (40, 0)
    found = await results(sdk, batch.id)
    assert found.keys() == {f"q-{number}" for number in range(40)}
    assert {each.type for each in found.values()} == {"succeeded"}
    messages = [each.message for each in found.values()]
    assert {(message.usage.service_tier, message.model, message.role) for message in messages} == {
        ("batch", MODEL, "assistant")
    }
    rows = gateway.rows()
    assert {(row["served_tier"], row["endpoint"]) for row in rows} == {("batch", "messages")}
    assert sum(row["cost_pico"] for row in rows) == sum(batch_cost(row["input"], row["output"]) for row in rows)
    assert sum(message.usage.output_tokens for message in messages) == sum(row["output"] for row in rows)
    assert len(rows) == 40


async def test_r38_a_request_that_fails_is_told_in_this_apis_words_and_the_rest_runs(launch: Launch, clients):
    gateway = await launch(simulated(**FAST))
    sdk = clients(gateway)
    requests = [
        asked("good"),
        asked("stream", stream=True),
        asked("model", model="nobody"),
        asked("messages", messages="none"),
        asked("params") | {"params": []},
    ]
    done = await ended(sdk, (await sdk.messages.batches.create(requests=requests)).id)
    assert (done.request_counts.succeeded, done.request_counts.errored) == (1, 4)
    found = await results(sdk, done.id)
    assert found["good"].type == "succeeded"
    told = {name: (each.error.error.type, each.error.error.message) for name, each in found.items() if name != "good"}
    assert told["model"][0] == "not_found_error" and "nobody" in told["model"][1]
    assert {told[name][0] for name in ("stream", "messages", "params")} == {"invalid_request_error"}
    assert "`stream`" in told["stream"][1] and "`messages`" in told["messages"][1] and "`params`" in told["params"][1]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body is empty"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"requests": [', "not valid JSON: Input data was truncated"),
        (b"{}", "`requests` is required"),
        (b'{"requests": []}', "`requests` has the wrong type or value"),
        (b'{"requests": [{"params": {}}]}', "`requests[0].custom_id` is required"),
        (b'{"requests": [{"custom_id": "a b", "params": {}}]}', "`requests[0].custom_id`"),
        (b'{"requests": [{"custom_id": "a"}]}', "`requests[0].params` is required"),
        (json.dumps({"requests": [asked("a"), asked("b"), asked("a")]}).encode(), "`requests[2].custom_id`"),
        (b'{"requests": [{"custom_id": "a", "params": ' + b"[" * 100_000, "recursion"),
        (b"\xff" * 100, "malformed"),
    ],
)
async def test_a_body_that_is_no_batch_is_refused_and_leaves_nothing(launch: Launch, body: bytes, message: str):
    gateway = await launch(simulated(**FAST))
    answer = await gateway.http.post(gateway.url + PATH, content=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error" and message in answer.json()["error"]["message"]
    assert not list((gateway.folder / "files" / "uploads").iterdir())
    assert (await gateway.http.get("/files")).json()["data"] == []


async def test_r51_bodies_are_bounded(launch: Launch, monkeypatch):
    gateway = await launch(simulated(**FAST))
    monkeypatch.setattr("fareclass.wire.anthropic_batches.MESSAGE_BATCH_BYTES", 2_000_000)
    long = json.dumps({"requests": [asked("a", system="x" * 3_000_000)]})
    answer = await gateway.http.post(gateway.url + PATH, content=long)
    assert answer.status_code == 400 and "larger than 1 MiB" in answer.json()["error"]["message"]
    packed = await gateway.http.post(gateway.url + PATH, content=b"{}", headers={"content-encoding": "gzip"})
    assert packed.status_code == 400 and "Content-Encoding" in packed.json()["error"]["message"]
    assert not list((gateway.folder / "files" / "uploads").iterdir())


def test_a_request_that_is_too_long_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_split, "BATCH_LINE_BYTES", 1_000)
    body = tmp_path / "body"
    body.write_text(json.dumps({"requests": [asked("a"), asked("b", system="x" * 1_000)]}))
    with pytest.raises(batch_split.SplitError, match=r"requests\[1\]\.params"):
        batch_split.split_here(body, tmp_path / "lines")


async def test_r51_millions_of_tiny_requests_take_no_memory(tmp_path):
    """Of the process that takes them apart, which says so."""
    body = tmp_path / "body"
    body.write_bytes(b'{"requests":[' + b",".join([b'{"custom_id":"a","params":{}}'] * 6_000_000) + b"]}")
    with pytest.raises(batch_split.SplitError, match="far more than 100000 requests"):
        await batch_split.split(body, tmp_path / "lines")


def test_requests_of_any_layout_become_one_line_each(tmp_path):
    requests = [asked("a", system="two\nlines"), asked("b", metadata={"user_id": "ü\u2028"})]
    body, lines = tmp_path / "body", tmp_path / "lines"
    body.write_bytes(json.dumps({"requests": requests, "more": 1}, indent=2).replace("\n", "\r\n").encode())
    assert batch_split.split_here(body, lines) == 2
    assert [json.loads(line) for line in lines.read_bytes().splitlines()] == requests


async def test_r38_cancel_keeps_what_is_done_and_names_the_rest(launch: Launch, clients):
    gateway = await launch(simulated(slots=4, base_us=20_000))
    sdk = clients(gateway)
    batch = await sdk.messages.batches.create(requests=[asked(f"q-{number}") for number in range(300)])
    await reached(sdk, batch.id, lambda found: found.request_counts.succeeded > 4)
    stopped = await sdk.messages.batches.cancel(batch.id)
    assert stopped.processing_status in {"canceling", "ended"} and stopped.cancel_initiated_at is not None
    done = await ended(sdk, batch.id)
    found = await results(sdk, batch.id)
    assert len(found) == 300
    kinds = [each.type for each in found.values()]
    assert (kinds.count("succeeded"), kinds.count("canceled")) == (
        done.request_counts.succeeded, done.request_counts.canceled,
    )  # fmt: skip
    assert kinds.count("canceled") > 200 and kinds.count("succeeded") > 4
    billed = {row["id"] for row in gateway.rows() if row["outcome"] == "completed"}
    assert len(billed) == kinds.count("succeeded")
    await gateway.idle()


async def test_r38_a_closed_window_names_what_is_left(launch: Launch, clients, monkeypatch):
    monkeypatch.setattr("fareclass.wire.anthropic_batches._WINDOW_S", 2)
    gateway = await launch(simulated(slots=2, base_us=50_000))
    sdk = clients(gateway)
    done = await ended(sdk, (await sdk.messages.batches.create(requests=[asked(str(n)) for n in range(200)])).id)
    kinds = [each.type for each in (await results(sdk, done.id)).values()]
    assert (kinds.count("succeeded"), kinds.count("expired")) == (
        done.request_counts.succeeded, done.request_counts.expired,
    )  # fmt: skip
    assert kinds.count("expired") > 0 and len(kinds) == 200


async def test_r38_r35_a_kill_loses_no_request_and_bills_none_twice(start: Start, clients):
    process = await start(simulated(slots=8, base_us=3_000, sequence_us=0))
    gateway = process.gateway()
    sdk = clients(gateway)
    batch = await sdk.messages.batches.create(requests=[asked(f"q-{number}") for number in range(400)])
    await reached(sdk, batch.id, lambda found: found.request_counts.succeeded > 20)
    process.close()
    await gateway.close()
    process = await start()
    gateway = process.gateway()
    sdk = clients(gateway)
    done = await ended(sdk, batch.id)
    assert done.request_counts.succeeded == 400
    assert len(await results(sdk, batch.id)) == 400
    rows = [row for row in gateway.rows() if row["outcome"] == "completed"]
    assert len(rows) == len({row["id"] for row in rows}) == 400
    await gateway.close()


async def test_batches_are_listed_in_pages_and_deleted_once_they_have_ended(launch: Launch, clients):
    gateway = await launch(simulated(**FAST))
    sdk = clients(gateway)
    made = [(await sdk.messages.batches.create(requests=[asked("a")])).id for _ in range(5)]
    newest = made[::-1]
    first = await sdk.messages.batches.list(limit=2)
    assert ([each.id for each in first.data], first.has_more) == (newest[:2], True)
    assert [each.id async for each in sdk.messages.batches.list(limit=2)] == newest
    before = await sdk.messages.batches.list(limit=2, before_id=newest[3])
    assert ([each.id for each in before.data], before.has_more) == (newest[1:3], True)
    await ended(sdk, made[0])
    assert (await sdk.messages.batches.delete(made[0])).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        await sdk.messages.batches.retrieve(made[0])
    names = {path.name for path in (gateway.folder / "files").iterdir()}
    assert not [name for name in names if made[0].removeprefix("msgbatch_") in name], "its files are gone too"


async def test_what_runs_can_not_be_deleted_and_has_no_results(launch: Launch, clients):
    gateway = await launch(simulated(slots=1, base_us=200_000))
    sdk = clients(gateway)
    batch = await sdk.messages.batches.create(requests=[asked(str(number)) for number in range(50)])
    with pytest.raises(anthropic.BadRequestError, match="cancel it first"):
        await sdk.messages.batches.delete(batch.id)
    answer = await gateway.http.get(f"{gateway.url}{PATH}/{batch.id}/results")
    assert answer.status_code == 400 and "has no results yet" in answer.json()["error"]["message"]
    await sdk.messages.batches.cancel(batch.id)
    await ended(sdk, batch.id)


@pytest.mark.parametrize("mark", ["o", "e"])
async def test_results_of_which_a_file_was_deleted_are_refused_as_a_whole(launch: Launch, clients, mark: str):
    """They are files of the project too; a part of them would look like all."""
    gateway = await launch(simulated(**FAST))
    sdk = clients(gateway)
    done = await ended(sdk, (await sdk.messages.batches.create(requests=[asked("a"), asked("b", model="no")])).id)
    assert (await results(sdk, done.id)).keys() == {"a", "b"}
    (await gateway.http.delete(f"/files/{file_of(done.id, mark)}")).raise_for_status()
    with pytest.raises(anthropic.NotFoundError, match=f"results of `{done.id}` are gone"):
        await sdk.messages.batches.results(done.id)


def test_results_that_are_deleted_while_they_are_read_are_read_to_their_end(tmp_path):
    for name in "oe":
        (tmp_path / name).write_bytes(name.encode() * 1_000_000)
    blocks = anthropic_batches._read([tmp_path / name for name in "oe"])
    assert next(blocks) == b"", "nothing is sent before all are there"
    for name in "oe":
        (tmp_path / name).unlink()
    assert b"".join(blocks) == b"o" * 1_000_000 + b"e" * 1_000_000


async def test_r51_another_projects_batch_is_not_there(launch: Launch, clients):
    gateway = await launch(simulated(**FAST))
    sdk = clients(gateway)
    batch = await ended(sdk, (await sdk.messages.batches.create(requests=[asked("a")])).id)
    stranger = Gateway(gateway.url, (await gateway.new_key(project="stranger"))["secret"], gateway.folder)
    other = stranger.caller(stranger.key, "")
    for method, path in (
        ("GET", f"{PATH}/{batch.id}"),
        ("GET", f"{PATH}/{batch.id}/results"),
        ("POST", f"{PATH}/{batch.id}/cancel"),
        ("DELETE", f"{PATH}/{batch.id}"),
        ("GET", f"/v1/batches/{batch.id}"),
    ):
        assert (await other.request(method, path)).status_code == 404, path
    assert (await other.get(PATH)).json()["data"] == []
    assert (await gateway.http.get(f"/batches/{batch.id}")).status_code == 404, "nor is it a batch of another API"
    await stranger.close()


async def test_r3_a_key_without_the_batch_tier_makes_none(launch: Launch):
    gateway = await launch(simulated(**FAST))
    key = await gateway.new_key(allowed_tiers=["default"])
    async with httpx.AsyncClient(headers={"x-api-key": key["secret"]}) as http:
        answer = await http.post(gateway.url + PATH, json={"requests": [asked("a")]})
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
    assert not list((gateway.folder / "files" / "uploads").iterdir())


async def test_the_address_of_results_is_where_its_caller_found_us(launch: Launch, clients):
    gateway = await launch(simulated(**FAST))
    sdk = clients(gateway)
    batch = await ended(sdk, (await sdk.messages.batches.create(requests=[asked("a")])).id)
    assert batch.results_url == f"{gateway.url}{PATH}/{batch.id}/results"
    behind = {"host": "llm.example.com", "x-forwarded-proto": "https"}
    told = (await gateway.http.get(f"{gateway.url}{PATH}/{batch.id}", headers=behind)).json()["results_url"]
    assert told == f"https://llm.example.com{PATH}/{batch.id}/results"


async def test_a_batch_on_the_real_engine(real: Gateway, clients):
    sdk = clients(real)
    done = await ended(
        sdk, (await sdk.messages.batches.create(requests=[asked(str(number)) for number in range(4)])).id
    )
    found = await results(sdk, done.id)
    assert all(each.message.content[0].text for each in found.values()) and len(found) == 4
