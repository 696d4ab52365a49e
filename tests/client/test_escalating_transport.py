"""R40 on the client's side: the unmodified OpenAI SDK over the escalating transports."""

import asyncio
import json

import httpx
import openai
import pytest

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.usage import Usage
from fareclass_client import AsyncEscalatingTransport, EscalatingTransport, Rules
from tests.wire.plane import SECRET, Running, chunk, reply_whole, say_hello, served_as

MESSAGES = [{"role": "user", "content": "Hello"}]
NEVER_SLOW = {"slower_than_s": None}
EVERY_ANSWER_SLOW = {"after_throttles": None, "slower_than_s": 1e-9}
PRICES = ("1.05", "4.20")


class Caller:
    """One SDK, sync or async, over a transport with these rules."""

    def __init__(self, plane: Running, kind: str, **rules) -> None:
        self.plane = plane
        self.settings = {"base_url": f"{plane.url}/v1", "api_key": SECRET, "max_retries": 0}
        made = Rules(**rules)
        self.sync = kind == "sync"
        if self.sync:
            self.http = httpx.Client(transport=EscalatingTransport(made))
            self.sdk = openai.OpenAI(http_client=self.http, **self.settings)
        else:
            self.http = httpx.AsyncClient(transport=AsyncEscalatingTransport(made))
            self.sdk = openai.AsyncOpenAI(http_client=self.http, **self.settings)

    async def ask(self, sdk=None, **fields):
        create = (sdk or self.sdk).chat.completions.create
        return await self.run(create, model="m", messages=MESSAGES, **fields)

    async def stream(self, **fields) -> str:
        """The text of a streamed answer."""
        if not self.sync:
            chunks = [one async for one in await self.ask(stream=True, **fields)]
        else:
            create = self.sdk.chat.completions.create
            chunks = await asyncio.to_thread(lambda: list(create(model="m", messages=MESSAGES, stream=True, **fields)))
        return "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)

    async def run(self, function, **fields):
        if self.sync:
            return await asyncio.to_thread(function, **fields)
        return await function(**fields)

    @property
    def tiers(self) -> list[str | None]:
        """What came in at the gateway."""
        return [request.tier_word for request in self.plane.walk.requests]


@pytest.fixture(params=["sync", "async"])
async def make(plane: Running, request):
    made = []

    def begin(**rules) -> Caller:
        made.append(Caller(plane, request.param, **rules))
        return made[-1]

    yield begin
    for caller in made:
        await (asyncio.to_thread(caller.http.close) if caller.sync else caller.http.aclose())


def refusing(times: int, refusal: Refusal, then=say_hello):
    left = iter(range(times))

    async def script(request, reply):
        if next(left, None) is None:
            await then(request, reply)
        else:
            await reply.refuse(refusal)

    return script


@pytest.mark.parametrize("outcome", [Outcome.THROTTLED, Outcome.SHED])
async def test_r40_two_throttles_in_a_row_and_the_next_is_priority(make, plane, outcome):
    caller = make(**NEVER_SLOW)
    plane.walk.script = refusing(2, Refusal(outcome, "No."))
    for _ in range(2):
        with pytest.raises(openai.APIStatusError):
            await caller.ask(service_tier="flex")
    answer = await caller.ask(service_tier="flex")
    assert (answer.choices[0].message.content, answer.service_tier) == ("Hello!", "priority")
    assert await caller.stream() == "Hello!"
    assert caller.tiers == ["flex", "flex", "priority", "priority"]


async def test_r40_the_sdks_own_retries_count(make, plane):
    """One call of the user: the SDK comes back twice, and the second time as priority."""
    caller = make(**NEVER_SLOW)
    plane.walk.script = refusing(2, Refusal(Outcome.SHED, "Full.", retry_after_ms=1))
    answer = await caller.ask(caller.sdk.with_options(max_retries=2))
    assert answer.choices[0].message.content == "Hello!"
    assert caller.tiers == [None, None, "priority"]


async def test_r40_an_answer_between_two_throttles_begins_the_row_anew(make, plane):
    caller = make(**NEVER_SLOW)
    for _ in range(3):
        plane.walk.script = refusing(1, Refusal(Outcome.THROTTLED, "No."))
        with pytest.raises(openai.RateLimitError):
            await caller.ask()
        await caller.ask()
    assert set(caller.tiers) == {None}


async def test_r40_a_throttle_that_waiting_can_not_help_does_not_count(make, plane):
    caller = make(**NEVER_SLOW)
    plane.walk.script = refusing(5, Refusal(Outcome.THROTTLED, "Over budget.", retry=False))
    for _ in range(5):
        with pytest.raises(openai.RateLimitError):
            await caller.ask()
    assert set(caller.tiers) == {None}


@pytest.mark.parametrize("streamed", [False, True])
async def test_r40_a_slow_answer_and_the_next_is_priority(make, streamed):
    caller = make(**EVERY_ANSWER_SLOW)
    for _ in range(2):
        await (caller.stream() if streamed else caller.ask())
    assert caller.tiers == [None, "priority"]


async def test_r40_a_stream_is_as_slow_as_its_first_event(make, plane):
    """While it is still going on, the next request is raised already."""
    caller = make(**EVERY_ANSWER_SLOW)
    first, go_on = asyncio.Event(), asyncio.Event()

    async def pausing(request, reply):
        await reply.start(served_as(request))
        await reply.relay(chunk("Hel"))
        first.set()
        await go_on.wait()
        await reply.relay(chunk("lo!"))
        await reply.end(Usage(input=1, output=2))

    plane.walk.script = pausing
    async with asyncio.timeout(10):
        going = asyncio.create_task(caller.stream())
        await first.wait()
        plane.walk.script = say_hello
        while (await caller.ask()).service_tier != "priority":
            pass
        go_on.set()
        assert await going == "Hello!", "its bytes are not touched"


