"""Public names over several models, and which requests named one."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add a table and a column."""
    op.create_table(
        "routes",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("models", sa.JSON, nullable=False),
        sa.Column("order_by", sa.Text, nullable=False),
        sa.Column("limits", sa.JSON),
        sa.Column("by_tier", sa.JSON),
        sa.Column("by_workload", sa.JSON),
        sa.Column("created_us", sa.BigInteger, nullable=False),
    )
    op.add_column("ledger", sa.Column("route", sa.Text, nullable=False, server_default=""))
