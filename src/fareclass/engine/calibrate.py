"""What an engine does of each kind alone, measured by loading it: how fast it prefills, how long its steps are (R19)."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from fareclass.core.usage import Usage
from fareclass.engine.base import Call, Engine, EngineFailed, Prompt

LENGTHS: Final = (0.1, 0.2, 0.3, 0.5)
"""Prompt lengths that are measured, as shares of what the context holds."""
_UNKNOWN_CONTEXT: Final = 2_048
_LONGEST: Final = 8_192
_LOOKS: Final = 2
_SAMPLE_WORDS: Final = 64
_STEPS: Final = 24
_ROUNDS: Final = 12
_ANSWER_TOKENS: Final = 96


class Prefill(NamedTuple):
    """A prompt of so many tokens that nothing was cached of, and the time to its first token."""

    tokens: int
    seconds: float


class Decode(NamedTuple):
    """So many sequences at once, and the time from one token of each to the next."""

    batch: int
    step_s: float


class Speed(NamedTuple):
    """A replica's prefill rate, and its step time = `base_s` + `sequence_s` × sequences in it."""

    prefill_tokens_s: float
    base_s: float
    sequence_s: float

    def input_tpm(self) -> int:
        """Prompt tokens a minute, if it did nothing else."""
        return max(1, int(60 * self.prefill_tokens_s))

    def output_tpm(self, slots: int) -> int:
        """Output tokens a minute with every slot decoding, and nothing else."""
        return max(1, int(60 * slots / (self.base_s + self.sequence_s * slots)))


def fit(prefills: Sequence[Prefill], decodes: Sequence[Decode]) -> Speed:
    """The straight lines through what was measured; what every request costs once, such as the way there, drops out."""
    _, token_s = _line([(each.tokens, each.seconds) for each in prefills])
    if token_s <= 0:  # so fast that the noise is larger
        token_s = min(each.seconds / each.tokens for each in prefills)
    base_s, sequence_s = _line([(each.batch, each.step_s) for each in decodes])
    if sequence_s < 0:
        base_s, sequence_s = sum(each.step_s for each in decodes) / len(decodes), 0.0
    elif base_s < 0:
        base_s, sequence_s = 0.0, max(each.step_s / each.batch for each in decodes)
    return Speed(1 / token_s, base_s, sequence_s)


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Height at 0 and slope of the line of least squares; flat through a single point."""
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    return mean_y - slope * mean_x, slope


def batches(slots: int) -> list[int]:
    """Batch sizes that are measured: doubling from 1 up to all slots."""
    return sorted({min(slots, 2**power) for power in range(slots.bit_length() + 1)})


class Calibration:
    """One replica under load. `told` is called after each of `steps` measurements."""

    def __init__(self, engine: Engine, slots: int, context_tokens: int | None, told: Callable[[], None]) -> None:
        self._engine = engine
        self._slots = slots
        self._room = min(context_tokens or _UNKNOWN_CONTEXT, _LONGEST)
        self._told = told
        self._asked = 0

    @property
    def steps(self) -> int:
        return len(LENGTHS) * _LOOKS + len(batches(self._slots))

    async def run(self) -> Speed:
        """Measure and fit.

        Raises:
            EngineFailed: it went away, or does not say what it counted.
            EngineRefused: it does not take such requests.
        """
        await self._engine.probe()
        prefills = await self._prefills()
        return fit(prefills, [await self._decode(batch) for batch in batches(self._slots)])

    async def _prefills(self) -> list[Prefill]:
        sample = await self._prefill(_SAMPLE_WORDS)
        words = self._room * _SAMPLE_WORDS / sample.tokens
        found = []
        for share in LENGTHS:
            looks = []
            for _ in range(_LOOKS):
                looks.append(await self._prefill(int(words * share)))
                self._told()
            found.append(min(looks, key=lambda look: look.seconds / look.tokens))
        return found

    async def _prefill(self, words: int) -> Prefill:
        time = asyncio.get_running_loop().time
        start_s = time()
        call = await self._engine.open(self._prompt(words, max_tokens=1))
        try:
            first_s = 0.0
            async for _ in call:
                first_s = first_s or time() - start_s
            tokens = _counted(call).input
        finally:
            await call.close()
        if not tokens:
            raise EngineFailed("broken", "the engine says that it had a prompt cached which it never saw")
        return Prefill(tokens, first_s)

    async def _decode(self, batch: int) -> Decode:
        """Rounds of so many answers at once until enough steps were seen in which all took part."""
        tokens, seconds = 0, 0.0
        for _ in range(_ROUNDS):
            more = await self._round(batch)
            tokens, seconds = tokens + more[0], seconds + more[1]
            if tokens >= _STEPS * batch:
                self._told()
                return Decode(batch, seconds * batch / tokens)
        raise EngineFailed("broken", "the engine's answers are too short to measure how fast it makes tokens")

    async def _round(self, batch: int) -> tuple[int, float]:
        """Tokens made, and the time, from when the last of them had begun until the first one ended."""
        calls: list[Call] = []
        try:
            async with asyncio.TaskGroup() as group:
                opening = [
                    group.create_task(self._engine.open(self._prompt(8, max_tokens=_ANSWER_TOKENS + 2 * batch)))
                    for _ in range(batch)
                ]
            calls = [task.result() for task in opening]
            return await _together(calls)
        finally:
            await asyncio.gather(*(call.close() for call in calls))

    def _prompt(self, words: int, max_tokens: int) -> Prompt:
        """A prompt of its own from the first word on, so that none finds another's beginning cached."""
        self._asked += 1
        text = " ".join(str((self._asked * 7919 + number * 104_729) % 9_973) for number in range(words))
        body = {
            "messages": [{"role": "user", "content": f"{text} Tell a very long story with these numbers."}],
            "max_tokens": max_tokens,
        }
        return Prompt(path="/chat/completions", body=body, stream=True, rank=0, id=f"calibration-{self._asked}")


async def _together(calls: Sequence[Call]) -> tuple[int, float]:
    time = asyncio.get_running_loop().time
    waiting, begun_s, ended_s, begun_with, ended_with = len(calls), 0.0, 0.0, 0, 0

    async def read(call: Call) -> None:
        nonlocal waiting, begun_s, ended_s, begun_with, ended_with
        first = True
        async for _ in call:
            if first:
                first, waiting = False, waiting - 1
                if not waiting:
                    begun_s, begun_with = time(), sum(each.made_tokens for each in calls)
            if not waiting and not over.is_set():
                ended_s, ended_with = time(), sum(each.made_tokens for each in calls)
        over.set()

    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(read(call)) for call in calls]
        await asyncio.wait([group.create_task(over.wait()), *readers], return_when=asyncio.FIRST_COMPLETED)
        for reader in readers:
            reader.cancel()
    return ended_with - begun_with, ended_s - begun_s


def _counted(call: Call) -> Usage:
    if call.usage is None:
        raise EngineFailed("broken", "the engine does not say how many tokens a prompt has, so it can't be measured")
    return call.usage
