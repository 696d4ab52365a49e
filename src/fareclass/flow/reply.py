"""What the walk of a request needs of the wire: where its answer goes, in the caller's own dialect."""

from typing import Protocol

import msgspec

from fareclass.core.outcomes import Refusal
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage


class Served(msgspec.Struct, kw_only=True):
    """What an answer tells about how it was served (R4), known when it starts."""

    request_id: str
    requested: Tier
    served: Tier
    queue_ms: int
    replica: str
    model: str
    upstream_model: str
    dropped: tuple[str, ...] = ()


class Reply(Protocol):
    """The caller's side of one request. Called in this order: `start`, `relay`*, then exactly one of
    `end` and `refuse`; or `whole` alone; or `refuse` alone.

    Every method raises `ConnectionError` once the caller has gone.
    """

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

    async def comment(self) -> None:
        """A comment line that keeps a paused stream alive (R11)."""

    async def end(self, usage: Usage) -> None:
        """The last bytes of a stream: usage if the caller asked for it, then the end mark."""

    async def whole(self, served: Served, body: bytes) -> None:
        """An answer that is not streamed."""

    async def refuse(self, refusal: Refusal, served: Served | None = None) -> None:
        """The refusal in the dialect's own form: as a response, or as an event once started."""
