"""A call that the gateway makes of itself (a line of a batch, a background response) and its end."""

import asyncio

import pytest

from fareclass.core.snapshot import Snapshot
from fareclass.core.usage import Usage
from fareclass.wire.calls import Calls
from fareclass.wire.recording import Recording
from fareclass.wire.routes import GENERATING
from tests.wire.plane import WHOLE, FakeWalk, reply_whole, served_as

CHAT = GENERATING["/v1/chat/completions"]
BODY = b'{"model":"m","messages":[{"role":"user","content":"Hello"}]}'


@pytest.mark.parametrize("billed", [False, True])
async def test_r38_what_is_whole_and_billed_is_delivered_though_it_is_called_off(snapshot: Snapshot, billed: bool):
    """What is not is hung up on."""
    walk, recording, reached, go_on = FakeWalk(), Recording(), asyncio.Event(), asyncio.Event()

    async def script(request, reply) -> None:
        reply.billed = billed
        reached.set()
        await go_on.wait()
        await reply_whole(reply, served_as(request), WHOLE, Usage(input=5, output=3))

    walk.script = script
    [key] = snapshot.keys.values()
    call = asyncio.create_task(Calls(walk).run(CHAT, BODY, key, recording.send, id="batch_1_0"))
    await reached.wait()
    call.cancel()
    asyncio.get_running_loop().call_soon(go_on.set)
    await asyncio.wait([call], timeout=5)
    assert (call.cancelled(), walk.cancelled.is_set(), recording.done) == (not billed, not billed, billed)
