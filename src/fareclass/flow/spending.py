"""Operator commands on budgets: what projects and keys may spend on demand in a day or month of UTC (R26)."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

import msgspec
from sqlalchemy import Connection

from fareclass.core.money import usd
from fareclass.flow.audit import note
from fareclass.flow.clock import now_us
from fareclass.flow.control import Control
from fareclass.flow.lookups import find_key_of, find_project
from fareclass.flow.operator_rules import ControlError, check_amount
from fareclass.policy.budgets import PERIODS, Budgets, period
from fareclass.store.budgets import BudgetRow, delete_budget, find_budget, list_budgets, put_budget, spent_before
from fareclass.store.records import moment


class BudgetView(msgspec.Struct, frozen=True, kw_only=True):
    """A budget and how it stands: decimal strings in USD; key is null for that of a whole project.

    `spent` is the cost of what ended in the present period, `held` what requests under way may yet cost; `left`
    may be negative, where an engine made more than it was told to.
    """

    project: str
    project_name: str
    key: str | None
    key_name: str | None
    usd: str
    per: str
    spent: str
    held: str
    left: str
    renews_at: datetime

    @property
    def place(self) -> str:
        """Where it stands in the list of budgets."""
        return f"{self.project}/{self.key or ''}"


class Spending:
    """Commands beside those of `Control`, in the same transactions and audit.

    What was spent before the gateway's start is loaded before a budget comes into force, so that it binds from its
    first request on.
    """

    def __init__(self, control: Control, budgets: Budgets) -> None:
        """Load what was spent by all that have a budget now."""
        self._control = control
        self._budgets = budgets
        with control.store.read() as connection:
            self._load(connection, [row.key or row.project for row in list_budgets(connection)])

    def set(self, actor: str, project: str, key: str | None, amount: Decimal, per: str) -> BudgetView:
        """Give a project, or a key of it, a budget, or another one; what it spent in this period counts."""
        if per not in PERIODS:
            raise ControlError("invalid", f"per must be one of {', '.join(PERIODS)}", "per")
        values = {"pico": check_amount(amount, "usd"), "per": per}
        with self._control.store.read() as connection:
            owner, account = _ids(connection, project, key)
            self._load(connection, [account or owner], owner)
        with self._control.change() as connection:
            owner, account = _ids(connection, project, key)
            before = find_budget(connection, owner, account)
            put_budget(connection, owner, account, values)
            after = find_budget(connection, owner, account)
            assert after is not None
            note(connection, actor, "budget.set", f"{owner}/{account}".rstrip("/"), before, after)
        return self._view(after)

    def clear(self, actor: str, project: str, key: str | None) -> BudgetView:
        """Lift a budget; returns it as it stood."""
        with self._control.change() as connection:
            owner, account = _ids(connection, project, key)
            before = find_budget(connection, owner, account)
            if before is None:
                whose = f"key {key!r} of project {project!r}" if key else f"project {project!r}"
                raise ControlError("not_found", f"{whose} has no budget", "key" if key else "project")
            delete_budget(connection, owner, account)
            note(connection, actor, "budget.clear", f"{owner}/{account}".rstrip("/"), before, None)
        return self._view(before)

    def page(self, *, project: str | None, after: tuple[str, str], limit: int) -> list[BudgetView]:
        """Budgets in force and how they stand, of one project or all."""
        with self._control.store.read() as connection:
            owner = None if project is None else find_project(connection, project).id
            return [self._view(row) for row in list_budgets(connection, project=owner, after=after, limit=limit)]

    def _load(self, connection: Connection, accounts: Sequence[str], project: str | None = None) -> None:
        """What these spent before the start, in one go over the ledger: of one project or of all with a budget."""
        budgets = self._budgets
        accounts = [account for account in accounts if not budgets.loaded(account)]
        if accounts:
            starts = {per: period(per, budgets.since_us)[0] for per in PERIODS}
            spent = spent_before(connection, budgets.since_us, starts, project)
            for account in accounts:
                budgets.load(account, spent.get(account, {}))

    def _view(self, row: BudgetRow) -> BudgetView:
        stands = self._budgets.standing(row.key or row.project, row.budget, now_us())
        return BudgetView(
            project=row.project,
            project_name=row.project_name,
            key=row.key or None,
            key_name=row.key_name,
            usd=usd(row.budget.pico),
            per=row.budget.per,
            spent=usd(stands.spent),
            held=usd(stands.held),
            left=usd(stands.left),
            renews_at=moment(stands.renews_us),
        )


def _ids(connection: Connection, project: str, key: str | None) -> tuple[str, str]:
    """Ids of what an operator named; the key's is empty where it is of a whole project."""
    owner = find_project(connection, project).id
    return owner, "" if key is None else find_key_of(connection, owner, key).id
