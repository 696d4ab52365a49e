"""Bedrock's model-invocation jobs through unmodified boto3: a local folder and an S3 store, what is billed, what is refused."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.e2e.conftest import Launch, Start
from tests.e2e.gateway import MODEL, Gateway, simulated
from tests.e2e.test_batches import batch_cost
from tests.e2e.test_bedrock import credentials
from tests.engine.conftest import eventually

FAST = {"slots": 8, "base_us": 200, "sequence_us": 0}
ROLE = "arn:aws:iam::123456789012:role/batch"
ENDED = {"Completed", "PartiallyCompleted", "Failed", "Stopped", "Expired"}


def record(number: int, **fields: Any) -> dict[str, Any]:
    given = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 4}
    given["messages"] = [{"role": "user", "content": f"Question {number}"}]
    return {"recordId": f"CALL{number:07d}", "modelInput": given | fields}


def converse(number: int) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": [{"text": f"Question {number}"}]}]}
    return {"recordId": f"CALL{number:07d}", "modelInput": asked | {"inferenceConfig": {"maxTokens": 4}}}


def packed(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in records)


def unpacked(text: bytes) -> dict[str, Any]:
    found = [json.loads(line) for line in text.splitlines()]
    named = {each["recordId"]: each for each in found}
    assert len(named) == len(found), "each once"
    return named


class Jobs:
    """A caller of one gateway, in threads of its own."""

    def __init__(self, gateway: Gateway) -> None:
        config = Config(retries={"mode": "standard", "total_max_attempts": 1})
        self.client = boto3.client("bedrock", endpoint_url=gateway.url, config=config, **credentials(gateway))

    async def call(self, name: str, **fields: Any) -> dict[str, Any]:
        found: dict[str, Any] = await asyncio.to_thread(getattr(self.client, name), **fields)
        return found

    async def create(self, source: str, target: str, **fields: Any) -> str:
        asked = {
            "jobName": "nightly",
            "roleArn": ROLE,
            "modelId": MODEL,
            "inputDataConfig": {"s3InputDataConfig": {"s3Uri": source, "s3InputFormat": "JSONL"}},
            "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": target}},
        }
        arn: str = (await self.call("create_model_invocation_job", **asked | fields))["jobArn"]
        return arn

    async def get(self, job: str) -> dict[str, Any]:
        return await self.call("get_model_invocation_job", jobIdentifier=job)

    async def reached(self, job: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        async def look() -> bool:
            found.append(await self.get(job))
            return holds(found[-1])

        await eventually(look, 30)
        return found[-1]

    async def ended(self, job: str) -> dict[str, Any]:
        return await self.reached(job, lambda found: found["status"] in ENDED)


def short(arn: str) -> str:
    return arn.rpartition("/")[2]


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    (folder / "acme" / "in").mkdir(parents=True)
    return folder


def settings(shared: Path, **more: Any) -> dict[str, Any]:
    return {**simulated(**FAST), "batch_folders": [str(shared)], **more}


async def give(gateway: Gateway, *roots: dict[str, Any], project: str = "default") -> None:
    answer = await gateway.admin.put(f"/projects/{project}/batch_roots", json={"roots": list(roots)})
    assert answer.status_code == 200, answer.text


def local(shared: Path) -> dict[str, str]:
    return {"uri": "s3://acme/", "folder": str(shared / "acme")}


async def test_r37_a_job_reads_a_file_and_writes_its_results_beside_a_manifest(launch: Launch, shared: Path):
    gateway = await launch(settings(shared))
    await give(gateway, local(shared))
    await gateway.limit(rpm=1, tpm=1)
    jobs = Jobs(gateway)
    (shared / "acme" / "in" / "a.jsonl").write_bytes(packed([record(number) for number in range(30)]))
    arn = await jobs.create("s3://acme/in/a.jsonl", "s3://acme/out")
    done = await jobs.ended(arn)
    assert (done["status"], done["jobName"], done["roleArn"], done["modelId"]) == ("Completed", "nightly", ROLE, MODEL)
    assert [done[name] for name in ("totalRecordCount", "processedRecordCount", "successRecordCount")] == [30, 30, 30]
    assert done["jobExpirationTime"] > done["endTime"] >= done["submitTime"] and "message" not in done
    folder = shared / "acme" / "out" / short(arn)
    assert sorted(path.name for path in folder.iterdir()) == ["a.jsonl.out", "manifest.json.out"]
    found = unpacked((folder / "a.jsonl.out").read_bytes())
    assert found.keys() == {f"CALL{number:07d}" for number in range(30)}
    assert all(each["modelInput"] == record(int(name[4:]))["modelInput"] for name, each in found.items())
    assert {each["modelOutput"]["usage"]["service_tier"] for each in found.values()} == {"batch"}
    rows = gateway.rows()
    assert {(row["served_tier"], row["endpoint"]) for row in rows} == {("batch", "invoke")} and len(rows) == 30
    assert sum(row["cost_pico"] for row in rows) == sum(batch_cost(row["input"], row["output"]) for row in rows)
    assert json.loads((folder / "manifest.json.out").read_text()) == {
        "totalRecordCount": 30,
        "processedRecordCount": 30,
        "successRecordCount": 30,
        "errorRecordCount": 0,
        "inputTokenCount": sum(row["input"] for row in rows),
        "outputTokenCount": sum(row["output"] for row in rows),
    }
    assert (await gateway.http.get("/files")).json()["data"] == [], "nothing of it is kept here"


async def test_a_folder_is_all_its_files_and_each_gets_its_own_results(launch: Launch, shared: Path):
    gateway = await launch(settings(shared))
    await give(gateway, local(shared))
    jobs = Jobs(gateway)
    source = shared / "acme" / "in"
    (source / "b").mkdir()
    (source / "a.jsonl").write_bytes(packed([converse(number) for number in range(5)]).rstrip())  # no last line end
    (source / "b" / "c.jsonl").write_bytes(packed([converse(number) for number in range(5, 9)]))
    (source / "readme.txt").write_text("not a record")
    arn = await jobs.create("s3://acme/in/", "s3://acme/out/", modelInvocationType="Converse")
    assert (await jobs.ended(arn))["successRecordCount"] == 9
    folder = shared / "acme" / "out" / short(arn)
    one, two = (unpacked((folder / name).read_bytes()) for name in ("a.jsonl.out", "b/c.jsonl.out"))
    assert (sorted(one), sorted(two)) == (
        [f"CALL{number:07d}" for number in range(5)],
        [f"CALL{number:07d}" for number in range(5, 9)],
    )
    outputs = [each["modelOutput"] for each in (*one.values(), *two.values())]
    assert {output["serviceTier"]["type"] for output in outputs} == {"batch"}
    assert all(output["output"]["message"]["content"][0]["text"] for output in outputs)
    manifest = json.loads((folder / "manifest.json.out").read_text())
    assert manifest["outputTokenCount"] == sum(output["usage"]["outputTokens"] for output in outputs)


async def test_r38_a_record_that_fails_is_told_in_its_place_and_the_rest_runs(launch: Launch, shared: Path):
    gateway = await launch(settings(shared))
    await give(gateway, local(shared))
    jobs = Jobs(gateway)
    lines = [
        json.dumps({"modelInput": record(0)["modelInput"]}).encode(),
        b"not json",
        b'{"recordId": "no input"}',
        json.dumps(record(3, max_tokens="many")).encode(),
        json.dumps(record(4, stream=True)).encode(),
    ]
    (shared / "acme" / "in" / "a.jsonl").write_bytes(b"\n".join(lines))
    arn = await jobs.create("s3://acme/in/a.jsonl", "s3://acme/out/")
    done = await jobs.ended(arn)
    counts = [done[f"{name}RecordCount"] for name in ("total", "processed", "success", "error")]
    assert (done["status"], counts) == ("Completed", [5, 5, 1, 4])
    found = unpacked((shared / "acme" / "out" / short(arn) / "a.jsonl.out").read_bytes())
    assert "modelOutput" in found["REC00000001"], "a record without an id is given one"
    told = {name: each["error"] for name, each in found.items() if "error" in each}
    assert {each["errorCode"] for each in told.values()} == {400}
    assert told.keys() == {"REC00000002", "REC00000003", "CALL0000003", "CALL0000004"}
    assert "`max_tokens`" in told["CALL0000003"]["errorMessage"] and "`stream`" in told["CALL0000004"]["errorMessage"]
    assert found["CALL0000003"]["modelInput"]["max_tokens"] == "many"


async def test_r38_a_job_is_stopped_and_keeps_what_is_done(launch: Launch, shared: Path):
    gateway = await launch(settings(shared) | simulated(slots=4, base_us=20_000))
    await give(gateway, local(shared))
    jobs = Jobs(gateway)
    (shared / "acme" / "in" / "a.jsonl").write_bytes(packed([record(number) for number in range(300)]))
    arn = await jobs.create("s3://acme/in/a.jsonl", "s3://acme/out/")
    await jobs.reached(arn, lambda found: found.get("successRecordCount", 0) > 4)
    await jobs.call("stop_model_invocation_job", jobIdentifier=arn)
    done = await jobs.ended(arn)
    assert done["status"] == "Stopped" and 4 < done["successRecordCount"] < 300
    found = unpacked((shared / "acme" / "out" / short(arn) / "a.jsonl.out").read_bytes())
    assert len(found) == done["successRecordCount"]
    assert len([row for row in gateway.rows() if row["outcome"] == "completed"]) == done["successRecordCount"]
    with pytest.raises(ClientError) as caught:
        await jobs.call("stop_model_invocation_job", jobIdentifier=arn)
    assert "Stopped" in str(caught.value)
    await gateway.idle()


async def test_r38_r35_a_kill_loses_no_record_and_bills_none_twice(start: Start, shared: Path):
    process = await start(settings(shared) | simulated(slots=8, base_us=3_000, sequence_us=0))
    gateway = process.gateway()
    await give(gateway, local(shared))
    jobs = Jobs(gateway)
    source = shared / "acme" / "in" / "a.jsonl"
    source.write_bytes(packed([record(number) for number in range(400)]))
    arn = await jobs.create("s3://acme/in/a.jsonl", "s3://acme/out/")
    await jobs.reached(arn, lambda found: found.get("successRecordCount", 0) > 20)
    process.close()
    await gateway.close()
    source.write_text("changed meanwhile, which is nobody's business any more")
    process = await start()
    gateway = process.gateway()
    done = await Jobs(gateway).ended(arn)
    assert (done["status"], done["successRecordCount"]) == ("Completed", 400)
    assert len(unpacked((shared / "acme" / "out" / short(arn) / "a.jsonl.out").read_bytes())) == 400
    rows = [row for row in gateway.rows() if row["outcome"] == "completed"]
    assert len(rows) == len({row["id"] for row in rows}) == 400
    await gateway.close()


async def test_a_closed_window_leaves_a_job_partially_completed_or_expired(launch: Launch, shared: Path, monkeypatch):
    monkeypatch.setattr("fareclass.wire.bedrock_jobs._HOUR_S", 0.1)
    gateway = await launch(settings(shared) | simulated(slots=2, base_us=50_000))
    await give(gateway, local(shared))
    jobs = Jobs(gateway)
    (shared / "acme" / "in" / "a.jsonl").write_bytes(packed([record(number) for number in range(200)]))
    done = await jobs.ended(await jobs.create("s3://acme/in/a.jsonl", "s3://acme/out/"))
    assert done["status"] == "PartiallyCompleted" and 0 < done["successRecordCount"] < 200
    found = unpacked((shared / "acme" / "out" / short(done["jobArn"]) / "a.jsonl.out").read_bytes())
    assert len([each for each in found.values() if "error" in each]) == 200 - done["successRecordCount"]


async def test_the_same_token_makes_one_job(launch: Launch, shared: Path):
    gateway = await launch(settings(shared))
    await give(gateway, local(shared))
    jobs = Jobs(gateway)
    (shared / "acme" / "in" / "a.jsonl").write_bytes(packed([record(0)]))
    asked = ("s3://acme/in/a.jsonl", "s3://acme/out/")
    made = await asyncio.gather(*(jobs.create(*asked, clientRequestToken="t1") for _ in range(4)))
    assert len(set(made)) == 1
    assert await jobs.create(*asked, clientRequestToken="t2") != made[0]
    with pytest.raises(ClientError) as caught:
        await jobs.create(*asked, clientRequestToken="t1", jobName="another")
    assert caught.value.response["Error"]["Code"] == "ConflictException"
    assert (await jobs.ended(made[0]))["clientRequestToken"] == "t1"


async def test_jobs_are_listed_in_pages_by_name_state_and_time(launch: Launch, shared: Path):
    gateway = await launch(settings(shared))
    await give(gateway, local(shared))
    jobs = Jobs(gateway)
    (shared / "acme" / "in" / "a.jsonl").write_bytes(packed([record(0)]))
    made = []
    for number in range(5):
        made.append(await jobs.create("s3://acme/in/a.jsonl", "s3://acme/out/", jobName=f"job-{number}"))
        await jobs.ended(made[-1])

    async def listed(**fields: Any) -> list[str]:
        found: list[str] = []
        token: dict[str, str] = {}
        while True:
            page = await jobs.call("list_model_invocation_jobs", maxResults=2, **fields, **token)
            found += [each["jobArn"] for each in page["invocationJobSummaries"]]
            if "nextToken" not in page:
                return found
            token = {"nextToken": page["nextToken"]}

    assert await listed() == made[::-1]
    assert await listed(sortOrder="Ascending") == made
    assert await listed(nameContains="b-3") == [made[3]]
    assert await listed(statusEquals="Completed", sortOrder="Ascending") == made
    assert await listed(statusEquals="Failed") == []
    middle = (await jobs.get(made[2]))["submitTime"]
    assert await listed(submitTimeAfter=middle) == [made[4], made[3]]
    assert await listed(submitTimeBefore=middle) == [made[1], made[0]]


REFUSED = [
    ({"source": "s3://other/in.jsonl"}, "`inputDataConfig.s3InputDataConfig.s3Uri` is not below a place"),
    ({"target": "s3://other/out/"}, "`outputDataConfig.s3OutputDataConfig.s3Uri` is not below a place"),
    ({"source": "s3://acme/../secret"}, "`inputDataConfig.s3InputDataConfig.s3Uri` must be such as"),
    ({"source": "file:///etc/passwd"}, "`inputDataConfig.s3InputDataConfig.s3Uri` must be such as"),
    ({"vpcConfig": {"subnetIds": ["a"], "securityGroupIds": ["b"]}}, "`vpcConfig` is not supported here"),
    ({"timeoutDurationInHours": 25 * 24}, "`timeoutDurationInHours`"),
    ({"jobName": "no spaces"}, "`jobName`"),
    ({"modelInvocationType": "Other"}, "`modelInvocationType`"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
async def test_r47_what_is_not_the_projects_to_read_or_write_is_refused(launch: Launch, shared: Path, fields, message):
    gateway = await launch(settings(shared))
    await give(gateway, local(shared))
    with pytest.raises(ClientError) as caught:
        await Jobs(gateway).create(**{"source": "s3://acme/in/a.jsonl", "target": "s3://acme/out/"} | fields)
    error = caught.value.response
    assert (error["Error"]["Code"], message in error["Error"]["Message"]) == ("ValidationException", True), error
    assert error["ResponseMetadata"]["RequestId"].startswith("req_")


async def test_r47_a_link_in_the_folder_reads_and_writes_nothing_outside(launch: Launch, shared: Path, tmp_path: Path):
    """Whoever can write there could else read the gateway's own files, or have it write over others'."""
    secret = tmp_path / "keys" / "secret.jsonl"
    secret.parent.mkdir(exist_ok=True)
    secret.write_bytes(packed([record(0)]))
    (shared / "acme" / "in" / "a.jsonl").symlink_to(secret)
    (shared / "acme" / "out").symlink_to(secret.parent)
    (shared / "acme" / "in" / "good.jsonl").write_bytes(packed([record(0)]))
    gateway = await launch(settings(shared))
    await give(gateway, local(shared))
    jobs = Jobs(gateway)
    done = await jobs.ended(await jobs.create("s3://acme/in/a.jsonl", "s3://acme/results/"))
    assert done["status"] == "Failed" and "link" in done["message"]
    done = await jobs.ended(await jobs.create("s3://acme/in/good.jsonl", "s3://acme/out/"))
    assert done["status"] == "Completed" and "can't be written" in done["message"]
    assert sorted(path.name for path in secret.parent.iterdir()) == ["master.key", "secret.jsonl"]
    (kept,) = (await gateway.http.get("/files")).json()["data"]
    assert kept["id"] in done["message"], "what could not be delivered is not lost"
    assert b"modelOutput" in (await gateway.http.get(f"/files/{kept['id']}/content")).content


@pytest.mark.parametrize(("name", "message"), [("none.jsonl", "no such file"), ("empty/", "there is no .jsonl file")])
async def test_an_input_that_is_none_is_told(launch: Launch, shared: Path, name, message):
    (shared / "acme" / "empty").mkdir()
    gateway = await launch(settings(shared))
    await give(gateway, local(shared))
    jobs = Jobs(gateway)
    done = await jobs.ended(await jobs.create(f"s3://acme/{name}", "s3://acme/out/"))
    assert done["status"] == "Failed" and message in done["message"]


async def test_r3_a_job_whose_model_would_run_no_record_is_refused(launch: Launch, shared: Path):
    models = {MODEL: simulated(**FAST)["models"][MODEL] | {"tiers": ["default"]}}
    jobs = Jobs(await launch(settings(shared, models=models)))
    for model, code in {"zz": "ResourceNotFoundException", MODEL: "AccessDeniedException"}.items():
        with pytest.raises(ClientError, match=rf"\({code}\).* The model `{model}` does not"):
            await jobs.create("s3://acme/in/a.jsonl", "s3://acme/out/", modelId=model)
    assert (await jobs.call("list_model_invocation_jobs"))["invocationJobSummaries"] == []


async def test_r51_another_projects_jobs_and_places_are_not_there(launch: Launch, shared: Path):
    gateway = await launch(settings(shared))
    await give(gateway, local(shared))
    (shared / "acme" / "in" / "a.jsonl").write_bytes(packed([record(0)]))
    arn = await Jobs(gateway).create("s3://acme/in/a.jsonl", "s3://acme/out/")
    stranger = Gateway(gateway.url, (await gateway.new_key(project="stranger"))["secret"], gateway.folder)
    theirs = Jobs(stranger)
    for call in ("get_model_invocation_job", "stop_model_invocation_job"):
        with pytest.raises(ClientError) as caught:
            await theirs.call(call, jobIdentifier=arn)
        assert caught.value.response["Error"]["Code"] == "ResourceNotFoundException"
    assert (await theirs.call("list_model_invocation_jobs"))["invocationJobSummaries"] == []
    with pytest.raises(ClientError, match="not below a place"):
        await theirs.create("s3://acme/in/a.jsonl", "s3://acme/out/")
    await Jobs(gateway).ended(arn)
    await stranger.close()


async def test_a_place_that_is_taken_away_ends_its_jobs(launch: Launch, shared: Path):
    gateway = await launch(settings(shared) | simulated(slots=1, base_us=20_000))
    await give(gateway, local(shared))
    jobs = Jobs(gateway)
    (shared / "acme" / "in" / "a.jsonl").write_bytes(packed([record(number) for number in range(20)]))
    arn = await jobs.create("s3://acme/in/a.jsonl", "s3://acme/out/")
    await jobs.reached(arn, lambda found: found.get("successRecordCount", 0) > 1)
    await give(gateway)
    done = await jobs.ended(arn)
    assert (done["status"], done["successRecordCount"]) == ("Completed", 20)
    assert "not below a place" in done["message"] and not (shared / "acme" / "out").exists()


async def test_a_job_on_the_real_engine(start: Start, shared: Path):
    """Both kinds of body, and Converse."""
    from tests.e2e.gateway import local as built_in

    process = await start({**built_in(slots=2), "batch_folders": [str(shared)]})
    gateway = process.gateway()
    await give(gateway, local(shared))
    jobs = Jobs(gateway)
    chat = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}
    (shared / "acme" / "in" / "a.jsonl").write_bytes(packed([record(0), {"modelInput": chat}]))
    (shared / "acme" / "in" / "b.jsonl").write_bytes(packed([converse(0)]))
    one = await jobs.create("s3://acme/in/a.jsonl", "s3://acme/out/")
    two = await jobs.create("s3://acme/in/b.jsonl", "s3://acme/out/", modelInvocationType="Converse")
    assert (await jobs.ended(one))["successRecordCount"] == 2 and (await jobs.ended(two))["successRecordCount"] == 1
    found = unpacked((shared / "acme" / "out" / short(one) / "a.jsonl.out").read_bytes())
    assert found["CALL0000000"]["modelOutput"]["content"][0]["text"]
    assert found["REC00000002"]["modelOutput"]["choices"][0]["message"]["content"]
    await gateway.close()
