"""What users of other gateways suffer from queues, priorities and unfair shares, each as a test that it can't happen here.

R7 to R9, R11, R14, R17, R52. Elsewhere proved for real and in bulk: pauses on a real llama.cpp (`test_pausing`), the
bound on unfairness and the order of thousands of schedules (`unit/sched/test_fairness`, `sim/test_schedules`).
"""

import asyncio

import pytest

from tests.e2e.callers import Listener
from tests.e2e.gateway import MODEL, behind, chat
from tests.e2e.test_engine_trouble import error
from tests.e2e.test_reservations import reserve, sellable
from tests.e2e.upstream import QUESTION, VLLM, Upstream, serving, story, tell, tell_in_two
from tests.engine.conftest import eventually

TIERS = ("priority", "default", "flex")


def named(name, **fields):
    """A request that can be told from others where it arrives; it is answered whole and can't be moved."""
    return chat(messages=[{"role": "user", "content": f"{QUESTION} {name}"}], seed=1, **fields)


class Line:
    """A gateway whose only slot is taken until `open` is set; then requests are served one after the other."""

    def __init__(self, gateway, upstream):
        self.gateway = gateway
        self.open = asyncio.Event()
        self._upstream = upstream
        self._tasks = []
        upstream.play = self._play

    async def _play(self, turn):
        await self.open.wait()
        await tell(turn)

    async def join(self, *names, caller=None, **fields):
        """Stand in line, one after the other."""
        http = caller or self.gateway.http
        for name in names:
            before = await self.gateway.count("waiting") + await self.gateway.count("running")
            self._tasks.append(asyncio.create_task(http.post("/chat/completions", json=named(name, **fields))))
            await eventually(lambda before=before: self._arrived(before + 1))

    async def _arrived(self, count):
        return await self.gateway.count("waiting") + await self.gateway.count("running") == count

    async def served(self):
        """The names in the order in which the engine got them; each was answered."""
        self.open.set()
        answers = await asyncio.gather(*self._tasks)
        assert {answer.status_code for answer in answers} == {200}
        return [turn.body["messages"][0]["content"].removeprefix(f"{QUESTION} ") for turn in self._upstream.turns]


@pytest.fixture
async def line(upstream, launch):
    made = Line(await launch(behind(upstream.url, slots=1)), upstream)
    await made.join("first", service_tier="priority")
    return made


async def test_pain_a_burst_is_refused_instead_of_queued(upstream, launch):
    """BerriAI/litellm#31830, #2218, #1152 and vllm-project/production-stack#855: a queue is wanted, not a 429.

    R14: forty at once on four slots are all answered at the first try, and the engine never has more than four.
    """
    gateway = await launch(behind(upstream.url))
    answers = await asyncio.gather(*(gateway.ask(service_tier=TIERS[number % 3]) for number in range(40)))
    assert [answer.status_code for answer in answers] == [200] * 40
    assert upstream.most <= 4 and len(upstream.turns) == 40


async def test_pain_heavy_users_are_refused_or_starve_the_others(line):
    """BerriAI/litellm#18128: slow heavy users down, do not 429 them; mostlygeek/llama-swap#811, #834: a fair share.

    R8: who comes late with three requests takes turns with the one who has twenty in line, and all are served.
    """
    light = line.gateway.caller((await line.gateway.new_key(project="light"))["secret"])
    await line.join(*(f"heavy{number}" for number in range(20)), service_tier="flex")
    await line.join("light0", "light1", "light2", caller=light, service_tier="flex")
    order = await line.served()
    assert [order.index(f"light{number}") for number in range(3)] <= [2, 4, 6]
    assert [name for name in order if name.startswith("heavy")] == [f"heavy{number}" for number in range(20)]


async def test_pain_priority_is_forwarded_to_the_provider_or_ignored(line, upstream):
    """BerriAI/litellm#7144: `priority` went to the provider, who answered 400; and the proxy's own queue ignored it.

    R50, R7: an engine's field is cut out and named; the tier is what orders.
    """
    await line.join("later", service_tier="flex", priority=0)
    await line.join("sooner", service_tier="priority", priority=9)
    assert await line.served() == ["first", "sooner", "later"]
    assert not [turn for turn in upstream.turns if "priority" in turn.body]
    assert (await line.gateway.ask(priority=0)).headers["x-fareclass-dropped"] == "priority"


async def test_pain_no_priority_for_a_key(line):
    """maximhq/bifrost#3232: priority for each virtual key, "especially for self hosted vLLM that just gets slower".

    R2: the key's default tier orders what says nothing of a tier; nothing in the application changes.
    """
    keys = {tier: await line.gateway.new_key(default_tier=tier) for tier in TIERS}
    for tier in reversed(TIERS):
        await line.join(tier, caller=line.gateway.caller(keys[tier]["secret"]))
    assert await line.served() == ["first", *TIERS]


