"""Nothing that a caller sends makes a 500, a hang or a leak, in whatever API: bytes, and bodies that are nearly right."""

import asyncio
import base64
import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.gateway import ADMIN_KEY, MODEL, Process, simulated
from tests.engine.conftest import eventually

ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}
IMAGE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
TOOL = {"type": "object", "properties": {"city": {"type": "string"}}}
CALLS: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/chat/completions",
        {
            "model": MODEL,
            "messages": [
                {
                    "role": "system",
                    "content": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
                },
                {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": TOOL}}],
            "tool_choice": "auto",
            "max_tokens": 2,
            "stream": True,
            "stream_options": {"include_usage": True},
            "service_tier": "flex",
            "n": 1,
            "stop": ["x"],
            "response_format": {"type": "text"},
        },
    ),
    ("/v1/completions", {"model": MODEL, "prompt": ["a", "b"], "max_tokens": 2, "echo": False, "logprobs": 1}),
    ("/v1/embeddings", {"model": MODEL, "input": ["a"], "encoding_format": "float"}),
    (
        "/v1/responses",
        {
            "model": MODEL,
            "instructions": "Be brief.",
            "input": [
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "1"},
            ],
            "tools": [{"type": "function", "name": "f", "parameters": TOOL}],
            "text": {"format": {"type": "json_schema", "name": "n", "schema": TOOL}},
            "max_output_tokens": 2,
            "store": False,
            "stream": True,
            "background": False,
            "metadata": {"a": "b"},
        },
    ),
    (
        "/v1/messages",
        {
            "model": MODEL,
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"city": "x"}}],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "1"}]},
            ],
            "tools": [{"name": "f", "input_schema": TOOL}],
            "tool_choice": {"type": "auto"},
            "max_tokens": 2,
            "stop_sequences": ["x"],
            "stream": True,
            "service_tier": "auto",
        },
    ),
    ("/v1/messages/count_tokens", {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}),
    (
        f"/model/{MODEL}/converse-stream",
        {
            "system": [{"text": "Be brief."}, {"cachePoint": {"type": "default"}}],
            "messages": [
                {
                    "role": "user",
                    "content": [{"text": "Hello"}, {"image": {"format": "png", "source": {"bytes": IMAGE}}}],
                },
                {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "f", "input": {}}}]},
                {"role": "user", "content": [{"toolResult": {"toolUseId": "t", "content": [{"text": "1"}]}}]},
            ],
            "inferenceConfig": {"maxTokens": 2, "temperature": 0.5, "stopSequences": ["x"]},
            "toolConfig": {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": TOOL}}}]},
            "serviceTier": {"type": "flex"},
        },
    ),
    (
        f"/model/{MODEL}/invoke",
        {
            "anthropic_version": "bedrock-2023-05-31",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 2,
        },
    ),
    (
        f"/model/{MODEL}/count-tokens",
        {"input": {"converse": {"messages": [{"role": "user", "content": [{"text": "a"}]}]}}},
    ),
    ("/v1/batches", {"input_file_id": "file_x", "endpoint": "/v1/chat/completions", "completion_window": "24h"}),
    (
        "/v1/messages/batches",
        {
            "requests": [
                {
                    "custom_id": "a",
                    "params": {
                        "model": MODEL,
                        "max_tokens": 2,
                        "messages": [{"role": "user", "content": "Hello"}],
                    },
                }
            ]
        },
    ),
    (
        "/model-invocation-job",
        {
            "jobName": "nightly",
            "roleArn": "arn:aws:iam::000000000000:role/any",
            "modelId": MODEL,
            "modelInvocationType": "Converse",
            "clientRequestToken": "once",
            "inputDataConfig": {"s3InputDataConfig": {"s3Uri": "s3://acme/in/", "s3InputFormat": "JSONL"}},
            "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": "s3://acme/out/"}},
            "timeoutDurationInHours": 24,
            "tags": [{"key": "a", "value": "b"}],
        },
    ),
]
"""A call of each API with most of its fields."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
FUZZ = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("fuzz")
    batches = folder / "batches"
    (batches / "in").mkdir(parents=True)
    (batches / "in" / "a.jsonl").write_text('{"recordId": "1", "modelInput": {"messages": []}}\n{"recordId": 2}\n\n[')
    fleet = simulated(slots=64, base_us=100, sequence_us=1)
    process = Process(folder, {**fleet, "batch_folders": [str(batches)]})
    roots = {"roots": [{"uri": "s3://acme/", "folder": str(batches)}]}
    place = f"{process.url}/admin/v1/projects/default/batch_roots"
    assert httpx.put(place, json=roots, headers=ADMIN).status_code == 200
    yield process
    process.close()


@pytest.fixture(scope="module")
def http(process: Process) -> Iterator[httpx.Client]:
    """A caller; at the end nothing runs, nothing waits and the gateway is well."""
    headers = {"authorization": f"Bearer {process.key}", "content-type": "application/json"}
    with httpx.Client(base_url=process.url, headers=headers, timeout=20) as client:
        yield client
        asyncio.run(eventually(lambda: all_over(client), 30))
        [pool] = client.get("/admin/v1/pools", headers=ADMIN).json()["data"]
        assert not [tier for tier in pool["tiers"].values() if tier["running"] or tier["waiting"] or tier["paused"]]
        assert client.get("/readyz").status_code == 200
    assert "Traceback" not in process.log.read_text()


def all_over(client: httpx.Client) -> bool:
    """Whether no batch is left that may still send."""
    listed = client.get("/v1/messages/batches", params={"limit": 1000}).json()["data"]
    jobs = client.get("/model-invocation-jobs", params={"maxResults": 1000}).json()["invocationJobSummaries"]
    ended = {"Completed", "PartiallyCompleted", "Failed", "Stopped", "Expired"}
    return all(one["processing_status"] == "ended" for one in listed) and {job["status"] for job in jobs} <= ended


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Everywhere in a body."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inner:
        yield from places(each, (*path, name))


@st.composite
def nearly_right(draw: st.DrawFn) -> tuple[str, bytes]:
    """A call with up to three of its places changed, doubled or taken away."""
    path, body = deepcopy(draw(st.sampled_from(CALLS)))
    for _ in range(draw(st.integers(1, 3))):
        if not body:
            break
        *way, last = draw(st.sampled_from([place for place in places(body) if place]))
        inside = body
        for step in way:
            inside = inside[step]
        change = draw(st.sampled_from(["other", "none", "double", "wrap", "new"]))
        if change == "none":
            del inside[last]
        elif change == "wrap":
            inside[last] = [inside[last]]
        elif change == "new" and isinstance(inside, dict):
            inside[draw(st.text(max_size=12))] = draw(JSON)
        elif change == "double" and isinstance(inside, list):
            inside.append(deepcopy(inside[last]))
        else:
            inside[last] = draw(JSON)
    return path, json.dumps(body).encode("utf-8", "surrogatepass")


@st.composite
def broken_bytes(draw: st.DrawFn) -> tuple[str, bytes]:
    """A call with bytes cut out, put in or changed."""
    path, body = draw(st.sampled_from(CALLS))
    raw = json.dumps(body).encode()
    start, end = sorted(draw(st.tuples(st.integers(0, len(raw)), st.integers(0, len(raw)))))
    return path, raw[:start] + draw(st.binary(max_size=12)) + raw[end:]


def shown_well(answer: httpx.Response) -> None:
    """Answered, or refused as a caller's own mistake, with words."""
    assert answer.status_code < 500, answer.text
    if answer.status_code != 200:
        assert "message" in answer.text and len(answer.text) < 20_000
        json.loads(answer.content)


