"""The tables. Times are microseconds since the epoch; amounts are 10⁻¹² USD (R34).

No column holds a secret: a key's is derived from its id and the master key, which is kept
outside the database (R51). `tests/store` shows that the migrations make exactly these tables.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
)

metadata = MetaData()


def _json(name: str) -> Column[Any]:
    return Column(name, JSON(none_as_null=True))


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


meta = Table("meta", metadata, Column("name", Text, primary_key=True), _text("value"))

projects = Table(
    "projects",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    _count("weight"),
    _count("created_us"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.id"), nullable=False),
    _text("name"),
    Column("default_tier", Text),
    _json("allowed_tiers"),
    _json("tags"),
    Column("key_version", Integer, nullable=False),
    _count("created_us"),
    Column("revoked_us", BigInteger),
    Column("workload", Text),
    _json("escalation"),
)
"""`default_tier` is null where it is the workload's."""

quotas = Table(
    "quotas",
    metadata,
    Column("project", Text, ForeignKey("projects.id"), primary_key=True),
    Column("model", Text, primary_key=True),
    Column("tpm", BigInteger),
    Column("rpm", BigInteger),
    Column("concurrency", BigInteger),
    Column("priority_permille", BigInteger, nullable=False, server_default="0"),
)

budgets = Table(
    "budgets",
    metadata,
    Column("project", Text, ForeignKey("projects.id"), primary_key=True),
    Column("key", Text, primary_key=True),
    _count("pico"),
    _text("per"),
)
"""`key` is empty for the budget of a whole project."""

workloads = Table(
    "workloads",
    metadata,
    Column("name", Text, primary_key=True),
    _text("shape"),
    _text("default_tier"),
    Column("overflow", Text),
    _json("escalation"),
)

routes = Table(
    "routes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("models", JSON, nullable=False),
    _text("order_by"),
    _json("limits"),
    _json("by_tier"),
    _json("by_workload"),
    _count("created_us"),
)

reservations = Table(
    "reservations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.id"), nullable=False),
    _text("model"),
    _count("input_tpm"),
    _count("output_tpm"),
    _text("overflow"),
    _count("starts_us"),
    Column("ends_us", BigInteger),
    _json("hours"),
    _count("minute_pico"),
    _count("created_us"),
    Column("cancelled_us", BigInteger),
    _json("settled"),
    Index("reservations_project_model", "project", "model"),
)
"""`minute_pico` is its fee for each minute that it is in force, fixed at its making (R18); `settled` what came before."""

reservation_terms = Table(
    "reservation_terms",
    metadata,
    Column("reservation", Text, ForeignKey("reservations.id"), primary_key=True),
    Column("until_us", BigInteger, primary_key=True),
    _count("input_tpm"),
    _count("output_tpm"),
    _count("starts_us"),
    Column("ends_us", BigInteger),
    _json("hours"),
    _count("minute_pico"),
    _json("settled"),
)
"""What a reservation was until it was changed."""

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("name", Text, primary_key=True),
    _count("at_us"),
    _json("state"),
)
"""What the gateway knows in memory and must not forget at a restart: levels of buckets, learned estimates."""

cache_entries = Table(
    "cache_entries",
    metadata,
    Column("digest", Text, primary_key=True),
    _text("project"),
    _text("model"),
    _count("tokens"),
    _count("ttl_s"),
    _count("expires_us"),
    _text("replica"),
    Index("cache_entries_expires", "expires_us"),
)
"""Prefixes that callers paid to have cached, by digest alone (R29)."""

files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.id"), nullable=False),
    _text("purpose"),
    _text("name"),
    _count("size_bytes"),
    _count("created_us"),
    _count("expires_us"),
    Index("files_project", "project", "id"),
    Index("files_expires", "expires_us"),
)
"""What they hold lies in the data folder under their id."""

batches = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.id"), nullable=False),
    _text("key"),
    _text("api"),
    _text("state"),
    _text("input"),
    Column("terms", JSON, nullable=False),
    Column("books", JSON, nullable=False),
    _count("created_us"),
    _count("deadline_us"),
    Column("started_us", BigInteger),
    Column("finalizing_us", BigInteger),
    Column("cancelling_us", BigInteger),
    Column("ended_us", BigInteger),
    _count("total"),
    _count("succeeded"),
    _count("failed"),
    _json("result"),
    Column("token", Text),
    Index("batches_project", "project", "id"),
    Index("batches_state", "state"),
    Index("batches_token", "project", "api", "token", unique=True),
)
"""`terms` is what its API keeps of the call that made it, `books` the price books of then by model, `result` what it
came to; `token` is the same where the call was sent again."""