async def test_pain_one_batch_user_holds_every_slot_within_its_request_limit(upstream, launch):
    """maximhq/bifrost#4790: one batch user holds 16 of 16 slots without ever passing its requests per minute.

    R11: on flex he makes room for priority at once; R25: on any tier a limit of concurrent requests holds him.
    """
    gateway = await launch(behind(upstream.url, slots=16))
    other = gateway.caller((await gateway.new_key(project="other"))["secret"])
    await gateway.limit(rpm=1_000)
    release = asyncio.Event()

    async def hold(turn):
        if "bulk" in turn.body["messages"][0]["content"]:
            await release.wait()
        await tell(turn)

    upstream.play = hold
    bulk = [asyncio.create_task(gateway.http.post("/chat/completions", json=named("bulk", service_tier="flex")))
            for _ in range(16)]  # fmt: skip
    await gateway.becomes("running", 16)
    assert (await other.post("/chat/completions", json=chat(service_tier="priority"))).status_code == 200
    await gateway.limit(rpm=1_000, concurrency=16)
    assert "16 concurrent" in error(await gateway.ask())["message"]
    release.set()
    assert {(await task).status_code for task in bulk} == {200}


async def test_pain_a_burst_reaches_the_engine_whole(upstream, launch):
    """gpustack/gpustack#2116, #2207, #2837, #2867: no rejecting or queueing by congestion, and OOM under a burst.

    R14: of two hundred at once four run and twenty wait; the others are told at once when to come back.
    """
    gateway = await launch(behind(upstream.url, tiers={"flex": {"queue_limit": 20}}))
    release = asyncio.Event()

    async def hold(turn):
        await release.wait()
        await tell(turn)

    upstream.play = hold
    tasks = [asyncio.create_task(gateway.ask(service_tier="flex")) for _ in range(200)]
    await eventually(lambda: sum(task.done() for task in tasks) == 176)
    refused = [task.result() for task in tasks if task.done()]
    assert {answer.status_code for answer in refused} <= {429, 503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert len(upstream.turns) == 4
    release.set()
    assert [(await task).status_code for task in tasks].count(200) == 24
    assert upstream.most == 4


async def test_pain_tiers_do_not_survive_into_vllm(upstream, launch):
    """vllm-project/aibrix#2286: a gateway's SLO tiers ended at the gateway; map them to vLLM's `priority`.

    R17: vLLM is told the rank of the tier that a request is served as, whatever its caller wrote there.
    """
    upstream.pages = VLLM
    gateway = await launch(sellable(upstream.url))
    await reserve(gateway, output_tpm=60)
    for tier in ("reserved", *TIERS):
        assert (await gateway.ask(service_tier=tier, priority=7)).status_code == 200
    assert [turn.body["priority"] for turn in upstream.turns] == [0, 1, 2, 3]


async def test_pain_priority_seems_to_do_nothing(launch):
    """vllm-project/vllm#24365, #11361, #9272 and inference-sim#1208: a server in FCFS takes `priority` and ignores it.

    R17: the order is made in the gateway, so it holds on such a server; and the pool does not claim what is not known.
    """
    upstream = Upstream()
    upstream.pages = VLLM
    async with serving(upstream):
        line = Line(await launch(behind(upstream.url, slots=1)), upstream)
        await line.join("first", service_tier="priority")
        for tier in reversed(TIERS):
            await line.join(tier, service_tier=tier)
        assert len(upstream.turns) == 1, "the line stands here, not in the engine"
        assert (await line.gateway.pool())["replicas"][0]["honours_priority"] is None
        assert await line.served() == ["first", *TIERS]


async def test_pain_preempted_work_loses_its_place(pair, launch):
    """vllm-project/vllm#41951: what was preempted went to the end of the line. R8: it is the first of its tier."""
    gateway = await launch(behind(pair[0].url, slots=1))
    go_on = asyncio.Event()
    pair[0].play = tell_in_two(2, go_on)
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "service_tier": "flex"}
    first = Listener(gateway, "/chat/completions", {**body, "max_tokens": 8})
    await gateway.speaks("flex")
    better = Listener(gateway, "/chat/completions", {**body, "max_tokens": 6, "service_tier": "priority"})
    await gateway.becomes("paused", 1)
    newer = Listener(gateway, "/chat/completions", {**body, "max_tokens": 4})
    await gateway.becomes("waiting", 1, "flex")
    go_on.set()
    await asyncio.gather(first.task, better.task, newer.task)
    assert [stream.text for stream in (first, better, newer)] == [story(8), story(6), story(4)]
    assert [turn.begun for turn in pair[0].turns] == [0, 0, 2, 0], "resumed before the newer one was begun"


async def test_pain_priority_without_preemption_waits_for_the_longest_answer(pair, launch):
    """ggml-org/llama.cpp#22916: priority with preemption is wanted.

    R11: four endless flex streams, and a priority request is answered before any of them says another word; none of
    them loses one.
    """
    gateway = await launch(behind(pair[0].url))
    go_on = asyncio.Event()
    begin = tell_in_two(3, go_on)

    async def play(turn):
        if turn.begun:
            await go_on.wait()
        await (begin if turn.limit == 12 and not turn.begun else tell)(turn)

    pair[0].play = play
    body = chat(service_tier="flex", max_tokens=12)
    streams = [Listener(gateway, "/chat/completions", body) for _ in range(4)]
    await gateway.speaks("flex", 4)
    assert (await gateway.ask(service_tier="priority")).status_code == 200
    assert [stream.text for stream in streams] == [story(3)] * 4
    go_on.set()
    await asyncio.gather(*(stream.task for stream in streams))
    assert [stream.text for stream in streams] == [story(12)] * 4
    assert sum(row["pauses"] for row in await gateway.recorded(5)) == 1


