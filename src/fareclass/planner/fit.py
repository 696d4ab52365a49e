"""The speed of a real engine out of its own log: least squares through the simulator itself."""

from collections.abc import Sequence as Seq

import msgspec
import numpy as np
from numpy.typing import NDArray

from fareclass.engine.sim_replica import SimReplica, Speed
from fareclass.engine.sim_sequence import Sequence

FITTED = ("base_us", "context_ns", "prefill_tokens_s")
"""What is fitted of a `Speed`, each from above zero; the rest is how the engine is set.

Not `sequence_us`: on GPUs it is contexts that make large batches slow, and both at once can't be told apart.
"""
_ROUNDS = 8
_STEP = 0.05
"""By this share a parameter is moved to see what it does."""
_SHARES = (1.0, 0.5, 0.25, 0.1)
"""Of a step that makes it worse, less is tried."""
_FARTHEST = 0.5
"""In one round no parameter changes by more than this, as a logarithm."""


class Measured(msgspec.Struct, frozen=True):
    """One request as an engine's log has it. Times in microseconds since any one moment."""

    arrived_us: int
    first_us: int
    last_us: int
    input: int
    output: int


class Felt(msgspec.Struct, frozen=True):
    """What callers felt of requests, each an array in their order: seconds to the first token, between two, in all."""

    ttft_s: NDArray[np.float64]
    inter_token_s: NDArray[np.float64]
    whole_s: NDArray[np.float64]


def measured(requests: Seq[Measured]) -> Felt:
    """As they were on the real engine."""
    return _felt(requests, [(one.first_us, one.last_us) for one in requests])


def simulated(requests: Seq[Measured], speed: Speed) -> Felt:
    """The same requests, in order of arrival, on an engine of this speed."""
    replica = SimReplica(speed)
    sequences = {
        Sequence(number, max(1, one.input), max(1, one.output)): one.arrived_us for number, one in enumerate(requests)
    }
    first_us, last_us = [0] * len(requests), [0] * len(requests)
    for sequence, arrived_us in [*sequences.items(), (None, 1 << 60)]:
        for event in replica.advance(arrived_us):
            assert isinstance(event.sequence.key, int)
            (last_us if event.finished else first_us)[event.sequence.key] = event.at_us
        if sequence is not None:
            replica.submit(sequence, arrived_us)
    return _felt(requests, list(zip(first_us, last_us, strict=True)))


def fit(requests: Seq[Measured], start: Speed, count: int) -> Speed:
    """The speed from whose simulation the first `count` requests differ least: squares of logarithms, Gauss-Newton.

    All requests are simulated, since those behind press on those before. What is not `FITTED` stays as `start` has it.
    """
    truth = _logs(measured(requests), count)

    def off(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        return _logs(simulated(requests, _with(start, logs)), count) - truth

    logs = np.log([getattr(start, name) for name in FITTED])
    left, share = off(logs), 1.0
    for _ in range(_ROUNDS):
        slopes = np.stack([(off(logs + _STEP * unit) - left) / _STEP for unit in np.eye(len(FITTED))], axis=1)
        step = np.clip(np.linalg.lstsq(slopes, -left, rcond=None)[0], -_FARTHEST, _FARTHEST)
        for share in _SHARES:
            there = off(logs + share * step)
            if there @ there < left @ left:
                logs, left = logs + share * step, there
                break
    return _with(start, logs)


def _with(speed: Speed, logs: NDArray[np.float64]) -> Speed:
    return msgspec.structs.replace(
        speed, **{name: max(1, round(float(np.exp(log)))) for name, log in zip(FITTED, logs, strict=True)}
    )


def _felt(requests: Seq[Measured], times: Seq[tuple[int, int]]) -> Felt:
    first, last = np.array(times, dtype=np.float64).T / 1e6
    arrived = np.array([one.arrived_us for one in requests], dtype=np.float64) / 1e6
    steps = np.array([max(1, one.output - 1) for one in requests], dtype=np.float64)
    return Felt(first - arrived, (last - first) / steps, last - arrived)


def _logs(felt: Felt, count: int) -> NDArray[np.float64]:
    """Of one-token answers nothing is told between tokens: they count with 0, as they do on both sides."""
    parts = [np.log(np.maximum(each[:count], 1e-6)) for each in (felt.inter_token_s, felt.whole_s)]
    return np.concatenate(parts)
