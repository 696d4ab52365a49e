"""Out of the database into memory: the `Snapshot` that the data path reads."""

from collections.abc import Mapping
from decimal import Decimal

from sqlalchemy import Connection

from fareclass.core.snapshot import Key, Model, PriceBook, Project, Quota, Snapshot
from fareclass.core.tiers import BY_WORD, TIERS
from fareclass.core.usage import KINDS
from fareclass.metering.pricing import compile_book, free_book
from fareclass.store import catalog
from fareclass.store.master_key import MasterKey
from fareclass.store.records import BookRecord, KeyRecord


def compile_snapshot(connection: Connection, master: MasterKey, models: Mapping[str, Model]) -> Snapshot:
    """Everything that is in force, as this transaction sees it."""
    projects = {
        record.id: Project(id=record.id, name=record.name, weight=record.weight)
        for record in catalog.list_projects(connection)
    }
    return Snapshot(
        projects=projects,
        keys={
            record.id: _key(record, projects[record.project], master)
            for record in catalog.list_keys(connection, in_force=True)
        },
        models=models,
        quotas={
            (record.project, record.model): Quota(tpm=record.tpm, rpm=record.rpm, concurrency=record.concurrency)
            for record in catalog.list_quotas(connection)
        },
        books={name: _book(name, catalog.newest_book(connection, name)) for name in models},
    )


def _key(record: KeyRecord, project: Project, master: MasterKey) -> Key:
    allowed = record.allowed_tiers
    return Key(
        id=record.id,
        project=project,
        name=record.name,
        secret=master.bearer(record.id, record.key_version).encode(),
        default_tier=BY_WORD[record.default_tier],
        allowed_tiers=None if allowed is None else frozenset(BY_WORD[word] for word in allowed),
        tags=record.tags,
    )


def _book(model: str, record: BookRecord | None) -> PriceBook:
    if record is None:
        return free_book(model)
    prices = [Decimal(getattr(record, kind)) for kind in KINDS]
    return compile_book(model, record.version, prices, [Decimal(record.tiers[tier.word]) for tier in TIERS])
