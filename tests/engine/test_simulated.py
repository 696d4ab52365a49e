"""The simulated engine: exact time, conserved tokens, and answers that go on where they were cut."""

import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from fareclass.engine.base import Call, EngineFailed, EngineRefused, Prompt
from fareclass.engine.sim_replica import SimReplica, Speed
from fareclass.engine.sim_sequence import Event, Sequence
from fareclass.engine.simulated import SimulatedEngine
from tests.sim.step_by_step import StepByStep


def seen(events: list[Event], sequence: Sequence) -> list[tuple[int, bool]]:
    return [(event.at_us, event.finished) for event in events if event.sequence is sequence]


class TestTime:
    def test_steps_take_exactly_what_the_model_says(self) -> None:
        """One prompt of 600 tokens, 3 out: two steps with chunks of 512 and 88, then two of one sequence."""
        replica = SimReplica(Speed())
        sequence = Sequence("a", 600, 3)
        replica.submit(sequence, 1_000)
        events = replica.advance(1_000_000)
        first = 1_000 + (8_000 + 1_500 + 25_600) + (8_000 + 1_500 + 4_400)
        assert seen(events, sequence) == [(first, False), (first + 2 * 9_500, True)]

    def test_a_newcomer_waits_for_the_step_under_way_and_slows_the_others(self) -> None:
        replica = SimReplica(Speed())
        old, new = Sequence("old", 20, 100), Sequence("new", 100, 2)
        replica.submit(old, 0)
        replica.advance(15_000)
        replica.submit(new, 15_000)
        events = replica.advance(60_000)
        alone = 10_500 + 9_500
        joined = alone + 8_000 + 2 * 1_500 + 5_000
        assert seen(events, new) == [(joined, False), (joined + 11_000, True)]
        assert replica.made(old) == 2 + 1 + 1 + (60_000 - joined - 11_000) // 9_500

    def test_prompts_in_line_share_one_chunk_first_come_first_served(self) -> None:
        replica = SimReplica(Speed())
        first, second = Sequence("1", 400, 9), Sequence("2", 400, 9)
        replica.submit(first, 0)
        replica.advance(1_000)
        replica.submit(second, 1_000)
        third = Sequence("3", 200, 9)
        replica.submit(third, 1_000)
        events = replica.advance(10_000_000)
        step_1 = 8_000 + 1_500 + 20_000
        step_2 = step_1 + 8_000 + 3 * 1_500 + 25_600
        step_3 = step_2 + 8_000 + 3 * 1_500 + 4_400
        assert [seen(events, each)[0][0] for each in (first, second, third)] == [step_1, step_2, step_3]

    def test_an_aborted_sequence_computes_and_keeps_its_place_for_a_tenth_of_a_second(self) -> None:
        replica = SimReplica(Speed(limit=1))
        gone, heir = Sequence("gone", 20, 1_000), Sequence("heir", 20, 1)
        replica.submit(gone, 0)
        replica.advance(50_000)
        replica.abort(gone, 50_000)
        replica.submit(heir, 50_000)
        events = replica.advance(1_000_000)
        first_boundary_after = 10_500 + 15 * 9_500
        assert heir.admitted_us == first_boundary_after >= 150_000
        assert gone.made == 16
        assert [event for event in events if event.sequence is gone] == []

    def test_lower_rank_goes_first_among_the_waiting_only(self) -> None:
        replica = SimReplica(Speed(limit=1))
        running, worse, better = (
            Sequence("r", 20, 50, rank=4),
            Sequence("w", 20, 2, rank=3),
            Sequence("b", 20, 2, rank=0),
        )
        for sequence in (running, worse, better):
            replica.submit(sequence, 0)
        events = replica.advance(10_000_000)
        assert [event.sequence.key for event in events if event.finished] == ["r", "b", "w"]


