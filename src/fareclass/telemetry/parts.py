"""What the parts of a gateway are like, as metrics (R42)."""

from collections import Counter
from collections.abc import Callable, Sequence

from fareclass.core.tiers import TIERS, Tier
from fareclass.telemetry.counts import Counts
from fareclass.telemetry.states import BatchState, LedgerState, PoolState, TraceState
from fareclass.telemetry.text import Page, labels

_SIDES = ("input", "output")
_BY_TIER: tuple[tuple[str, str, Callable[[PoolState, Tier], float]], ...] = (
    ("queue_depth", "Requests that stand in line", lambda pool, tier: pool.queued.get(tier, 0)),
    ("paused_requests", "Requests in line that are paused (R11)", lambda pool, tier: pool.paused.get(tier, 0)),
    ("expected_wait_seconds", "What a request that came now would wait", lambda pool, tier: pool.wait_s.get(tier, 0)),
    ("running_slots", "Sequences that run", lambda pool, tier: pool.running.get(tier, 0)),
)


def add_pools(page: Page, pools: Sequence[PoolState]) -> None:
    """Lines, slots and replicas."""
    tiers = [(labels(model=pool.model, service_tier=tier.word), pool, tier) for pool in pools for tier in TIERS]
    for name, help_text, read in _BY_TIER:
        page.gauge(name, help_text, [(words, read(pool, tier)) for words, pool, tier in tiers])
    replicas = [(labels(model=pool.model, replica=replica), pool, replica) for pool in pools for replica in pool.slots]
    slots = [(words, pool.slots[replica]) for words, pool, replica in replicas]
    page.gauge("replica_slots", "Slots of a replica", slots)
    up = [(words, int(pool.up[replica])) for words, pool, replica in replicas]
    page.gauge("replica_up", "1 where a replica can serve", up)
    starts = [
        (labels(model=pool.model, reason=reason), count)
        for pool in pools
        for reason, count in (("floor", pool.floor_starts), ("gap_guard", pool.guard_starts))
    ]
    page.counter("out_of_order_starts", "Starts ahead of a better tier in line (R7)", starts)
    headroom = [(labels(model=pool.model), pool.headroom_slots) for pool in pools]
    page.gauge("headroom_slots", "Slots kept free of work that can't be moved (R10)", headroom)


def add_floors(page: Page, pools: Sequence[PoolState], counts: Counts) -> None:
    """What is reserved, and what of it is used: the second's rate over the first is the utilisation (R36)."""
    sold: Counter[tuple[str, str, str]] = Counter()
    for pool in pools:
        for project, floor in pool.floors.items():
            for side, tpm in zip(_SIDES, floor, strict=True):
                sold[pool.model, counts.label(project), side] += tpm
    floors = [(labels(model=model, project=project, side=side), tpm) for (model, project, side), tpm in sold.items()]
    page.gauge("floor_tokens_per_minute", "Reserved burn-down tokens a minute, in force now (R24)", floors)
    used = [
        (labels(model=model, project=project, side=side), tokens)
        for (model, project), sides in counts.floors_used().items()
        for side, tokens in zip(_SIDES, sides, strict=True)
    ]
    page.counter("floor_used_tokens", "Burn-down tokens served inside floors (R20)", used)
    kept = [(labels(model=pool.model), pool.kept_share) for pool in pools]
    page.gauge("floor_kept_share", "Share of all floors that the replicas which are up can keep (R23)", kept)


def add_batches(page: Page, batches: BatchState) -> None:
    """How many there are, and whether they end in time."""
    states = [(labels(state=state), count) for state, count in batches.count.items()]
    page.gauge("batches", "Batches that have not ended", states)
    page.gauge(
        "batches_at_risk", "Batches that need lines raised to end in their window (R13)", [("", batches.at_risk)]
    )
    page.gauge("batch_raised_lines", "Lines of batches that rank as default for that", [("", batches.raised)])
    left = [] if batches.window_s is None else [("", batches.window_s)]
    page.gauge("batch_window_left_seconds", "Until the window closes that closes first", left)


def add_waiting(page: Page, ledger: LedgerState, webhooks: int) -> None:
    """What waits for the disk, and for receivers of webhooks."""
    page.gauge("ledger_pending", "Entries that wait for the disk", [("", ledger.pending)])
    page.gauge("ledger_lag_seconds", "How long those at their head have been about to be written", [("", ledger.lag_s)])
    dropped = [("", ledger.dropped)]
    page.counter("ledger_dropped", "Entries of refused requests given up while too many waited", dropped)
    page.gauge("rollup_lag_seconds", "Since all minutes that were over were summed", [("", ledger.rollup_lag_s)])
    page.gauge("webhooks_waiting", "Events that wait for their receiver", [("", webhooks)])


def add_traces(page: Page, traces: TraceState) -> None:
    """What became of spans; what is neither delivered nor failed waits, or was dropped from a full queue."""
    states = (("made", traces.made), ("delivered", traces.delivered), ("failed", traces.failed))
    page.counter("trace_spans", "Spans since the start", [(labels(state=state), count) for state, count in states])
