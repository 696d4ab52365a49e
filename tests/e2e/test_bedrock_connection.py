"""What boto3 does with a connection, unmodified: it gives up too early, and it sends a token in place of a signature."""

import asyncio

import boto3
import pytest
from botocore.config import Config

from tests.e2e.gateway import simulated
from tests.e2e.test_bedrock import ASKED, credentials
from tests.e2e.test_tls import CERTIFICATE


async def test_r48_a_call_that_boto3_gives_up_and_repeats_joins_its_own_work(launch):
    """Its `read_timeout` is shorter than the answer takes; the call is computed and billed once all the same."""
    gateway = await launch(simulated(base_us=50_000, sequence_us=0))
    config = Config(read_timeout=1, retries={"mode": "standard", "total_max_attempts": 5})
    bedrock = boto3.client("bedrock-runtime", endpoint_url=gateway.url, config=config, **credentials(gateway))
    answer = await asyncio.to_thread(bedrock.converse, **{**ASKED, "inferenceConfig": {"maxTokens": 60}})
    assert answer["ResponseMetadata"]["RetryAttempts"] > 0
    assert answer["usage"]["outputTokens"] == 60
    (row,) = await gateway.recorded(1)
    assert (row["outcome"], row["output"]) == ("completed", 60)


async def test_r51_an_api_key_of_bedrock_over_https(start, monkeypatch):
    """`AWS_BEARER_TOKEN_BEDROCK`, which boto3 sends in place of a signature."""
    tls = {"cert": str(CERTIFICATE), "key": str(CERTIFICATE.with_name("tls-key.pem"))}
    process = await start({**simulated(), "tls": tls})
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", process.key)
    bedrock = boto3.client(
        "bedrock-runtime", endpoint_url=process.url, region_name="us-east-1", verify=str(CERTIFICATE)
    )
    answer = await asyncio.to_thread(bedrock.converse, **ASKED, serviceTier={"type": "flex"})
    assert (answer["serviceTier"]["type"], answer["usage"]["outputTokens"]) == ("flex", 6)
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", process.key[:-1] + "x")
    stranger = boto3.client(
        "bedrock-runtime", endpoint_url=process.url, region_name="us-east-1", verify=str(CERTIFICATE)
    )
    with pytest.raises(stranger.exceptions.ClientError) as refused:
        await asyncio.to_thread(stranger.converse, **ASKED)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
