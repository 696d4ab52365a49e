"""Budgets in SQL, and what was spent before the gateway started (R26). Amounts are 10⁻¹² USD."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Row

from fareclass.core.snapshot import Budget
from fareclass.core.tiers import Tier
from fareclass.store.rollups import HALF
from fareclass.store.tables import budgets, keys, ledger, projects

Per = Literal["day", "month"]

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
    connection: Connection, until_us: int, starts_us: Mapping[Per, int], project: str | None = None
) -> dict[str, dict[Per, int]]:
    """What a project and each key of it spent on demand since each of these times, up to `until_us`, by their ids.

    None is all projects that have a budget, or a key with one. Who spent nothing is not in it.
    """
    sums = [_sum(ledger.c.ended_us >= start_us) for start_us in starts_us.values()]
    query = sa.select(ledger.c.project, ledger.c.key, *(part for pair in sums for part in pair)).where(
        ledger.c.project.in_(sa.select(budgets.c.project)) if project is None else ledger.c.project == project,
        ledger.c.ended_us >= min(starts_us.values()),
        ledger.c.ended_us < until_us,
        ledger.c.served_tier != Tier.RESERVED.word,
    )
    spent: dict[str, dict[Per, int]] = {}
    for owner, key, *found in connection.execute(query.group_by(ledger.c.project, ledger.c.key)):
        for account in (owner, key):
            sums_of = spent.setdefault(account, dict.fromkeys(starts_us, 0))
            for per, high, low in zip(starts_us, found[::2], found[1::2], strict=True):
                sums_of[per] += int(high) * HALF + int(low)
    return spent


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
