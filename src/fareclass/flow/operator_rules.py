"""What an operator may write: names, tags, tiers, limits. Every refusal says the field and what to do."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

from msgspec import structs

from fareclass.core.limits import AMOUNT_USD, HEADER_VALUE_CHARS, NAME_CHARS, QUOTA, RULE_S, TAGS, THROTTLES, WEIGHT
from fareclass.core.money import pico, usd
from fareclass.core.tiers import ALIASES, BY_WORD, Tier
from fareclass.store.ids import looks_like_id
from fareclass.store.records import EscalationRecord

SHAPES = ("steady", "seasonal", "spiky-critical", "spiky-tolerant", "experiment", "offline")
"""What a workload is like over time (R41)."""
REJECT = "reject"
"""The overflow that refuses instead of serving as another tier (R21)."""
_TAG = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class ControlError(Exception):
    """An operator's command that is refused.

    `code` is a word that `wire.admin_errors` has a status for; `field` the path of what was wrong in the command.
    """

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


def check_name(name: str) -> str:
    """A project's, key's or workload's name: it stands in URLs and tables, and is never taken for an id."""
    printable = name.isprintable() and "/" not in name and name == name.strip()
    if not (printable and 1 <= len(name) <= NAME_CHARS) or name in {".", ".."}:
        raise ControlError(
            "invalid", f"name must be 1 to {NAME_CHARS} printable characters without '/' or outer spaces", "name"
        )
    if looks_like_id(name):
        raise ControlError("invalid", f"name {name!r} looks like an id; take one that has no such prefix", "name")
    return name


def check_weight(weight: int) -> int:
    if not 1 <= weight <= WEIGHT:
        raise ControlError("invalid", f"weight must be from 1 to {WEIGHT}", "weight")
    return weight


def check_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags go into every ledger entry of the key, so they are few and short."""
    if len(tags) > TAGS:
        raise ControlError("invalid", f"at most {TAGS} tags", "tags")
    for name, value in tags.items():
        if not _TAG.fullmatch(name):
            raise ControlError("invalid", "a tag's name must be 1 to 64 of A-Z a-z 0-9 _ . -", "tags")
        if len(value) > HEADER_VALUE_CHARS or not value.isprintable():
            raise ControlError(
                "invalid", f"tag {name} must have at most {HEADER_VALUE_CHARS} printable characters", f"tags.{name}"
            )
    return dict(tags)


def tier_of(word: str, field: str) -> Tier:
    """A tier by its name or alias (R3)."""
    tier = BY_WORD.get(word, ALIASES.get(word))
    if tier is None:
        raise ControlError("invalid", f"unknown tier {word!r}; valid are: {', '.join(BY_WORD)}", field)
    return tier


def check_tiers(
    default_tier: str | None, allowed_tiers: Sequence[str] | None, before: str = Tier.DEFAULT.word
) -> tuple[str, list[str] | None]:
    """A key's default and allowed tiers in our own words, best first.

    A default tier that is not given (None) stays what it was before, or becomes the only one that is allowed.
    """
    allowed = None if allowed_tiers is None else _allowed(allowed_tiers)
    default = tier_of(before if default_tier is None else default_tier, "default_tier")
    if default_tier is None and allowed and default not in allowed and len(allowed) == 1:
        default = allowed[0]
    if default is Tier.BATCH:
        raise ControlError(
            "invalid", "batch is served only through a batch API: no key has it as default", "default_tier"
        )
    if allowed is None:
        return default.word, None
    if default not in allowed:
        raise ControlError(
            "invalid",
            f"the tier of requests that name none is {default.word}, which is not allowed: "
            f"choose one that is ({', '.join(tier.word for tier in allowed)}), or allow it too",
            "default_tier",
        )
    return default.word, [tier.word for tier in allowed]


def _allowed(words: Sequence[str]) -> list[Tier]:
    allowed = sorted({tier_of(word, f"allowed_tiers[{place}]") for place, word in enumerate(words)})
    if not allowed:
        raise ControlError("invalid", "must name at least one tier, or be null for all", "allowed_tiers")
    return allowed


def check_escalation(
    rule: EscalationRecord | None, default_tier: str, allowed_tiers: Sequence[str] | None
) -> EscalationRecord | None:
    """A rule in our own words (R40): it leads from the default tier to a better one that is allowed."""
    if rule is None:
        return None
    if rule.after_throttles is None and rule.slower_than_ms is None:
        raise ControlError("invalid", "needs after_throttles, slower_than_ms or both", "escalation")
    for name, bound in (
        ("for_s", RULE_S), ("window_s", RULE_S), ("after_throttles", THROTTLES), ("slower_than_ms", RULE_S * 1000)
    ):  # fmt: skip
        number = getattr(rule, name)
        if number is not None and not 1 <= number <= bound:
            raise ControlError("invalid", f"{name} must be from 1 to {bound}", f"escalation.{name}")
    to = tier_of(rule.to, "escalation.to")
    if to not in {Tier.PRIORITY, Tier.DEFAULT} or to >= BY_WORD[default_tier]:
        better = " or ".join(each.word for each in (Tier.PRIORITY, Tier.DEFAULT) if each < BY_WORD[default_tier])
        raise ControlError(
            "invalid",
            f"must be better than the default tier {default_tier}: {better or 'there is none'}",
            "escalation.to",
        )
    if allowed_tiers is not None and to.word not in allowed_tiers:
        raise ControlError("invalid", f"{to.word} is not one of the key's allowed_tiers: allow it too", "escalation.to")
    return structs.replace(rule, to=to.word, usd_per_day=_usd_per_day(rule.usd_per_day))


def _usd_per_day(text: str | None) -> str | None:
    return None if text is None else usd(check_amount(Decimal(text), "escalation.usd_per_day"))


def check_amount(amount: Decimal, field: str) -> int:
    """An amount of USD, in 10⁻¹² USD."""
    try:
        if amount.is_finite() and 0 <= amount <= AMOUNT_USD:
            return pico(amount)
    except ValueError as error:
        raise ControlError("invalid", str(error), field) from None
    raise ControlError("invalid", f"must be an amount from 0 to {AMOUNT_USD}", field)


def check_limits(limits: Mapping[str, int | None], priority_share: Decimal) -> dict[str, int | None]:
    """On-demand quota (R25): whole numbers, null is no limit, 0 lets nothing through; the share is of the `tpm`."""
    for name, limit in limits.items():
        if limit is not None and not 0 <= limit <= QUOTA:
            raise ControlError("invalid", f"{name} must be from 0 to {QUOTA}, or null for no limit", name)
    if not (priority_share.is_finite() and 0 <= priority_share <= 1 and not priority_share * 1000 % 1):
        raise ControlError("invalid", "must be a number from 0 to 1 of at most 3 decimals", "priority_share")
    if priority_share and limits.get("tpm") is None:
        raise ControlError("invalid", "needs a tpm, of which it is a share: set that too", "priority_share")
    return dict(limits) | {"priority_permille": int(priority_share * 1000)}
