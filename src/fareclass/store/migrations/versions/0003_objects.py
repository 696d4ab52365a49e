"""Objects of projects: files, batches, responses, webhooks."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add tables."""
    _files()
    _batches()
    _responses()
    _webhooks()


def _files() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("expires_us", sa.BigInteger, nullable=False),
    )
    op.create_index("files_project", "files", ["project", "id"])
    op.create_index("files_expires", "files", ["expires_us"])


def _batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("api", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("input", sa.Text, nullable=False),
        sa.Column("terms", sa.JSON, nullable=False),
        sa.Column("books", sa.JSON, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("deadline_us", sa.BigInteger, nullable=False),
        sa.Column("started_us", sa.BigInteger),
        sa.Column("finalizing_us", sa.BigInteger),
        sa.Column("cancelling_us", sa.BigInteger),
        sa.Column("ended_us", sa.BigInteger),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("succeeded", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("result", sa.JSON),
    )
    op.create_index("batches_project", "batches", ["project", "id"])
    op.create_index("batches_state", "batches", ["state"])


def _responses() -> None:
    op.create_table(
        "responses",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("background", sa.Boolean, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("input", sa.LargeBinary, nullable=False),
        sa.Column("asked", sa.LargeBinary),
        sa.Column("events", sa.LargeBinary),
    )
    op.create_index("responses_project", "responses", ["project", "id"])
    op.create_index("responses_created", "responses", ["created_us"])
    op.create_index("responses_status", "responses", ["status"])


def _webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("project", sa.Text, sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("events", sa.JSON),
        sa.Column("seeds", sa.JSON, nullable=False),
        sa.Column("changed_us", sa.BigInteger, nullable=False),
        sa.Column("stopped_us", sa.BigInteger),
    )
    op.create_table(
        "webhook_events",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("object", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("began_us", sa.BigInteger, nullable=False),
        sa.Column("due_us", sa.BigInteger),
        sa.Column("attempts", sa.BigInteger, nullable=False),
        sa.Column("tried_us", sa.BigInteger),
        sa.Column("status", sa.Integer),
        sa.Column("error", sa.Text),
    )
    op.create_index("webhook_events_project", "webhook_events", ["project", "id"])
    op.create_index("webhook_events_due", "webhook_events", ["project", "due_us"])
    op.create_index("webhook_events_object", "webhook_events", ["project", "object"])
