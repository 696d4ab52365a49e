"""The ledger as a trace, out of both databases."""

from fareclass.core.outcomes import Outcome
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from fareclass.planner.trace import Arrival, read_ledger
from fareclass.store.database import Store
from fareclass.store.entries import EntryWriter
from tests.store.made import entry

FROM_US, TO_US = 1_000, 2_000


def test_everything_that_was_asked_for_in_a_span_comes_in_order_of_arrival(store: Store) -> None:
    """R35: refused and expired requests are demand, with their estimates; what could never run is none."""
    usage = Usage(input=1, cache_write_5m=2, cache_write_1h=3, cache_read=4, output=5)
    refused = {"first_token_us": None, "started_us": None, "usage": Usage(input=7, output=9)}
    EntryWriter(store.claim()).insert(
        [
            entry(arrived_us=1_500, ended_us=9_000, usage=usage),
            entry(arrived_us=1_000, ended_us=1_001, outcome=Outcome.THROTTLED, **refused),
            entry(arrived_us=1_999, ended_us=1_999, outcome=Outcome.EXPIRED, requested_tier=Tier.FLEX, **refused),
            entry(arrived_us=1_200, ended_us=1_200, outcome=Outcome.INVALID, **refused),
            entry(arrived_us=999, ended_us=1_600),
            entry(arrived_us=2_000, ended_us=2_100),
            entry(arrived_us=1_400, ended_us=1_500, project="proj_b"),
            entry(arrived_us=1_400, ended_us=1_500, model="other", streamed=False),
        ]
    )
    with store.read() as connection:
        everything = list(read_ledger(connection, from_us=FROM_US, to_us=TO_US))
        mine = list(read_ledger(connection, project="proj_a", model="smollm2", from_us=FROM_US, to_us=TO_US))
        other = list(read_ledger(connection, model="other", from_us=FROM_US, to_us=TO_US))
    assert mine == [
        Arrival(1_000, 7, 9, 0, "proj_a", "smollm2", Tier.PRIORITY),
        Arrival(1_500, 6, 5, 4, "proj_a", "smollm2", Tier.PRIORITY),
        Arrival(1_999, 7, 9, 0, "proj_a", "smollm2", Tier.FLEX),
    ]
    assert [arrival.at_us for arrival in everything] == [1_000, 1_400, 1_400, 1_500, 1_999]
    assert [arrival.streamed for arrival in other] == [False]
