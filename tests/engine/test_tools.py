"""Tools on llama.cpp: a call that must be made is made, and tools that a model would never see are refused."""

import json
from typing import Any

import msgspec
import pytest

from fareclass.engine.answer import assemble, read_answer
from fareclass.engine.base import EngineRefused, Prompt, Traits
from fareclass.engine.local import LocalEngine
from fareclass.engine.openai_http import HttpEngine
from fareclass.engine.tools import CALL_OPENING, check_tools
from fareclass.engine.upstream import Flavour, upstream_body
from tests.engine.conftest import FakeServer, collect


def tool(name: str, field: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {field: {"type": "string"}}, "required": [field]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


PAINT, WEATHER = tool("paint", "colour"), tool("get_weather", "city")
BY_NAME = {"type": "function", "function": {"name": "get_weather"}}
ASKED = {
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    "tools": [PAINT, WEATHER],
    "max_tokens": 60,
    "temperature": 0,
}


def prompt(**fields: Any) -> Prompt:
    return Prompt(path="/chat/completions", body=ASKED | fields, stream=fields.get("stream", False), rank=2)


def sent(flavour: Flavour = Flavour.LLAMA, opening: str = "", **fields: Any) -> dict[str, Any]:
    return upstream_body(prompt(**fields), flavour, "m", 0, opening)


def test_a_tool_that_is_named_is_the_only_one_that_llama_is_given():
    body = sent(tool_choice=BY_NAME)
    assert (body["tools"], body["tool_choice"]) == ([WEATHER], "required")
    assert ASKED["tools"] == [PAINT, WEATHER], "the caller's body is shared"
    others = sent(Flavour.VLLM, tool_choice=BY_NAME)
    assert (others["tools"], others["tool_choice"]) == ([PAINT, WEATHER], BY_NAME)


@pytest.mark.parametrize("name", ["none", None])
def test_a_choice_of_no_tool_is_refused(name):
    with pytest.raises(EngineRefused) as caught:
        sent(tool_choice={"type": "function", "function": {"name": name}})
    assert (caught.value.status, caught.value.error["param"]) == (400, "tool_choice")


def test_a_call_that_must_be_made_is_begun_for_a_model_that_would_not():
    body = sent(opening=CALL_OPENING, tool_choice="required")
    assert body["messages"] == [*ASKED["messages"], {"role": "assistant", "content": CALL_OPENING}]
    assert body["parallel_tool_calls"] is False
    assert sent(opening=CALL_OPENING, tool_choice="required", parallel_tool_calls=True)["parallel_tool_calls"] is True
    assert len(ASKED["messages"]) == 1
    for choice in ("auto", "none"):
        assert sent(opening=CALL_OPENING, tool_choice=choice)["messages"] == ASKED["messages"]
    assert sent(tool_choice="required")["messages"] == ASKED["messages"], "others begin it themselves"


def test_tools_are_refused_where_the_template_has_no_place_for_them():
    with pytest.raises(EngineRefused) as caught:
        check_tools(prompt(), Traits(takes_tools=False))
    assert (caught.value.status, caught.value.error["param"]) == (400, "tools")
    for traits, fields in (
        (Traits(takes_tools=None), {}),
        (Traits(takes_tools=True), {}),
        (Traits(takes_tools=False), {"tool_choice": "none"}),
        (Traits(takes_tools=False), {"tools": []}),
        (Traits(takes_tools=False), {"tools": None}),
    ):
        check_tools(prompt(**fields), traits)


@pytest.mark.parametrize(
    ("caps", "found"), [({"supports_tools": False}, False), ({"supports_tools": True}, True), (None, None)]
)
async def test_the_probe_asks_llama_of_its_template(fake: FakeServer, engine: HttpEngine, caps, found):
    fake.pages["/props"] = {"default_generation_settings": {}, "chat_template_caps": caps}
    fake.status = 400
    fake.pages["/health"] = {}
    assert (await engine.probe()).takes_tools is found


@pytest.mark.asyncio(loop_scope="session")
class TestTheBuiltInModel:
    """By its own template, which is the model's but for tools."""

    @pytest.mark.parametrize("choice", ["required", BY_NAME])
    @pytest.mark.parametrize("stream", [True, False])
    async def test_a_call_that_must_be_made_is_made(self, local: LocalEngine, choice, stream):
        assert local.traits.takes_tools
        more = {"tools": [WEATHER]} if choice == "required" else {}
        call = await local.open(prompt(tool_choice=choice, stream=stream, **more))
        body = assemble(read_answer(await collect(call)), {}) if stream else await call.body()
        await call.close()
        choice = msgspec.json.decode(body)["choices"][0]
        (made,) = choice["message"]["tool_calls"]
        assert (made["function"]["name"], json.loads(made["function"]["arguments"])) == (
            "get_weather",
            {"city": "Paris"},
        )
        assert (choice["finish_reason"], choice["message"]["content"] or "") == ("tool_calls", "")

    async def test_what_came_of_a_call_is_read(self, local: LocalEngine):
        made = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
        walk = [
            *ASKED["messages"],
            {"role": "assistant", "content": None, "tool_calls": [made]},
            {"role": "tool", "tool_call_id": "c", "content": "It rains."},
        ]
        status, shown = await local._http.look("POST", "/apply-template", {"messages": walk, "tools": [WEATHER]})
        assert status == 200
        assert shown["prompt"].endswith(
            '<|im_start|>assistant\n<tool_call>[{"name": "get_weather", "arguments": {"city": "Paris"}}]</tool_call>'
            "<|im_end|>\n<|im_start|>user\n<tool_response>\nIt rains.\n</tool_response><|im_end|>\n"
            "<|im_start|>assistant\n"
        )

    @pytest.mark.parametrize("system", [True, False])
    async def test_a_prompt_without_tools_is_what_the_models_own_template_makes(self, local: LocalEngine, system):
        said = [("system", "Be brief."), ("user", "Hi "), ("assistant", "Hello."), ("user", "And?")]
        messages = [{"role": role, "content": text} for role, text in said[0 if system else 1 :]]
        _, shown = await local._http.look("POST", "/apply-template", {"messages": messages})
        own = (
            ""
            if system
            else "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        )
        turns = [f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages]
        assert shown["prompt"] == own + "".join(turns) + "<|im_start|>assistant\n"