class TestMemory:
    def test_a_continuation_computes_only_what_the_cache_has_lost(self) -> None:
        replica = SimReplica(Speed(kv_tokens=4_096))
        cut = Sequence("story", 1_000, 500)
        replica.submit(cut, 0)
        replica.advance(1_500_000)
        replica.abort(cut, 1_500_000)
        replica.advance(2_000_000)
        warm = Sequence("story", 1_000 + cut.made, 10, reuses=True)
        replica.submit(warm, 2_000_000)
        replica.advance(3_000_000)
        assert warm.ended
        assert warm.prefilled == (1_000 + cut.made) - (1_000 + cut.made - 1) // 16 * 16

        replica.submit(Sequence("flood", 3_900, 10), 3_000_000)
        replica.advance(6_000_000)
        cold = Sequence("story", 1_000 + cut.made + 10, 10, reuses=True)
        replica.submit(cold, 6_000_000)
        replica.advance(9_000_000)
        assert cold.cached == (4_096 - 3_910) // 16 * 16
        assert cold.cached + cold.prefilled == cold.prompt_tokens

    def test_another_request_with_the_same_context_reuses_nothing(self) -> None:
        """R31."""
        replica = SimReplica(Speed())
        for at_us in (0, 5_000_000):
            sequence = Sequence("same", 800, 10)
            replica.submit(sequence, at_us)
            replica.advance(at_us + 4_000_000)
            assert (sequence.cached, sequence.prefilled) == (0, 800)

    @pytest.mark.parametrize("kept", [True, False])
    def test_a_cut_prompt_stays_cached_or_is_lost_as_the_engine_does(self, kept: bool) -> None:
        replica = SimReplica(Speed(keeps_cut_prefill=kept, abort_us=0))
        cut = Sequence("long", 20_000, 10)
        replica.submit(cut, 0)
        replica.advance(400_000)
        replica.abort(cut, 400_000)
        replica.advance(1_000_000)
        again = Sequence("long", 20_000, 10, reuses=True)
        replica.submit(again, 1_000_000)
        replica.advance(9_000_000)
        assert again.cached == (cut.prefilled if kept else 0)
        assert again.prefilled == 20_000 - again.cached

    def test_what_can_never_fit_is_refused(self) -> None:
        with pytest.raises(ValueError, match="5010 tokens do not fit into a context of 4096"):
            SimReplica(Speed(kv_tokens=4_096)).submit(Sequence("big", 5_000, 10), 0)


SMALL = Speed(limit=6, kv_tokens=12_000, chunk_tokens=128)


