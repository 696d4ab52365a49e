"""Addresses that are not there, told to each client in the words of its own API, and what to do about them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import boto3
import httpx
import openai
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from starlette.responses import Response

from fareclass.core.snapshot import Snapshot
from fareclass.wire.project_plane import Call, Operation, project_app
from fareclass.wire.routes import GENERATING
from tests.wire.plane import SECRET, Running

ASKED: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}
VERSION = {"anthropic-version": "2023-06-01"}


@pytest.fixture
async def stranger(plane: Running) -> AsyncIterator[httpx.AsyncClient]:
    """One who shows no key."""
    async with httpx.AsyncClient(base_url=plane.url, timeout=10) as client:
        yield client


def aws(plane: Running, service: str, path: str = "") -> Any:
    config = Config(retries={"total_max_attempts": 1})
    own = {"aws_access_key_id": "key_test", "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    return boto3.client(service, endpoint_url=plane.url + path, config=config, **own)


async def test_anthropics_sdk_is_told_to_leave_v1_out(plane: Running):
    async with anthropic.AsyncAnthropic(base_url=f"{plane.url}/v1", api_key=SECRET, max_retries=0) as sdk:
        with pytest.raises(anthropic.NotFoundError) as caught:
            await sdk.messages.create(**ASKED)
    error = caught.value
    assert error.body == {
        "type": "error",
        "error": {
            "type": "not_found_error",
            "message": "There is no POST `/v1/v1/messages` here. Leave `/v1` out of the base URL.",
            "code": "unknown_url",
        },
        "request_id": error.request_id,
    }
    assert error.request_id and error.request_id.startswith("req_")


async def test_what_anthropic_has_and_we_have_not(plane: Running):
    async with anthropic.AsyncAnthropic(base_url=plane.url, api_key=SECRET, max_retries=0) as sdk:
        with pytest.raises(anthropic.NotFoundError) as caught:
            await sdk.beta.skills.list()
    assert isinstance(caught.value.body, dict)
    message = caught.value.body["error"]["message"]
    assert message == "There is no GET `/v1/skills` here. Anthropic's API begins at `/v1`, as in POST `/v1/messages`."


async def test_openais_sdk_is_told_to_leave_one_v1_out(plane: Running):
    async with openai.AsyncOpenAI(base_url=f"{plane.url}/v1/v1", api_key=SECRET, max_retries=0) as sdk:
        with pytest.raises(openai.NotFoundError) as caught:
            await sdk.chat.completions.create(**ASKED)
    assert caught.value.code == "unknown_url"
    assert "`/v1/v1/chat/completions` here. Leave one `/v1` out of the base URL." in caught.value.message


@pytest.mark.parametrize("path", [*GENERATING, "/v1/models", "/v1/models/m", "/v1/files", "/v1/batches/b/cancel"])
@pytest.mark.parametrize("headers", [{}, VERSION], ids=["openai", "anthropic"])
async def test_where_v1_is_missing_it_is_named(stranger: httpx.AsyncClient, path: str, headers: dict[str, str]):
    given = path.removeprefix("/v1")
    answer = await stranger.post(given, headers=headers, json=ASKED)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == (
        f"There is no POST `{given}` here. Put `/v1` at the end of the base URL, so that this becomes `{path}`."
    )


NOT_HERE = [
    ("list_foundation_models", {}, "GET `/foundation-models`"),
    ("get_foundation_model", {"modelIdentifier": "m"}, "GET `/foundation-models/m`"),
    ("list_tags_for_resource", {"resourceARN": "arn:aws:bedrock:us-east-1:1:x/y"}, "POST `/listTagsForResource`"),
    (
        "apply_guardrail",
        {"guardrailIdentifier": "g", "guardrailVersion": "1", "source": "INPUT", "content": [{"text": {"text": "Hi"}}]},
        "POST `/guardrail/g/version/1/apply`",
    ),
    (
        "start_async_invoke",
        {"modelId": "m", "modelInput": {}, "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": "s3://a/b"}}},
        "POST `/async-invoke`",
    ),
]


@pytest.mark.parametrize(("operation", "asked", "what"), NOT_HERE)
async def test_boto3_is_told_what_of_bedrock_is_not_here(plane: Running, operation: str, asked: Any, what: str):
    client = aws(plane, "bedrock-runtime" if operation in {"apply_guardrail", "start_async_invoke"} else "bedrock")
    with pytest.raises(ClientError) as caught:
        await asyncio.to_thread(getattr(client, operation), **asked)
    error = caught.value.response
    assert (error["ResponseMetadata"]["HTTPStatusCode"], error["Error"]["Code"]) == (404, "ResourceNotFoundException")
    assert error["Error"]["Message"].startswith(f"There is no {what} here. Of Bedrock's API there are Converse,")
    assert error["ResponseMetadata"]["RequestId"].startswith("req_")


async def test_boto3_is_told_to_leave_v1_out(plane: Running):
    client = aws(plane, "bedrock-runtime", "/v1")
    with pytest.raises(ClientError, match=r"ResourceNotFoundException.*Leave `/v1` out of the base URL"):
        await asyncio.to_thread(client.converse, modelId="m", messages=[{"role": "user", "content": [{"text": "Hi"}]}])


async def test_an_aws_sdk_with_a_bearer_token_is_known_too(stranger: httpx.AsyncClient):
    """It signs nothing then."""
    answer = await stranger.get("/foundation-models", headers={"amz-sdk-invocation-id": "a-b-c"})
    assert answer.headers["x-amzn-errortype"] == "ResourceNotFoundException"
    assert answer.headers["x-amzn-requestid"] == answer.headers["x-request-id"]
    assert answer.json().keys() == {"message", "code"}


SIGNED = {"authorization": "AWS4-HMAC-SHA256 Credential=x", "x-stainless-lang": "python"}


@pytest.mark.parametrize(
    ("path", "theirs", "way"),
    [("/responses", False, "Put `/v1` at"), ("/v1/v1/responses", False, "Leave one"), ("/v1/model/m/invoke", True, "Leave `/v1`")],
)  # fmt: skip
async def test_sdks_that_sign_hear_their_own_api(stranger: httpx.AsyncClient, path: str, theirs: bool, way: str):
    """OpenAI's for Bedrock its own form; Anthropic's, which calls Bedrock's, that of AWS."""
    answer = await stranger.post(path, headers=SIGNED, json=ASKED)
    assert answer.status_code == 404
    error = answer.json() if theirs else answer.json()["error"]
    assert ("x-amzn-errortype" in answer.headers) == theirs and way in error["message"]


@pytest.mark.parametrize(
    ("headers", "form"),
    [
        ({}, {"error"}),
        (VERSION, {"type", "error", "request_id"}),
        ({"amz-sdk-invocation-id": "a"}, {"message", "code"}),
    ],
    ids=["openai", "anthropic", "aws"],
)
async def test_a_wrong_method_is_told_in_each_api_too(snapshot: Snapshot, headers: dict[str, str], form: set[str]):
    async def never(call: Call) -> Response:
        raise AssertionError(call)

    transport = httpx.ASGITransport(project_app(lambda: snapshot, [Operation("POST", "/v1/things", never)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://gw") as client:
        answer = await client.put("/v1/things", headers=headers)
    assert (answer.status_code, answer.json().keys()) == (405, form)
    error = answer.json().get("error", answer.json())
    assert (error["message"], error["code"]) == ("`/v1/things` takes only POST.", "method_not_allowed")
