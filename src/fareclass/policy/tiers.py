"""Which tier a request is admitted as (R1 to R3)."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from msgspec import UNSET

from fareclass.core.limits import EXHAUSTED_S
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.snapshot import Key, Model, Reservation
from fareclass.core.tiers import ALIASES, BY_WORD, Tier

_SENT: Mapping[Tier, str] = MappingProxyType(
    {Tier.PRIORITY: "`priority` (or `fast`)", Tier.DEFAULT: "`default`", Tier.FLEX: "`flex`"}
)
"""What callers may send, as they are told it."""


class Terms(NamedTuple):
    """The tier that was asked for, and the one that the request is ordered, billed and labelled as (R5)."""

    requested: Tier
    served: Tier


class Claim(NamedTuple):
    """What a request asks for: `requested`, or a place in its project's floor first where it `claims` one (R2, R20).

    Where the floor has no room, it is served as `otherwise`; None rejects it (R21).
    """

    requested: Tier
    otherwise: Tier | None
    claims: bool = False


def asked(key: Key, model: Model, word: str | None, reservations: Sequence[Reservation] = ()) -> Claim:
    """What a tier asks for as the caller wrote it; None stands for the key's default, `auto` for reserved or else that.

    `reservations` are the `usable` ones of the project on this model.

    Raises:
        Refusal: `invalid` for a word that is no tier, for batch and for reserved without a reservation.
    """
    auto = word == "auto" and key.default_tier is not Tier.RESERVED
    tier = meant(key, word)
    if tier is None:
        raise _invalid(f"`{(word or '')[:64]}` is no service tier; {_usable(key, model.tiers)}.")
    if tier is Tier.BATCH:
        raise _invalid(f"The batch tier is only for jobs of a batch API; {_usable(key, model.tiers)}.")
    if tier is Tier.RESERVED:
        if not reservations:
            raise _invalid("Reservation not found.")
        return Claim(tier, overflow(key, reservations), claims=True)
    return Claim(tier, tier, claims=auto and bool(reservations) and _allows(Tier.RESERVED, key, model))


def meant(key: Key, word: str | None) -> Tier | None:
    """The tier that a word stands for, whether or not it may be had; None where it is no tier."""
    if word is None or word == "auto":
        return key.default_tier
    return BY_WORD.get(word, ALIASES.get(word))


def usable(reservations: Sequence[Reservation], at_us: int) -> Sequence[Reservation]:
    """Those that a request may name: after its end one is used up for a day, and then no more (R3)."""
    since_us = at_us - EXHAUSTED_S * 1_000_000
    return [one for one in reservations if one.ends_us is None or one.ends_us > since_us]


def overflow(key: Key, reservations: Sequence[Reservation]) -> Tier | None:
    """Where requests go that the floor has no room for: the key's workload says it, or the reservation that ends last."""
    if key.overflow is not UNSET:
        return key.overflow
    last = max(reservations, key=lambda one: (one.ends_us is None, one.ends_us or 0, one.id))
    return last.overflow


def exhausted(wait_s: float | None) -> Refusal:
    """A reservation that rejects what is beyond its floor (R21)."""
    return Refusal(
        Outcome.THROTTLED,
        "The reservation's tokens are used up for the moment, and it takes no overflow to another tier.",
        code="reservation_exhausted",
        retry_after_ms=None if wait_s is None else max(1, round(wait_s * 1000)),
    )


def check_allowed(tier: Tier, key: Key, model: Model) -> None:
    """Refuse with `forbidden` a tier that the key or the model does not allow."""
    if key.allowed_tiers is not None and tier not in key.allowed_tiers:
        raise _forbidden(tier, f"the key `{key.name}`", key, model.tiers)
    if tier not in model.tiers:
        raise _forbidden(tier, f"the model `{model.name}`", key, model.tiers)


def not_on_route(tier: Tier, route: str, key: Key, models: Iterable[Model]) -> Refusal:
    """None of a route's models allows the tier, each for a reason of its own: what some of them do allow (R3, R45)."""
    return _forbidden(
        tier, f"any model of the route `{route[:200]}`", key, frozenset[Tier]().union(*(m.tiers for m in models))
    )


def _allows(tier: Tier, key: Key, model: Model) -> bool:
    return tier in model.tiers and (key.allowed_tiers is None or tier in key.allowed_tiers)


def _invalid(message: str) -> Refusal:
    return Refusal(Outcome.INVALID, message, param="service_tier")


def _forbidden(tier: Tier, who: str, key: Key, tiers: frozenset[Tier]) -> Refusal:
    return Refusal(
        Outcome.FORBIDDEN,
        f"The service tier `{tier.word}` is not allowed for {who}; {_usable(key, tiers)}.",
        param="service_tier",
    )


def _usable(key: Key, tiers: frozenset[Tier]) -> str:
    """What this caller may send where these are allowed, in words."""
    allowed = tiers if key.allowed_tiers is None else tiers & key.allowed_tiers
    usable = [tier for tier in _SENT if tier in allowed]
    words = ["`auto`"] if key.default_tier in usable else []
    words += [_SENT[tier] for tier in usable]
    return f"this request may use {', '.join(words)}" if words else "there is none that this request may use"
