"""What the walk of a request needs of the wire: where its answer goes, in the caller's own dialect."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from fareclass.core.outcomes import Refusal
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from fareclass.sched.buckets import Bucket


class Allowance(msgspec.Struct, frozen=True):
    """One limit per minute as its caller is told of it (R27): `remaining` after this request's hold, and in how many
    microseconds all of it is there again if nothing more is asked.
    """

    limit: int
    remaining: int
    reset_us: int

    @classmethod
    def of(cls, bucket: Bucket) -> "Allowance":
        """What a bucket shows at its last refill; debt shows as nothing left."""
        return cls(bucket.per_minute, max(0, bucket.tokens), bucket.full_us)

    @classmethod
    def both(cls, one: "Allowance", other: "Allowance", per_token: int) -> "Allowance":
        """Two sides of one floor, which are counted in `per_token` of a token: together, as APIs have one number."""
        limit, remaining = one.limit + other.limit, one.remaining + other.remaining
        return cls(limit // per_token, remaining // per_token, max(one.reset_us, other.reset_us))


class Allowances(msgspec.Struct, frozen=True, kw_only=True):
    """The limits that a request came under, each None where there is none. Each API has its own names for them."""

    requests: Allowance | None = None
    tokens: Allowance | None = None


class Served(msgspec.Struct, kw_only=True):
    """What an answer tells about how it was served (R4), known when it starts; `prompt_tokens` is an estimate.

    `route` is what picked the `model`, where the caller named one, and `missed` are its wishes that could not be met.
    """

    request_id: str
    requested: Tier
    served: Tier
    queue_ms: int
    replica: str
    model: str
    upstream_model: str
    dropped: tuple[str, ...] = ()
    spilled: str = ""
    escalated: str = ""
    allowances: Allowances | None = None
    prompt_tokens: int = 0
    route: str = ""
    missed: tuple[str, ...] = ()


Translated = tuple[list[tuple[bytes, bytes]], bytes]
"""An answer that is not streamed, in the caller's API: the headers that only it has, and its body."""


class Reply(Protocol):
    """The caller's side of one request. Called in this order: `start`, `relay`*, then exactly one of
    `end` and `refuse`; or `translated`, then `whole` or `refuse`; or `refuse` alone.

    Every method raises `ConnectionError` once the caller has gone. `billed` is set when the answer is whole and its entry
    on the way to the ledger.
    """

    billed: bool

    @property
    def gone(self) -> bool:
        """Whether the caller has hung up."""

    @property
    def started(self) -> bool:
        """Whether a byte has left: from then on a refusal is an error event."""

    async def start(self, served: Served) -> None:
        """Status and headers of a stream."""

    async def relay(self, events: bytes) -> None:
        """Whole server-sent events from the engine, with the served tier put into each."""

    def continued(self) -> None:
        """The next events come from another upstream call that continues the answer: its id stays unseen (R11)."""

    async def cut(self, choices: Sequence[int]) -> None:
        """These sequences of a stream end here as if `max_tokens` were reached; `end` follows (R26)."""

    async def comment(self) -> None:
        """A comment line that keeps a paused stream alive (R11)."""

    async def end(self, usage: Usage) -> None:
        """The last bytes of a stream: usage if the caller asked for it, then the end mark."""

    def translated(self, served: Served, body: bytes, usage: Usage) -> Translated:
        """An answer that is not streamed, out of OpenAI's words, and what it used.

        Raises:
            Refusal: `upstream_failed`: what the engine said is no answer.
        """

    async def whole(self, served: Served, answer: Translated) -> None:
        """Such an answer, which is to be sent."""

    async def refuse(self, refusal: Refusal, served: Served | None = None) -> None:
        """The refusal in the dialect's own form: as a response, or as an event once started."""
