"""R46 with R11: an answer whose replica died just after white space, before replicas that lose white space at its end."""

import json
from functools import partial

import pytest

from tests.e2e.gateway import behind, cost
from tests.e2e.test_engine_trouble import content
from tests.e2e.upstream import PROMPT_TOKENS, story, tell

BLANK = ["\n", "  "]
"""What comes behind three words when the first replica dies, a token each."""
UNBROKEN = story(3) + "".join(BLANK)


async def break_off(turn):
    await turn.say(3)
    await turn.write_out(*BLANK)
    await turn.die()


@pytest.fixture
def play(pair):
    """Have the pair's calls play these, one after another, whichever of the two they come to."""

    def begin(*plays):
        left = list(plays)

        async def next_one(turn):
            await left.pop(0)(turn)

        for one in pair:
            one.play = next_one

    return begin


async def go_on(turn, pieces=BLANK):
    await turn.write_out(*pieces)
    await turn.say(turn.limit - turn.begun - len(pieces))
    turn.at = turn.limit
    await turn.end()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("deaths", [0, 1], ids=["goes on at once", "dies again in the white space"])
@pytest.mark.parametrize("pieces", [BLANK, ["\n  "]], ids=["the same tokens", "one token"])
async def test_r46_it_goes_on_and_its_white_space_comes_once(pair, launch, play, stream, deaths, pieces):
    """The other replica makes it once more; limit, usage and bill are those of what its caller got."""
    gateway = await launch(behind(*(one.url for one in pair)))

    async def die_in_it(turn):
        await turn.write_out(pieces[0])
        await turn.die()

    play(break_off, *[die_in_it] * deaths, partial(go_on, pieces=pieces))
    answer = await gateway.ask(stream=stream, max_tokens=9, stream_options={"include_usage": True} if stream else None)
    if stream:
        text, whole = json.loads(f'"{content(answer)}"'), json.loads(answer.text.split("data: ")[-2])
    else:
        whole = answer.json()
        text = whole["choices"][0]["message"]["content"]
    assert text == UNBROKEN + story(9 - len(pieces)).removeprefix(story(3))
    assert (whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"]) == (PROMPT_TOKENS, 9)
    (row,) = await gateway.recorded(1)
    assert (row["outcome"], row["cost_pico"]) == ("completed", cost("default", PROMPT_TOKENS, 9))


async def test_r46_it_does_not_go_on_with_other_white_space(pair, launch, play):
    """That would be a text that no engine made: rather an error, and the replicas are not to blame for it."""
    gateway = await launch(behind(*(one.url for one in pair)))
    play(break_off, tell, tell)
    answer = await gateway.ask(stream=True, max_tokens=9)
    assert json.loads(f'"{content(answer)}"') == UNBROKEN
    assert '"code":"upstream_error"' in answer.text and "[DONE]" not in answer.text
    (row,) = await gateway.recorded(1)
    assert (row["outcome"], row["output"]) == ("upstream_failed", 5)
    assert {replica["circuit"] for replica in (await gateway.pool())["replicas"]} == {"closed"}


async def test_r46_an_answer_of_nothing_else_begins_anew_with_it(pair, launch, play):
    gateway = await launch(behind(*(one.url for one in pair)))

    async def break_off_at_once(turn):
        await turn.write_out(*BLANK)
        await turn.die()

    play(break_off_at_once, go_on)
    answer = await gateway.ask(stream=True, max_tokens=9)
    assert json.loads(f'"{content(answer)}"') == "".join(BLANK) + story(7)
    assert answer.text.endswith("data: [DONE]\n\n") and answer.text.count('"role"') == len(BLANK)
    (row,) = await gateway.recorded(1)
    assert row["cost_pico"] == cost("default", PROMPT_TOKENS, 9)
