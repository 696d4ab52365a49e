"""Projects, keys, quotas, price books, audit, ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the first tables."""
    _operators_tables()
    _audit()
    _ledger()


def _operators_tables() -> None:
    op.create_table("meta", sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False))
    op.create_table(
        "projects",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("weight", sa.BigInteger, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("default_tier", sa.Text, nullable=False),
        sa.Column("allowed_tiers", sa.JSON),
        sa.Column("tags", sa.JSON),
        sa.Column("key_version", sa.Integer, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("revoked_us", sa.BigInteger),
    )
    op.create_table(
        "quotas",
        sa.Column("project", sa.Text, sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("tpm", sa.BigInteger),
        sa.Column("rpm", sa.BigInteger),
        sa.Column("concurrency", sa.BigInteger),
    )
    op.create_table(
        "price_books",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("prices", sa.JSON),
        sa.Column("multipliers", sa.JSON),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("model", "version", name="price_books_version"),
    )


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("before", sa.JSON),
        sa.Column("after", sa.JSON),
    )


def _ledger() -> None:
    texts = ("caller_id", "project", "key")
    words = ("model", "endpoint", "requested_tier", "served_tier", "outcome", "code")
    kinds = ("input", "cache_write_5m", "cache_write_1h", "cache_read", "output")
    counts = ("queue_ms", "paused_ms", "pauses", "restarts")
    op.create_table(
        "ledger",
        sa.Column("id", sa.Text, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in texts),
        sa.Column("tags", sa.JSON, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in words),
        sa.Column("streamed", sa.Boolean, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in kinds),
        sa.Column("estimated", sa.Boolean, nullable=False),
        sa.Column("cost_pico", sa.BigInteger, nullable=False),
        sa.Column("book_version", sa.Integer, nullable=False),
        sa.Column("arrived_us", sa.BigInteger, nullable=False),
        sa.Column("started_us", sa.BigInteger),
        sa.Column("first_token_us", sa.BigInteger),
        sa.Column("ended_us", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in counts),
        sa.Column("replica", sa.Text, nullable=False),
        sa.Column("longest_gap_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("ledger_time", "ledger", ["ended_us"])
    op.create_index("ledger_project_time", "ledger", ["project", "ended_us"])
    op.create_index("ledger_model_time", "ledger", ["model", "ended_us"])