def random_run(
    seed: int, stride_us: int, kind: type[SimReplica] = SimReplica, speed: Speed = SMALL
) -> list[tuple[int, int, bool]]:
    """A replica under a random load with aborts, looked at every `stride_us`; checks that no token is lost."""
    draw = random.Random(seed)
    replica = kind(speed)
    arrivals = sorted(draw.randrange(0, 20_000_000) // 50_000 * 50_000 for _ in range(150))
    sequences: list[Sequence] = []
    log: list[tuple[int, int, bool]] = []
    for now_us in range(0, 120_000_000, stride_us):
        log += [(event.at_us, int(str(event.sequence.key)), event.finished) for event in replica.advance(now_us)]
        while arrivals and arrivals[0] <= now_us:
            arrivals.pop(0)
            sequence = Sequence(len(sequences), draw.randint(1, 1_500), draw.randint(1, 200), rank=draw.randrange(3))
            replica.submit(sequence, now_us)
            sequences.append(sequence)
            if draw.random() < 0.2:
                replica.abort(draw.choice(sequences), now_us)
        assert replica.running <= 6
    assert replica.running == replica.waiting == 0
    for sequence in sequences:
        assert sequence.ended
        if sequence.abort_us is None:
            assert sequence.made == sequence.output_tokens + sequence.lost
            assert sequence.prefilled == sequence.prompt_tokens
    return log


@pytest.mark.parametrize("seed", range(5))
def test_tokens_are_conserved_and_time_does_not_depend_on_how_often_one_looks(seed: int) -> None:
    assert random_run(seed, 50_000) == random_run(seed, 50_000) == random_run(seed, 10_000)


@pytest.mark.parametrize(
    "speed",
    [
        SMALL,
        replace(SMALL, context_ns=333),
        replace(SMALL, lead_steps=2),
        replace(SMALL, overcommits=True, kv_tokens=2_000),
        replace(SMALL, overcommits=True, kv_tokens=2_500, context_ns=77, lead_steps=1),
    ],
    ids=["plain", "attention", "ahead", "overcommitted", "all"],
)
def test_strides_end_where_single_steps_would(speed: Speed) -> None:
    """Decoding, chunks of long prompts, growing attention, lost contexts, aborts: to the microsecond."""
    for seed in range(6):
        assert random_run(seed, 50_000, speed=speed) == random_run(seed, 50_000, StepByStep, speed)


def test_a_new_sequence_is_taken_in_later_where_steps_are_prepared_ahead() -> None:
    first_us = []
    for lead_steps in (0, 1, 3):
        speed = Speed(base_us=10_000, sequence_us=0, prefill_tokens_s=1_000_000_000, lead_steps=lead_steps)
        replica = SimReplica(speed)
        replica.submit(Sequence("one", 1, 100), 0)
        replica.advance(25_000)
        second = Sequence("two", 1, 1)
        replica.submit(second, 25_000)
        replica.advance(1_000_000)
        first_us.append(second.first_us)
    assert first_us == [40_000, 50_000, 70_000]


def test_who_comes_in_the_last_step_of_all_others_is_taken_in_behind_it() -> None:
    replica = SimReplica(Speed(base_us=10_000, sequence_us=0, prefill_tokens_s=1_000_000_000, lead_steps=4))
    replica.submit(Sequence("one", 1, 1), 0)
    second = Sequence("two", 1, 1)
    replica.submit(second, 5_000)
    replica.advance(1_000_000)
    assert second.first_us == 20_000


def test_what_came_last_loses_its_context_where_memory_was_overcommitted() -> None:
    """It goes on where it stood, told each token once, and its first token is told once."""
    replica = SimReplica(Speed(kv_tokens=1_000, overcommits=True))
    one, two = Sequence("one", 400, 300), Sequence("two", 400, 150)
    replica.submit(one, 0)
    replica.submit(two, 0)
    events, made = [], 0
    for now_us in range(0, 20_000_000, 10_000):
        events += replica.advance(now_us)
        assert replica.made(two) >= made
        made = replica.made(two)
    assert [(event.sequence.key, event.finished) for event in events] == [
        ("one", False),
        ("two", False),
        ("one", True),
        ("two", True),
    ]
    assert 90 < two.lost < 110 and replica.made(two) == 150 and not one.lost
    assert replica.computed_prompt == 400 + 400 + 400 + two.lost
    assert replica.computed_output == 300 + 150


def test_attention_takes_time_for_every_token_of_context() -> None:
    replica = SimReplica(
        Speed(base_us=1_000, sequence_us=0, chunk_tokens=512, prefill_tokens_s=512_000, context_ns=1_000)
    )
    replica.submit(Sequence("one", 100, 3), 0)
    events = [event.at_us for event in replica.advance(1_000_000)]
    prefill_us = 1_000 + 100 * 1_000_000 // 512_000
    assert events == [prefill_us, prefill_us + (1_000 + 101) + (1_000 + 102)]


FAST = Speed(base_us=200, sequence_us=20, prefill_tokens_s=2_000_000, abort_us=1_000)


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedEngine]:
    engine = SimulatedEngine(FAST, mean_tokens=300)
    yield engine
    await engine.close()


def chat(text: str, *, beginning: str = "", made: int = 0, stream: bool = True, **body: Any) -> Prompt:
    body = {"model": "sim", "messages": [{"role": "user", "content": text}], **body}
    return Prompt(path="/chat/completions", body=body, stream=stream, rank=2, beginning=beginning, made_tokens=made)


async def pieces(call: Call) -> AsyncIterator[dict[str, Any]]:
    async for item in call:
        for event in item.removesuffix(b"\n\n").split(b"\n\n"):
            yield json.loads(event.removeprefix(b"data: "))


async def read(call: Call, most: int = 1_000_000) -> tuple[str, str | None]:
    """The text of a stream and how it ended; closed after `most` tokens."""
    text, finish = "", None
    async for chunk in pieces(call):
        text += chunk["choices"][0]["delta"]["content"]
        finish = chunk["choices"][0]["finish_reason"]
        if call.made_tokens >= most:
            break
    await call.close()
    return text, finish


