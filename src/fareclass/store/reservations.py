"""Reservations in SQL (R18). Lists are in the order of creation."""

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Row

from fareclass.core.snapshot import Hours, Reservation
from fareclass.core.tiers import BY_WORD
from fareclass.store.tables import projects, reservations

_ALL = sa.select(reservations, projects.c.name.label("project_name")).join(
    projects, projects.c.id == reservations.c.project
)


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What a fee came to until a time, in 10⁻¹² USD; `part_us` is what of the next minute in force was over then."""

    until_us: int
    pico: int
    part_us: int


class Reserved(msgspec.Struct, frozen=True, kw_only=True):
    """A reservation as it was made, and what else is known of it. `reservation` ends at its cancellation, if that was earlier.

    `ends_us` is the end that was agreed on, `minute_pico` the fee for each minute in force in 10⁻¹² USD. `settled` is
    where the fee stood at the last change, None if there was none: only from then on its terms are these.
    """

    reservation: Reservation
    project_name: str
    ends_us: int | None
    minute_pico: int
    created_us: int
    cancelled_us: int | None
    settled: Settled | None


def add_reservation(connection: Connection, values: Mapping[str, Any]) -> None:
    connection.execute(sa.insert(reservations).values(**values))


def change_reservation(connection: Connection, id: str, values: Mapping[str, Any]) -> None:
    connection.execute(sa.update(reservations).where(reservations.c.id == id).values(**values))


def find_reservation(connection: Connection, id: str) -> Reserved | None:
    row = connection.execute(_ALL.where(reservations.c.id == id)).first()
    return None if row is None else _reserved(row)


def list_reservations(
    connection: Connection,
    *,
    project: str | None = None,
    model: str | None = None,
    after: str = "",
    limit: int | None = None,
) -> list[Reserved]:
    """Of one project or all, of one model or all; ended and cancelled ones too."""
    query = _ALL.where(reservations.c.id > after).order_by(reservations.c.id).limit(limit)
    if project is not None:
        query = query.where(reservations.c.project == project)
    if model is not None:
        query = query.where(reservations.c.model == model)
    return [_reserved(row) for row in connection.execute(query)]


def standing_reservations(connection: Connection, since_us: int, model: str | None = None) -> list[Reservation]:
    """Those that end after a time, if they end; without any that was cancelled before its start."""
    at = reservations.c
    query = _ALL.where(
        sa.or_(at.ends_us.is_(None), at.ends_us > since_us),
        sa.or_(at.cancelled_us.is_(None), sa.and_(at.cancelled_us > since_us, at.cancelled_us > at.starts_us)),
    ).order_by(at.id)
    if model is not None:
        query = query.where(at.model == model)
    return [_reserved(row).reservation for row in connection.execute(query)]


def _reserved(row: Row[Any]) -> Reserved:
    ends = [end for end in (row.ends_us, row.cancelled_us) if end is not None]
    return Reserved(
        reservation=Reservation(
            id=row.id,
            project=row.project,
            model=row.model,
            input_tpm=row.input_tpm,
            output_tpm=row.output_tpm,
            overflow=BY_WORD.get(row.overflow),
            starts_us=row.starts_us,
            ends_us=min(ends, default=None),
            hours=None if row.hours is None else msgspec.convert(row.hours, Hours),
        ),
        project_name=row.project_name,
        ends_us=row.ends_us,
        minute_pico=row.minute_pico,
        created_us=row.created_us,
        cancelled_us=row.cancelled_us,
        settled=None if row.settled is None else msgspec.convert(row.settled, Settled),
    )
