"""Usage reports out of the ledger: exact sums by whatever the operator asks (R36)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from fareclass.core.limits import USAGE_ROWS
from fareclass.core.money import usd
from fareclass.core.outcomes import Outcome
from fareclass.core.usage import KINDS
from fareclass.store.entries import Filters, totals
from fareclass.store.records import moment

DIMENSIONS = ("project", "key", "model", "route", "workload", "requested_tier", "served_tier", "outcome")
TIERS_SHOWN = ("requested_tier", "served_tier")
"""Every row shows these two, asked for or not (R5)."""
TAG_PREFIX = "tag:"


class ReportError(ValueError):
    """A report that can't be made as asked; `field` is the parameter at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class UsageRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Usage of one group of requests. What was not asked for by `by` or `step` is absent.

    `start` is the beginning of the time step (by the end of each request). Tokens are those
    of requests that reached their first token. `cost` is an exact amount in USD.
    """

    start: datetime | None = None
    project: str | None = None
    project_name: str | None = None
    key: str | None = None
    key_name: str | None = None
    model: str | None = None
    route: str | None = None
    workload: str | None = None
    tag: str | None = None
    requested_tier: str
    served_tier: str
    requests: int
    outcomes: dict[Outcome, int]
    input: int
    cache_write_5m: int
    cache_write_1h: int
    cache_read: int
    output: int
    cost: str


class Names(msgspec.Struct, frozen=True):
    """Names of projects and keys by id, for people who read the report."""

    projects: Mapping[str, str]
    keys: Mapping[str, str]


def usage_report(
    connection: Connection, filters: Filters, *, by: Sequence[str], step_s: int | None, names: Names
) -> list[UsageRow]:
    """Rows in the order of time, then of `by`. `by` holds `DIMENSIONS` and at most one `tag:NAME`.

    Raises:
        ReportError: unknown or doubled dimension, or more rows than a report may have.
    """
    columns, tag = _dimensions(by)
    step_us = None if step_s is None else step_s * 1_000_000
    place = [*columns, *(["tag"] if tag is not None else [])]
    wanted = [*place, *({"outcome"} - {*place})]
    found = totals(connection, filters, wanted, tag=tag, step_us=step_us, limit=USAGE_ROWS)
    if step_us is not None:
        place.insert(0, "start_us")
    return [_row(group, place, names) for group in grouped(found, place)]


def grouped(rows: Sequence[Mapping[str, Any]], place: Sequence[str]) -> list[list[Mapping[str, Any]]]:
    """Rows that are alike in these, in the order of the first of each.

    Raises:
        ReportError: there are more rows than a report may have.
    """
    if len(rows) > USAGE_ROWS:
        raise ReportError("step", f"the report has more than {USAGE_ROWS} rows: take a longer step or narrower filters")
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in place), []).append(row)
    return list(groups.values())


def _dimensions(by: Sequence[str]) -> tuple[list[str], str | None]:
    tags = [word.removeprefix(TAG_PREFIX) for word in by if word.startswith(TAG_PREFIX)]
    plain = [word for word in by if not word.startswith(TAG_PREFIX)]
    for word in plain:
        if word not in DIMENSIONS:
            raise ReportError("by", f"unknown dimension {word!r}; known: {', '.join(DIMENSIONS)}, {TAG_PREFIX}NAME")
    if len(tags) > 1 or "" in tags:
        raise ReportError("by", f"at most one {TAG_PREFIX}NAME")
    if len(set(by)) < len(by):
        raise ReportError("by", "each dimension at most once")
    asked = [*plain, *TIERS_SHOWN]
    return [name for name in DIMENSIONS if name in asked], tags[0] if tags else None


def _row(group: Sequence[Mapping[str, Any]], place: Sequence[str], names: Names) -> UsageRow:
    """One row out of the sums of each outcome in it."""
    first = group[0]
    shown: dict[str, Any] = {name: first[name] for name in place if name not in ("start_us", "outcome")}
    if "start_us" in place:
        shown["start"] = moment(int(first["start_us"]))
    if "project" in place:
        shown["project_name"] = names.projects.get(first["project"])
    if "key" in place:
        shown["key_name"] = names.keys.get(first["key"])
    return UsageRow(**shown, **summed(group))


def summed(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Requests, outcomes, tokens and cost of the sums of each outcome."""
    return {
        **{kind: sum(row[kind] for row in group) for kind in KINDS},
        "requests": sum(row["requests"] for row in group),
        "outcomes": {Outcome(row["outcome"]): row["requests"] for row in group},
        "cost": usd(sum(row["cost"] for row in group)),
    }
