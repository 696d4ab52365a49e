"""A replica that computes nothing but takes the time a real one would: pure, exact to the step, on a given clock.

It batches continuously, as vLLM and llama.cpp do: in every step each decoding sequence
gets one token, and the prompts in line share one chunk. Nothing here reads a clock, and
every time is a whole number of microseconds, so the same calls give the same answers to
the microsecond. Steps that look alike are taken in one stride, which is why minutes of a
large fleet cost seconds.
"""

import heapq
from collections import deque
from itertools import count

import msgspec

from fareclass.engine.sim_cache import Piece, PrefixCache


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulated replica can do.

    `limit` is how many sequences run at once (the gateway's slots + 2, R17). A step lasts
    `base_us` + `sequence_us` for each sequence in it + the time its chunk of prompt takes:
    at most `chunk_tokens`, first come, first served, at `prefill_tokens_s`. `kv_tokens` is
    the memory for contexts, running or cached, reused in whole blocks of `block_tokens`.
    A call that was given up computes on, and keeps its place, for `abort_us`.
    """

    limit: int = 18
    base_us: int = 8_000
    sequence_us: int = 1_500
    chunk_tokens: int = 512
    prefill_tokens_s: int = 20_000
    kv_tokens: int = 262_144
    block_tokens: int = 16
    abort_us: int = 100_000
    keeps_cut_prefill: bool = True

    def step_us(self, batch: int, chunk: int) -> int:
        """How long a step lasts in which `batch` sequences take part and `chunk` prompt tokens are computed."""
        return self.base_us + self.sequence_us * batch + chunk * 1_000_000 // self.prefill_tokens_s


class Sequence:
    """One sequence on a replica. The caller makes it; after `submit` only the replica writes its fields.

    `key` names its context for the prefix cache: a later sequence with the same key
    reuses what is left of it, if it says `reuses`; any sequence reuses the `pieces` of its prompt. `prompt_tokens` is all that must be in
    memory before the first new token, an answer's beginning included; `output_tokens` is
    how many it will make. `prefilled` counts prompt tokens really computed, `cached` those
    reused, `made` the tokens made once it has ended (before that ask `SimReplica.made`).
    """

    __slots__ = (
        "abort_us",
        "admitted_us",
        "cached",
        "ended",
        "first_step",
        "first_us",
        "key",
        "made",
        "output_tokens",
        "pieces",
        "prefilled",
        "prompt_tokens",
        "published",
        "rank",
        "reuses",
    )  # fmt: skip

    def __init__(
        self,
        key: object,
        prompt_tokens: int,
        output_tokens: int,
        *,
        reuses: bool = False,
        rank: int = 0,
        pieces: tuple[Piece, ...] = (),
    ) -> None:
        if prompt_tokens < 1 or output_tokens < 1:
            raise ValueError(f"a sequence has a prompt and an answer, not {prompt_tokens} and {output_tokens} tokens")
        self.key = key
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.reuses = reuses
        self.pieces = pieces
        self.published = 0
        self.rank = rank
        self.cached = 0
        self.prefilled = 0
        self.made = 0
        self.first_step = -1
        self.admitted_us: int | None = None
        self.first_us: int | None = None
        self.abort_us: int | None = None
        self.ended = False

    @property
    def peak_tokens(self) -> int:
        """Memory it takes at its end, which is kept for it from its start: it is never thrown out half-way."""
        return self.prompt_tokens + self.output_tokens


class Event(msgspec.Struct, frozen=True):
    """Something a caller sees: the first token of a sequence, or its last one (`finished`)."""

    at_us: int
    sequence: Sequence
    finished: bool


class SimReplica:
    """A continuous-batching engine. Times never go back; `advance` to a moment before acting at it.

    `computed_prompt` and `computed_output` count every token it worked out, wanted or not.
    """

    def __init__(self, speed: Speed) -> None:
        self.speed = speed
        self._cache = PrefixCache(speed.kv_tokens, speed.block_tokens)
        self._order = count()
        self._waiting: list[tuple[int, int, Sequence]] = []
        self._prefilling: deque[Sequence] = deque()
        self._finishing: list[tuple[int, int, Sequence]] = []
        self._aborting: deque[Sequence] = deque()
        self._running = 0
        self._decoding = 0
        self.computed_prompt = 0
        self.computed_output = 0
        self._steps = 0
        self._chunks: list[tuple[Sequence, int]] = []
        self._fresh = False
        self._step_us = 0
        self._step_end_us: int | None = None

    @property
    def running(self) -> int:
        """Sequences that hold a place, those given up but not yet noticed included."""
        return self._running

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def step_end_us(self) -> int | None:
        """When the step under way ends; None while there is nothing to do."""
        return self._step_end_us

    def submit(self, sequence: Sequence, now_us: int) -> None:
        """Put a sequence in line: smaller `rank` first, then first come. It is looked at when the next step starts.

        Raises:
            ValueError: its context can never fit into memory.
        """
        if sequence.peak_tokens > self.speed.kv_tokens:
            raise ValueError(f"{sequence.peak_tokens} tokens do not fit into a context of {self.speed.kv_tokens}")
        heapq.heappush(self._waiting, (sequence.rank, next(self._order), sequence))
        self._fresh = True
        if self._step_end_us is None:
            self._begin_step(now_us)

    def abort(self, sequence: Sequence, now_us: int) -> None:
        """Give a sequence up. It computes on until it is noticed, and tells nothing more. Idempotent."""
        if not sequence.ended and sequence.abort_us is None:
            sequence.abort_us = now_us + self.speed.abort_us
            self._aborting.append(sequence)

    def made(self, sequence: Sequence) -> int:
        """Tokens a sequence has made in the steps that have ended."""
        if sequence.ended or sequence.first_step < 0:
            return sequence.made
        return self._steps - sequence.first_step + 1

    def advance(self, until_us: int) -> list[Event]:
        """Run all steps that end at or before `until_us`; what callers saw, in order of time."""
        events: list[Event] = []
        while self._step_end_us is not None and self._step_end_us <= until_us:
            alike = min(self._alike_steps(), (until_us - self._step_end_us) // self._step_us + 1)
            if alike:
                self._steps += alike
                self.computed_output += alike * self._decoding
                self._step_end_us += alike * self._step_us
            else:
                self._end_step(self._step_end_us, events)
                self._begin_step(self._step_end_us)
        return events

    def next_event_us(self) -> int | None:
        """When something may next happen besides one more token for each, if nobody interferes."""
        if self._step_end_us is None:
            return None
        return self._step_end_us + self._alike_steps() * self._step_us

    def _alike_steps(self) -> int:
        """How many steps from the present one on end without changing who takes part in the next one."""
        if self._chunks or self._fresh:
            return 0
        assert self._step_end_us is not None
        alike = self._finishing[0][0] - self._steps - 1
        if self._aborting:
            abort_us = self._aborting[0].abort_us
            assert abort_us is not None
            alike = min(alike, max(0, -((self._step_end_us - abort_us) // self._step_us)))
        return alike

    def _begin_step(self, now_us: int) -> None:
        self._drop_aborted(now_us)
        self._admit(now_us)
        self._fresh = False
        budget = self.speed.chunk_tokens
        self._chunks.clear()
        for sequence in self._prefilling:
            if not budget:
                break
            tokens = min(budget, sequence.prompt_tokens - sequence.cached - sequence.prefilled)
            self._chunks.append((sequence, tokens))
            budget -= tokens
        batch = self._decoding + len(self._chunks)
        self._step_us = self.speed.step_us(batch, self.speed.chunk_tokens - budget)
        self._step_end_us = now_us + self._step_us if batch else None

    def _end_step(self, now_us: int, events: list[Event]) -> None:
        self._steps += 1
        self.computed_output += self._decoding
        for sequence, tokens in self._chunks:
            sequence.prefilled += tokens
            self.computed_prompt += tokens
            if sequence.cached + sequence.prefilled == sequence.prompt_tokens:
                self._prefilling.popleft()
                self._start_decoding(sequence, now_us, events)
        while self._finishing and self._finishing[0][0] <= self._steps:
            sequence = heapq.heappop(self._finishing)[2]
            if sequence.ended:
                continue
            if sequence.abort_us is None:
                events.append(Event(now_us, sequence, finished=True))
            self._leave(sequence)

    def _start_decoding(self, sequence: Sequence, now_us: int, events: list[Event]) -> None:
        sequence.first_us = now_us
        sequence.first_step = self._steps
        self._decoding += 1
        self.computed_output += 1
        sequence.published = self._cache.publish(sequence.pieces)
        last_step = self._steps + sequence.output_tokens - 1
        heapq.heappush(self._finishing, (last_step, next(self._order), sequence))
        if sequence.abort_us is None:
            events.append(Event(now_us, sequence, finished=False))

    def _admit(self, now_us: int) -> None:
        while self._waiting and self._running < self.speed.limit:
            sequence = self._waiting[0][2]
            cached = self._cache.take(
                sequence.key if sequence.reuses else None,
                sequence.pieces,
                sequence.prompt_tokens,
                sequence.peak_tokens,
            )
            if cached is None:
                return
            heapq.heappop(self._waiting)
            sequence.cached = cached
            sequence.admitted_us = now_us
            self._prefilling.append(sequence)
            self._running += 1

    def _drop_aborted(self, now_us: int) -> None:
        while self._aborting:
            sequence = self._aborting[0]
            assert sequence.abort_us is not None
            if not sequence.ended and sequence.abort_us > now_us:
                return
            self._aborting.popleft()
            if not sequence.ended:
                self._drop(sequence)

    def _drop(self, sequence: Sequence) -> None:
        if sequence.admitted_us is None:
            self._waiting = [entry for entry in self._waiting if entry[2] is not sequence]
            heapq.heapify(self._waiting)
            sequence.ended = True
            return
        if sequence.first_step < 0:
            self._prefilling.remove(sequence)
        self._leave(sequence)
        while self._finishing and self._finishing[0][2].ended:
            heapq.heappop(self._finishing)

    def _leave(self, sequence: Sequence) -> None:
        """Free its place; its context stays in the cache for whoever comes with the same key."""
        sequence.made = self.made(sequence)
        sequence.ended = True
        self._running -= 1
        whole = sequence.first_step >= 0
        self._decoding -= whole
        known = sequence.cached + sequence.prefilled + sequence.made
        keep = known if whole or self.speed.keeps_cut_prefill else sequence.cached
        pieces = () if sequence.published else sequence.pieces
        kept = keep - sequence.published
        self._cache.give_back(sequence.key, pieces, kept, sequence.peak_tokens - sequence.published)
