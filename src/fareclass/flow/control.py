"""Operator commands: each is one transaction, audited, and in force as soon as it returns.

Commands are synchronous and run in threads, one at a time; each ends by publishing a new
`Snapshot` by reference, which the data path picks up with its next request.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import Connection

from fareclass.config import Price, ReservedPrice
from fareclass.core.limits import MODEL_CHARS
from fareclass.core.snapshot import Model, Snapshot
from fareclass.core.tiers import TIERS, Tier
from fareclass.core.usage import KINDS
from fareclass.flow.audit import note
from fareclass.flow.clock import now_us
from fareclass.flow.compile import compile_snapshot
from fareclass.flow.key_terms import KeyTerms, key_columns
from fareclass.flow.lookups import find_key, find_project, free_key_name, free_project_name
from fareclass.flow.operator_rules import (
    ControlError,
    check_limits,
    check_weight,
)
from fareclass.metering.pricing import RESERVED, PriceError, check_number, compile_book
from fareclass.store import catalog, ids
from fareclass.store.database import Store
from fareclass.store.master_key import MasterKey
from fareclass.store.records import AuditRecord, BookRecord, KeyRecord, ProjectRecord, QuotaRecord

CONFIG = "config"
"""Who changed a price that came with the configuration file."""


class Tariff(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says of a model's prices; `multipliers` are in the order of the tiers."""

    price: Price | None
    multipliers: tuple[Decimal, ...]
    reserved: ReservedPrice | None = None


