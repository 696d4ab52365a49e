"""Five thousand random schedules, every invariant checked after every step (R6, R7, R9, R11, R12, R14, R25, R46).

Where there is time: eleven times as many more, and some that go on for longer.
"""

from collections import Counter
from collections.abc import Iterable

import pytest

from tests.sim.world import World

CHUNKS = 10
MORE_CHUNKS = 110
SCHEDULES_PER_CHUNK = 500
STEPS = 40
LONG_CHUNKS = 20
LONG_PER_CHUNK = 25
LONG_STEPS = 600
LONG_FIRST_SEED = 1_000_000


def play(seeds: Iterable[int], steps: int) -> Counter[str]:
    """What the brain decided, by kind, in schedules of so many steps that all ran to their end."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        world = World(seed)
        try:
            for _ in range(steps):
                world.step()
            world.drain()
        except AssertionError as broken:
            raise AssertionError(f"seed {seed} at t={world.now:.3f}: {broken}") from broken
        seen.update(world.reasons)
    return seen


def play_chunk(chunk: int) -> None:
    seen = play(range(chunk * SCHEDULES_PER_CHUNK, (chunk + 1) * SCHEDULES_PER_CHUNK), STEPS)
    # The dice must reach every kind of decision, or the test proves nothing.
    for kind in (
        "reserved",
        "spilled",
        "headroom",
        "start",
        "pause",
        "restart",
        "throttled",
        "shed",
        "expired",
        "upstream_failed",
        "invalid",
    ):
        assert seen[kind] > 10, (kind, seen)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_schedule_breaks_an_invariant(chunk: int) -> None:
    play_chunk(chunk)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS, CHUNKS + MORE_CHUNKS))
def test_no_schedule_of_many_more_breaks_an_invariant(chunk: int) -> None:
    play_chunk(chunk)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(LONG_CHUNKS))
def test_no_long_schedule_breaks_an_invariant(chunk: int) -> None:
    """Tickets that were paused, restarted and moved many times, and replicas that failed and came back."""
    first = LONG_FIRST_SEED + chunk * LONG_PER_CHUNK
    play(range(first, first + LONG_PER_CHUNK), LONG_STEPS)