async def test_pain_one_long_prompt_stalls_everybody(gateway, upstream):
    """vllm-project/vllm#57413, #10774 and sgl-project/sglang#34554, #8764: one long prefill stalls every tenant.

    R52: of two long prompts one is prefilled at a time; it yields to priority, which is answered meanwhile, and both
    are answered after all.
    """
    release = asyncio.Event()
    long = [{"role": "user", "content": f"{QUESTION} {'word ' * 20_000}"}]

    async def play(turn):
        if len(turn.body["messages"][0]["content"]) > 1_000:
            await release.wait()
        await tell(turn)

    upstream.play = play
    tasks = [asyncio.create_task(gateway.ask(messages=long, service_tier="flex", stream=True)) for _ in range(2)]
    first = await upstream.next()
    await gateway.becomes("waiting", 1)
    assert (await gateway.ask(service_tier="priority")).status_code == 200
    await asyncio.wait_for(first.gone.wait(), 10)
    assert not any(task.done() for task in tasks)
    release.set()
    assert [(await task).status_code for task in tasks] == [200, 200]


async def test_pain_a_deployment_for_each_tier_wastes_capacity(line):
    """NVIDIA/TensorRT-LLM#15327: tiers on one deployment, as "separate deployments per tier waste capacity".

    R7: one replica serves them all in the order of their tiers; the control, all of one tier, in that of arrival.
    """
    for round_number in range(2):
        for tier in reversed(TIERS):
            await line.join(f"{tier}{round_number}", service_tier=tier)
    assert await line.served() == ["first", *(f"{tier}{number}" for tier in TIERS for number in range(2))]


async def test_pain_control_with_one_tier_alone_shows_no_order_but_arrival(line):
    """NVIDIA/TensorRT-LLM#15327's own control: equal priorities, no gap."""
    names = [str(number) for number in range(6)]
    await line.join(*names, service_tier="default")
    assert await line.served() == ["first", *names]


@pytest.mark.parametrize(("floor", "place"), [(0.0, 8), (1.0, 1)])
async def test_pain_strict_order_starves_the_lowest_tier(upstream, launch, floor, place):
    """kubernetes-sigs/gateway-api-inference-extension#1861, llm-d/llm-d-router#1995: strict bands starve batch.

    R7: an operator gives a tier a floor; while that asks, so much of the pool is its own. Without one the order is
    strict, as it is asked to be.
    """
    line = Line(await launch(behind(upstream.url, slots=1, tiers={"flex": {"floor": floor}})), upstream)
    await line.join("first", service_tier="priority")
    await line.join(*(f"priority{number}" for number in range(7)), service_tier="priority")
    await line.join("flex", service_tier="flex")
    assert (await line.served()).index("flex") == place


async def test_pain_nothing_is_held_back_for_the_better_tier(upstream, launch):
    """kubernetes-sigs/gateway-api-inference-extension#2265: headroom before saturation.

    R9: beside a running priority request others fill three quarters of a replica; the next priority request starts at
    once, and nobody had to make room.
    """
    gateway = await launch(behind(upstream.url))
    upstream.play = lambda turn: turn.hang()
    asked = ["priority", *["flex"] * 6]
    tasks = []
    for number, tier in enumerate(asked):
        tasks.append(asyncio.create_task(gateway.http.post("/chat/completions", json=named("x", service_tier=tier))))
        await gateway.becomes("running", min(number + 1, 3))
    await gateway.becomes("waiting", 4, "flex")
    tasks.append(asyncio.create_task(gateway.http.post("/chat/completions", json=named("x", service_tier="priority"))))
    await gateway.becomes("running", 2, "priority")
    assert await gateway.count("running", "flex") == 2 and not any(turn.gone.is_set() for turn in upstream.turns)
    for task in tasks:
        task.cancel()


async def test_pain_shares_are_counted_in_requests_not_in_tokens(line):
    """kubernetes-sigs/gateway-api-inference-extension#1797: fairness by what was served (VTC) is wanted.

    R8: who asks for 25 times the tokens waits for many small turns after each of his own, streamed or not.
    """
    small = line.gateway.caller((await line.gateway.new_key(project="small"))["secret"])
    await line.join(*(f"large{number}" for number in range(4)), service_tier="flex", max_tokens=100)
    await line.join(*(f"small{number}" for number in range(12)), caller=small, service_tier="flex", max_tokens=4)
    order = await line.served()
    ahead = order[: order.index("large2")]
    assert sum(name.startswith("small") for name in ahead) == 12
