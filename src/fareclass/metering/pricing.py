"""Prices, exactly: decimals in, integers of 10⁻¹² USD per token out (R32, R33, R34). Pure."""

from collections.abc import Sequence
from decimal import Decimal

from fareclass.core.limits import PRICE_USD, RESERVED_PRICE_USD
from fareclass.core.money import per_reserved_minute, per_token
from fareclass.core.snapshot import PriceBook
from fareclass.core.tiers import TIERS, Tier
from fareclass.core.usage import KINDS, Usage

RESERVED = ("reserved_input", "reserved_output")
"""The two prices of a reservation."""


class PriceError(ValueError):
    """A price that can't be used. `field` is the kind of price or `tiers.<tier>` whose number is at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def compile_book(
    model: str,
    version: int,
    prices: Sequence[Decimal],
    multipliers: Sequence[Decimal],
    reserved: Sequence[Decimal] = (Decimal(0), Decimal(0)),
) -> PriceBook:
    """A model's price book from USD per 1 M tokens at tier default, one price per kind of `KINDS`, one multiplier per tier.

    Tier `reserved` has no price per token: `reserved` are USD an hour for each 1,000 tokens a minute of input and of
    output (R33). A cache read costs its share of the *served* tier's own input price (R32).

    Raises:
        PriceError: a price × multiplier is negative, beyond `PRICE_USD`, or no whole number of 10⁻¹² USD (R34).
    """
    reserved_input, reserved_output = map(_reserved, RESERVED, reserved)
    return PriceBook(
        model=model,
        version=version,
        rates=tuple(
            tuple(_rate(kind, price, tier, factor) for kind, price in zip(KINDS, prices, strict=True))
            for tier, factor in zip(TIERS, multipliers, strict=True)
        ),
        reserved_input=reserved_input,
        reserved_output=reserved_output,
    )


def free_book(model: str) -> PriceBook:
    """What a model without a price costs: nothing. Version 0."""
    return compile_book(model, 0, [Decimal(0)] * len(KINDS), [Decimal(1)] * len(TIERS))


def cost(book: PriceBook, tier: Tier, usage: Usage) -> int:
    """What a request costs at its served tier, in 10⁻¹² USD (R5, R34)."""
    kind = book.rates[tier]
    return (
        usage.input * kind[0]
        + usage.cache_write_5m * kind[1]
        + usage.cache_write_1h * kind[2]
        + usage.cache_read * kind[3]
        + usage.output * kind[4]
    )


def minute_fee(book: PriceBook, input_tpm: int, output_tpm: int) -> int:
    """What a reservation costs for each minute in force, in 10⁻¹² USD (R18)."""
    return input_tpm * book.reserved_input + output_tpm * book.reserved_output


def check_number(field: str, number: Decimal) -> None:
    """Refuse what no price or multiplier can be, before anything is computed with it.

    Raises:
        PriceError: not finite, negative, beyond `PRICE_USD`, or of more than 12 decimals.
    """
    if not (number.is_finite() and 0 <= number <= PRICE_USD):
        raise PriceError(field, f"{field} must be a number from 0 to {PRICE_USD}")
    if int(number.as_tuple().exponent) < -12:
        raise PriceError(field, f"{field} may have at most 12 decimals")


def _rate(kind: str, price: Decimal, tier: Tier, factor: Decimal) -> int:
    check_number(kind, price)
    check_number(f"tiers.{tier.word}", factor)
    if price * factor > PRICE_USD:
        raise PriceError(kind, f"{kind} at tier {tier.word} is more than {PRICE_USD} USD per 1M tokens")
    if tier is Tier.RESERVED:
        return 0
    try:
        return per_token(price, factor)
    except ValueError as error:
        raise PriceError(kind, f"{kind} at tier {tier.word}: {error}") from None


def _reserved(field: str, price: Decimal) -> int:
    check_number(field, price)
    if price > RESERVED_PRICE_USD:
        raise PriceError(field, f"{field} must be at most {RESERVED_PRICE_USD} USD an hour for 1,000 tokens a minute")
    try:
        return per_reserved_minute(price)
    except ValueError as error:
        raise PriceError(field, f"{field}: {error}") from None
