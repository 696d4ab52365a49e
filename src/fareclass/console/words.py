"""Numbers, amounts and times as people read them. Amounts stay exact: they are decimal strings to the end (R34)."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

NONE = "–"


def usd(amount: str | Decimal | None) -> str:
    """An amount with its cents, and as many decimals more as it has, without trailing zeros: `$1,234.50`, `$0.000107`."""
    if amount is None:
        return NONE
    value = Decimal(amount)
    text = f"{abs(value):,f}"
    whole, _, decimals = text.partition(".")
    decimals = decimals.rstrip("0").ljust(2, "0")
    return f"{'−' if value < 0 else ''}${whole}.{decimals}"


def usd_short(amount: str | Decimal) -> str:
    """For axes and headings: three significant digits, or cents."""
    value = Decimal(amount)
    if value == 0 or abs(value) >= Decimal("0.1"):
        return f"${value:,.2f}"
    return f"${float(value):.2g}"


def total(amounts: list[str]) -> Decimal:
    """The exact sum of decimal strings."""
    return sum((Decimal(amount) for amount in amounts), Decimal(0))


def count(number: float | None) -> str:
    """`1,234,567`; a dash for None."""
    return NONE if number is None else f"{number:,.0f}"


def count_short(number: float | None) -> str:
    """`950`, `12.3 k`, `4.1 M`."""
    if number is None:
        return NONE
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g}"


def ms(number: float | None) -> str:
    """`850 ms`, `1.25 s`, `3 min 20 s`."""
    if number is None:
        return NONE
    if number < 1_000:
        return f"{number:.3g} ms" if number < 10 else f"{number:.0f} ms"
    if number < 60_000:
        return f"{number / 1_000:.3g} s"
    minutes, seconds = divmod(round(number / 1_000), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def hours(minutes: int) -> str:
    """To the minute: `4 min`, `2 h 30 min`, `1,440 h`."""
    whole, rest = divmod(minutes, 60)
    return " ".join(filter(None, (f"{whole:,} h" if whole else "", f"{rest} min" if rest or not whole else "")))


def percent(share: float | None) -> str:
    """`42 %`; below ten with a decimal, where there is one."""
    if share is None:
        return NONE
    number = share * 100
    digits = 1 if 0.05 <= abs(number) < 9.95 and abs(number - round(number)) >= 0.05 else 0
    return f"{number:.{digits}f} %"


def when(moment: str | None) -> str:
    """An RFC 3339 time as a minute of UTC."""
    return NONE if moment is None else f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M}"


def when_exactly(moment: str) -> str:
    """The same with seconds."""
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def back(hours: float) -> str:
    """The moment so many hours ago, RFC 3339, as a parameter of a report."""
    return (datetime.now(UTC) - timedelta(hours=hours)).isoformat()


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def parse_whole(text: str | float | None, name: str) -> int | None:
    """A whole number as it was typed, with or without grouping; None where nothing was.

    Raises:
        ValueError: it is none, or below 0; the message says so of `name`.
    """
    typed = "" if text is None else str(text).replace(",", "").replace(" ", "").replace("_", "")
    if not typed:
        return None
    typed = typed.removesuffix(".0")
    if typed.startswith(("-", "−")) and typed[1:].isascii() and typed[1:].isdigit():
        raise ValueError(f"{name} must be 0 or more")
    if not (typed.isascii() and typed.isdigit() and len(typed) <= 18):
        raise ValueError(f"{name} must be a whole number")
    return int(typed)
