"""Where batches may read and write, and calls that make one twice."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add a column and a table."""
    op.add_column("batches", sa.Column("token", sa.Text))
    op.create_index("batches_token", "batches", ["project", "api", "token"], unique=True)
    op.create_table(
        "batch_roots",
        sa.Column("project", sa.Text, sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("uri", sa.Text, primary_key=True),
        sa.Column("folder", sa.Text),
        sa.Column("store", sa.Text),
    )
