"""R19: what `fareclass bench capacity` finds is what the engine does."""

import pytest

from fareclass.engine.base import EngineFailed
from fareclass.engine.calibrate import Calibration, Decode, Prefill, batches, fit
from fareclass.engine.sim_replica import Speed
from fareclass.engine.simulated import SimulatedEngine


def test_the_fit_finds_the_speeds_behind_the_measurements() -> None:
    """What a request costs once is no part of the rate."""
    prefills = [Prefill(tokens, 0.050 + tokens / 4_000) for tokens in (100, 300, 900)]
    decodes = [Decode(batch, 0.008 + 0.0015 * batch) for batch in batches(16)]
    speed = fit(prefills, decodes)
    assert speed.prefill_tokens_s == pytest.approx(4_000)
    assert (speed.base_s, speed.sequence_s) == (pytest.approx(0.008), pytest.approx(0.0015))
    assert speed.input_tpm() in (239_999, 240_000)
    assert speed.output_tpm(16) in (29_999, 30_000)


def test_noise_never_makes_a_rate_negative() -> None:
    speed = fit([Prefill(100, 0.02), Prefill(200, 0.01)], [Decode(1, 0.02), Decode(2, 0.01)])
    assert speed.prefill_tokens_s == pytest.approx(20_000)
    assert speed.sequence_s == 0
    assert speed.base_s == pytest.approx(0.015)
    speed = fit([Prefill(100, 0.02)], [Decode(1, 0.01), Decode(2, 0.03)])
    assert speed.base_s == 0
    assert speed.sequence_s == pytest.approx(0.015)


def test_batches_double_up_to_all_slots() -> None:
    assert batches(1) == [1]
    assert batches(12) == [1, 2, 4, 8, 12]


async def test_an_engine_under_load_shows_its_speeds() -> None:
    """R19: on an engine whose speeds are known, through the same calls that a request makes."""
    speed = Speed(limit=6, base_us=4_000, sequence_us=4_000, prefill_tokens_s=5_000, chunk_tokens=256)
    engine, seen = SimulatedEngine(speed), []
    calibration = Calibration(engine, 4, 2_048, lambda: seen.append(1))
    found = await calibration.run()
    await engine.close()
    assert len(seen) == calibration.steps
    alone = 256 / speed.step_us(1, 256) * 1e6
    assert 0.5 * alone < found.prefill_tokens_s < 1.5 * alone
    full = 60 * 4 / speed.step_us(4, 0) * 1e6
    assert 0.5 * full < found.output_tpm(4) < 1.5 * full


async def test_answers_of_one_token_measure_nothing() -> None:
    engine = SimulatedEngine(Speed(limit=6, base_us=100, sequence_us=0), mean_tokens=1)
    with pytest.raises(EngineFailed, match="too short") as failed:
        await Calibration(_OneToken(engine), 4, 2_048, lambda: None).run()
    assert failed.value.reason == "broken"
    await engine.close()


class _OneToken:
    """An engine whose answers end with their first token."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self._engine = engine
        self.probe = engine.probe

    async def open(self, prompt):
        prompt.body["max_tokens"] = 1
        return await self._engine.open(prompt)
