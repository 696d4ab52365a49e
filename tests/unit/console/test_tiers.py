import pytest

from fareclass.console.pages.tiers import _times


@pytest.mark.parametrize(("shortest", "least"), [(6.1, 1.0), (10.0, 10.0), (643.0, 100.0), (0.0, 0.1)])
def test_the_scale_of_first_tokens_begins_below_the_shortest(shortest, least):
    rows = [
        {"served_tier": tier, "ttft_ms": {"p50": p50, "p95": 9_000.0}}
        for tier, p50 in (("flex", 5e3), ("default", shortest))
    ]
    assert _times(rows)["yAxis"]["min"] == least
    assert _times([])["yAxis"]["type"] == "log"
