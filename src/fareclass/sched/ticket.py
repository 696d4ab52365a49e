"""One request inside the scheduler, and what the scheduler decides about it."""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from fareclass.core.outcomes import Outcome
from fareclass.core.tiers import Tier

if TYPE_CHECKING:
    from fareclass.sched.fairness import Flow
    from fareclass.sched.line import Line
    from fareclass.sched.reserves import FloorAccount


class State(IntEnum):
    """Where a ticket is. docs/states.md draws who moves it from where to where."""

    NEW = 0
    WAITING = 1
    RUNNING = 2
    LEAVING = 3
    PAUSED = 4
    OUT = 5
    GONE = 6


NOWHERE: Mapping[str, int] = MappingProxyType({})
"""The holders of a prompt that no replica has cached."""


class Ticket:
    """One request inside the scheduler.

    The driver makes it, hands it to `Brain.offer`, and after that only the brain writes
    its fields. Times are in seconds of the driver's clock, tokens are counts.

    - `tier` is what it is sold as; `rank` where it stands in line (a closing batch or a
      burst beyond a floor ranks elsewhere than its tier, R8, R13).
    - `prompt_tokens` must be prefilled, less what a replica has cached: `holders` says
      how much each does (R16).
    - `streamed`: its call runs streamed upstream, so that its first token is seen.
    - `continuable`: its answer may be ended and continued (R11); may turn false later.
    - `sent`: a byte has reached its caller, so it can't start over.
    - `hold_tokens` is taken from its project's TPM at admission, `width` from its
      concurrency (R25, R49).
    - `floor_input` (hundredths of burn-down tokens) and `floor_output` (tokens) are what it
      would hold of a reservation; `floor` is the account that it did take them from (R20).
    - `sticky`: once started it can't be moved, or not for long; `fixed`: it runs so (R10).
    """

    __slots__ = (
        "arrival", "charged", "continuable", "deadline", "expires_at", "failed_on", "failures", "fixed", "floor",
        "floor_input", "floor_left", "floor_output", "flow", "fresh",
        "guarded", "held", "hold_tokens", "holders", "home", "id", "line", "made_tokens", "paused_at", "paused_s", "pauses",
        "pending_tokens", "project", "prompt_tokens", "protected_until", "rank", "replica", "restarts",
        "resumed", "roams", "sent", "seq", "size_bytes", "started_at", "state", "sticky", "streamed", "tier", "timer",
        "weight", "width", "yields",
    )  # fmt: skip

    def __init__(
        self,
        id: str,
        project: str,
        tier: Tier,
        *,
        prompt_tokens: int,
        rank: Tier | None = None,
        width: int = 1,
        weight: float = 1.0,
        hold_tokens: int = 0,
        floor_input: int = 0,
        floor_output: int = 0,
        continuable: bool = False,
        streamed: bool = True,
        holders: Mapping[str, int] = NOWHERE,
        size_bytes: int = 0,
        deadline: float | None = None,
    ) -> None:
        self.id = id
        self.project = project
        self.tier = tier
        self.rank = tier if rank is None else rank
        self.width = width
        self.weight = weight
        self.prompt_tokens = prompt_tokens
        self.holders = holders
        self.hold_tokens = hold_tokens
        self.floor_input = floor_input
        self.floor_output = floor_output
        self.continuable = continuable
        self.streamed = streamed
        self.size_bytes = size_bytes
        self.deadline = deadline

        self.state = State.NEW
        self.seq = 0
        self.arrival = 0.0
        self.expires_at = 0.0
        self.started_at = 0.0
        self.replica: str | None = None
        self.home: str | None = None
        self.roams = True
        self.sent = False
        self.resumed = False
        self.guarded = False
        self.made_tokens = 0
        self.pending_tokens = 0
        self.paused_at = 0.0
        self.paused_s = 0.0
        self.protected_until = 0.0
        self.pauses = 0
        self.restarts = 0
        self.yields = 0
        self.failures = 0
        self.failed_on: tuple[str, ...] = ()
        self.charged = False
        self.held = False
        self.floor: FloorAccount | None = None
        self.floor_left = 0
        self.sticky = False
        self.fixed = False
        self.flow: Flow | None = None
        self.fresh = False
        self.line: Line | None = None
        self.timer: int | None = None

    def end_pause(self, now: float) -> None:
        """Count the pause that it is in, if it is."""
        if self.state is State.PAUSED:
            self.paused_s += now - self.paused_at

    def __repr__(self) -> str:
        return f"<Ticket {self.id} {self.tier.word} {self.state.name.lower()} made={self.made_tokens}>"


class Start:
    """Open the ticket's call on `replica`; one that has `made_tokens` continues from there."""

    __slots__ = ("replica", "ticket")

    def __init__(self, ticket: Ticket, replica: str) -> None:
        self.ticket = ticket
        self.replica = replica


class Pause:
    """End the ticket's call at its next clean cut, keep what it made, then call `Brain.paused`."""

    __slots__ = ("ticket",)

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket


class Restart:
    """Drop the ticket's call at once and forget what it made; it stands in line again."""

    __slots__ = ("ticket",)

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket


class Refuse:
    """The ticket is out of line and slots, and why; `Brain.finish` still settles its hold. `hopeless`: coming
    back can't help. `retry_after_s` is the honest time to come back (R14).
    """

    __slots__ = ("code", "hopeless", "message", "outcome", "retry_after_s", "ticket")

    def __init__(
        self,
        ticket: Ticket,
        outcome: Outcome,
        message: str,
        retry_after_s: float | None = None,
        code: str | None = None,
        *,
        hopeless: bool = False,
    ) -> None:
        self.ticket = ticket
        self.hopeless = hopeless
        self.outcome = outcome
        self.message = message
        self.retry_after_s = retry_after_s
        self.code = code


Effect = Start | Pause | Restart | Refuse
