"""Bedrock's model-invocation jobs between buckets of an object store that speaks S3 (R37, R47)."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from tests.e2e.conftest import Launch
from tests.e2e.test_jobs import Jobs, give, packed, record, settings, shared, short, unpacked

__all__ = ["shared"]
S3_KEYS = {"aws_access_key_id": "store-id", "aws_secret_access_key": "store-secret", "region_name": "eu-central-1"}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def bucket_client(url: str, name: str) -> Any:
    """The owner of an object store, with this bucket in it."""
    client = boto3.client("s3", endpoint_url=url, **S3_KEYS)
    with suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    return client


def stores(url: str, tmp_path: Path) -> dict[str, Any]:
    secret = tmp_path / "secret"
    secret.write_text("store-secret")
    store = {"url": url, "region": "eu-central-1", "access_key_id": "store-id", "secret_access_key_file": str(secret)}
    return {"object_stores": {"archive": store}, "outbound_networks": ["127.0.0.0/8"]}


async def test_r37_a_job_between_buckets_of_an_object_store(launch: Launch, shared: Path, tmp_path: Path, s3: str):
    bucket = bucket_client(s3, "nightly")
    for name, numbers in (("a.jsonl", range(5)), ("b/c (1).jsonl", range(5, 9)), ("b/!_*'.jsonl", range(9, 12))):
        bucket.put_object(Bucket="nightly", Key=f"acme/in/{name}", Body=packed([record(number) for number in numbers]))
    bucket.put_object(Bucket="nightly", Key="elsewhere.jsonl", Body=packed([record(0)]))
    gateway = await launch(settings(shared, **stores(s3, tmp_path)))
    await give(gateway, {"uri": "s3://nightly/acme/", "store": "archive"})
    jobs = Jobs(gateway)
    done = await jobs.ended(await jobs.create("s3://nightly/acme/in/a.jsonl", "s3://nightly/acme/out/"))
    assert (done["status"], done["successRecordCount"], done.get("message")) == ("Completed", 5, None)
    with pytest.raises(ClientError, match="not below a place"):
        await jobs.create("s3://nightly/elsewhere.jsonl", "s3://nightly/acme/out/")
    failed = await jobs.ended(await jobs.create("s3://nightly/acme/in/", "s3://nightly/acme/out/"))
    assert failed["status"] == "Failed" and "must be such as" in failed["message"], "a name with a space is none"
    bucket.delete_object(Bucket="nightly", Key="acme/in/b/c (1).jsonl")
    done = await jobs.ended(await jobs.create("s3://nightly/acme/in/", "s3://nightly/acme/out/"))
    assert (done["status"], done["successRecordCount"]) == ("Completed", 8)

    def read(name: str) -> bytes:
        key = f"acme/out/{short(done['jobArn'])}/{name}"
        body: bytes = bucket.get_object(Bucket="nightly", Key=key)["Body"].read()
        return body

    assert len(unpacked(read("a.jsonl.out"))) == 5 and len(unpacked(read("b/!_*'.jsonl.out"))) == 3
    assert json.loads(read("manifest.json.out"))["successRecordCount"] == 8


@pytest.mark.parametrize(
    ("source", "target", "status", "message"),
    [
        ("s3://nightly2/none.jsonl", "s3://nightly2/out/", "Failed", "404"),
        ("s3://absent/", "s3://nightly2/out/", "Failed", "404"),
        ("s3://nightly2/in.jsonl", "s3://absent/out/", "Completed", "404"),
    ],
)
async def test_what_an_object_store_says_no_to_is_told(
    launch: Launch, shared: Path, tmp_path: Path, s3: str, source, target, status, message
):
    bucket = bucket_client(s3, "nightly2")
    bucket.put_object(Bucket="nightly2", Key="in.jsonl", Body=packed([record(0)]))
    gateway = await launch(settings(shared, **stores(s3, tmp_path)))
    await give(gateway, *({"uri": f"s3://{name}/", "store": "archive"} for name in ("nightly2", "absent")))
    jobs = Jobs(gateway)
    done = await jobs.ended(await jobs.create(source, target))
    assert (done["status"], message in done["message"]) == (status, True), done


async def test_r47_an_object_store_is_spoken_to_at_public_addresses_alone(
    launch: Launch, shared: Path, tmp_path: Path, s3: str, monkeypatch
):
    """Without its network in `outbound_networks` nothing is sent to it; the job waits, and is over with its window."""
    monkeypatch.setattr("fareclass.wire.bedrock_jobs._HOUR_S", 0.05)
    monkeypatch.setattr("fareclass.flow.batches._AGAIN_S", 0.1)
    asked: list[str] = []
    monkeypatch.setattr("fareclass.engine.object_store.S3Client.get", lambda *_args, **_more: asked.append("get"))
    given = stores(s3, tmp_path) | {"outbound_networks": []}
    gateway = await launch(settings(shared, **given))
    await give(gateway, {"uri": "s3://nightly/", "store": "archive"})
    jobs = Jobs(gateway)
    done = await jobs.ended(await jobs.create("s3://nightly/in.jsonl", "s3://nightly/out/"))
    assert done["status"] == "Expired" and asked == []
