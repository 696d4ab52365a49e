"""Whether batches end in time, for the metrics (R13, R42)."""

from collections import Counter
from collections.abc import Collection, Iterable

from fareclass.flow.batch_job import BatchJob
from fareclass.flow.clock import now_us
from fareclass.store.objects import BatchRow
from fareclass.telemetry.states import BatchState

STATES = ("checking", "waiting", "running", "finalizing")


def batch_state(waiting: Iterable[BatchRow], jobs: Collection[BatchJob]) -> BatchState:
    """Of batches whose turn has not come, and those whose has."""
    left = list(waiting)
    rows = [*left, *(job.row for job in jobs)]
    count = Counter(job.row.state for job in jobs) + Counter(waiting=len(left))
    return BatchState(
        count={state: count[state] for state in STATES},
        at_risk=sum(job.at_risk for job in jobs),
        raised=sum(job.raised for job in jobs),
        window_s=min(((row.deadline_us - now_us()) / 1e6 for row in rows), default=None),
    )
