"""Items of the Responses API and a chat's messages, in both directions: nothing is lost, moved or merged (R50)."""

import json
from typing import Any

import msgspec
import pytest

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.usage import Usage
from fareclass.wire.responses import ENDPOINT, ResponsesEndpoint
from fareclass.wire.responses_reply import Answered
from tests.wire.plane import served_as
from tests.wire.test_openai_parse import ARRIVAL, KEY

PIXEL = "data:image/png;base64,AA=="
USER = {"role": "user", "content": "Hi"}
SAID = {"role": "assistant", "content": "I'll look."}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "1"}


def thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "content": [{"type": "reasoning_text", "text": text}]}


def messages(*items: dict[str, Any]) -> list[tuple[str, str | None, str | None, int]]:
    """Role, text, reasoning and number of calls of each message."""
    body = json.dumps({"model": "m", "input": items}).encode()
    return [
        (
            message["role"],
            message["content"],
            message.get("reasoning_content"),
            len(message.get("tool_calls", ())),
        )
        for message in ENDPOINT.parse(body, ARRIVAL, KEY).body["messages"]
    ]


def test_r50_reasoning_between_a_message_and_its_call_stays_in_their_turn():
    assert messages(USER, SAID, thought("Hm."), CALL, RESULT, USER, SAID) == [
        ("user", "Hi", None, 0),
        ("assistant", "I'll look.", "Hm.", 1),
        ("tool", "1", None, 0),
        ("user", "Hi", None, 0),
        ("assistant", "I'll look.", None, 0),
    ]


def test_r50_all_reasoning_of_a_turn_is_in_it():
    assert messages(USER, thought("A."), SAID, thought("B."), CALL, thought("C."), RESULT, thought("D."), SAID) == [
        ("user", "Hi", None, 0),
        ("assistant", "I'll look.", "A.B.C.", 1),
        ("tool", "1", None, 0),
        ("assistant", "I'll look.", "D.", 0),
    ]
    assert messages(USER, SAID, thought("A."), CALL, SAID)[1:] == [
        ("assistant", "I'll look.", "A.", 1),
        ("assistant", "I'll look.", None, 0),
    ]


@pytest.mark.parametrize("after", [[USER], []])
def test_r50_reasoning_that_led_to_nothing_is_a_turn_of_its_own(after):
    """As of an answer that `max_output_tokens` has cut in its thoughts."""
    found = messages(USER, thought("Hm."), *after)
    assert found[:2] == [("user", "Hi", None, 0), ("assistant", "", "Hm.", 0)] and len(found) == 2 + len(after)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "image_url": PIXEL},
        {"type": "input_image", "image_url": PIXEL, "prompt_cache_breakpoint": {"mode": "explicit"}},
        {"type": "input_file", "file_data": "data:text/plain;base64,AA=="},
    ],
)
def test_r50_what_an_assistant_cannot_have_said_is_refused_by_name(part):
    content = [{"type": "output_text", "text": "Look:"}, part]
    with pytest.raises(Refusal, match="only text") as caught:
        messages(USER, {"role": "assistant", "content": content})
    assert (caught.value.outcome, caught.value.param) == (Outcome.INVALID, "input[1].content[1].type")


@pytest.mark.parametrize(
    ("item", "param"),
    [
        (USER | {"id": {"a": 1}}, "input[0].id"),
        (USER | {"output": [1]}, "input[0].output[0]"),
        (CALL | {"content": [1]}, "input[0].content[0]"),
        (RESULT | {"output": [1]}, "input[0].output[0]"),
        ({"type": "item_reference", "id": [1]}, "input[0].id"),
    ],
)
def test_r50_what_could_not_be_stored_and_found_again_is_refused(item, param):
    with pytest.raises(Refusal) as caught:
        messages(item)
    assert (caught.value.outcome, caught.value.param) == (Outcome.INVALID, param)


def body(**message: Any) -> bytes:
    return msgspec.json.encode({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


def test_calls_of_a_whole_answer_stay_apart():
    """They have no numbers there, as those of a stream have."""
    calls = [
        {"id": "c1", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "c2", "function": {"name": "g", "arguments": '{"b":2}'}},
    ]
    request = ENDPOINT.parse(b'{"model":"m","input":"x"}', ARRIVAL, KEY)
    _, told = ENDPOINT.dialect(ARRIVAL, request).whole(served_as(request), body(tool_calls=calls), Usage())
    found = [(item["call_id"], item["name"], item["arguments"]) for item in msgspec.json.decode(told)["output"]]
    assert found == [("c1", "f", '{"a":1}'), ("c2", "g", '{"b":2}')]


def test_r35_an_answer_that_is_withheld_is_not_to_be_fetched():
    """It was ready to be sent when the ledger failed, so that nobody pays for it."""
    kept: list[Answered] = []
    request = ResponsesEndpoint(keep=kept.append).parse(b'{"model":"m","input":"x"}', ARRIVAL, KEY)
    dialect = ENDPOINT.dialect(ARRIVAL, request)
    dialect.whole(served_as(request), body(content="secret"), Usage())
    dialect.refused(Refusal(Outcome.INTERNAL, "The usage could not be recorded."), served_as(request))
    last = msgspec.json.decode(kept[-1].body)
    assert (kept[-1].id, kept[-1].status, last["status"], last["output"]) == ("resp_1", "failed", "failed", [])
