"""Budgets in SQL, and what was spent before the gateway started (R26). Amounts are 10⁻¹² USD."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Row

from fareclass.core.snapshot import Budget
from fareclass.core.tiers import Tier
from fareclass.store.entries import HALF
from fareclass.store.tables import budgets, keys, ledger, projects

_BUDGETS = (
    sa.select(budgets, projects.c.name.label("project_name"), keys.c.name.label("key_name"))
    .join(projects, projects.c.id == budgets.c.project)
    .outerjoin(keys, keys.c.id == budgets.c.key)
)


class BudgetRow(msgspec.Struct, frozen=True, kw_only=True):
    """A budget and whose it is; of a whole project where `key` is empty."""

    project: str
    project_name: str
    key: str
    key_name: str | None
    budget: Budget


def put_budget(connection: Connection, project: str, key: str, values: Mapping[str, Any]) -> None:
    at = (budgets.c.project == project) & (budgets.c.key == key)
    if connection.execute(sa.update(budgets).where(at).values(**values)).rowcount == 0:
        connection.execute(sa.insert(budgets).values(project=project, key=key, **values))


def delete_budget(connection: Connection, project: str, key: str) -> None:
    connection.execute(sa.delete(budgets).where(budgets.c.project == project, budgets.c.key == key))


def find_budget(connection: Connection, project: str, key: str) -> BudgetRow | None:
    row = connection.execute(_BUDGETS.where(budgets.c.project == project, budgets.c.key == key)).first()
    return None if row is None else _budget(row)


def list_budgets(
    connection: Connection, *, project: str | None = None, after: tuple[str, str] = ("", ""), limit: int | None = None
) -> list[BudgetRow]:
    """Of one project or all, a project's own before its keys'."""
    place = sa.tuple_(budgets.c.project, budgets.c.key)
    query = _BUDGETS.where(place > sa.tuple_(*after)).order_by(budgets.c.project, budgets.c.key).limit(limit)
    if project is not None:
        query = query.where(budgets.c.project == project)
    return [_budget(row) for row in connection.execute(query)]


def spent_before(
    connection: Connection, project: str, key: str, until_us: int, starts_us: Mapping[Literal["day", "month"], int]
) -> dict[Literal["day", "month"], int]:
    """What a project, or one key of it, spent on demand since each of these times, up to `until_us`."""
    sums = [_sum(ledger.c.ended_us >= start_us) for start_us in starts_us.values()]
    query = sa.select(*(part for pair in sums for part in pair)).where(
        ledger.c.project == project,
        ledger.c.ended_us >= min(starts_us.values()),
        ledger.c.ended_us < until_us,
        ledger.c.served_tier != Tier.RESERVED.word,
    )
    if key:
        query = query.where(ledger.c.key == key)
    found = [int(value) for value in connection.execute(query).one()]
    amounts = [high * HALF + low for high, low in zip(found[::2], found[1::2], strict=True)]
    return dict(zip(starts_us, amounts, strict=True))


def _sum(wanted: ColumnElement[bool]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """The cost of these entries, as quotient and remainder of `HALF`."""
    high, low = ledger.c.cost_pico // HALF, ledger.c.cost_pico % HALF
    parts = [sa.func.coalesce(sa.func.sum(sa.case((wanted, part), else_=0)), 0) for part in (high, low)]
    return parts[0], parts[1]


def _budget(row: Row[Any]) -> BudgetRow:
    return BudgetRow(
        project=row.project,
        project_name=row.project_name,
        key=row.key,
        key_name=row.key_name,
        budget=Budget(pico=row.pico, per=row.per),
    )
