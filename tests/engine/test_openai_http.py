"""An OpenAI-compatible server that misbehaves in every way that a network and a server can."""

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web

from fareclass.engine.answer import read_answer
from fareclass.engine.base import EngineFailed, EngineRefused, Prompt
from fareclass.engine.openai_http import HttpEngine, Timeouts
from tests.engine.conftest import DIE, HANG, chat, collect
from tests.engine.test_relay import LLAMA, TEXT, VLLM, llama


async def test_a_stream_comes_whole_through_writes_of_every_size(fake, engine):
    for size in (5, 61, 1000):
        fake.pieces = [LLAMA[start : start + size] for start in range(0, len(LLAMA), size)]
        call = await engine.open(chat())
        assert read_answer(await collect(call)).text == TEXT
        assert call.usage.prompt == 10


async def test_connections_are_used_again_after_a_whole_stream(fake, engine):
    fake.pieces = [VLLM]
    for _ in range(5):
        await collect(await engine.open(chat()))
    assert len({id(c) for group in engine._session.connector._conns.values() for c in group}) == 1


async def test_what_goes_upstream_is_the_body_with_our_fields_and_no_header_of_the_caller(fake, engine):
    """R50: the model's upstream name, usage always asked for, our key, the caller's traceparent."""
    fake.pieces = [VLLM]
    body = {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}], "model": "public"}
    prompt = Prompt(path="/chat/completions", body=body, stream=True, rank=1, traceparent="00-1-2-01")
    await collect(await engine.open(prompt))
    assert fake.seen[0] == {
        **body, "model": "upstream-name", "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert fake.headers[0]["Authorization"] == "Bearer sk-up"
    assert fake.headers[0]["traceparent"] == "00-1-2-01"
    ours = {
        "Host",
        "Content-Type",
        "Accept",
        "Accept-Encoding",
        "Authorization",
        "Content-Length",
        "User-Agent",
        "traceparent",
    }
    assert set(fake.headers[0]) == ours
    assert body["model"] == "public"


@pytest.mark.parametrize("pieces", [[], [LLAMA[:300]], [llama(b'{"content":"a"}')], [LLAMA[:1400], DIE]])
async def test_a_stream_that_ends_early_is_a_failure(fake, engine, pieces):
    """R46: an answer that the engine did not finish is not taken for whole."""
    fake.pieces = pieces
    with pytest.raises(EngineFailed) as failed:
        await collect(await engine.open(chat()))
    assert failed.value.reason == "broken"


async def test_what_came_before_the_failure_was_relayed(fake, engine):
    fake.pieces = [llama(b'{"content":"a"}'), llama(b'{"content":"b"}'), DIE]
    call = await engine.open(chat())
    blocks: list[bytes] = []
    with pytest.raises(EngineFailed):
        await keep(call, blocks)
    assert read_answer(blocks).text == "ab"
    assert call.made_tokens == 2
    assert call.usage is None


async def keep(call, blocks):
    async for block in call:
        blocks.append(block)


async def test_an_engine_that_falls_silent_has_stalled(fake, engine):
    """R46: a stall is a failure."""
    fake.pieces = [llama(b'{"content":"a"}'), HANG]
    with pytest.raises(EngineFailed) as failed:
        await collect(await engine.open(chat()))
    assert failed.value.reason == "stalled"
    await asyncio.wait_for(fake.gone.wait(), 2)


async def test_prefill_progress_is_a_sign_of_life(fake, engine):
    progress = LLAMA.split(b"\n\n")[0] + b"\n\n"

    async def slow() -> None:
        async with asyncio.timeout(5):
            blocks = await collect(await engine.open(chat()))
        assert read_answer(blocks).text == TEXT

    fake.pieces = [progress] * 300 + [LLAMA]
    await slow()


async def test_a_slow_caller_is_no_stall(fake, engine):
    fake.pieces = [llama(b'{"content":"a"}'), LLAMA]
    call = await engine.open(chat())
    await anext(call)
    await asyncio.sleep(0.7)
    assert TEXT in read_answer(await collect(call)).text


async def test_close_tells_the_engine_at_once(fake, engine):
    """R15."""
    fake.pieces = [llama(b'{"content":"a"}'), HANG]
    call = await engine.open(chat())
    await anext(call)
    await call.close()
    await call.close()
    await asyncio.wait_for(fake.gone.wait(), 0.5)


class Mute:
    """A server that takes requests and says nothing; from the second one on it answers if `answers`."""

    def __init__(self, *, answers: bool = False) -> None:
        self.answers = answers
        self.asked = asyncio.Event()
        self.gone = asyncio.Event()
        self.requests = 0

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.session = aiohttp.ClientSession()
        url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/v1"
        self.engine = HttpEngine(self.session, url, "m", timeouts=Timeouts(stall_s=0.2))
        return self

    async def __aexit__(self, *_):
        await self.session.close()
        self.server.close()

    async def serve(self, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        self.asked.set()
        if self.answers and self.requests > 1:
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + VLLM)
        elif not self.answers:
            while await reader.read(65536):
                pass
            self.gone.set()
        writer.close()


async def test_an_engine_that_never_answers_times_out_and_is_hung_up_on():
    """R46."""
    async with Mute() as mute:
        with pytest.raises(EngineFailed) as failed:
            await mute.engine.open(chat())
        assert failed.value.reason == "timeout"
        await asyncio.wait_for(mute.gone.wait(), 1)


async def test_a_caller_gone_before_the_engine_answers_is_told_to_it():
    """R15: the call that is being opened is cancelled."""
    async with Mute() as mute:
        opening = asyncio.create_task(mute.engine.open(chat()))
        await mute.asked.wait()
        opening.cancel()
        await asyncio.wait_for(mute.gone.wait(), 0.5)


async def test_a_connection_that_the_engine_closed_in_that_moment_is_tried_once_more():
    async with Mute(answers=True) as mute:
        call = await mute.engine.open(chat())
        assert read_answer(await collect(call)).text == TEXT
        assert mute.requests == 2


@pytest.mark.parametrize(("status", "body", "message"), [
    (400, '{"error":{"message":"too much","type":"invalid_request_error","code":400}}', "too much"),
    (400, '{"object":"error","message":"bad","code":400}', "bad"),
    (422, '{"detail":[{"msg":"wrong"}]}', '[{"msg":"wrong"}]'),
    (404, '{"error":"no such model"}', "no such model"),
    (413, "<html>", "<html>"),
    (400, "", "the engine refused the request (400)"),
])  # fmt: skip
async def test_a_4xx_is_the_callers_refusal_with_the_engines_words(fake, engine, status, body, message):
    fake.answer = lambda _: web.Response(status=status, text=body)
    with pytest.raises(EngineRefused) as refused:
        await engine.open(chat())
    assert refused.value.status == status
    assert refused.value.error["message"] == message


@pytest.mark.parametrize(("error", "message"), [
    ({"message": "request (120 tokens) exceeds the available context size (64 tokens), try increasing it",
      "type": "exceed_context_size_error", "n_prompt_tokens": 120, "n_ctx": 64}, "120 tokens > 64 maximum"),
    ({"message": "This model's maximum context length is 64 tokens. However, you requested 120."}, "This model's maximum"),
    ({"message": "The input (120 tokens) is longer than the model's context length (64 tokens)."}, "The input \\(120"),
])  # fmt: skip
async def test_a_prompt_that_is_too_long_is_told_in_the_words_that_clients_know(fake, engine, error, message):
    """OpenAI's code, Anthropic's beginning."""
    fake.answer = lambda _: web.json_response({"error": error}, status=400)
    with pytest.raises(EngineRefused, match=f"^prompt is too long: {message}") as refused:
        await engine.open(chat())
    assert refused.value.error["code"] == "context_length_exceeded"


@pytest.mark.parametrize(("said", "param", "message"), [
    ("image input is not supported - hint: provide the mmproj", "messages[1].content[1]", "takes no image input"),
    ("audio input is not supported by this server", "messages[1].content[2]", "takes no audio input"),
    ("Failed to parse messages: key 'text' not found", "messages", "key 'text' not found"),
    ("Failed to parse tools: Unsupported tool type", "tools", "Unsupported tool type"),
])  # fmt: skip
async def test_what_llama_can_not_read_is_the_callers_refusal_though_it_says_500(fake, engine, said, param, message):
    """Section 11: with the path; another replica would say the same."""
    fake.answer = lambda _: web.json_response({"error": {"code": 500, "message": said, "type": "x"}}, status=500)
    parts = [{"type": "text", "text": "See"}, {"type": "image_url"}, {"type": "input_audio"}]
    messages = [{"role": "system", "content": "Hi"}, {"role": "user", "content": parts}]
    with pytest.raises(EngineRefused, match=message) as refused:
        await engine.open(chat(messages=messages))
    assert (refused.value.status, refused.value.error["param"]) == (400, param)


@pytest.mark.parametrize("status", [302, 401, 403, 408, 429, 500, 502, 503, 529])
async def test_what_is_the_replicas_fault_is_a_failure(fake, engine, status):
    """R46: these go to another replica; a wrong key of ours is not the caller's mistake."""
    fake.answer = lambda _: web.json_response({"error": {"message": "no"}}, status=status)
    with pytest.raises(EngineFailed) as failed:
        await engine.open(chat())
    assert failed.value.reason == "refused"


async def test_nobody_listening_is_unreachable():
    async with aiohttp.ClientSession() as session:
        engine = HttpEngine(session, "http://127.0.0.1:9/v1", "m")
        with pytest.raises(EngineFailed) as failed:
            await engine.open(chat())
        assert failed.value.reason == "unreachable"
        assert not await engine.healthy()
        assert await engine.count_tokens("x") is None
        with pytest.raises(EngineFailed):
            await engine.probe()


async def test_an_answer_that_is_not_streamed_is_whole_and_counted(fake, engine):
    answer = {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
    fake.answer = lambda _: web.json_response(answer)
    call = await engine.open(chat(stream=False))
    assert json.loads(await call.body()) == answer
    assert (call.usage.prompt, call.usage.output, call.made_tokens) == (7, 2, 2)
    assert fake.seen[0]["stream"] is False
    await call.close()


async def test_an_answer_that_is_not_json_is_a_failure(fake, engine):
    fake.answer = lambda _: web.Response(text="<html>")
    call = await engine.open(chat(stream=False))
    with pytest.raises(EngineFailed):
        await call.body()
    await call.close()


async def test_embeddings_pass_as_they_are(fake, engine):
    fake.answer = lambda _: web.json_response({"data": [], "usage": {"prompt_tokens": 3, "total_tokens": 3}})
    call = await engine.open(Prompt(path="/embeddings", body={"input": "x"}, stream=False, rank=2))
    await call.body()
    assert call.usage.input == 3
    assert fake.seen[0] == {"input": "x", "model": "upstream-name"}
    await call.close()


async def test_a_static_server_is_found_not_continuable_with_few_questions(fake, engine):
    """R11, R30: continuing is found out, not assumed, by one question; what it tells of a cache by two."""
    fake.pieces = [llama(b'{"content":"Hello!"}'), llama(b"{}", finish=b'"stop"'), b"data: [DONE]\n\n"]
    traits = await engine.probe()
    assert not traits.continuable
    assert (traits.flavour, traits.has_tokenizer, traits.honours_priority) == ("openai", False, None)
    assert (traits.caches, traits.tells_cached, traits.isolation) == (None, False, "none")
    assert len(fake.seen) == 3


async def test_vllm_gets_its_own_words_and_the_rank(fake, engine):
    """R17: the rank is passed on; R11: running usage is asked for and the final message continued."""
    fake.pages = {"/version": {"version": "0.32"}, "/health": ""}
    fake.pieces = [VLLM]
    traits = await engine.probe()
    assert (traits.flavour, traits.honours_priority) == ("vllm", None)
    await collect(await engine.open(chat(beginning="Hel", made=3, max_tokens=10)))
    sent = fake.seen[-1]
    assert sent["priority"] == 2 and sent["max_tokens"] == 7
    assert sent["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert sent["messages"][-1] == {"role": "assistant", "content": "Hel"}
    assert sent["continue_final_message"] is True and sent["add_generation_prompt"] is False


async def test_a_vllm_that_refuses_priorities_gets_none(fake, engine):
    def answer(body):
        if body.get("priority"):
            return web.json_response({"error": {"message": "Got priority 1"}}, status=400)
        return web.Response(body=VLLM, content_type="text/event-stream")

    fake.pages = {"/version": {"version": "0.32"}}
    fake.answer = answer
    assert (await engine.probe()).honours_priority is False
    await collect(await engine.open(chat()))
    assert "priority" not in fake.seen[-1]


@pytest.mark.parametrize(("low_first", "sent"), [(True, 2), (False, -2)])
async def test_sglang_gets_the_rank_in_its_own_order(fake, engine, low_first, sent):
    """R17: SGLang may take the largest priority first."""
    info = {"enable_priority_scheduling": True, "schedule_low_priority_values_first": low_first}
    fake.pages = {"/get_server_info": info}
    fake.pieces = [VLLM]
    traits = await engine.probe()
    assert (traits.flavour, traits.honours_priority) == ("sglang", True)
    await collect(await engine.open(chat()))
    assert fake.seen[-1]["priority"] == sent


async def test_completions_go_on_with_prompt_and_beginning(fake, engine):
    fake.pieces = [VLLM]
    body = {"prompt": "Once", "max_tokens": 9, "echo": True}
    await collect(
        await engine.open(Prompt(path="/completions", body=body, stream=True, rank=2, beginning=" upon", made_tokens=1))
    )
    assert fake.seen[0]["prompt"] == "Once upon"
    assert fake.seen[0]["max_tokens"] == 8
    assert "echo" not in fake.seen[0]
