"""Ten thousand random schedules, every invariant checked after every step (R6, R7, R9, R11, R12, R14, R25, R46)."""

from collections import Counter

import pytest

from tests.sim.world import World

CHUNKS = 20
SCHEDULES_PER_CHUNK = 500
STEPS = 40


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_schedule_breaks_an_invariant(chunk: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(chunk * SCHEDULES_PER_CHUNK, (chunk + 1) * SCHEDULES_PER_CHUNK):
        world = World(seed)
        try:
            for _ in range(STEPS):
                world.step()
            world.drain()
        except AssertionError as broken:
            raise AssertionError(f"seed {seed} at t={world.now:.3f}: {broken}") from broken
        seen.update(world.reasons)
    # The dice must reach every kind of decision, or the test proves nothing.
    for kind in ("start", "pause", "restart", "throttled", "shed", "expired", "upstream_failed", "invalid"):
        assert seen[kind] > 10, (kind, seen)
