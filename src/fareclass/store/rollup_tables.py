"""The tables of what is derived from the ledger: sums and histograms by minute and day (R36, R42, R43)."""

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, Table, Text

from fareclass.store.tables import metadata


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _rollup(name: str) -> Table:
    """Sums over entries that end in one minute or day and are alike in everything that a report can ask."""
    return Table(
        name,
        metadata,
        _count("start_us"),
        *map(_text, ("project", "key", "model", "route", "workload", "tags", "requested_tier", "served_tier")),
        *map(_text, ("outcome", "spilled")),
        Column("used", Boolean, nullable=False),
        Column("book_version", Integer, nullable=False),
        *map(_count, ("requests", "input", "cache_write_5m", "cache_write_1h", "cache_read", "output")),
        *map(_count, ("cost_high", "cost_low", "pauses", "restarts")),
        Index(f"{name}_time", "start_us"),
        Index(f"{name}_project_time", "project", "start_us"),
    )


def _spreads(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("start_us", BigInteger, primary_key=True),
        *(Column(part, Text, primary_key=True) for part in ("project", "model", "requested_tier", "served_tier")),
        Column("counts", LargeBinary, nullable=False),
    )


minutes = _rollup("minutes")
days = _rollup("days")
"""`used` says whether they reached a first token: the tokens of the others are estimates. `cost_high` and `cost_low`
are the sums of the quotients and remainders of each amount by 10⁹, so that no sum overflows. Whole minutes and days
are replaced, so no row needs a key."""

minute_spreads = _spreads("minute_spreads")
day_spreads = _spreads("day_spreads")
"""Histograms of times and speeds, packed; those of all projects together have an empty `project`."""

day_loads = Table(
    "day_loads",
    metadata,
    Column("start_us", BigInteger, primary_key=True),
    Column("project", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    _count("max_input"),
    _count("max_output"),
    Column("counts", LargeBinary, nullable=False),
)
"""Histograms of the tokens of each busy minute of a day, in burn-down units, packed (R43)."""

rollups = Table("rollups", metadata, Column("name", Text, primary_key=True), _count("from_us"), _count("until_us"))
"""From when until when the tables `minutes` and `days` stand for the ledger, but for what is stale."""

stale = Table(
    "stale",
    metadata,
    Column("name", Text, primary_key=True),
    Column("start_us", BigInteger, primary_key=True),
    _count("times"),
)
"""Minutes and days in which the ledger has changed since they were summed, and how often."""
