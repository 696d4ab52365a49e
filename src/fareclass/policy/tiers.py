"""Which tier a request is admitted as (R1 to R3)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.snapshot import Key, Model
from fareclass.core.tiers import ALIASES, BY_WORD, Tier

_SENT: Mapping[Tier, str] = MappingProxyType(
    {Tier.PRIORITY: "`priority` (or `fast`)", Tier.DEFAULT: "`default`", Tier.FLEX: "`flex`"}
)
"""What callers may send, as they are told it."""


class Terms(NamedTuple):
    """The tier that was asked for, and the one that the request is ordered, billed and labelled as (R5)."""

    requested: Tier
    served: Tier


def asked(key: Key, model: Model, word: str | None) -> Terms:
    """Terms for a tier as the caller wrote it; None and `auto` stand for the key's default.

    Raises:
        Refusal: `invalid` for a word that is no tier, for batch and for reserved without a reservation.
    """
    if word is None or word == "auto":
        tier = key.default_tier
    elif word in BY_WORD:
        tier = BY_WORD[word]
    elif word in ALIASES:
        tier = ALIASES[word]
    else:
        raise _invalid(f"`{word[:64]}` is no service tier; {_usable(key, model)}.")
    if tier is Tier.RESERVED:
        raise _invalid("Reservation not found.")
    if tier is Tier.BATCH:
        raise _invalid(f"The batch tier is only for jobs of a batch API; {_usable(key, model)}.")
    return Terms(requested=tier, served=tier)


def check_allowed(tier: Tier, key: Key, model: Model) -> None:
    """Refuse with `forbidden` a tier that the key or the model does not allow."""
    if key.allowed_tiers is not None and tier not in key.allowed_tiers:
        raise _forbidden(tier, f"the key `{key.name}`", key, model)
    if tier not in model.tiers:
        raise _forbidden(tier, f"the model `{model.name}`", key, model)


def _invalid(message: str) -> Refusal:
    return Refusal(Outcome.INVALID, message, param="service_tier")


def _forbidden(tier: Tier, who: str, key: Key, model: Model) -> Refusal:
    return Refusal(
        Outcome.FORBIDDEN,
        f"The service tier `{tier.word}` is not allowed for {who}; {_usable(key, model)}.",
        param="service_tier",
    )


def _usable(key: Key, model: Model) -> str:
    """What this caller may send to this model, in words."""
    allowed = model.tiers if key.allowed_tiers is None else model.tiers & key.allowed_tiers
    usable = [tier for tier in _SENT if tier in allowed]
    words = ["`auto`"] if key.default_tier in usable else []
    words += [_SENT[tier] for tier in usable]
    return f"this request may use {', '.join(words)}" if words else "there is none that this request may use"
