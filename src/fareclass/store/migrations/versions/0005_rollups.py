"""Sums and histograms of the ledger by minute and day; former terms of reservations."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_WORDS = (
    "project", "key", "model", "route", "workload", "tags", "requested_tier", "served_tier", "outcome", "spilled",
)  # fmt: skip
_COUNTS = ("requests", "input", "cache_write_5m", "cache_write_1h", "cache_read", "output")
_SUMS = ("cost_high", "cost_low", "pauses", "restarts")


def upgrade() -> None:
    """Add tables, empty: the ledger that is there is summed behind the work that goes on."""
    for name in ("minutes", "days"):
        _rollup(name)
    for name in ("minute_spreads", "day_spreads"):
        _spreads(name)
    op.create_table(
        "day_loads",
        sa.Column("start_us", sa.BigInteger, primary_key=True),
        sa.Column("project", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("max_input", sa.BigInteger, nullable=False),
        sa.Column("max_output", sa.BigInteger, nullable=False),
        sa.Column("counts", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "rollups",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("from_us", sa.BigInteger, nullable=False),
        sa.Column("until_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "stale",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("start_us", sa.BigInteger, primary_key=True),
        sa.Column("times", sa.BigInteger, nullable=False),
    )
    _terms()


def _rollup(name: str) -> None:
    op.create_table(
        name,
        sa.Column("start_us", sa.BigInteger, nullable=False),
        *(sa.Column(word, sa.Text, nullable=False) for word in _WORDS),
        sa.Column("used", sa.Boolean, nullable=False),
        sa.Column("book_version", sa.Integer, nullable=False),
        *(sa.Column(count, sa.BigInteger, nullable=False) for count in (*_COUNTS, *_SUMS)),
    )
    op.create_index(f"{name}_time", name, ["start_us"])
    op.create_index(f"{name}_project_time", name, ["project", "start_us"])


def _spreads(name: str) -> None:
    op.create_table(
        name,
        sa.Column("start_us", sa.BigInteger, primary_key=True),
        *(sa.Column(part, sa.Text, primary_key=True) for part in ("project", "model", "requested_tier", "served_tier")),
        sa.Column("counts", sa.LargeBinary, nullable=False),
    )


def _terms() -> None:
    op.create_table(
        "reservation_terms",
        sa.Column("reservation", sa.Text, sa.ForeignKey("reservations.id"), primary_key=True),
        sa.Column("until_us", sa.BigInteger, primary_key=True),
        sa.Column("input_tpm", sa.BigInteger, nullable=False),
        sa.Column("output_tpm", sa.BigInteger, nullable=False),
        sa.Column("starts_us", sa.BigInteger, nullable=False),
        sa.Column("ends_us", sa.BigInteger),
        sa.Column("hours", sa.JSON),
        sa.Column("minute_pico", sa.BigInteger, nullable=False),
        sa.Column("settled", sa.JSON),
    )
