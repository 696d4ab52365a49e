"""R51: signed calls through the data plane, and what a stranger's signed call can make the gateway keep."""

import asyncio
import tracemalloc
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.snapshot import Snapshot
from fareclass.deadlines import Deadlines
from fareclass.wire.arrival import arrive
from fareclass.wire.signed import read_signed
from tests.wire.plane import SECRET, Running

MIB = 2**20
HELLO = b'{"messages":[{"role":"user","content":[{"text":"Hi"}]}]}'


def signed(
    url: str, body: bytes = HELLO, *, method: str = "POST", key_id: str = "key_test", secret: str = SECRET
) -> dict[str, str]:
    request = AWSRequest(method, url, {"Content-Type": "application/json"}, body)
    SigV4Auth(Credentials(key_id, secret), "bedrock", "us-east-1").add_auth(request)
    return dict(request.headers.items())


@pytest.mark.parametrize("path", ["/model/m/converse", "/model/org%2Fm/converse", "/v1/messages?beta=true"])
async def test_r51_a_signature_is_as_good_as_a_token(plane: Running, path):
    url = plane.url + path
    body = HELLO if "converse" in path else b'{"model":"m","max_tokens":3,"messages":[{"role":"user","content":"Hi"}]}'
    async with httpx.AsyncClient() as http:
        answer = await http.post(url, content=body, headers=signed(url, body))
        assert answer.status_code == 200, answer.text
        assert plane.walk.requests[0].key.id == "key_test"
        tampered = await http.post(url, content=body.replace(b"Hi", b"Ho"), headers=signed(url, body))
        assert tampered.status_code == (403 if "converse" in path else 401)
    assert len(plane.walk.requests) == 1
    assert [refusal.code for _, key, refusal in plane.walk.rejections if key is None] == ["signature_mismatch"]


async def test_r51_a_look_up_may_be_signed_too(plane: Running):
    url = plane.url + "/v1/models"
    async with httpx.AsyncClient() as http:
        assert (await http.get(url, headers=signed(url, b"", method="GET"))).status_code == 200
        assert (await http.get(url, headers=signed(url, b"", method="GET", secret="no"))).status_code == 401


async def test_a_refusal_names_bedrocks_exception(plane: Running):
    url = plane.url + "/model/m/converse"
    async with httpx.AsyncClient() as http:
        answer = await http.post(url, content=HELLO, headers=signed(url, key_id="key_none"))
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (403, "UnrecognizedClientException")
    assert answer.headers["x-amzn-requestid"].startswith("req_")


@pytest.mark.parametrize(("key_id", "kept_mib"), [("key_test", 30), ("key_none", 0)])
async def test_r51_a_strangers_body_is_read_but_not_kept(snapshot: Snapshot, key_id, kept_mib):
    """It is hashed to its end, like any, so that it takes as long; a thousand of them shall not fill the memory."""
    url = "http://gateway/model/m/converse"
    headers = {
        name.lower().encode(): value.encode() for name, value in signed(url, b"x" * 30 * MIB, key_id=key_id).items()
    }
    scope = {
        "method": "POST",
        "raw_path": b"/model/m/converse",
        "query_string": b"",
        "headers": [(b"host", b"gateway"), *headers.items()],
    }
    parts: Iterator[int] = iter(range(30))
    taken = 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": b"x" * MIB, "more_body": next(parts) < 29}

    tracemalloc.start()
    try:
        reading = read_signed(snapshot, scope, receive, arrive(scope["headers"]), Deadlines())
        outcome = (await asyncio.gather(reading, return_exceptions=True))[0]
        peak_mib = tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()
    assert taken == 30
    if kept_mib:
        assert not isinstance(outcome, BaseException) and len(outcome[1]) == 30 * MIB
        assert peak_mib > kept_mib
    else:
        assert isinstance(outcome, Refusal) and outcome.outcome is Outcome.UNAUTHENTICATED
        assert peak_mib < 4
