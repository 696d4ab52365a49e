"""Conversations that go on from what is stored: what they may refer to, and what that counts (R14, R50, R51)."""

import json
import operator
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fareclass.core.limits import BODY_BYTES, RESPONSE_BYTES
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.store.responses import ResponseRow
from fareclass.wire.responses import ResponsesEndpoint
from fareclass.wire.responses_background import Background
from fareclass.wire.responses_reply import Answered
from fareclass.wire.responses_stored import Conversations, input_items, response_of
from tests.wire.test_openai_parse import ARRIVAL, KEY
from tests.wire.test_responses import VALUE, patient

MIB = 2**20


class Stored:
    """What is stored, in memory; `read_bytes` is what was ever asked for."""

    def __init__(self, *rows: ResponseRow) -> None:
        self.rows = {row.id: row for row in rows}
        self.read_bytes = 0

    async def find(self, _project: str, ids: Collection[str]) -> dict[str, ResponseRow]:
        found = {name: self.rows[name] for name in ids if name in self.rows}
        self.read_bytes += sum(row.size_bytes for row in found.values())
        return found

    async def size_bytes(self, _project: str, ids: Collection[str]) -> int:
        return sum(row.size_bytes for name, row in self.rows.items() if name in ids)


def row(name: str, items: Sequence[Any], output: Sequence[Any] = ()) -> ResponseRow:
    return ResponseRow(
        id=f"resp_{name}",
        project=KEY.project.id,
        key=KEY.id,
        status="completed",
        background=False,
        created_us=1,
        body=msgspec.json.encode({"id": f"resp_{name}", "output": output}),
        input=msgspec.json.encode(items),
    )


async def ask(stored: Stored, **body: Any) -> Request:
    background = Background(None, stored, lambda: None)  # type: ignore[arg-type]
    raw = json.dumps({"model": "m", **body}).encode()
    endpoint = await Conversations(stored, background).endpoint(raw, KEY)  # type: ignore[arg-type]
    return endpoint.parse(raw, ARRIVAL, KEY)


def references(*ids: object) -> list[dict[str, object]]:
    return [{"type": "item_reference", "id": name} for name in ids]


async def test_r14_an_item_counts_as_often_as_it_is_referred_to():
    """In line, against quotas and budgets."""
    stored = Stored(row("ab", [{"role": "user", "content": "w" * MIB}]))
    for count in (1, 5, 20):
        request = await ask(stored, input=references(*["msg_ab_i0"] * count))
        sent = len(msgspec.json.encode(request.body))
        assert sent > count * MIB
        assert request.size_bytes >= sent and request.prompt_bytes >= sent


async def test_r14_few_bytes_do_not_become_a_body_beyond_the_limit():
    stored = Stored(row("ab", [{"role": "user", "content": "w" * MIB}]))
    with pytest.raises(Refusal, match="larger than 32 MiB") as caught:
        await ask(stored, input=references(*["msg_ab_i0"] * 100))
    assert (caught.value.outcome, caught.value.param) == (Outcome.INVALID, "input")


async def test_r14_a_conversation_counts_with_all_that_was_said_before():
    said = {
        "id": "msg_ab_0",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "v" * MIB}],
    }
    stored = Stored(row("ab", [{"role": "user", "content": "w" * MIB}], [said]))
    request = await ask(stored, input="x", previous_response_id="resp_ab")
    sent = len(msgspec.json.encode(request.body))
    assert sent > 2 * MIB and request.size_bytes >= sent and request.prompt_bytes >= sent
    both = await ask(stored, input=references("msg_ab_i0"), previous_response_id="resp_ab")
    assert both.size_bytes >= len(msgspec.json.encode(both.body)) > 3 * MIB


async def test_r14_many_large_responses_are_never_in_memory_at_once():
    count = BODY_BYTES // RESPONSE_BYTES + 1
    rows = [row(f"{number:x}", [{"role": "user", "content": "w" * (RESPONSE_BYTES - 100)}]) for number in range(count)]
    stored = Stored(*rows)
    with pytest.raises(Refusal, match="more than 32 MiB together"):
        await ask(stored, input=references(*[f"msg_{number:x}_i0" for number in range(count)]))
    assert not stored.read_bytes


async def test_an_item_without_an_id_gets_one():
    stored = Stored(row("ab", [{"role": "user", "content": "one", "id": None}, {"role": "user", "content": "two"}]))
    request = await ask(stored, input=references("msg_ab_i1", "msg_ab_i0"))
    assert [message["content"][0]["text"] for message in request.body["messages"]] == ["two", "one"]


async def test_r50_a_reference_that_is_none_is_refused_beside_a_good_one():
    stored = Stored(row("ab", [{"role": "user", "content": "one"}]))
    with pytest.raises(Refusal) as caught:
        await ask(stored, input=references("msg_ab_i0", [1]))
    assert (caught.value.outcome, caught.value.param) == (Outcome.INVALID, "input[1].id")


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": "x", "output": [1]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "", "content": [1]},
        {"role": "user", "content": "x", "id": {"a": 1}},
    ],
)
async def test_r51_what_an_older_version_has_stored_is_no_fault_of_ours(item):
    """It took items that are refused now."""
    stored = Stored(row("ab", [item]))
    for asked in ({"input": "x", "previous_response_id": "resp_ab"}, {"input": references("msg_ab_i0", "fc_ab_i0")}):
        with pytest.raises(Refusal) as caught:
            await ask(stored, **asked)
        assert caught.value.outcome in (Outcome.INVALID, Outcome.NOT_FOUND)


GOOD: Sequence[dict[str, Any]] = (
    {"role": "user", "content": "x"},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": ""},
    {"type": "function_call_output", "call_id": "c", "output": "x"},
    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "x"}]},
)
MORE = st.dictionaries(st.sampled_from(["id", "content", "output", "status", "summary"]), VALUE, max_size=2)


@patient
@given(items=st.lists(st.builds(operator.or_, st.sampled_from(GOOD), MORE), min_size=1, max_size=3))
async def test_r51_what_was_taken_can_be_gone_on_from(items):
    """Whatever a call was made of: the next one is understood, and refused only where an item is not to be found."""
    kept: list[Answered] = []
    raw = json.dumps({"model": "m", "input": items}).encode()
    try:
        request = ResponsesEndpoint(keep=kept.append).parse(raw, ARRIVAL, KEY)
    except Refusal:
        return
    stored = Stored(row("ab", request.asked.input))  # type: ignore[attr-defined]
    again = await ask(stored, input="x", previous_response_id="resp_ab")
    assert [message["role"] for message in again.body["messages"][:-1]] == [
        message["role"] for message in request.body["messages"]
    ]
    names = [item["id"] for item in input_items(stored.rows["resp_ab"])]
    await ask(stored, input=[*references(*[name for name in names if response_of(name) == "resp_ab"]), GOOD[0]])
