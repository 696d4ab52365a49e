"""Webhooks of projects and the outbox of their events, in SQL; each look-up is by project (R47, R51)."""

from collections.abc import Collection
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Row

from fareclass.store.tables import projects, webhook_events, webhooks

WAITING: Final = "waiting"
DELIVERED: Final = "delivered"
FAILED: Final = "failed"
"""States of an event: still to be sent, taken by its receiver, given up."""

_EVENTS = webhook_events.c
_HOOKS = sa.select(webhooks, projects.c.name.label("project_name")).join(projects, projects.c.id == webhooks.c.project)


class Seed(msgspec.Struct, frozen=True, kw_only=True):
    """What one secret is derived from, with a version of the master key; in force until then, null is without end."""

    salt: str
    version: int
    until_us: int | None = None


class WebhookRow(msgspec.Struct, frozen=True, kw_only=True):
    """Where a project's events go. `stopped_us`: since when its receiver wants no more of them."""

    project: str
    project_name: str
    url: str
    events: tuple[str, ...] | None
    seeds: tuple[Seed, ...]
    changed_us: int
    stopped_us: int | None


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """One event; `tables.webhook_events` says what its parts are."""

    id: str
    project: str
    type: str
    object: str
    state: str
    created_us: int
    began_us: int
    due_us: int | None
    attempts: int
    tried_us: int | None
    status: int | None
    error: str | None


def put_webhook(connection: Connection, row: WebhookRow) -> None:
    values = msgspec.to_builtins(row)
    del values["project_name"]
    connection.execute(sa.delete(webhooks).where(webhooks.c.project == row.project))
    connection.execute(sa.insert(webhooks), [values])


def delete_webhook(connection: Connection, project: str) -> None:
    connection.execute(sa.delete(webhooks).where(webhooks.c.project == project))


def stop_webhook(connection: Connection, row: WebhookRow, now_us: int) -> None:
    """Its receiver wants no more, unless it was set anew meanwhile."""
    same = (webhooks.c.project == row.project) & (webhooks.c.changed_us == row.changed_us)
    if connection.execute(sa.update(webhooks).where(same).values(stopped_us=now_us)).rowcount:
        give_up_events(connection, row.project, "the receiver answered 410 and gets no more events")


def find_webhook(connection: Connection, project: str) -> WebhookRow | None:
    found = connection.execute(_HOOKS.where(webhooks.c.project == project)).first()
    return None if found is None else _webhook(found)


def list_due_webhooks(connection: Connection, now_us: int) -> list[WebhookRow]:
    """Those for which an event is due."""
    due = sa.exists().where(_EVENTS.project == webhooks.c.project, _EVENTS.due_us <= now_us)
    return [_webhook(row) for row in connection.execute(_HOOKS.where(due, webhooks.c.stopped_us.is_(None)))]


def add_event(connection: Connection, row: EventRow) -> None:
    connection.execute(sa.insert(webhook_events), [msgspec.structs.asdict(row)])


def has_event(connection: Connection, project: str, type: str, object_id: str) -> bool:
    mine = (_EVENTS.project == project) & (_EVENTS.object == object_id) & (_EVENTS.type == type)
    return connection.execute(sa.select(_EVENTS.id).where(mine).limit(1)).first() is not None


def count_waiting(connection: Connection, project: str) -> int:
    waiting = (_EVENTS.project == project) & _EVENTS.due_us.is_not(None)
    return connection.execute(sa.select(sa.func.count()).where(waiting)).scalar_one()


def count_all_waiting(connection: Connection) -> int:
    """Of all projects."""
    return connection.execute(sa.select(sa.func.count()).where(_EVENTS.due_us.is_not(None))).scalar_one()


def give_up_oldest(connection: Connection, project: str, why: str) -> None:
    """Of those that wait."""
    waiting = (_EVENTS.project == project) & _EVENTS.due_us.is_not(None)
    oldest = sa.select(_EVENTS.id).where(waiting).order_by(_EVENTS.id).limit(1).scalar_subquery()
    connection.execute(_given_up(why).where(_EVENTS.id == oldest))


def give_up_events(connection: Connection, project: str, why: str) -> None:
    """All of a project that wait."""
    connection.execute(_given_up(why).where(_EVENTS.project == project, _EVENTS.due_us.is_not(None)))


def hurry_events(connection: Connection, project: str, now_us: int) -> None:
    """All of a project that wait are due now."""
    waiting = (_EVENTS.project == project) & _EVENTS.due_us.is_not(None)
    connection.execute(sa.update(webhook_events).where(waiting).values(due_us=now_us))


def find_event(connection: Connection, project: str, id: str) -> EventRow | None:
    mine = (_EVENTS.project == project) & (_EVENTS.id == id)
    found = connection.execute(sa.select(webhook_events).where(mine)).first()
    return None if found is None else _event(found)


def list_events(connection: Connection, project: str, *, before: str, limit: int) -> list[EventRow]:
    """A project's events, the newest first."""
    query = sa.select(webhook_events).where(_EVENTS.project == project)
    if before:
        query = query.where(_EVENTS.id < before)
    return [_event(row) for row in connection.execute(query.order_by(_EVENTS.id.desc()).limit(limit))]


def list_due_events(
    connection: Connection, project: str, now_us: int, besides: Collection[str], limit: int
) -> list[EventRow]:
    """Of a project, those that are due for the longest, and not these."""
    query = sa.select(webhook_events).where(_EVENTS.project == project, _EVENTS.due_us <= now_us)
    query = query.where(_EVENTS.id.not_in(besides)).order_by(_EVENTS.due_us, _EVENTS.id).limit(limit)
    return [_event(row) for row in connection.execute(query)]


def change_event(connection: Connection, row: EventRow, *, again: bool = False) -> None:
    """How it stands after an attempt. What was given up meanwhile is due only if it shall be sent `again`."""
    same = _EVENTS.id == row.id
    if row.state != DELIVERED and not again:
        same &= _EVENTS.due_us.is_not(None)
    connection.execute(sa.update(webhook_events).where(same).values(**msgspec.structs.asdict(row)))


def sweep_events(connection: Connection, before_us: int, *, count: int) -> None:
    """Delete what is older and waits no longer, and of each project the oldest beyond so many."""
    over = _EVENTS.due_us.is_(None)
    connection.execute(sa.delete(webhook_events).where(_EVENTS.created_us < before_us, over))
    for project in connection.execute(sa.select(webhooks.c.project)).scalars().all():
        place = sa.select(_EVENTS.id).where(_EVENTS.project == project).order_by(_EVENTS.id.desc())
        first = connection.execute(place.offset(count).limit(1)).scalar_one_or_none()
        if first is not None:
            beyond = (_EVENTS.project == project) & (_EVENTS.id <= first)
            connection.execute(sa.delete(webhook_events).where(beyond, over))


def _given_up(why: str) -> sa.Update:
    return sa.update(webhook_events).values(state=FAILED, due_us=None, error=why)


def _webhook(found: Row[Any]) -> WebhookRow:
    return msgspec.convert({name: getattr(found, name) for name in WebhookRow.__struct_fields__}, WebhookRow)


def _event(found: Row[Any]) -> EventRow:
    return EventRow(**{name: getattr(found, name) for name in EventRow.__struct_fields__})