async def test_r40_after_its_time_requests_go_as_they_were(make):
    caller = make(**EVERY_ANSWER_SLOW, for_s=1e-6)
    for _ in range(3):
        await caller.ask(service_tier="flex")
    assert caller.tiers == ["flex"] * 3


async def test_r40_only_tiers_that_may_be_raised_are(make):
    caller = make(**EVERY_ANSWER_SLOW, from_tiers=frozenset({"default"}))
    for tier in ("flex", "priority", "default", "flex", "default"):
        await caller.ask(service_tier=tier)
    assert caller.tiers == ["flex", "priority", "default", "flex", "priority"]


async def test_r40_other_calls_are_left_alone(make, plane):
    """No body but that of completions and responses is changed."""
    caller = make(**EVERY_ANSWER_SLOW)
    await caller.ask()

    async def embed(request, reply):
        await reply_whole(
            reply, served_as(request), b'{"object":"list","data":[{"embedding":[0.5],"index":0}],"model":"up"}'
        )

    plane.walk.script = embed
    await caller.run(caller.sdk.embeddings.create, model="m", input=["x"], encoding_format="float")
    assert caller.tiers == [None, None]


async def test_r40_a_tier_that_the_key_may_not_use_breaks_nothing(make, plane):
    """A raised request that is forbidden goes again as it was, and the next ones are not raised for a while."""

    async def no_priority(request, reply):
        if request.tier_word == "priority":
            await reply.refuse(Refusal(Outcome.FORBIDDEN, "Not allowed."))
        else:
            await say_hello(request, reply)

    caller = make(**EVERY_ANSWER_SLOW)
    plane.walk.script = no_priority
    for _ in range(3):
        assert (await caller.ask(service_tier="flex")).service_tier == "flex"
    assert caller.tiers == ["flex", "priority", "flex", "flex"]


async def test_r40_the_rest_of_the_body_stays_as_it_was(make, plane):
    caller = make(**EVERY_ANSWER_SLOW)
    for _ in range(2):
        await caller.ask(temperature=0.1, stop=["é", "\n"], seed=12345678901234567)
    before, after = ({**request.body, "service_tier": None} for request in plane.walk.requests)
    assert caller.tiers == [None, "priority"]
    assert before == after


@pytest.mark.parametrize("streamed", [False, True])
async def test_r40_the_days_cap_counts_the_usage_that_answers_tell(make, streamed):
    """Each raised answer of 9 + 3 tokens costs 22.05 millionths of a USD; what is held ahead, 46 to 80 of input, is less than the cap."""
    options = {"stream_options": {"include_usage": True}} if streamed else {}
    caller = make(**EVERY_ANSWER_SLOW, usd_per_day="0.0001", usd_per_million=PRICES)
    for _ in range(8):
        await (caller.stream(max_tokens=3, **options) if streamed else caller.ask(max_tokens=3))
    assert 2 <= caller.tiers.count("priority") <= 4
    assert caller.tiers[-1] is None


async def test_r40_a_stream_without_usage_is_counted_by_its_events(make):
    caller = make(**EVERY_ANSWER_SLOW, usd_per_day="0.0001", usd_per_million=("0", "10"))
    for _ in range(8):
        await caller.stream(max_tokens=1)
    raised = caller.tiers.count("priority")
    assert 1 <= raised <= 5, "three or four events of 0.00001 USD each"
    assert caller.tiers[-1] is None


@pytest.mark.parametrize(
    "rules",
    [
        {"after_throttles": None, "slower_than_s": None},
        {"for_s": 0},
        {"after_throttles": -1},
        {"usd_per_day": "5"},
        {"usd_per_day": "-5", "usd_per_million": PRICES},
        {"usd_per_day": "5", "usd_per_million": ("0.0000001", "1")},
    ],
)
def test_r40_rules_that_can_not_be_are_refused(rules):
    with pytest.raises(ValueError, match=r"."):
        Rules(**rules)


async def test_r40_a_caller_who_gave_up_waiting_counts_as_slow(make, plane):
    """A timeout of the caller's own is no answer, but it says how long it took."""
    caller = make(**EVERY_ANSWER_SLOW)

    async def hang(_request, _reply):
        await asyncio.Event().wait()

    plane.walk.script = hang
    with pytest.raises(openai.APITimeoutError):
        await caller.ask(caller.sdk.with_options(timeout=0.2))
    plane.walk.script = say_hello
    assert (await caller.ask()).service_tier == "priority"


async def test_r40_bodies_that_are_no_json_objects_pass_untouched(plane):
    """Whatever else goes through the same client."""
    async with httpx.AsyncClient(transport=AsyncEscalatingTransport(Rules(**EVERY_ANSWER_SLOW))) as http:
        headers = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}
        for content in (b"[1]", b"{", b'{"model": 7}', json.dumps({"model": "m", "service_tier": ["x"]}).encode()):
            answer = await http.post(f"{plane.url}/v1/chat/completions", content=content, headers=headers)
            assert answer.status_code == 400
        assert (await http.get(f"{plane.url}/v1/models", headers=headers)).status_code == 200
