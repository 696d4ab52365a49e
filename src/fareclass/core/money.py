"""Money as integers of 10⁻¹² USD (R34). No float ever holds an amount."""

from decimal import ROUND_DOWN, Context, Decimal, Inexact

PICO_PER_USD = 10**12
_EXACT = Context(prec=60, traps=[Inexact])


def per_token(usd_per_million: Decimal, *multipliers: Decimal) -> int:
    """Price of one token in 10⁻¹² USD, from USD per 1 M tokens and multipliers.

    Raises:
        ValueError: the price is negative or is no whole number of 10⁻¹² USD (R34).
    """
    price = usd_per_million
    for factor in multipliers:
        price = _EXACT.multiply(price, factor)
    pico = _EXACT.multiply(price, Decimal(1_000_000))
    if pico < 0 or pico != pico.to_integral_value(rounding=ROUND_DOWN):
        times = " × ".join(str(factor) for factor in multipliers)
        raise ValueError(
            f"{usd_per_million} USD per 1M tokens{' × ' + times if times else ''} is not a whole "
            "number of 10⁻¹² USD per token; use fewer decimals"
        )
    return int(pico)


def usd(pico: int) -> str:
    """An amount as an exact decimal string in USD, without trailing zeros."""
    text = f"{Decimal(pico).scaleb(-12):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
