"""What an operator may write: names, tags, tiers, limits. Every refusal says the field and what to do."""

import re
from collections.abc import Mapping, Sequence

from fareclass.core.limits import HEADER_VALUE_CHARS, NAME_CHARS, QUOTA, TAGS, WEIGHT
from fareclass.core.tiers import ALIASES, BY_WORD, Tier
from fareclass.store.ids import looks_like_id

_TAG = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class ControlError(Exception):
    """An operator's command that is refused.

    `code` is one of invalid, not_found, already_exists, ambiguous; `field` the path of what
    was wrong in the command.
    """

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


def check_name(name: str) -> str:
    """A project's or key's name: it stands in URLs and tables, and is never taken for an id."""
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


def check_limits(limits: Mapping[str, int | None]) -> dict[str, int | None]:
    """On-demand quota (R25): whole numbers, null is no limit, 0 lets nothing through."""
    for name, limit in limits.items():
        if limit is not None and not 0 <= limit <= QUOTA:
            raise ControlError("invalid", f"{name} must be from 0 to {QUOTA}, or null for no limit", name)
    return dict(limits)