class Control:
    """The control plane. `snapshot` is always whole and never changes once published.

    Every command takes the `actor` who gave it, for the audit.
    """

    def __init__(
        self, store: Store, master: MasterKey, models: Mapping[str, Model], tariffs: Mapping[str, Tariff]
    ) -> None:
        """Take the configuration's prices over where they changed, and compile the first snapshot.

        Raises:
            StoreError: the master key lost a version that a key needs.
            PriceError: a configured price can't be used.
        """
        self.store = store
        self._master = master
        self.models = models
        self._tariffs = tariffs
        self._lock = threading.Lock()
        with self.change() as connection:
            for name, tariff in tariffs.items():
                if tariff.price is not None or tariff.reserved is not None:
                    _take_over(connection, name, tariff)

    # Projects

    def create_project(self, actor: str, name: str, weight: int = 1) -> ProjectRecord:
        """A new tenant."""
        with self.change() as connection:
            return self._create_project(connection, actor, name, weight)

    def update_project(
        self, actor: str, ref: str, name: str | UnsetType = UNSET, weight: int | UnsetType = UNSET
    ) -> ProjectRecord:
        with self.change() as connection:
            before = find_project(connection, ref)
            values: dict[str, object] = {}
            if name is not UNSET and name != before.name:
                values["name"] = free_project_name(connection, name)
            if weight is not UNSET:
                values["weight"] = check_weight(weight)
            if values:
                catalog.change_project(connection, before.id, values)
            after = find_project(connection, before.id)
            note(connection, actor, "project.update", before.id, before, after)
            return after

    def project(self, ref: str) -> ProjectRecord:
        with self.store.read() as connection:
            return find_project(connection, ref)

    def projects(self, *, after: str, limit: int) -> list[ProjectRecord]:
        with self.store.read() as connection:
            return catalog.list_projects(connection, after=after, limit=limit)

    # Keys

    def create_key(
        self,
        actor: str,
        project: str,
        name: str,
        terms: KeyTerms = KeyTerms(),
    ) -> tuple[KeyRecord, str]:
        """A new key and its secret, which is shown here and never again (R51)."""
        with self.change() as connection:
            owner = find_project(connection, project)
            return self._create_key(connection, actor, owner, name, terms)

    def update_key(
        self,
        actor: str,
        ref: str,
        terms: KeyTerms,
        name: str | UnsetType = UNSET,
    ) -> KeyRecord:
        with self.change() as connection:
            before = find_key(connection, ref)
            values = key_columns(connection, terms, before)
            if name is not UNSET and name != before.name:
                values["name"] = free_key_name(connection, before.project, name)
            catalog.change_key(connection, before.id, values)
            after = find_key(connection, before.id)
            note(connection, actor, "key.update", before.id, before, after)
            return after

    def revoke_key(self, actor: str, ref: str) -> KeyRecord:
        """From the moment this returns the key opens nothing. Revoking twice changes nothing."""
        with self.change() as connection:
            before = find_key(connection, ref)
            if before.revoked_at is not None:
                return before
            catalog.change_key(connection, before.id, {"revoked_us": now_us()})
            after = find_key(connection, before.id)
            note(connection, actor, "key.revoke", before.id, before, after)
            return after

    def key(self, ref: str) -> KeyRecord:
        with self.store.read() as connection:
            return find_key(connection, ref)

    def keys(self, *, project: str | None, after: str, limit: int) -> list[KeyRecord]:
        """Of one project or all, revoked ones too."""
        with self.store.read() as connection:
            owner = None if project is None else find_project(connection, project).id
            return catalog.list_keys(connection, project=owner, after=after, limit=limit)

    def first_key(self, actor: str) -> str | None:
        """At the very first start: a project and a key to begin with. Its secret, None if there are projects."""
        with self.change() as connection:
            if catalog.list_projects(connection, limit=1):
                return None
            project = self._create_project(connection, actor, "default", 1)
            return self._create_key(connection, actor, project, "first", KeyTerms())[1]

    # Quotas, prices

    def set_quota(
        self,
        actor: str,
        project: str,
        model: str,
        limits: Mapping[str, int | None],
        priority_share: Decimal = Decimal(0),
    ) -> QuotaRecord:
        """Replace a project's on-demand limits on a model (R25): `tpm`, `rpm`, `concurrency`; None is no limit."""
        with self.change() as connection:
            owner = find_project(connection, project)
            self.known_model(model)
            before = catalog.find_quota(connection, owner.id, model)
            catalog.put_quota(connection, owner.id, model, check_limits(limits, priority_share))
            after = catalog.find_quota(connection, owner.id, model)
            assert after is not None
            note(connection, actor, "quota.set", f"{owner.id}/{model}", before, after)
            return after

    def quotas(self, *, project: str | None, after: tuple[str, str], limit: int) -> list[QuotaRecord]:
        with self.store.read() as connection:
            owner = None if project is None else find_project(connection, project).id
            return catalog.list_quotas(connection, project=owner, after=after, limit=limit)

    def set_prices(
        self,
        actor: str,
        model: str,
        price: Price,
        tiers: Mapping[str, Decimal],
        reserved: tuple[Decimal | None, Decimal | None] = (None, None),
    ) -> BookRecord:
        """A new version of a model's prices, in force for requests admitted from now on (R33).

        Tiers that are not named keep the multipliers of the configuration, a `reserved` price that is None stays.
        """
        self.known_model(model)
        words = {tier.word: number for tier, number in zip(TIERS, self._tariffs[model].multipliers, strict=True)}
        for word in tiers:
            if word not in words or word == Tier.RESERVED.word:
                known = ", ".join(other for other in words if other != Tier.RESERVED.word)
                raise ControlError("invalid", f"unknown tier {word!r}; priced per token are: {known}", f"tiers.{word}")
        try:
            with self.change() as connection:
                factors = tuple((words | dict(tiers)).values())
                kept = _reserved_now(connection, model)
                fees = [old if new is None else new for new, old in zip(reserved, kept, strict=True)]
                return _add_book(connection, actor, model, _Written(price, factors, fees), "api")
        except PriceError as error:
            raise ControlError("invalid", str(error), error.field) from None

    def prices(self) -> list[BookRecord]:
        """The book in force of each model that has one."""
        with self.store.read() as connection:
            return [book for name in self.models if (book := catalog.newest_book(connection, name))]

    def price_versions(self, model: str, *, before: int | None, limit: int) -> list[BookRecord]:
        """Every version of a model's prices, the newest first."""
        self.known_model(model)
        with self.store.read() as connection:
            return catalog.list_books(connection, model, before=before, limit=limit)

    # The audit

    def audit(self, *, before: int | None, limit: int) -> list[AuditRecord]:
        """Every change, the newest first."""
        with self.store.read() as connection:
            return catalog.list_audit(connection, before=before, limit=limit)

    def note_change(self, actor: str, action: str, target: str, before: Any, after: Any) -> None:
        """Audit a change whose object is not in the database (a replica's slots, tiers, drain)."""
        with self.store.write() as connection:
            note(connection, actor, action, target, before, after)

    # Inside

    @contextmanager
    def change(self) -> Iterator[Connection]:
        """One command's transaction; what it made is published only after its commit."""
        with self._lock:
            with self.store.write() as connection:
                yield connection
                snapshot = compile_snapshot(connection, self._master, self.models)
            self.snapshot: Snapshot = snapshot

    def known_model(self, model: str) -> None:
        if model not in self.models:
            shown = model[:MODEL_CHARS]
            raise ControlError("not_found", f"no model {shown!r}; there are: {', '.join(self.models)}", "model")

    def _create_project(self, connection: Connection, actor: str, name: str, weight: int) -> ProjectRecord:
        project = ids.new_id(ids.PROJECT)
        values = {"name": free_project_name(connection, name), "weight": check_weight(weight)}
        catalog.add_project(connection, values | {"id": project, "created_us": now_us()})
        made = find_project(connection, project)
        note(connection, actor, "project.create", project, None, made)
        return made

    def _create_key(
        self, connection: Connection, actor: str, project: ProjectRecord, name: str, terms: KeyTerms
    ) -> tuple[KeyRecord, str]:
        key = ids.new_id(ids.KEY)
        values = {
            "id": key,
            "project": project.id,
            "name": free_key_name(connection, project.id, name),
            **key_columns(connection, terms, None),
            "key_version": self._master.version,
            "created_us": now_us(),
        }
        catalog.add_key(connection, values)
        made = find_key(connection, key)
        note(connection, actor, "key.create", key, None, made)
        return made, self._master.bearer(key, made.key_version)


