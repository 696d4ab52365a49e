"""What each engine is sent for one and the same request."""

import msgspec
import pytest

from fareclass.engine.base import Prompt
from fareclass.engine.upstream import Flavour, upstream_body

BODY = {"model": "public", "messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 20}


def sent(flavour: Flavour, path: str = "/chat/completions", **fields):
    body = fields.pop("body", BODY)
    stream = fields.pop("stream", True)
    return upstream_body(Prompt(path=path, body=body, stream=stream, rank=3, **fields), flavour, "m", 0)


@pytest.mark.parametrize("stream", [True, False])
def test_llama_uses_its_cache_only_to_continue_an_answer(stream):
    """R31: its cache is shared by all callers."""
    assert sent(Flavour.LLAMA, stream=stream)["cache_prompt"] is False
    assert sent(Flavour.LLAMA, stream=stream, beginning="So", made_tokens=1)["cache_prompt"] is True


def test_llama_tells_its_progress_so_that_a_hang_up_in_mid_prefill_is_noticed():
    """R15."""
    body = sent(Flavour.LLAMA)
    assert body["return_progress"] is True and body["timings_per_token"] is True
    assert "return_progress" not in sent(Flavour.LLAMA, stream=False)


def test_the_answer_shrinks_by_what_was_made():
    """R11."""
    body = sent(Flavour.LLAMA, beginning="So", made_tokens=7)
    assert body["max_completion_tokens"] == 13
    assert body["messages"] == [*BODY["messages"], {"role": "assistant", "content": "So"}]
    assert BODY["messages"] == [{"role": "user", "content": "x"}], "the caller's body is shared"


def test_an_answer_that_the_caller_began_goes_on_as_one_message_on_llama():
    """R11: llama.cpp refuses two assistant messages at the end."""
    given = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Well"}]
    body = sent(Flavour.LLAMA, body={"messages": given}, beginning=", so", made_tokens=2)
    assert body["messages"][-1] == {"role": "assistant", "content": "Well, so"}
    assert given[-1]["content"] == "Well"


BEGUN = {
    "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Well"}],
    "continue_final_message": True,
}
"""As the wire sends what must go on with its last message."""
TOLD = {"continue_final_message": True, "add_generation_prompt": False}


@pytest.mark.parametrize("flavour", list(Flavour))
@pytest.mark.parametrize("stream", [True, False])
def test_r11_each_engine_is_told_to_go_on_with_what_the_caller_began(flavour, stream):
    """llama.cpp does so unasked; nobody else is sent fields that he may not know."""
    body = sent(flavour, body=BEGUN, stream=stream)
    assert {name: body[name] for name in TOLD if name in body} == (
        TOLD if flavour in (Flavour.VLLM, Flavour.SGLANG) else {}
    )
    assert body["messages"] == BEGUN["messages"]


@pytest.mark.parametrize("flavour", list(Flavour))
def test_r11_a_pause_in_it_goes_on_as_one_message(flavour):
    body = sent(flavour, body=BEGUN, beginning=", so", made_tokens=2)
    assert body["messages"] == [BEGUN["messages"][0], {"role": "assistant", "content": "Well, so"}]
    assert BEGUN["messages"][-1]["content"] == "Well"


def test_a_chat_that_ends_with_an_answer_is_sent_as_it_is():
    """OpenAI's API says nothing of going on with it."""
    body = sent(Flavour.VLLM, body={"messages": BEGUN["messages"]})
    assert not body.keys() & TOLD.keys()
    body = sent(Flavour.VLLM, body={"messages": BEGUN["messages"]}, beginning="So", made_tokens=1)
    assert [message["content"] for message in body["messages"]] == ["x", "Well", "So"]
    assert {name: body[name] for name in TOLD} == TOLD


def test_fields_that_were_not_decoded_are_understood():
    body = {"messages": msgspec.Raw(b'[{"role":"user","content":"x"}]'), "stream_options": msgspec.Raw(b'{"x":1}')}
    made = sent(Flavour.VLLM, body=body, beginning="So", made_tokens=1)
    assert [message["role"] for message in made["messages"]] == ["user", "assistant"]
    assert made["stream_options"] == {"x": 1, "include_usage": True, "continuous_usage_stats": True}


def test_other_endpoints_get_the_model_and_nothing_else():
    assert sent(Flavour.LLAMA, "/embeddings", body={"input": "x"}, stream=False) == {"input": "x", "model": "m"}


@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/embeddings"])
def test_r31_every_request_that_vllm_may_cache_has_its_projects_salt(path):
    body = {"input": "x", "prompt": "x", "messages": []}
    assert sent(Flavour.VLLM, path, body=body, stream=False, salt="ours")["cache_salt"] == "ours"
    assert "cache_salt" not in sent(Flavour.VLLM, path, body=body, stream=False, salt="")
    assert "cache_salt" not in sent(Flavour.OPENAI, path, body=body, stream=False, salt="ours")
