"""The trace that every change leaves in the database."""

from typing import Any

import msgspec
from sqlalchemy import Connection

from fareclass.flow.clock import now_us
from fareclass.store import catalog


def note(connection: Connection, actor: str, action: str, target: str, before: Any, after: Any) -> None:
    """Who did what to which object, and how it was before and after."""
    catalog.add_audit(
        connection,
        now_us=now_us(),
        actor=actor,
        action=action,
        target=target,
        before=msgspec.to_builtins(before),
        after=msgspec.to_builtins(after),
    )
