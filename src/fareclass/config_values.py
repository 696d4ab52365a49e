"""One value of a setting: what its text stands for, and what it must be, in words and as a test."""

import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Meta, inspect

from fareclass.core.tiers import ALIASES, BY_WORD, Tier


class Rule(NamedTuple):
    """What a value must be: in words, and as a test. One that may hold a secret is not `shown` when it is wrong."""

    words: str
    holds: Callable[[Any], bool]
    shown: bool


def must_be(words: str, holds: Callable[[Any], bool], *, shown: bool = True) -> Meta:
    """For `Annotated`: a rule of a single value, beside its type."""
    return Meta(extra={"rule": Rule(words, holds, shown)})


def parse(text: str, kind: inspect.Type, file: Callable[[str], Path]) -> Any:
    """Raises:
    ValueError, ArithmeticError: the text is no value of this type.
    """
    text = text.strip()
    if not (text and text.isprintable()):
        raise ValueError
    if isinstance(kind, inspect.BoolType):
        return {"true": True, "false": False}[text.lower()] if text.lower() in {"true", "false"} else _raise(text)
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        number = int(text) if isinstance(kind, inspect.IntType) else float(text)
        return number if math.isfinite(number) and _within(number, kind) else _raise(text)
    if isinstance(kind, inspect.DecimalType):
        return Decimal(text)
    if isinstance(kind, inspect.EnumType):
        tier = BY_WORD.get(text, ALIASES.get(text))
        return _raise(text) if tier is None else tier
    if isinstance(kind, inspect.CustomType):
        return file(text)
    return text if len(text) <= (getattr(kind, "max_length", None) or len(text)) else _raise(text)


def expanded(file: str) -> Path:
    """A file as a setting names it; `~` is somebody's home.

    Raises:
        ValueError: nobody has that name.
    """
    try:
        return Path(file).expanduser()
    except RuntimeError as error:
        raise ValueError(file) from error


def _raise(text: str) -> Any:
    raise ValueError(text)


def _within(number: float, kind: inspect.IntType | inspect.FloatType) -> bool:
    return (
        (kind.ge is None or number >= kind.ge)
        and (kind.gt is None or number > kind.gt)
        and (kind.le is None or number <= kind.le)
    )


def expected(kind: inspect.Type) -> str:
    """What a value of this type must be, its bounds included."""
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        bounds = [("at least", kind.ge), ("more than", kind.gt), ("at most", kind.le)]
        words = " and ".join(f"{word} {bound:.15g}" for word, bound in bounds if bound is not None)
        return f"{'a whole number' if isinstance(kind, inspect.IntType) else 'a number'}{words and ', ' + words}"
    if isinstance(kind, inspect.EnumType):
        return f"one of {', '.join(tier.word for tier in Tier)}"
    if isinstance(kind, inspect.CustomType):
        return "a file name"
    if isinstance(kind, inspect.BoolType):
        return "true or false"
    return f"text of 1 to {kind.max_length} characters" if isinstance(kind, inspect.StrType) else "text"
