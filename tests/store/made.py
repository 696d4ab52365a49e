"""Ledger entries for tests, and a disk that has no room for them."""

import itertools
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fareclass.core.events import Finished
from fareclass.core.outcomes import Outcome
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage

_NUMBERS = itertools.count(1)


def entry(**fields: Any) -> Finished:
    """A completed request with every field away from its default, unless the test says otherwise."""
    number = next(_NUMBERS)
    given: dict[str, Any] = {
        "id": f"req_{number}",
        "caller_id": f"caller-{number}",
        "project": "proj_a",
        "key": "key_a",
        "tags": '{"product":"search"}',
        "model": "smollm2",
        "endpoint": "/v1/chat/completions",
        "requested_tier": Tier.PRIORITY,
        "served_tier": Tier.FLEX,
        "outcome": Outcome.COMPLETED,
        "code": "ok",
        "streamed": True,
        "usage": Usage(input=1, cache_write_5m=2, cache_write_1h=3, cache_read=4, output=5),
        "estimated": True,
        "cost_pico": 1_500_000_000_001,
        "book_version": 7,
        "arrived_us": 1_000_000_000,
        "started_us": 1_000_000_001,
        "first_token_us": 1_000_000_002,
        "ended_us": 1_000_000_003,
        "queue_ms": 11,
        "paused_ms": 12,
        "pauses": 13,
        "restarts": 14,
        "replica": "r1",
        "longest_gap_ms": 15,
    }
    return Finished(**(given | fields))


@contextmanager
def disk_full() -> Iterator[None]:
    """No file of this process may grow, which is what a full disk looks like to SQLite."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
