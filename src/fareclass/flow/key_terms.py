"""On what terms a key's requests run: its own, and where it has none those of its workload (R2, R40, R41)."""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import UNSET, UnsetType, to_builtins
from sqlalchemy import Connection

from fareclass.core.tiers import Tier
from fareclass.flow.lookups import find_workload
from fareclass.flow.operator_rules import check_escalation, check_tags, check_tiers
from fareclass.store.records import EscalationRecord, KeyRecord, WorkloadRecord


class KeyTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator says of a key; what is UNSET stays as it was. A default tier of None is not the key's own."""

    default_tier: str | UnsetType | None = UNSET
    allowed_tiers: Sequence[str] | UnsetType | None = UNSET
    tags: Mapping[str, str] | UnsetType = UNSET
    workload: str | UnsetType | None = UNSET
    escalation: EscalationRecord | UnsetType | None = UNSET


def key_columns(connection: Connection, given: KeyTerms, before: KeyRecord | None) -> dict[str, object]:
    """Columns of a key, new (`before` is None) or changed.

    Raises:
        ControlError: an unknown workload, or tiers that do not go together.
    """
    workload, name = _workload(connection, given, before)
    fallback = Tier.DEFAULT.word if workload is None else workload.default_tier
    given_tier = given.default_tier or None
    taken_up = workload is not None and (before is None or before.workload != name)
    own = before.default_tier if before and given.default_tier is UNSET and not taken_up else None
    allowed_tiers = given.allowed_tiers
    if allowed_tiers is UNSET:
        allowed_tiers = None if before is None else before.allowed_tiers
    tier, allowed = check_tiers(given_tier, allowed_tiers, own or fallback)
    rule = given.escalation
    if rule is UNSET:
        rule = None if before is None else before.escalation
    rule = check_escalation(rule, tier, allowed)
    follows = workload is not None and not given_tier and not own and tier == fallback
    columns: dict[str, object] = {
        "default_tier": None if follows else tier,
        "allowed_tiers": allowed,
        "workload": name,
        "escalation": to_builtins(rule),
    }
    if given.tags is not UNSET:
        columns["tags"] = check_tags(given.tags)
    return columns


def _workload(
    connection: Connection, given: KeyTerms, before: KeyRecord | None
) -> tuple[WorkloadRecord | None, str | None]:
    name = given.workload
    if name is UNSET:
        name = None if before is None else before.workload
    return (None if name is None else find_workload(connection, name)), name
