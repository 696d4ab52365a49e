"""Reservations in SQL (R18). Lists are in the order of creation."""

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Row

from fareclass.core.snapshot import Hours, Reservation
from fareclass.core.tiers import BY_WORD
from fareclass.store.tables import projects, reservation_terms, reservations

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


def keep_terms(connection: Connection, id: str, until_us: int) -> None:
    """Remember what a reservation is, since it is about to be something else from this time on."""
    kept = [column.name for column in reservation_terms.columns if column.name not in ("reservation", "until_us")]
    row = sa.select(reservations.c.id, sa.literal(until_us), *(reservations.c[name] for name in kept))
    row = row.where(reservations.c.id == id)
    connection.execute(sa.insert(reservation_terms).from_select(["reservation", "until_us", *kept], row))


def former_terms(connection: Connection, after_us: int) -> dict[str, list[tuple[int, Reserved]]]:
    """What reservations were until they changed, where that was after a time: by id, in order."""
    at = reservation_terms.c
    new = ("input_tpm", "output_tpm", "starts_us", "ends_us", "hours", "minute_pico", "settled")
    query = _ALL.join(reservation_terms, at.reservation == reservations.c.id).order_by(at.reservation, at.until_us)
    query = query.add_columns(at.until_us, *(at[name].label(f"former_{name}") for name in new))
    found: dict[str, list[tuple[int, Reserved]]] = {}
    for row in connection.execute(query.where(at.until_us > after_us)):
        former = _reserved(row, {name: getattr(row, f"former_{name}") for name in new})
        found.setdefault(row.id, []).append((row.until_us, former))
    return found


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


def _reserved(row: Row[Any], former: dict[str, Any] | None = None) -> Reserved:
    at: dict[str, Any] = row._asdict() | (former or {})
    ends = [end for end in (at["ends_us"], at["cancelled_us"]) if end is not None]
    return Reserved(
        reservation=Reservation(
            id=at["id"],
            project=at["project"],
            model=at["model"],
            input_tpm=at["input_tpm"],
            output_tpm=at["output_tpm"],
            overflow=BY_WORD.get(at["overflow"]),
            starts_us=at["starts_us"],
            ends_us=min(ends, default=None),
            hours=None if at["hours"] is None else msgspec.convert(at["hours"], Hours),
        ),
        project_name=at["project_name"],
        ends_us=at["ends_us"],
        minute_pico=at["minute_pico"],
        created_us=at["created_us"],
        cancelled_us=at["cancelled_us"],
        settled=None if at["settled"] is None else msgspec.convert(at["settled"], Settled),
    )
