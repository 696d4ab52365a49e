"""What the playground says that an answer costs."""

import pytest

from fareclass.console.pricing import price_of

BOOK = {
    "input": "0.6", "cache_write_5m": "0.75", "cache_write_1h": "1.2", "cache_read": "0.06", "output": "2.4",
    "tiers": {"reserved": "1", "priority": "1.75", "default": "1", "flex": "0.5", "batch": "0.5"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("tier", "price"), [("priority", "0.0021"), ("default", "0.0012"), ("flex", "0.0006"), ("reserved", "0")]
)
def test_each_tier_has_its_price(tier: str, price: str):
    """R33."""
    assert price_of(BOOK, tier, {"prompt_tokens": 400, "completion_tokens": 400}) == price


def test_what_came_from_the_cache_costs_a_tenth():
    """R32."""
    usage = {"prompt_tokens": 1_000, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 900}}
    assert price_of(BOOK, "default", usage) == "0.000114"


def test_without_a_price_book_nothing_is_known():
    assert price_of(None, "default", {"prompt_tokens": 1}) is None
