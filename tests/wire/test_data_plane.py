"""The data plane over HTTP: routes, bounds, headers, and callers who go away."""

import asyncio
import json

import httpx
import pytest

from fareclass.core.limits import BODY_BYTES
from fareclass.core.outcomes import Outcome
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from tests.wire.plane import SECRET, Running, chunk, reply_whole, say_hello, served_as

CHAT = "/v1/chat/completions"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


async def send_raw(plane: Running, raw: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = plane.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(raw)
    await writer.drain()
    return reader, writer


def raw_request(body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = [f"POST {CHAT} HTTP/1.1", "host: x", f"authorization: Bearer {SECRET}", *headers]
    lines.append(f"content-length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_r4_golden_answer(plane: Running, http: httpx.AsyncClient):
    answer = await http.post(
        CHAT, json=HELLO | {"service_tier": "priority"}, headers={"x-client-request-id": "mine\t1"}
    )
    assert answer.text == (
        '{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":"Hello!"}}],'
        '"created":1763900000,"model":"m","object":"chat.completion",'
        '"usage":{"completion_tokens":3,"prompt_tokens":9,"total_tokens":12},"id":"chatcmpl-first",'
        '"service_tier":"priority"}'
    )
    request = plane.walk.requests[0]
    assert {name: value for name, value in answer.headers.items() if name.startswith("x-")} == {
        "x-request-id": request.id,
        "x-fareclass-requested-tier": "priority",
        "x-fareclass-served-tier": "priority",
        "x-fareclass-queue-ms": "7",
        "x-fareclass-replica": "r1",
    }
    assert request.caller_id == "mine1"
    assert request.key.secret == SECRET.encode()


async def test_r4_golden_stream(plane: Running, http: httpx.AsyncClient):
    body = HELLO | {"stream": True, "service_tier": "flex", "stream_options": {"include_usage": True}}
    answer = await http.post(CHAT, json=body)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-fareclass-served-tier"] == "flex"
    tail = '"created":1763900000,"id":"chatcmpl-first","model":"m","object":"chat.completion.chunk","service_tier":"flex"}\n\n'
    piece = 'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"%s"}}],' + tail
    assert answer.text == (
        'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"Hel"}}],'
        + tail
        + piece % "lo"
        + piece % "!"
        + 'data: {"id":"chatcmpl-first","object":"chat.completion.chunk","created":1763900000,"model":"m","choices":[],'
        '"service_tier":"flex","usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,'
        '"prompt_tokens_details":{"cached_tokens":4,"cache_write_tokens":0}}}\n\n'
        "data: [DONE]\n\n"
    )


@pytest.mark.parametrize("options", [{}, {"stream_options": None}, {"stream_options": {"include_usage": False}}])
async def test_usage_is_shown_only_if_asked_for(http: httpx.AsyncClient, options):
    answer = await http.post(CHAT, json=HELLO | {"stream": True} | options)
    assert "usage" not in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(("word", "shown"), [("reserved", "reserved"), ("scale", "scale"), (None, "scale")])
async def test_r4_reserved_in_openais_vocabulary(plane: Running, http: httpx.AsyncClient, word, shown):
    async def script(request, reply):
        await reply_whole(reply, served_as(request, served=Tier.RESERVED), b'{"model":"m"}')

    plane.walk.script = script
    answer = await http.post(CHAT, json=HELLO | {"service_tier": word})
    assert answer.json()["service_tier"] == shown
    assert answer.headers["x-fareclass-served-tier"] == "reserved"


async def test_r11_a_paused_stream_gets_comments_and_stays_one(plane: Running, http: httpx.AsyncClient):
    async def script(request, reply):
        await reply.start(served_as(request))
        await reply.relay(chunk("one"))
        await reply.comment()
        reply.continued()
        await reply.relay(chunk("", id="chatcmpl-second", choices=[{"index": 0, "delta": {"role": "assistant"}}]))
        await reply.relay(chunk("two", id="chatcmpl-second", created=1763900099))
        await reply.end(Usage())

    plane.walk.script = script
    text = (await http.post(CHAT, json=HELLO | {"stream": True})).text
    assert ": keep-alive\n\n" in text
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert {(one["id"], one["created"], one["model"]) for one in chunks} == {("chatcmpl-first", 1763900000, "m")}
    assert [one["choices"][0]["delta"] for one in chunks] == [{"content": "one"}, {}, {"content": "two"}]


async def test_r50_dropped_fields_are_named_whatever_they_are_called(plane: Running, http: httpx.AsyncClient):
    async def script(request, reply):
        await reply_whole(reply, served_as(request, dropped=("top_k", "a\r\nx: y", "é" * 500, *("f" * 20))), b"{}")

    plane.walk.script = script
    dropped = (await http.post(CHAT, json=HELLO)).headers["x-fareclass-dropped"].split(",")
    assert dropped[:2] == ["top_k", "a%0D%0Ax%3A%20y"]
    assert (len(dropped), len(dropped[2]), dropped[-1]) == (17, 64, "+7")


async def test_models(http: httpx.AsyncClient):
    one = {"id": "m", "object": "model", "created": 7, "owned_by": "fareclass"}
    assert (await http.get("/v1/models")).json() == {"object": "list", "data": [one, one | {"id": "org/m"}]}
    assert (await http.get("/v1/models/m")).json() == one
    assert (await http.get("/v1/models/org%2Fm")).json() == one | {"id": "org/m"}
    missing = await http.get("/v1/models/nope")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    assert (await http.get("/v1/models", headers={"authorization": "Bearer x"})).status_code == 401


@pytest.mark.parametrize(
    "path", ["/", "/docs", "//v1/models", "/v1", "/v1/", "/v1/answers", "/chat/completions", "/admin", "/metricsx"]
)
@pytest.mark.parametrize("key", [f"Bearer {SECRET}", "Bearer wrong", ""])
async def test_what_is_not_there_is_told_with_where_the_api_is(plane: Running, http: httpx.AsyncClient, path, key):
    """To anybody, so that a wrong address is not taken for a wrong key; OpenAI's form and code."""
    for method in ("GET", "POST"):
        unknown = await http.request(method, plane.url + path, headers={"authorization": key})
        error = unknown.json()["error"]
        assert (unknown.status_code, error["code"], error["type"]) == (404, "unknown_url", "invalid_request_error")
        assert f"`{path}`" in error["message"] and "/v1/chat/completions" in error["message"]
        assert unknown.headers["x-request-id"].startswith("req_")


async def test_what_is_there_in_another_way(http: httpx.AsyncClient):
    wrong = await http.get(CHAT)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert (await http.post("/v1/models")).status_code == 405
    for path in ("/metrics", "/admin/v1/nothing"):
        assert (await http.get(path)).text == "fallback"


async def test_health_and_readiness(plane: Running, http: httpx.AsyncClient):
    assert (await http.get("/healthz")).json() == {"status": "ok"}
    assert (await http.get("/readyz")).json() == {"status": "ready"}
    plane.not_ready = "no replica of `m` is up"
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "no replica of `m` is up")


async def test_r6_what_is_refused_before_the_walk_is_told_to_it(plane: Running, http: httpx.AsyncClient):
    assert (await http.post(CHAT, content=b"{")).status_code == 400
    assert (await http.post("/v1/embeddings", headers={"authorization": ""}, json={})).status_code == 401
    (first, key, invalid), (second, nobody, stranger) = plane.walk.rejections
    assert (first, key and key.id, invalid.outcome) == ("chat.completions", "key_test", Outcome.INVALID)
    assert (second, nobody, stranger.outcome) == ("embeddings", None, Outcome.UNAUTHENTICATED)
    assert plane.walk.requests == []


@pytest.mark.parametrize("token", ["Basic abc", "Bearer", "Bearer fc_key_test_wrong", "Bearer \xff"])
async def test_r51_no_strangers_body_is_read(plane: Running, token):
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: {token}\r\ncontent-length: 1000000\r\n\r\n"
    reader, writer = await send_raw(plane, head.encode("latin-1"))
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 401")
    writer.close()


async def test_a_body_that_says_it_is_too_large_is_refused_unread(plane: Running):
    reader, writer = await send_raw(plane, raw_request(b"", length=BODY_BYTES + 1))
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400")
    assert b"larger than 32 MiB" in await reader.readuntil(b"}}")
    writer.close()


async def test_a_body_that_does_not_say_so_is_refused_too(plane: Running, http: httpx.AsyncClient):
    async def endless():
        for _ in range(BODY_BYTES // 2**20 + 2):
            yield b" " * 2**20

    answer = await http.post(CHAT, content=endless())
    assert (answer.status_code, "larger than 32 MiB" in answer.text) == (400, True)


async def test_a_chunked_body_is_read_whole(plane: Running, http: httpx.AsyncClient):
    async def pieces():
        for byte in json.dumps(HELLO).encode():
            yield bytes([byte])

    assert (await http.post(CHAT, content=pieces())).status_code == 200
    assert plane.walk.requests[0].body == HELLO


async def test_a_compressed_body_is_refused(http: httpx.AsyncClient):
    answer = await http.post(CHAT, content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert (answer.status_code, "Content-Encoding" in answer.text) == (400, True)


@pytest.mark.parametrize("value", ["00-" + "a" * 32 + "-" + "b" * 16 + "-01", "nonsense", "00-" + "A" * 32])
async def test_r50_only_a_sound_traceparent_passes(plane: Running, http: httpx.AsyncClient, value):
    await http.post(CHAT, json=HELLO, headers={"traceparent": value})
    assert plane.walk.requests[0].traceparent == (value if value.startswith("00-aaa") else None)


async def waiting(plane: Running):
    """The connection of a caller whose answer never comes."""
    arrived = asyncio.Event()

    async def wait_forever(request, reply):
        arrived.set()
        await asyncio.Event().wait()

    plane.walk.script = wait_forever
    connection = await send_raw(plane, raw_request(json.dumps(HELLO).encode()))
    await arrived.wait()
    return connection


async def test_r15_a_hang_up_while_waiting_cancels_the_walk(plane: Running):
    _, writer = await waiting(plane)
    writer.close()
    async with asyncio.timeout(1):
        await plane.walk.cancelled.wait()


async def test_r15_a_caller_who_ends_his_side_of_the_connection_has_hung_up(plane: Running):
    """A half-closed connection looks like a closed one, and only by writing to it could they be told apart."""
    reader, writer = await waiting(plane)
    writer.write_eof()
    async with asyncio.timeout(1):
        await plane.walk.cancelled.wait()
    assert await reader.read() == b""
    writer.close()


async def test_r15_a_hang_up_in_mid_stream_cancels_the_walk_and_closes_the_reply(plane: Running):
    late: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def stream_forever(request, reply):
        await reply.start(served_as(request))
        await reply.relay(chunk("Hel"))
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await reply.relay(chunk("lo"))
            except ConnectionError as error:
                late.set_result(str(error))

    plane.walk.script = stream_forever
    reader, writer = await send_raw(plane, raw_request(json.dumps(HELLO | {"stream": True}).encode()))
    await reader.readuntil(b"Hel")
    writer.close()
    async with asyncio.timeout(1):
        await plane.walk.cancelled.wait()
        assert await late == "the caller has hung up"


async def test_r15_a_hang_up_in_mid_body_is_one_cancelled_request(plane: Running):
    _, writer = await send_raw(plane, raw_request(b"{", length=100))
    writer.close()
    async with asyncio.timeout(1):
        await plane.walk.rejection.wait()
    ((_, key, refusal),) = plane.walk.rejections
    assert (key and key.id, refusal.outcome) == ("key_test", Outcome.CANCELLED)


async def test_r14_a_caller_who_never_reads_is_taken_for_gone(plane: Running, monkeypatch):
    monkeypatch.setattr("fareclass.wire.callers.CALLER_STALL_S", 0.1)

    async def pour(request, reply):
        await reply.start(served_as(request))
        while True:
            await reply.relay(chunk("x" * 100_000))

    plane.walk.script = pour
    _, writer = await send_raw(plane, raw_request(json.dumps(HELLO | {"stream": True}).encode()))
    async with asyncio.timeout(5):
        await plane.walk.cancelled.wait()
    writer.close()


async def test_r14_a_stream_that_says_nothing_is_not(plane: Running, http: httpx.AsyncClient, monkeypatch):
    monkeypatch.setattr("fareclass.wire.callers.CALLER_STALL_S", 0.01)

    async def pause(request, reply):
        await reply.start(served_as(request))
        await asyncio.sleep(0.1)
        await reply.end(Usage())

    plane.walk.script = pause
    assert (await http.post(CHAT, json=HELLO | {"stream": True})).text == "data: [DONE]\n\n"


async def test_r15_a_finished_answer_is_no_hang_up(plane: Running):
    after = asyncio.Event()

    async def answer_then_tidy_up(request, reply):
        await say_hello(request, reply)
        await asyncio.sleep(0.05)
        after.set()

    plane.walk.script = answer_then_tidy_up
    reader, writer = await send_raw(plane, raw_request(json.dumps(HELLO).encode()))
    await reader.readuntil(b'"service_tier":"default"}')
    writer.close()
    async with asyncio.timeout(1):
        await after.wait()
    assert not plane.walk.cancelled.is_set()


async def test_one_connection_serves_many_requests(plane: Running):
    reader, writer = await send_raw(plane, raw_request(json.dumps(HELLO).encode()))
    for _ in range(3):
        await reader.readuntil(b'"service_tier":"default"}')
        writer.write(raw_request(json.dumps(HELLO).encode()))
    await reader.readuntil(b'"service_tier":"default"}')
    writer.close()
    assert len({request.id for request in plane.walk.requests}) == 4


async def test_a_fault_in_the_wire_itself_is_one_outcome(plane: Running, http: httpx.AsyncClient, monkeypatch):
    def fail(*_):
        raise RuntimeError("secret detail")

    monkeypatch.setattr("fareclass.wire.openai.decode_object", fail)
    answer = await http.post(CHAT, json=HELLO)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "server_error")
    assert "secret detail" not in answer.text
    assert plane.walk.rejections[0][2].outcome is Outcome.INTERNAL
