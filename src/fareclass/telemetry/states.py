"""What the parts of a gateway are like at the moment of a scrape."""

from collections.abc import Mapping

from msgspec import Struct

from fareclass.core.tiers import Tier


class PoolState(Struct, frozen=True, kw_only=True):
    """One model's pool. `slots` and `up` are by replica, `queued`, `paused`, `running` and `wait_s` by tier.

    `paused` ones are among the `queued`; `wait_s` is what a request that came now would wait. `floor_starts` and
    `guard_starts` count the exceptions to the strict order (R7). `floors` are those in force by project, in burn-down
    tokens a minute of input and output (R24); `kept_share` is what of them the replicas that are up can keep (R23).
    """

    model: str
    queued: Mapping[Tier, int]
    running: Mapping[Tier, int]
    slots: Mapping[str, int]
    up: Mapping[str, bool]
    floor_starts: int
    guard_starts: int
    paused: Mapping[Tier, int] = {}
    wait_s: Mapping[Tier, float] = {}
    floors: Mapping[str, tuple[int, int]] = {}
    kept_share: float = 1.0
    headroom_slots: int = 0


class LedgerState(Struct, frozen=True, kw_only=True):
    """The ledger: entries that wait for the disk, how long those at their head have, and those given up since the start.

    `rollup_lag_s` is how long ago all minutes that were over were summed.
    """

    pending: int
    dropped: int
    lag_s: float = 0.0
    rollup_lag_s: float = 0.0


class BatchState(Struct, frozen=True, kw_only=True):
    """All batches that have not ended, by state.

    `at_risk` are those that need lines raised to end within their window, `raised` these lines (R13). `window_s` is
    what is left of the window that closes first, None without any batch.
    """

    count: Mapping[str, int] = {}
    at_risk: int = 0
    raised: int = 0
    window_s: float | None = None


class TraceState(Struct, frozen=True, kw_only=True):
    """Spans since the start: `made`, taken by the collector, and refused by it or not to be brought there."""

    made: int = 0
    delivered: int = 0
    failed: int = 0