batch_roots = Table(
    "batch_roots",
    metadata,
    Column("project", Text, ForeignKey("projects.id"), primary_key=True),
    Column("uri", Text, primary_key=True),
    Column("folder", Text),
    Column("store", Text),
)
"""Where a project's batches may read and write: what begins with `uri` is in this folder, or in this object store."""

responses = Table(
    "responses",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.id"), nullable=False),
    _text("key"),
    _text("status"),
    Column("background", Boolean, nullable=False),
    _count("created_us"),
    _count("size_bytes"),
    Column("body", LargeBinary, nullable=False),
    Column("input", LargeBinary, nullable=False),
    Column("asked", LargeBinary),
    Column("events", LargeBinary),
    Index("responses_project", "project", "id"),
    Index("responses_created", "created_us"),
    Index("responses_status", "status"),
)
"""`body` is the response and `input` what it answers, as JSON; of one in the background, `asked` is the call as long as
it is not over, `events` (compressed) its stream once it is."""

webhooks = Table(
    "webhooks",
    metadata,
    Column("project", Text, ForeignKey("projects.id"), primary_key=True),
    _text("url"),
    _json("events"),
    Column("seeds", JSON, nullable=False),
    _count("changed_us"),
    Column("stopped_us", BigInteger),
)
"""`events` null is all of them; `seeds` are what its secrets are derived from, the newest first."""

webhook_events = Table(
    "webhook_events",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.id"), nullable=False),
    _text("type"),
    _text("object"),
    _text("state"),
    _count("created_us"),
    _count("began_us"),
    Column("due_us", BigInteger),
    _count("attempts"),
    Column("tried_us", BigInteger),
    Column("status", Integer),
    Column("error", Text),
    Index("webhook_events_project", "project", "id"),
    Index("webhook_events_due", "project", "due_us"),
    Index("webhook_events_object", "project", "object"),
)
"""An outbox: what has a `due_us` is still to be sent. `status` and `error` are of the last attempt."""

price_books = Table(
    "price_books",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    _text("model"),
    Column("version", Integer, nullable=False),
    _json("prices"),
    _json("multipliers"),
    Column("reserved", JSON, nullable=False, server_default='["0", "0"]'),
    _text("source"),
    _count("created_us"),
    UniqueConstraint("model", "version", name="price_books_version"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    _count("at_us"),
    _text("actor"),
    _text("action"),
    _text("target"),
    _json("before"),
    _json("after"),
)

ledger = Table(
    "ledger",
    metadata,
    Column("id", Text, primary_key=True),
    _text("caller_id"),
    _text("project"),
    _text("key"),
    Column("tags", JSON, nullable=False),
    _text("model"),
    _text("endpoint"),
    _text("requested_tier"),
    _text("served_tier"),
    _text("outcome"),
    _text("code"),
    Column("streamed", Boolean, nullable=False),
    _count("input"),
    _count("cache_write_5m"),
    _count("cache_write_1h"),
    _count("cache_read"),
    _count("output"),
    Column("estimated", Boolean, nullable=False),
    _count("cost_pico"),
    Column("book_version", Integer, nullable=False),
    _count("arrived_us"),
    Column("started_us", BigInteger),
    Column("first_token_us", BigInteger),
    _count("ended_us"),
    _count("queue_ms"),
    _count("paused_ms"),
    _count("pauses"),
    _count("restarts"),
    _text("replica"),
    _count("longest_gap_ms"),
    Column("workload", Text, nullable=False, server_default=""),
    Column("spilled", Text, nullable=False, server_default=""),
    Column("escalated", Boolean, nullable=False, server_default=false()),
    Column("prefix", Text, nullable=False, server_default=""),
    Column("width", Integer, nullable=False, server_default="1"),
    Column("route", Text, nullable=False, server_default=""),
    Index("ledger_time", "ended_us"),
    Index("ledger_project_time", "project", "ended_us"),
    Index("ledger_model_time", "model", "ended_us"),
)
