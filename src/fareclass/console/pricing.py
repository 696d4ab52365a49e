"""What one answer cost, out of its usage and the price book in force: for the playground, exactly."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from fareclass.core.money import per_token, usd


def price_of(book: Mapping[str, Any] | None, tier: str, usage: Mapping[str, Any]) -> str | None:
    """A decimal string in USD of a chat completion's `usage` at a served tier; None without a price book.

    Requests inside a reservation cost nothing beside its fee (R33).
    """
    if book is None:
        return None
    if tier == "reserved":
        return "0"
    details = usage.get("prompt_tokens_details") or {}
    read, written = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
    counts = {
        "input": usage.get("prompt_tokens", 0) - read - written,
        "cache_write_5m": written,
        "cache_read": read,
        "output": usage.get("completion_tokens", 0),
    }
    factor = Decimal(book["tiers"][tier])
    return usd(sum(number * per_token(Decimal(book[kind]), factor) for kind, number in counts.items()))
