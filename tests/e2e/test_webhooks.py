"""R47: a background response or batch tells its project's webhook that it ended, through a kill too; with unmodified SDKs."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import openai
from aiohttp import web

from tests.e2e.conftest import Start
from tests.e2e.gateway import ADMIN_KEY, MODEL, Process, chat, simulated
from tests.engine.conftest import eventually
from tests.engine.receiver import Receiver, receiving

SETTINGS = simulated() | {"outbound_networks": ["127.0.0.0/8"]}


async def webhook(process: Process, *words: str) -> tuple[int, str]:
    """What `fareclass webhook` prints."""
    environ = {"FARECLASS_URL": process.url, "FARECLASS_ADMIN_KEY": ADMIN_KEY, "PATH": "", "COLUMNS": "200"}
    command = [sys.executable, "-m", "fareclass", "webhook", *words]
    done = await asyncio.to_thread(
        subprocess.run, command, env=environ, capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stdout + done.stderr


async def gateway_batch(process: Process) -> str:
    """A batch of one request."""
    gateway = process.gateway()
    client = gateway.sdk()
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat()}
    file = await client.files.create(file=("x.jsonl", json.dumps(line).encode()), purpose="batch")
    made = await client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    await gateway.close()
    return made.id


def said_of(receiver: Receiver, type: str) -> list[str]:
    """Ids of the objects that events of a type were about."""
    events = [json.loads(got.body) for got in receiver.got]
    return [event["data"]["id"] for event in events if event["type"] == type]


async def test_r47_a_background_response_is_told_to_its_webhook_through_a_kill(start: Start, tmp_path: Path):
    """The receiver has it once before the kill and once after, under one id; the openai SDK unwraps what it got."""
    process = await start(SETTINGS)
    under_way = asyncio.Event()

    async def hold(_request: web.Request) -> web.Response:
        under_way.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with receiving() as receiver:
        status, said = await webhook(process, "set", "default", receiver.url, "--json")
        assert status == 0, said
        secret = json.loads(said)["secret"]
        receiver.answer = hold
        gateway = process.gateway()
        response = await gateway.sdk().responses.create(model=MODEL, input="Hello", background=True)
        await asyncio.wait_for(under_way.wait(), 20)
        await gateway.close()
        process.close()
        receiver.answer = None
        process = await start()
        await eventually(lambda: len(receiver.got) == 2, 20)
        assert len({got.headers["webhook-id"] for got in receiver.got}) == 1
        for got in receiver.got:
            event = openai.OpenAI(api_key="x", webhook_secret=secret).webhooks.unwrap(got.body.decode(), got.headers)
            assert (event.type, event.data.id) == ("response.completed", response.id)
        batch = await gateway_batch(process)
        await eventually(lambda: batch in said_of(receiver, "batch.completed"), 20)
        status, said = await webhook(process, "replay", "default", event.id)
        assert status == 0 and "delivered" in said, said
        assert receiver.got[-1].body == got.body


async def test_r47_an_operator_sets_tries_and_clears_a_webhook(start: Start):
    process = await start(SETTINGS)
    async with receiving() as receiver:
        status, said = await webhook(process, "set", "default", "http://10.1.2.3/hook")
        assert status == 1 and "outbound_networks" in said and "--url" not in said
        status, said = await webhook(process, "test", "default")
        assert status == 1 and "has no webhook" in said
        status, said = await webhook(process, "set", "default", receiver.url, "--event", "batch.completed")
        assert status == 0 and "whsec_" in said and "batch.completed" in said
        status, said = await webhook(process, "test", "default")
        assert status == 0 and "delivered" in said and len(receiver.got) == 1
        receiver.status = 500
        status, said = await webhook(process, "test", "default")
        assert status == 1 and "the receiver answered 500" in said
        status, said = await webhook(process, "deliveries", "default")
        assert status == 0 and said.count("webhook.test") == 2
        status, said = await webhook(process, "show", "default")
        assert status == 0 and "whsec_" not in said and receiver.url in said
        assert (await webhook(process, "clear", "default"))[0] == 0
        status, said = await webhook(process, "show", "default")
        assert status == 1 and "has no webhook" in said
