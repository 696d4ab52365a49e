"""Operator commands on workloads: named uses that keys take default tier, overflow and escalation from (R41)."""

from msgspec import to_builtins
from sqlalchemy import Connection

from fareclass.flow.audit import note
from fareclass.flow.control import Control
from fareclass.flow.lookups import find_key, find_workload
from fareclass.flow.operator_rules import (
    SHAPES,
    ControlError,
    check_escalation,
    check_name,
    check_tiers,
)
from fareclass.flow.reservation_rules import overflow_word
from fareclass.store import workloads
from fareclass.store.records import EscalationRecord, WorkloadRecord


class Workloads:
    """Commands beside those of `Control`, in the same transactions and audit."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def put(
        self,
        actor: str,
        name: str,
        *,
        shape: str,
        default_tier: str,
        overflow: str | None,
        escalation: EscalationRecord | None,
    ) -> WorkloadRecord:
        """Make a workload, or replace it for all keys that use it."""
        if shape not in SHAPES:
            raise ControlError("invalid", f"unknown shape {shape!r}; there are: {', '.join(SHAPES)}", "shape")
        tier, _ = check_tiers(default_tier, None)
        values = {
            "shape": shape,
            "default_tier": tier,
            "overflow": None if overflow is None else overflow_word(overflow),
            "escalation": to_builtins(check_escalation(escalation, tier, None)),
        }
        with self._control.change() as connection:
            before = workloads.find_workload(connection, check_name(name))
            _check_users(connection, name, tier)
            workloads.put_workload(connection, name, values)
            after = find_workload(connection, name)
            note(connection, actor, "workload.set", name, before, after)
            return after

    def get(self, name: str) -> WorkloadRecord:
        with self._control.store.read() as connection:
            return find_workload(connection, name)

    def page(self, *, after: str, limit: int) -> list[WorkloadRecord]:
        with self._control.store.read() as connection:
            return workloads.list_workloads(connection, after=after, limit=limit)

    def delete(self, actor: str, name: str) -> WorkloadRecord:
        """Refused while keys in force use it."""
        with self._control.change() as connection:
            before = find_workload(connection, name)
            if users := workloads.user_ids(connection, name):
                shown = ", ".join(users[:5]) + (", …" if len(users) > 5 else "")
                raise ControlError("in_use", f"keys use this workload: {shown}; give them another one first")
            workloads.delete_workload(connection, name)
            note(connection, actor, "workload.delete", name, before, None)
            return before


def _check_users(connection: Connection, name: str, tier: str) -> None:
    """No key may be left with a default tier that it does not allow (R2)."""
    for user in workloads.user_ids(connection, name):
        key = find_key(connection, user)
        if key.default_tier is None and key.allowed_tiers is not None and tier not in key.allowed_tiers:
            raise ControlError(
                "invalid",
                f"key {key.name!r} ({key.id}) takes its default tier from this workload and does not allow {tier}: "
                "allow it there, or set a default tier of the key's own",
                "default_tier",
            )
