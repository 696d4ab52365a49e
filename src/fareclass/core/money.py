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


def per_reserved_minute(usd_per_hour: Decimal) -> int:
    """A minute's fee of a floor of one token a minute in 10⁻¹² USD, from USD an hour for 1,000 tokens a minute.

    Raises:
        ValueError: it is no whole number of 10⁻¹² USD (R34); the message names prices that are.
    """
    step = Decimal("0.00000006")
    minutes = int(usd_per_hour // step)
    if minutes * step != usd_per_hour:
        raise ValueError(
            f"{usd_per_hour} USD an hour for 1,000 tokens a minute is not a whole number of 10⁻¹² USD a minute per token; "
            f"nearest are {minutes * step:f} and {(minutes + 1) * step:f}"
        )
    return minutes


def pico(amount: Decimal) -> int:
    """USD as 10⁻¹² USD.

    Raises:
        ValueError: it has more than 12 decimals.
    """
    whole = amount.scaleb(12)
    if whole != whole.to_integral_value(rounding=ROUND_DOWN):
        raise ValueError("an amount in USD may have at most 12 decimals")
    return int(whole)


def usd(pico: int) -> str:
    """An amount as an exact decimal string in USD, without trailing zeros."""
    text = f"{Decimal(pico).scaleb(-12):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
