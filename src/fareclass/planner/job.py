"""One request of a load, and what became of it."""

from fareclass.core.tiers import Tier
from fareclass.engine.sim_cache import Piece
from fareclass.engine.sim_sequence import Sequence
from fareclass.sched.ticket import Refuse


class Job:
    """One request of a load, and what became of it. Times in microseconds, sizes in tokens.

    `cache_read` of its prompt is cached wherever it goes. `delivered` is what its caller has got, `call` the sequence
    under way on `replica`, `gaps` the silences that pauses made in its stream. `served` is what it was admitted as:
    not `tier`, where that is reserved and its floor had no room (R21), but `overflow`.
    One that is not `movable` can't be continued; with `streamed` its first token reaches the caller at once.
    """

    __slots__ = (
        "arrival_us", "began_us", "busy_us", "cache_read", "cached", "call", "called", "delivered", "first_us", "gaps", "last_us", "max_tokens", "movable", "output",
        "overflow", "pauses", "pieces", "project", "prompt", "rank", "refused", "replica", "restarts", "run_us", "sent", "sent_us", "served", "started",
        "streamed", "tier", "whole_us",
    )  # fmt: skip

    def __init__(
        self,
        project: str,
        tier: Tier,
        arrival_us: int,
        prompt: int,
        output: int,
        *,
        max_tokens: int | None = None,
        movable: bool = True,
        streamed: bool = True,
        overflow: Tier = Tier.DEFAULT,
        cache_read: int = 0,
    ) -> None:
        self.project = project
        self.tier = tier
        self.arrival_us = arrival_us
        self.prompt = prompt
        self.output = output
        self.max_tokens = max_tokens
        self.movable = movable
        self.streamed = streamed
        self.overflow = overflow
        self.cache_read = cache_read
        self.served = self.rank = tier
        self.sent = False
        self.delivered = 0
        self.called = 0
        self.call: Sequence | None = None
        self.replica = 0
        self.run_us: int | None = None
        self.first_us: int | None = None
        self.last_us = 0
        self.whole_us: int | None = None
        self.refused: Refuse | None = None
        self.gaps: list[int] = []
        self.pauses = self.restarts = 0
        self.began_us = self.busy_us = 0
        self.sent_us: int | None = None
        self.started = False
        self.pieces: tuple[Piece, ...] = ()
        self.cached = 0