class _Written:
    """Prices as the decimal strings that the database keeps.

    Raises:
        PriceError: one of them can't be used.
    """

    def __init__(self, price: Price, multipliers: Sequence[Decimal], reserved: Sequence[Decimal]) -> None:
        for kind in KINDS:
            if (number := getattr(price, kind)) is not None:
                check_number(kind, number)
        compile_book("", 0, price.kinds(), multipliers, reserved)
        self.prices = [_text(number) for number in price.kinds()]
        self.multipliers = {tier.word: _text(number) for tier, number in zip(TIERS, multipliers, strict=True)}
        self.reserved = [_text(number) for number in reserved]

    def says(self, book: BookRecord) -> bool:
        """Whether that is what a book has already."""
        return (
            [getattr(book, kind) for kind in KINDS] == self.prices
            and dict(book.tiers) == self.multipliers
            and [getattr(book, kind) for kind in RESERVED] == self.reserved
        )


def _text(number: Decimal) -> str:
    return f"{number.normalize():f}"


def _take_over(connection: Connection, model: str, tariff: Tariff) -> None:
    """The configuration's price, where it differs from the last one it gave.

    So a change made through the control plane outlives a restart, until somebody edits the file.
    """
    price = tariff.price or Price(input=Decimal(0), output=Decimal(0))
    fees = (Decimal(0), Decimal(0)) if tariff.reserved is None else (tariff.reserved.input, tariff.reserved.output)
    written = _Written(price, tariff.multipliers, fees)
    last = catalog.newest_book(connection, model, CONFIG)
    if last is None or not written.says(last):
        _add_book(connection, CONFIG, model, written, CONFIG)


def _reserved_now(connection: Connection, model: str) -> list[Decimal]:
    book = catalog.newest_book(connection, model)
    return [Decimal(0) if book is None else Decimal(getattr(book, kind)) for kind in RESERVED]


def _add_book(connection: Connection, actor: str, model: str, written: _Written, source: str) -> BookRecord:
    before = catalog.newest_book(connection, model)
    catalog.add_book(
        connection,
        model,
        prices=written.prices,
        multipliers=written.multipliers,
        reserved=written.reserved,
        source=source,
        now_us=now_us(),
    )
    after = catalog.newest_book(connection, model)
    assert after is not None
    note(connection, actor, "price.set", model, before, after)
    return after
