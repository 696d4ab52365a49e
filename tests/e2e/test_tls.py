"""Listening beyond this machine: with TLS of its own, to callers who check it, or not at all (R51)."""

import ssl
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from tests.e2e.gateway import ADMIN_KEY, MODEL, Gateway, refused_start, simulated

DATA = Path(__file__).parents[1] / "data"
CERTIFICATE = DATA / "tls-cert.pem"
"""Signed by itself, so it is its own authority, for localhost and 127.0.0.1."""
OPEN = {**simulated(), "listen": "0.0.0.0:0"}
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 5}


@pytest.fixture
async def process(start):
    return await start({**OPEN, "tls": {"cert": str(CERTIFICATE), "key": str(DATA / "tls-key.pem")}})


def caller(process, authority: ssl.SSLContext) -> openai.AsyncOpenAI:
    http = httpx.AsyncClient(verify=authority)
    return openai.AsyncOpenAI(base_url=f"{process.url}/v1", api_key=process.key, max_retries=0, http_client=http)


async def test_the_sdk_over_https(process):
    """R1, R4: streamed and not, by a caller who trusts this authority and no other."""
    assert process.url.startswith("https://127.0.0.1:")
    async with caller(process, ssl.create_default_context(cafile=CERTIFICATE)) as sdk:
        answer = await sdk.chat.completions.create(service_tier="priority", **ASKED)
        assert (answer.service_tier, answer.usage.completion_tokens) == ("priority", 5)
        stream = await sdk.chat.completions.create(service_tier="flex", stream=True, **ASKED)
        chunks = [chunk async for chunk in stream]
        assert {chunk.service_tier for chunk in chunks} == {"flex"}
        assert chunks[-1].choices[0].finish_reason == "length"
    async with caller(process, ssl.create_default_context()) as stranger:
        with pytest.raises(openai.APIConnectionError) as refused:
            await stranger.chat.completions.create(**ASKED)
    assert "certificate verify failed" in str(refused.value.__cause__)


async def test_r51_beyond_loopback_nothing_is_told_without_a_key_or_in_the_clear(process):
    port = httpx.URL(process.url).port
    listening = [one.laddr for one in psutil.Process(process.pid).net_connections() if one.status == "LISTEN"]
    assert listening == [("0.0.0.0", port)]
    async with httpx.AsyncClient() as plain:
        with pytest.raises(httpx.RemoteProtocolError):
            await plain.get(f"http://127.0.0.1:{port}/healthz")
    gateway: Gateway = process.gateway()
    assert (await gateway.http.get(f"{gateway.url}/metrics")).status_code == 401
    assert (await gateway.caller(ADMIN_KEY).get(f"{gateway.url}/metrics")).status_code == 200
    await gateway.close()


def test_without_tls_it_does_not_start(tmp_path):
    """One sentence that says what to do; nothing is made."""
    said = refused_start(tmp_path, OPEN)
    assert "can be reached from other machines: set tls.cert and tls.key, or insecure_listen: true" in said
    assert not (tmp_path / "db").exists()
    assert not (tmp_path / "keys").exists()


async def test_behind_a_proxy_that_does_tls_it_may(start):
    process = await start({**OPEN, "insecure_listen": True})
    gateway = process.gateway()
    assert gateway.url.startswith("http://")
    assert (await gateway.ask()).status_code == 200
    await gateway.close()
