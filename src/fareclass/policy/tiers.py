"""Which tier a request is admitted as (R1 to R3)."""

from typing import NamedTuple

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.snapshot import Key, Model
from fareclass.core.tiers import ALIASES, BY_WORD, Tier

_VALID = "`auto`, `priority` (or `fast`), `default`, `flex`, `reserved` (or `scale`)"


class Terms(NamedTuple):
    """The tier that was asked for, and the one that the request is ordered, billed and labelled as (R5)."""

    requested: Tier
    served: Tier


def admit(key: Key, model: Model, word: str | None) -> Terms:
    """Terms for a tier as the caller wrote it; None and `auto` stand for the key's default.

    Raises:
        Refusal: `invalid` for a word that is no tier, for batch and for reserved without a
            reservation; `forbidden` for a tier that the key or the model does not allow.
    """
    if word is None or word == "auto":
        tier = key.default_tier
    elif word in BY_WORD:
        tier = BY_WORD[word]
    elif word in ALIASES:
        tier = ALIASES[word]
    else:
        raise _invalid(f"`{word[:64]}` is no service tier; valid ones are {_VALID}.")
    if tier is Tier.RESERVED:
        raise _invalid("Reservation not found.")
    if tier is Tier.BATCH:
        raise _invalid(
            f"The batch tier is only for jobs of a batch API, not for single requests; here {_VALID} are valid."
        )
    if key.allowed_tiers is not None and tier not in key.allowed_tiers:
        raise _forbidden(tier, f"the key `{key.name}`", key.allowed_tiers)
    if tier not in model.tiers:
        raise _forbidden(tier, f"the model `{model.name}`", model.tiers)
    return Terms(requested=tier, served=tier)


def _invalid(message: str) -> Refusal:
    return Refusal(Outcome.INVALID, message, param="service_tier")


def _forbidden(tier: Tier, who: str, allowed: frozenset[Tier]) -> Refusal:
    words = ", ".join(f"`{one.word}`" for one in sorted(allowed)) or "no tier"
    return Refusal(
        Outcome.FORBIDDEN,
        f"The service tier `{tier.word}` is not allowed for {who}, which allows {words}.",
        param="service_tier",
    )
