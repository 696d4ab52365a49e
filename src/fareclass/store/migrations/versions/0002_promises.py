"""Reservations, budgets, workloads, escalation, checkpoints, the cache's index; and what the ledger tells of them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add tables and columns; rows that are there get what they meant all along."""
    _new_columns()
    _operators_tables()
    _memory()


def _new_columns() -> None:
    op.add_column("keys", sa.Column("workload", sa.Text))
    op.add_column("keys", sa.Column("escalation", sa.JSON))
    with op.batch_alter_table("keys") as keys:
        keys.alter_column("default_tier", existing_type=sa.Text, nullable=True)
    op.add_column("quotas", sa.Column("priority_permille", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("price_books", sa.Column("reserved", sa.JSON, nullable=False, server_default='["0", "0"]'))
    op.add_column("ledger", sa.Column("workload", sa.Text, nullable=False, server_default=""))
    op.add_column("ledger", sa.Column("spilled", sa.Text, nullable=False, server_default=""))
    op.add_column("ledger", sa.Column("escalated", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("ledger", sa.Column("prefix", sa.Text, nullable=False, server_default=""))
    op.add_column("ledger", sa.Column("width", sa.Integer, nullable=False, server_default="1"))


def _operators_tables() -> None:
    op.create_table(
        "budgets",
        sa.Column("project", sa.Text, sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("pico", sa.BigInteger, nullable=False),
        sa.Column("per", sa.Text, nullable=False),
    )
    op.create_table(
        "workloads",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("shape", sa.Text, nullable=False),
        sa.Column("default_tier", sa.Text, nullable=False),
        sa.Column("overflow", sa.Text),
        sa.Column("escalation", sa.JSON),
    )
    op.create_table(
        "reservations",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("input_tpm", sa.BigInteger, nullable=False),
        sa.Column("output_tpm", sa.BigInteger, nullable=False),
        sa.Column("overflow", sa.Text, nullable=False),
        sa.Column("starts_us", sa.BigInteger, nullable=False),
        sa.Column("ends_us", sa.BigInteger),
        sa.Column("hours", sa.JSON),
        sa.Column("minute_pico", sa.BigInteger, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("cancelled_us", sa.BigInteger),
        sa.Column("settled", sa.JSON),
    )
    op.create_index("reservations_project_model", "reservations", ["project", "model"])


def _memory() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("state", sa.JSON),
    )
    op.create_table(
        "cache_entries",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("ttl_s", sa.BigInteger, nullable=False),
        sa.Column("expires_us", sa.BigInteger, nullable=False),
        sa.Column("replica", sa.Text, nullable=False),
    )
    op.create_index("cache_entries_expires", "cache_entries", ["expires_us"])
