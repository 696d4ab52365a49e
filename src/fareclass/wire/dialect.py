"""What an API must say for itself: how its calls are read, and how answers and refusals look in it. All of it pure."""

from collections.abc import Sequence
from typing import Protocol

from fareclass.core.outcomes import Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Key
from fareclass.core.usage import Usage
from fareclass.flow.reply import Served
from fareclass.wire.arrival import Arrival
from fareclass.wire.errors import Headers


class Dialect(Protocol):
    """One request's side of one API: what the engine says in OpenAI's words becomes bytes for the caller.

    The calls come in this order: `begin`, `events`*, then one of `end` and `broken`; or `whole` alone; or `refused`
    alone. What is empty is not sent. `comment` keeps a silent stream alive.
    """

    @property
    def stream_headers(self) -> Headers: ...
    @property
    def comment(self) -> bytes: ...

    def headers(self, served: Served) -> Headers:
        """Headers of this API's own, beside those that every answer has (R4, R27)."""

    def begin(self, served: Served) -> bytes:
        """What a stream begins with, before its first token."""

    def events(self, events: bytes) -> bytes:
        """Whole server-sent events of an OpenAI chat (or completion) stream."""

    def continued(self) -> None:
        """The next events come from another upstream call that continues the answer (R11)."""

    def cut(self, choices: Sequence[int]) -> bytes:
        """These sequences end here as if `max_tokens` were reached; `end` follows (R26)."""

    def end(self, usage: Usage) -> bytes:
        """The last bytes of a stream."""

    def whole(self, served: Served, body: bytes, usage: Usage) -> tuple[Headers, bytes]:
        """An OpenAI answer in one piece, with the headers that only such an answer has."""

    def refused(self, refusal: Refusal, served: Served | None) -> tuple[int, Headers, bytes]:
        """Status, headers and body of a refusal (section 11)."""

    def broken(self, refusal: Refusal, served: Served | None) -> bytes:
        """A refusal once the stream has begun: its last event."""


class Endpoint(Protocol):
    """One generating call of one API. `name` is its name in ledger and metrics."""

    @property
    def name(self) -> str: ...

    def parse(self, raw: bytes, arrival: Arrival, key: Key) -> Request:
        """Understand a request body (R1, R49, R50); `key` is the one that it was sent with.

        Raises:
            Refusal: `invalid`, with the path of the offending field in `param`.
        """

    def dialect(self, arrival: Arrival, request: Request | None) -> Dialect:
        """The dialect of one request; None for one that was refused before it was understood."""
