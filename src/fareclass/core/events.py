"""What the core tells the rest of the program after the fact."""

import msgspec

from fareclass.core.outcomes import Outcome
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage


class Break(msgspec.Struct, frozen=True):
    """A time in which a request that had started had no replica: after a `pause`, `restart` or `failover` (R11, R46)."""

    kind: str
    from_us: int
    to_us: int


class Finished(msgspec.Struct, kw_only=True):
    """One request, ended: exactly one per request (R6). It is the ledger entry (R35) and feeds the metrics (R42).

    Times are microseconds since the epoch, None where the request never came so far.
    `usage` of a request without a first token holds its estimates, and `cost_pico` is 0.
    `estimated`: the engine gave no usage, so these counts are ours.
    `workload` is the key's (R41), `spilled` why a reserved request was served as another tier (R21), `escalated`
    whether a rule of its key raised its tier (R40).
    `width` is how many sequences it asked for (R49). `route` is what it named where `model` was picked for it (R45).
    `trace` names its span, `parent` the caller's, both as in `traceparent`; empty while no spans are made. `breaks` are
    the first few, for its spans alone.
    `prefix` are digests of the prompt's beginnings, each with its share of the prompt (R35).
    Projects, keys and models are ids or names; empty where the caller was not known.
    """

    id: str
    caller_id: str = ""
    project: str = ""
    key: str = ""
    tags: str = "{}"
    model: str = ""
    endpoint: str
    requested_tier: Tier = Tier.DEFAULT
    served_tier: Tier = Tier.DEFAULT
    outcome: Outcome
    code: str = ""
    streamed: bool = False
    usage: Usage = Usage()
    estimated: bool = False
    cost_pico: int = 0
    book_version: int = 0
    arrived_us: int
    started_us: int | None = None
    first_token_us: int | None = None
    ended_us: int
    queue_ms: int = 0
    paused_ms: int = 0
    pauses: int = 0
    restarts: int = 0
    replica: str = ""
    longest_gap_ms: int = 0
    workload: str = ""
    spilled: str = ""
    escalated: bool = False
    prefix: str = ""
    width: int = 1
    route: str = ""
    trace: str = ""
    parent: str = ""
    breaks: tuple[Break, ...] = ()