async def test_streamed_and_whole_answers_are_the_same(engine: SimulatedEngine) -> None:
    call = await engine.open(chat("Tell me a story"))
    text, finish = await read(call)
    whole_call = await engine.open(chat("Tell me a story", stream=False))
    whole = json.loads(await whole_call.body())
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": text}
    assert whole["choices"][0]["finish_reason"] == finish == "stop"
    assert call.usage == whole_call.usage is not None
    assert whole["usage"]["completion_tokens"] == await engine.count_tokens(text) == call.made_tokens
    assert whole["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


@pytest.mark.parametrize("cut", [1, 7, 20])
async def test_a_cut_answer_continues_exactly_and_warm(engine: SimulatedEngine, cut: int) -> None:
    """R11: text, end and token count are those of the unbroken answer, which is too long for `cut` events to hold it."""
    question = "word " * 300
    unbroken, finish = await read(await engine.open(chat(question, max_tokens=400)))
    first = await engine.open(chat(question, max_tokens=400))
    beginning, _ = await read(first, most=cut)
    assert unbroken.startswith(beginning)
    rest = await engine.open(chat(question, max_tokens=400, beginning=beginning, made=first.made_tokens))
    ending, finish_too = await read(rest)
    assert (beginning + ending, finish_too) == (unbroken, finish)
    assert first.made_tokens + rest.made_tokens == await engine.count_tokens(unbroken)
    assert rest.usage is not None
    assert rest.usage.input <= 2 * FAST.block_tokens


async def test_an_answer_cut_inside_a_word_goes_on_inside_it(engine: SimulatedEngine) -> None:
    unbroken, _ = await read(await engine.open(chat("hello", max_tokens=12)))
    for cut in range(1, 12):
        ending, _ = await read(await engine.open(chat("hello", max_tokens=12, beginning=unbroken[:cut])))
        assert (unbroken[:cut] + ending).startswith(unbroken)


async def test_limits_and_stops(engine: SimulatedEngine) -> None:
    text, finish = await read(await engine.open(chat("count", max_tokens=5)))
    assert (len(text.split()), finish) == (5, "length")
    for limits in ({"max_completion_tokens": 5}, {"max_completion_tokens": None, "max_tokens": 5}):
        assert await read(await engine.open(chat("count", **limits))) == (text, "length")
    stop = text.split()[3]
    stopped, finish = await read(await engine.open(chat("count", stop=[stop])))
    assert (stopped, finish) == (text[: text.index(stop)], "stop")


async def test_the_same_request_again_has_an_id_of_its_own(engine: SimulatedEngine) -> None:
    """As on every engine: who files answers by id must not lose one."""
    first, second = [json.loads(await (await engine.open(chat("Hi", stream=False))).body()) for _ in range(2)]
    assert first["choices"] == second["choices"]
    assert first["id"] != second["id"]


async def test_several_choices_differ(engine: SimulatedEngine) -> None:
    call = await engine.open(chat("dice", n=3, stream=False, max_tokens=10))
    body = json.loads(await call.body())
    assert len({choice["message"]["content"] for choice in body["choices"]}) == 3
    assert body["usage"]["completion_tokens"] == 30


async def test_completions_with_several_prompts(engine: SimulatedEngine) -> None:
    prompt = Prompt(path="/completions", body={"prompt": ["a b", "c d e"], "max_tokens": 3}, stream=False, rank=2)
    body = json.loads(await (await engine.open(prompt)).body())
    assert [len(choice["text"].split()) for choice in body["choices"]] == [3, 3]
    assert body["usage"]["prompt_tokens"] == 5


async def test_what_it_cannot_serve_is_refused(engine: SimulatedEngine) -> None:
    with pytest.raises(EngineRefused) as refused:
        await engine.open(Prompt(path="/embeddings", body={"input": "x"}, stream=False, rank=2))
    assert refused.value.status == 404
    with pytest.raises(EngineRefused) as refused:
        await engine.open(chat("word " * 300_000))
    assert (refused.value.status, refused.value.error["code"]) == (400, "context_length_exceeded")


async def test_an_engine_that_closes_fails_its_calls_and_takes_no_more() -> None:
    """R46: the gateway learns of it and can go on elsewhere."""
    engine = SimulatedEngine(FAST)
    call = await engine.open(chat("hello", max_tokens=100_000))
    await engine.close()
    with pytest.raises(EngineFailed):
        await read(call)
    with pytest.raises(EngineFailed):
        await engine.open(chat("hello"))
    assert not await engine.healthy()


async def test_a_full_replica_takes_turns_and_loses_nobody() -> None:
    engine = SimulatedEngine(Speed(limit=2, base_us=200, sequence_us=20, prefill_tokens_s=2_000_000, abort_us=1_000))
    calls = [await engine.open(chat(f"question {number}", max_tokens=10)) for number in range(12)]
    answers = [await read(call) for call in calls]
    assert all(finish in {"length", "stop"} and text for text, finish in answers)
    await engine.close()
