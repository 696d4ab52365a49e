"""R32, R33, R34: prices are exact, for every kind and tier."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fareclass.config import Price
from fareclass.core.money import usd
from fareclass.core.snapshot import PriceBook
from fareclass.core.tiers import TIERS, Tier
from fareclass.core.usage import KINDS, Usage
from fareclass.metering.pricing import PriceError, compile_book, cost, free_book

FACTORS = (Decimal(1), Decimal("1.75"), Decimal(1), Decimal("0.5"), Decimal("0.5"))
SIMPLE = Price(input=Decimal("0.60"), output=Decimal("2.40"))

Made = tuple[list[Decimal], list[Decimal], PriceBook]
prices = st.decimals(min_value=0, max_value=1000, places=3)
factors = st.decimals(min_value=0, max_value=10, places=2)
counts = st.integers(min_value=0, max_value=10_000_000)
usages = st.builds(Usage, **dict.fromkeys(KINDS, counts))
books = st.builds(
    lambda price, factor: ([*price], [*factor], compile_book("m", 1, price, factor)),
    st.lists(prices, min_size=len(KINDS), max_size=len(KINDS)),
    st.lists(factors, min_size=len(TIERS), max_size=len(TIERS)),
)


@given(books, usages)
def test_cost_is_exact_for_every_kind_and_tier(made: Made, usage: Usage) -> None:
    """R34: against fractions, which know no rounding."""
    price, factor, book = made
    for tier in TIERS:
        exact = sum(
            Fraction(price[place]) * Fraction(factor[tier]) * getattr(usage, kind) / 10**6
            for place, kind in enumerate(KINDS)
        )
        expected = 0 if tier is Tier.RESERVED else exact * 10**12
        assert cost(book, tier, usage) == expected


@given(books, usages, usages)
def test_cost_is_linear(made: Made, one: Usage, other: Usage) -> None:
    """R34: the sum of an invoice's lines is the invoice."""
    book = made[2]
    both = Usage(**{kind: getattr(one, kind) + getattr(other, kind) for kind in KINDS})
    for tier in TIERS:
        assert cost(book, tier, both) == cost(book, tier, one) + cost(book, tier, other)


@pytest.mark.parametrize(
    ("tier", "expected"),
    [
        (Tier.RESERVED, ("0", "0", "0", "0", "0")),
        (Tier.PRIORITY, ("1.05", "1.3125", "2.1", "0.105", "4.2")),
        (Tier.DEFAULT, ("0.6", "0.75", "1.2", "0.06", "2.4")),
        (Tier.FLEX, ("0.3", "0.375", "0.6", "0.03", "1.2")),
        (Tier.BATCH, ("0.3", "0.375", "0.6", "0.03", "1.2")),
    ],
)
def test_price_of_a_million_tokens(tier: Tier, expected: tuple[str, ...]) -> None:
    """R32, R33: the defaults; a cache read is 10 % of the served tier's own input price."""
    book = compile_book("m", 1, SIMPLE.kinds(), FACTORS)
    shown = tuple(usd(cost(book, tier, Usage(**{kind: 1_000_000}))) for kind in KINDS)
    assert shown == expected


@pytest.mark.parametrize(
    ("price", "factors", "field", "message"),
    [
        (Price(input=Decimal("0.000004"), output=Decimal(1)), FACTORS, "cache_write_5m", "cache_write_5m at tier"),
        (Price(input=Decimal(1), output=Decimal("0.000001")), FACTORS, "output", "output at tier priority"),
        (Price(input=Decimal(-1), output=Decimal(1)), FACTORS, "input", "from 0 to"),
        (Price(input=Decimal(1), output=Decimal("NaN")), FACTORS, "output", "from 0 to"),
        (Price(input=Decimal(1), output=Decimal("1e7")), FACTORS, "output", "from 0 to"),
        (Price(input=Decimal(1), output=Decimal(90_000)), FACTORS, "output", "output at tier priority is more than"),
        (SIMPLE, (*FACTORS[:3], Decimal("Infinity"), FACTORS[4]), "tiers.flex", "from 0 to"),
    ],
)
def test_a_price_that_can_not_be_is_refused(
    price: Price, factors: tuple[Decimal, ...], field: str, message: str
) -> None:
    """R34: naming field and tier."""
    with pytest.raises(PriceError, match=message) as refused:
        compile_book("m", 1, price.kinds(), factors)
    assert refused.value.field == field


def test_a_model_without_a_price_costs_nothing() -> None:
    assert cost(free_book("m"), Tier.PRIORITY, Usage(input=10**9, output=10**9)) == 0
