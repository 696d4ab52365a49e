"""Names that no database takes are names of nothing, on both kinds of database: never a failure of ours."""

from typing import Any

import httpx

from tests.e2e.conftest import Launch
from tests.e2e.gateway import simulated
from tests.e2e.test_jobs import MODEL, ROLE

NUL = "a%00b"
NOT_THERE = [
    ("GET", f"/v1/files/{NUL}"),
    ("GET", f"/v1/files/{NUL}/content"),
    ("DELETE", f"/v1/files/{NUL}"),
    ("GET", f"/v1/batches/{NUL}"),
    ("POST", f"/v1/batches/{NUL}/cancel"),
    ("GET", f"/v1/messages/batches/{NUL}"),
    ("GET", f"/v1/messages/batches/{NUL}/results"),
    ("DELETE", f"/v1/messages/batches/{NUL}"),
    ("GET", f"/v1/responses/{NUL}"),
    ("DELETE", f"/v1/responses/{NUL}"),
    ("GET", f"/model-invocation-job/{NUL}"),
]
INVALID = [
    ("GET", f"/v1/files?after={NUL}"),
    ("GET", f"/v1/files?purpose={NUL}"),
    ("GET", f"/v1/batches?after={NUL}"),
    ("GET", f"/v1/messages/batches?after_id={NUL}"),
    ("GET", f"/v1/messages/batches?before_id={NUL}"),
    ("GET", f"/model-invocation-jobs?nextToken={NUL}"),
]


async def test_what_no_name_can_hold_is_told_and_no_failure(launch: Launch, database: dict[str, str]):
    gateway = await launch(simulated() | database)
    http = gateway.caller(gateway.key, "")

    async def call(method: str, path: str, **more: Any) -> tuple[int, str]:
        answer = await http.request(method, path, **more)
        return answer.status_code, answer.text

    for method, path in NOT_THERE:
        status, text = await call(method, path)
        assert (status, "does not exist" in text) == (404, True), (path, text)
    for method, path in INVALID:
        status, text = await call(method, path)
        assert (status, path.partition("?")[2].partition("=")[0] in text) == (400, True), (path, text)
    batch = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": "a\0b"}
    status, text = await call("POST", "/v1/batches", json=batch)
    assert (status, "input_file_id" in text) == (400, True)
    job = {
        "jobName": "nightly",
        "roleArn": ROLE,
        "modelId": MODEL,
        "inputDataConfig": {"s3InputDataConfig": {"s3Uri": "s3://acme/a.jsonl"}},
        "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": "s3://acme/out/"}},
    }
    status, text = await call("POST", "/model-invocation-job", json=job | {"clientRequestToken": "a\0b"})
    assert (status, "clientRequestToken" in text) == (400, True)
    file = await gateway.sdk().files.create(file=("a", b"\n"), purpose="batch")
    status, text = await call("POST", "/v1/batches", json=batch | {"input_file_id": file.id, "metadata": {"a": "b\0"}})
    assert (status, "b\\u0000" in text) == (200, True), "what is only kept may be anything"
    form = httpx.Request("POST", "http://x", files={"file": ("a\0b", b"x")}, data={"purpose": "batch\0"})
    kind = {"content-type": form.headers["content-type"]}
    status, text = await call("POST", "/v1/files", content=form.read(), headers=kind)
    assert (status, "`purpose`" in text) == (400, True)
