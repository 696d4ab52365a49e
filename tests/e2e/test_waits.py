"""R14: every wait has a limit, and every refusal comes at once with the honest time to come back."""

import asyncio

import pytest

from tests.e2e.gateway import behind
from tests.e2e.test_engine_trouble import error
from tests.e2e.upstream import tell
from tests.engine.conftest import eventually


@pytest.fixture
async def full(upstream, launch):
    """One slot, taken by a request of tier priority until `release`; the tiers' limits are short."""
    tiers = {
        "flex": {"max_wait_s": 0.3},
        "default": {"max_wait_s": 2},
        "priority": {"max_wait_s": 0.4, "queue_limit": 1},
    }
    gateway = await launch(behind(upstream.url, slots=1, tiers=tiers))
    gateway.release = asyncio.Event()

    async def hold(turn):
        await gateway.release.wait()
        await tell(turn)

    upstream.play = hold
    task = asyncio.create_task(gateway.ask(service_tier="priority"))
    await upstream.next()
    yield gateway
    gateway.release.set()
    assert (await task).status_code == 200
    await gateway.idle()


async def test_r14_flex_that_waited_too_long_is_not_billed(full):
    answer = await full.ask(service_tier="flex", stream=True)
    assert (answer.status_code, error(answer)["code"]) == (429, "resource_unavailable")
    assert answer.headers["x-fareclass-served-tier"] == "flex"
    (row,) = [row for row in await full.recorded(1) if row["served_tier"] == "flex"]
    assert (row["outcome"], row["cost_pico"], row["started_us"]) == ("expired", 0, None)


async def test_r14_default_is_refused_at_once_where_the_wait_would_be_too_long(full, upstream):
    """The first stands in line for a second, so the next would wait for two: longer than anybody may. It is told when to
    come back.
    """
    first = asyncio.create_task(full.ask())

    async def too_long():
        return (await full.pool())["tiers"]["default"]["expected_wait_ms"] == 2_000

    await eventually(too_long)
    oldest_ms = {tier: shown["oldest_wait_ms"] for tier, shown in (await full.pool())["tiers"].items()}
    assert oldest_ms.pop("default") > 0 and set(oldest_ms.values()) == {0}
    answer = await full.ask()
    assert not first.done()
    assert (answer.status_code, error(answer)["code"]) == (503, "overloaded")
    assert int(answer.headers["retry-after-ms"]) >= 1000
    assert int(answer.headers["retry-after"]) == -(-int(answer.headers["retry-after-ms"]) // 1000)
    expired = await first
    assert (expired.status_code, error(expired)["code"]) == (503, "overloaded")
    rows = await full.recorded(2)
    assert sorted(row["outcome"] for row in rows if row["served_tier"] == "default") == ["expired", "shed"]
    assert len(upstream.turns) == 1


async def test_r14_a_line_has_a_bound(full):
    waits = asyncio.create_task(full.ask(service_tier="priority"))
    await full.becomes("waiting", 1)
    answer = await full.ask(service_tier="priority")
    assert (answer.status_code, error(answer)["code"]) == (503, "overloaded")
    assert "full" in error(answer)["message"] and int(answer.headers["retry-after"]) >= 1
    assert (await waits).status_code == 503


async def test_r7_the_better_tier_goes_first_whoever_came_first(full, upstream):
    """And each is told how long it stood in line."""
    full.release.clear()
    later = [asyncio.create_task(full.ask(service_tier=tier)) for tier in ("flex", "default")]
    await full.becomes("waiting", 2)
    later.append(asyncio.create_task(full.ask(service_tier="priority")))
    await full.becomes("waiting", 3)
    full.release.set()
    answers = await asyncio.gather(*later)
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert all(int(answer.headers["x-fareclass-queue-ms"]) > 0 for answer in answers)
    rows = [row for row in await full.recorded(4) if row["queue_ms"]]
    started = {row["served_tier"]: row["started_us"] for row in rows}
    assert started["priority"] < started["default"] < started["flex"]
    assert len(upstream.turns) == 4


async def test_r14_nobody_is_shed_by_a_guess_before_anything_was_measured(upstream, launch):
    """64 at once on four idle slots: all are answered, within the limit of 10 s."""
    gateway = await launch(behind(upstream.url))
    answers = await asyncio.gather(*(gateway.ask() for _ in range(64)))
    assert [answer.status_code for answer in answers] == [200] * 64