@FUZZ
@given(call=nearly_right())
def test_a_body_that_is_nearly_right_is_answered_or_refused(http: httpx.Client, call: tuple[str, bytes]):
    """R50, section 11, in every API."""
    shown_well(http.post(call[0], content=call[1]))


@FUZZ
@given(call=broken_bytes())
def test_bytes_that_are_no_body_are_refused(http: httpx.Client, call: tuple[str, bytes]):
    shown_well(http.post(call[0], content=call[1]))


@FUZZ
@given(
    path=st.sampled_from([path for path, _ in CALLS]) | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
    headers=st.dictionaries(
        st.sampled_from(
            [
                "authorization", "x-api-key", "x-amz-date", "x-amzn-bedrock-service-tier", "anthropic-version",
                "idempotency-key", "amz-sdk-invocation-id", "x-stainless-read-timeout", "traceparent", "content-type",
            ]
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60).map(str.strip)
        | st.just("AWS4-HMAC-SHA256 Credential=a/20261124/us-east-1/bedrock/aws4_request, SignedHeaders=host, Signature=0"),
        max_size=4,
    ),
)  # fmt: skip
def test_headers_methods_and_paths_of_any_kind(http: httpx.Client, path: str, method: str, headers: dict[str, str]):
    body = dict(CALLS).get(path)
    shown_well(
        http.request(method, "/" + quote(path.lstrip("/"), safe="/%"), headers=headers, content=json.dumps(body))
    )


def test_the_control_plane_does_what_its_openapi_says(process: Process):
    """Each operation: no 500, and no status or body that the document does not name."""
    schema = schemathesis.openapi.from_url(f"{process.url}/admin/openapi.json")
    checks = [
        schemathesis.checks.not_a_server_error,
        schemathesis.checks.response_schema_conformance,
        schemathesis.checks.content_type_conformance,
        schemathesis.checks.status_code_conformance,
    ]
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:

        @settings(FUZZ, max_examples=15)
        @given(case=operation.as_strategy())
        def calls(case: Any) -> None:
            case.call_and_validate(headers=ADMIN, checks=checks)

        calls()
