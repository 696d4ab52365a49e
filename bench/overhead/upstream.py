"""A static OpenAI-compatible server: `static` answers at once, `paced` streams `max_tokens` at 50 a second.

A bare asyncio protocol, so that it costs little beside what is measured. It knows just
enough HTTP for the clients of this bench: Content-Length bodies, one request at a time.
"""

import asyncio
import json
import re
import sys
from typing import cast

import uvloop

TOKENS_PER_S = 50
ANSWER_TOKENS = 16
PROMPT_TOKENS = 40

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n"
_ID = {"id": "chatcmpl-static", "created": 1_760_000_000, "model": "static"}
_USAGE = {
    "prompt_tokens": PROMPT_TOKENS,
    "completion_tokens": ANSWER_TOKENS,
    "total_tokens": PROMPT_TOKENS + ANSWER_TOKENS,
}
_TEXT = " ".join(["word"] * ANSWER_TOKENS)


def _whole(body: bytes, kind: bytes = b"application/json") -> bytes:
    return _HEAD % kind + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return b"data: " + _json(_ID | {"object": "chat.completion.chunk", "choices": [choice]}) + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_MESSAGE = {"role": "assistant", "content": _TEXT}
_CHOICE = {"index": 0, "message": _MESSAGE, "logprobs": None, "finish_reason": "stop"}
_COMPLETION = _whole(_json(_ID | {"object": "chat.completion", "choices": [_CHOICE], "usage": _USAGE}))
_MODELS = _whole(_json({"object": "list", "data": [{"id": name, "object": "model"} for name in ("static", "paced")]}))
_MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_STREAM_HEAD = _HEAD % b"text/event-stream" + b"Transfer-Encoding: chunked\r\n\r\n"
_ROLE = _event({"role": "assistant", "content": ""})
_WORD = _event({"content": "word "})
_LAST = (
    _event({}, "stop")
    + b"data: "
    + _json(_ID | {"object": "chat.completion.chunk", "choices": [], "usage": _USAGE})
    + b"\n\ndata: [DONE]\n\n"
)
_BURST = _STREAM_HEAD + _chunk(_ROLE + _WORD * ANSWER_TOKENS + _LAST) + b"0\r\n\r\n"
_FIRST_CHUNK = _STREAM_HEAD + _chunk(_ROLE + _WORD)
_WORD_CHUNK = _chunk(_WORD)
_LAST_CHUNK = _chunk(_LAST) + b"0\r\n\r\n"
_MAX_TOKENS = re.compile(rb'"max_(?:completion_)?tokens": ?(\d+)')


class Upstream(asyncio.Protocol):
    def __init__(self) -> None:
        self._received = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()

    def connection_lost(self, _error: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n") + 4
        if head_end < 4:
            return
        head = self._received[:head_end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 : head.find(b"\r\n", at)]) if at >= 0 else 0
        if len(self._received) < head_end + length:
            return
        body, self._received = self._received[head_end : head_end + length], self._received[head_end + length :]
        self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get "):
            self._transport.write(_MODELS if b"/models" in head or b"/health" in head else _MISSING)
        elif b"/chat/completions" not in head:
            self._transport.write(_MISSING)
        elif b'"stream":true' not in body.replace(b": ", b":"):
            self._transport.write(_COMPLETION)
        elif b'"paced"' in body:
            self._transport.write(_FIRST_CHUNK)
            self._next_s = self._loop.time()
            asked = _MAX_TOKENS.search(body)
            self._left = int(asked[1]) - 1 if asked else ANSWER_TOKENS
            self._pace()
        else:
            self._transport.write(_BURST)

    def _pace(self) -> None:
        self._next_s += 1 / TOKENS_PER_S
        self._timer = self._loop.call_at(self._next_s, self._word)

    def _word(self) -> None:
        if self._left:
            self._left -= 1
            self._transport.write(_WORD_CHUNK)
            self._pace()
        else:
            self._transport.write(_LAST_CHUNK)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
