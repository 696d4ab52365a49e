"""A replica that computes nothing but takes the time a real one would: pure, exact to the step, on a given clock.

It batches continuously, as vLLM and llama.cpp do: in every step each decoding sequence
gets one token, and the prompts in line share one chunk. Nothing here reads a clock, and
times are whole numbers, so the same calls give the same answers to the microsecond. Steps
that look alike are taken in one stride, however many they are: what costs time is what
happens, not how long it takes, so that minutes of a large fleet cost seconds.
"""

import heapq
from collections import deque
from itertools import count
from math import isqrt

import msgspec

from fareclass.engine.sim_cache import PrefixCache
from fareclass.engine.sim_sequence import Event, Sequence

_NEVER = 1 << 62
"""More steps than any replica takes."""


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulated replica can do.

    `limit` is how many sequences run at once (the gateway's slots + 2, R17). A step lasts
    `base_us` + `sequence_us` for each sequence in it + `context_ns` for each token that the decoding ones have before
    them (attention) + the time its chunk of prompt takes: at most `chunk_tokens`, first come, first served, at
    `prefill_tokens_s`. `kv_tokens` is the memory for contexts, running or cached, reused in whole blocks of
    `block_tokens`.
    A call that was given up computes on, and keeps its place, for `abort_us`. An engine that prepares its steps ahead
    takes a new sequence in `lead_steps` later than it could (vLLM's asynchronous scheduling: 1). One that `overcommits`
    keeps memory for what a sequence has, not for what it will have; when there is no more, the sequence that came last
    loses its context, and later computes it again (vLLM's preemption).
    """

    limit: int = 18
    base_us: int = 8_000
    sequence_us: int = 1_500
    context_ns: int = 0
    chunk_tokens: int = 512
    prefill_tokens_s: int = 20_000
    kv_tokens: int = 262_144
    block_tokens: int = 16
    abort_us: int = 100_000
    keeps_cut_prefill: bool = True
    lead_steps: int = 0
    overcommits: bool = False

    def step_us(self, batch: int, chunk: int) -> int:
        """How long a step lasts in which `batch` sequences take part and `chunk` prompt tokens are computed, attention aside."""
        return self.base_us + self.sequence_us * batch + chunk * 1_000_000 // self.prefill_tokens_s


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
        self._running: dict[Sequence, None] = {}
        self._decoding = 0
        self.computed_prompt = 0
        self.computed_output = 0
        self._steps = 0
        self._begun = 0
        self._chunks: list[tuple[Sequence, int]] = []
        self._context = 0
        self._fresh = False
        self._step_ns = 0
        self._growth_ns = 0
        self._end_ns: int | None = None
        self._alike = self._stop_ns = 0

    @property
    def running(self) -> int:
        """Sequences that hold a place, those given up but not yet noticed included."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def step_end_us(self) -> int | None:
        """When the step under way ends; None while there is nothing to do."""
        return None if self._end_ns is None else self._end_ns // 1_000

    def submit(self, sequence: Sequence, now_us: int) -> None:
        """Put a sequence in line: smaller `rank` first, then first come. It is looked at when the next step starts.

        Raises:
            ValueError: its context can never fit into memory.
        """
        if sequence.peak_tokens > self.speed.kv_tokens:
            raise ValueError(f"{sequence.peak_tokens} tokens do not fit into a context of {self.speed.kv_tokens}")
        sequence.from_step = self._begun + 1 + self.speed.lead_steps if self._end_ns is not None else 0
        heapq.heappush(self._waiting, (sequence.rank, next(self._order), sequence))
        self._fresh = True
        if self._end_ns is None:
            self._begin_step(now_us * 1_000)
        else:
            self._alike, self._stop_ns = 0, self._end_ns

    def abort(self, sequence: Sequence, now_us: int) -> None:
        """Give a sequence up. It computes on until it is noticed, and tells nothing more. Idempotent."""
        if not sequence.ended and sequence.abort_us is None:
            sequence.abort_us = now_us + self.speed.abort_us
            self._aborting.append(sequence)
            self._plan()

    def made(self, sequence: Sequence) -> int:
        """Tokens a sequence has made in the steps that have ended."""
        if sequence.ended or sequence.first_step < 0:
            return sequence.made
        return sequence.lost + self._steps - sequence.first_step + 1

    def advance(self, until_us: int) -> list[Event]:
        """Run all steps that end at or before `until_us`; what callers saw, in order of time."""
        events: list[Event] = []
        until_ns = until_us * 1_000 + 999
        while self._end_ns is not None and self._end_ns <= until_ns:
            if self._stop_ns > until_ns:
                self._stride(self._ends_until(until_ns))
                break
            if self._alike:
                self._stride(self._alike)
            self._end_step(self._stop_ns // 1_000, events)
            self._begin_step(self._stop_ns)
        return events

    def next_event_us(self) -> int | None:
        """When something may next happen besides one more token for each, if nobody interferes."""
        return None if self._end_ns is None else self._stop_ns // 1_000

    def _stride(self, steps: int) -> None:
        """Take so many steps from the present one on, all of which end alike."""
        self._end_ns = self._end_after(steps)
        self._alike -= steps
        self._begun += steps
        self._step_ns += steps * self._growth_ns
        self._steps += steps
        made = steps * self._decoding
        self.computed_output += made
        self._context += made
        if self.speed.overcommits:
            self._cache.grow(made)
        for sequence, tokens in self._chunks:
            sequence.prefilled += steps * tokens
            self.computed_prompt += steps * tokens

    def _plan(self) -> None:
        """Work out which step is the next that does not end like the present one, and when it ends."""
        if self._end_ns is not None:
            self._alike = self._alike_steps()
            self._stop_ns = self._end_after(self._alike) if self._alike else self._end_ns

    def _end_after(self, steps: int) -> int:
        """When the step ends that follows so many like the present one, in nanoseconds."""
        assert self._end_ns is not None
        return self._end_ns + steps * self._step_ns + self._growth_ns * steps * (steps + 1) // 2

    def _ends_until(self, until_ns: int) -> int:
        """How many steps like the present one end by then, this one included."""
        assert self._end_ns is not None
        left = until_ns - self._end_ns
        if left < 0:
            return 0
        growth = self._growth_ns
        if not growth:
            return left // self._step_ns + 1
        linear = 2 * self._step_ns + growth  # steps² × growth + steps × linear ≤ 2 × left
        return (isqrt(linear * linear + 8 * growth * left) - linear) // (2 * growth) + 1

    def _alike_steps(self) -> int:
        """How many steps from the present one on end without changing who takes part in the next one, and how."""
        if self._fresh:
            return 0
        alike = self._finishing[0][0] - self._steps - 1 if self._finishing else _NEVER
        if self._chunks:
            sequence, tokens = self._chunks[0]
            if tokens < self.speed.chunk_tokens:
                return 0
            left = sequence.prompt_tokens - sequence.cached - sequence.prefilled - tokens
            alike = min(alike, left // tokens)
        if self.speed.overcommits and self._decoding:
            alike = min(alike, self._cache.free // self._decoding)
        if alike > 0 and self._aborting:
            abort_us = self._aborting[0].abort_us
            assert abort_us is not None
            alike = min(alike, self._ends_until(abort_us * 1_000 - 1))
        return alike

    def _begin_step(self, now_ns: int) -> None:
        now_us = now_ns // 1_000
        if self._aborting:
            self._drop_aborted(now_us)
        self._begun += 1
        self._fresh = False
        short = self.speed.overcommits and self._make_room()
        if self._waiting and not short:
            self._admit(now_us)
        speed = self.speed
        chunk, chunks = 0, self._chunks
        chunks.clear()
        for sequence in self._prefilling:
            left = speed.chunk_tokens - chunk
            if not left:
                break
            tokens = min(left, sequence.prompt_tokens - sequence.cached - sequence.prefilled)
            chunks.append((sequence, tokens))
            chunk += tokens
        batch = self._decoding + len(chunks)
        self._step_ns = speed.step_us(batch, chunk) * 1_000 + speed.context_ns * self._context
        self._growth_ns = speed.context_ns * self._decoding
        self._end_ns = now_ns + self._step_ns if batch else None
        self._plan()

    def _end_step(self, now_us: int, events: list[Event]) -> None:
        self._steps += 1
        self.computed_output += self._decoding
        self._context += self._decoding
        for sequence, tokens in self._chunks:
            sequence.prefilled += tokens
            self.computed_prompt += tokens
            if sequence.cached + sequence.prefilled == sequence.prompt_tokens:
                self._prefilling.popleft()
                self._start_decoding(sequence, now_us, events)
        while self._finishing and self._finishing[0][0] <= self._steps:
            last_step, _, sequence = heapq.heappop(self._finishing)
            if sequence.ended or sequence.last_step != last_step:
                continue
            if sequence.abort_us is None:
                events.append(Event(now_us, sequence, finished=True))
            self._leave(sequence)

    def _start_decoding(self, sequence: Sequence, now_us: int, events: list[Event]) -> None:
        sequence.first_us = now_us
        sequence.first_step = self._steps
        self._decoding += 1
        self._context += sequence.prompt_tokens + 1
        self.computed_output += 1
        sequence.published = self._cache.publish(sequence.pieces)
        sequence.last_step = self._steps + sequence.output_tokens - 1
        heapq.heappush(self._finishing, (sequence.last_step, next(self._order), sequence))
        if sequence.abort_us is None and not sequence.lost:
            events.append(Event(now_us, sequence, finished=False))

    def _admit(self, now_us: int) -> None:
        while self._waiting and len(self._running) < self.speed.limit:
            sequence = self._waiting[0][2]
            if sequence.from_step > self._begun and self._running:
                self._fresh = True
                return
            cached = self._cache.take(
                sequence.key if sequence.reuses else None,
                sequence.pieces,
                sequence.prompt_tokens,
                self._held(sequence),
            )
            if cached is None:
                return
            heapq.heappop(self._waiting)
            sequence.cached = max(cached, min(sequence.known, sequence.prompt_tokens - 1))
            sequence.admitted_us = now_us
            self._prefilling.append(sequence)
            self._running[sequence] = None

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
        self._vacate(sequence, sequence.made - sequence.lost)

    def _vacate(self, sequence: Sequence, made: int) -> None:
        held = self._held(sequence)
        del self._running[sequence]
        whole = sequence.first_step >= 0
        known = sequence.cached + sequence.prefilled + made
        if whole:
            self._decoding -= 1
            self._context -= known
        keep = known if whole or self.speed.keeps_cut_prefill else sequence.cached
        pieces = () if sequence.published else sequence.pieces
        kept = keep - sequence.published
        self._cache.give_back(sequence.key, pieces, kept, held - sequence.published)

    def _held(self, sequence: Sequence) -> int:
        """Memory that is kept for it now."""
        if not self.speed.overcommits:
            return sequence.peak_tokens
        return sequence.prompt_tokens + max(1, self.made(sequence) - sequence.lost)

    def _make_room(self) -> bool:
        """Keep memory for the tokens of the next step; where there is none, who came last loses his context.

        He comes first when there is room again. Whether anybody did.
        """
        short = False
        while self._cache.free < self._decoding:
            self._throw_out(next(reversed(self._running)))
            short = True
        self._cache.grow(self._decoding)
        return short

    def _throw_out(self, sequence: Sequence) -> None:
        made = self.made(sequence)
        new = made - sequence.lost
        if sequence.first_step < 0:
            self._prefilling.remove(sequence)
        self._vacate(sequence, new)
        sequence.prompt_tokens += new
        sequence.output_tokens -= new
        sequence.made = sequence.lost = made
        sequence.cached = sequence.prefilled = sequence.published = 0
        sequence.first_step = sequence.last_step = -1
        sequence.admitted_us = None
        heapq.heappush(self._waiting, (sequence.rank, -next(self._order), sequence))
        self._fresh = True
