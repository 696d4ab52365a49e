"""What operators made, in SQL: projects, keys, quotas, price books, audit. Lists are in the order of creation."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from msgspec import convert
from sqlalchemy import Connection, Row

from fareclass.core.usage import KINDS
from fareclass.store.records import (
    AuditRecord,
    BookRecord,
    EscalationRecord,
    KeyRecord,
    ProjectRecord,
    QuotaRecord,
    moment,
)
from fareclass.store.tables import audit, keys, price_books, projects, quotas

_KEYS = sa.select(keys, projects.c.name.label("project_name")).join(projects, projects.c.id == keys.c.project)
_QUOTAS = sa.select(quotas, projects.c.name.label("project_name")).join(projects, projects.c.id == quotas.c.project)


def add_project(connection: Connection, values: Mapping[str, Any]) -> None:
    connection.execute(sa.insert(projects).values(**values))


def change_project(connection: Connection, project: str, values: Mapping[str, Any]) -> None:
    connection.execute(sa.update(projects).where(projects.c.id == project).values(**values))


def find_project(connection: Connection, ref: str) -> ProjectRecord | None:
    """By id or name: no name looks like an id."""
    row = connection.execute(sa.select(projects).where(sa.or_(projects.c.id == ref, projects.c.name == ref))).first()
    return None if row is None else _project(row)


def list_projects(connection: Connection, *, after: str = "", limit: int | None = None) -> list[ProjectRecord]:
    query = sa.select(projects).where(projects.c.id > after).order_by(projects.c.id).limit(limit)
    return [_project(row) for row in connection.execute(query)]


def add_key(connection: Connection, values: Mapping[str, Any]) -> None:
    connection.execute(sa.insert(keys).values(**values))


def change_key(connection: Connection, key: str, values: Mapping[str, Any]) -> None:
    connection.execute(sa.update(keys).where(keys.c.id == key).values(**values))


def find_keys(connection: Connection, ref: str, *, project: str | None = None) -> list[KeyRecord]:
    """By id or name, revoked ones too; a name may be that of several keys."""
    query = _KEYS.where(sa.or_(keys.c.id == ref, keys.c.name == ref)).order_by(keys.c.id)
    if project is not None:
        query = query.where(keys.c.project == project)
    return [_key(row) for row in connection.execute(query)]


def list_keys(
    connection: Connection,
    *,
    project: str | None = None,
    in_force: bool = False,
    after: str = "",
    limit: int | None = None,
) -> list[KeyRecord]:
    query = _KEYS.where(keys.c.id > after).order_by(keys.c.id).limit(limit)
    if project is not None:
        query = query.where(keys.c.project == project)
    if in_force:
        query = query.where(keys.c.revoked_us.is_(None))
    return [_key(row) for row in connection.execute(query)]


def put_quota(connection: Connection, project: str, model: str, limits: Mapping[str, int | None]) -> None:
    at = (quotas.c.project == project) & (quotas.c.model == model)
    if connection.execute(sa.update(quotas).where(at).values(**limits)).rowcount == 0:
        connection.execute(sa.insert(quotas).values(project=project, model=model, **limits))


def find_quota(connection: Connection, project: str, model: str) -> QuotaRecord | None:
    row = connection.execute(_QUOTAS.where(quotas.c.project == project, quotas.c.model == model)).first()
    return None if row is None else _quota(row)


def list_quotas(
    connection: Connection, *, project: str | None = None, after: tuple[str, str] = ("", ""), limit: int | None = None
) -> list[QuotaRecord]:
    place = sa.tuple_(quotas.c.project, quotas.c.model)
    query = _QUOTAS.where(place > sa.tuple_(*after)).order_by(quotas.c.project, quotas.c.model).limit(limit)
    if project is not None:
        query = query.where(quotas.c.project == project)
    return [_quota(row) for row in connection.execute(query)]


def add_book(
    connection: Connection,
    model: str,
    *,
    prices: Sequence[str],
    multipliers: Mapping[str, str],
    reserved: Sequence[str],
    source: str,
    now_us: int,
) -> int:
    """A new version of a model's prices; older ones stay as they are (R33). Returns its number."""
    newest = sa.select(sa.func.coalesce(sa.func.max(price_books.c.version), 0)).where(price_books.c.model == model)
    version = int(connection.execute(newest).scalar_one()) + 1
    connection.execute(
        sa.insert(price_books).values(
            model=model,
            version=version,
            prices=list(prices),
            multipliers=dict(multipliers),
            reserved=list(reserved),
            source=source,
            created_us=now_us,
        )
    )
    return version


def newest_book(connection: Connection, model: str, source: str | None = None) -> BookRecord | None:
    query = sa.select(price_books).where(price_books.c.model == model)
    if source is not None:
        query = query.where(price_books.c.source == source)
    row = connection.execute(query.order_by(price_books.c.version.desc()).limit(1)).first()
    return None if row is None else _book(row)


def list_books(
    connection: Connection, model: str | None, *, before: int | None = None, limit: int | None = None
) -> list[BookRecord]:
    """Every version of the prices of a model or of all, the newest first."""
    query = sa.select(price_books)
    if model is not None:
        query = query.where(price_books.c.model == model)
    if before is not None:
        query = query.where(price_books.c.version < before)
    return [_book(row) for row in connection.execute(query.order_by(price_books.c.version.desc()).limit(limit))]


def add_audit(
    connection: Connection,
    *,
    now_us: int,
    actor: str,
    action: str,
    target: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> None:
    connection.execute(
        sa.insert(audit).values(at_us=now_us, actor=actor, action=action, target=target, before=before, after=after)
    )


def list_audit(connection: Connection, *, before: int | None = None, limit: int | None = None) -> list[AuditRecord]:
    """Changes, the newest first."""
    query = sa.select(audit).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.id < before)
    return [
        AuditRecord(
            id=str(row.id),
            at=moment(row.at_us),
            actor=row.actor,
            action=row.action,
            target=row.target,
            before=row.before,
            after=row.after,
        )
        for row in connection.execute(query)
    ]


def _project(row: Row[Any]) -> ProjectRecord:
    return ProjectRecord(id=row.id, name=row.name, weight=row.weight, created=moment(row.created_us))


def _key(row: Row[Any]) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        project=row.project,
        project_name=row.project_name,
        name=row.name,
        default_tier=row.default_tier,
        allowed_tiers=None if row.allowed_tiers is None else tuple(row.allowed_tiers),
        tags=row.tags or {},
        workload=row.workload,
        escalation=None if row.escalation is None else convert(row.escalation, EscalationRecord),
        key_version=row.key_version,
        created=moment(row.created_us),
        revoked_at=None if row.revoked_us is None else moment(row.revoked_us),
    )


def _quota(row: Row[Any]) -> QuotaRecord:
    return QuotaRecord(
        project=row.project,
        project_name=row.project_name,
        model=row.model,
        tpm=row.tpm,
        rpm=row.rpm,
        concurrency=row.concurrency,
        priority_share=Decimal(row.priority_permille).scaleb(-3).normalize(),
    )


def _book(row: Row[Any]) -> BookRecord:
    return BookRecord(
        model=row.model,
        version=row.version,
        **dict(zip(KINDS, row.prices, strict=True)),
        reserved_input=row.reserved[0],
        reserved_output=row.reserved[1],
        tiers=row.multipliers,
        source=row.source,
        created=moment(row.created_us),
    )
