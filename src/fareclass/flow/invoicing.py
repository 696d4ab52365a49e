"""What reservations came to in a month (R18): from their calendar, and from what they were before they were changed."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from fareclass.core.times import MINUTE_US
from fareclass.flow.reserving import settled
from fareclass.metering.invoice import Fee
from fareclass.policy.calendar import in_force_us
from fareclass.store.reservations import Reserved, former_terms, list_reservations


class _Stretch(NamedTuple):
    """A time in which a reservation had these terms."""

    terms: Reserved
    from_us: int
    to_us: int


def fees(connection: Connection, project: str | None, from_us: int, to_us: int) -> list[Fee]:
    """Of every reservation that was in force between two times."""
    former = former_terms(connection, from_us)
    found = []
    for one in list_reservations(connection, project=project):
        terms = [*former.get(one.reservation.id, []), (max(to_us, from_us), one)]
        fee = _fee(one, _stretches(terms, from_us, to_us), from_us, to_us)
        if fee.minutes or fee.pico:
            found.append(fee)
    return found


def _stretches(terms: Sequence[tuple[int, Reserved]], from_us: int, to_us: int) -> list[_Stretch]:
    found: list[_Stretch] = []
    at = from_us
    for until_us, one in terms:
        end = min(until_us, to_us)
        if at < end or not found:
            found.append(_Stretch(one, at, max(at, end)))
            at = max(at, end)
    return found


def _fee(one: Reserved, stretches: Sequence[_Stretch], from_us: int, to_us: int) -> Fee:
    spent = [in_force_us(each.terms.reservation, each.from_us, each.to_us) for each in stretches]
    last, now = stretches[-1].terms, one.reservation
    return Fee(
        reservation=now.id,
        project=now.project,
        model=now.model,
        input_tpm=last.reservation.input_tpm,
        output_tpm=last.reservation.output_tpm,
        minute_pico=last.minute_pico,
        minutes=sum(spent) // MINUTE_US,
        floor_input=_floor(each.terms.reservation.input_tpm * us for each, us in zip(stretches, spent, strict=True)),
        floor_output=_floor(each.terms.reservation.output_tpm * us for each, us in zip(stretches, spent, strict=True)),
        pico=_accrued(last, to_us) - _accrued(stretches[0].terms, from_us),
    )


def _floor(parts: Iterable[int]) -> int:
    return sum(parts) // MINUTE_US


def _accrued(terms: Reserved, at_us: int) -> int:
    """A fee until a time, by the terms in force then."""
    before = terms.settled
    if before is None or at_us >= before.until_us:
        return settled(terms, at_us).pico
    # Its terms of then were never kept: this database is older than the table of former terms.
    spent_us = in_force_us(terms.reservation, terms.reservation.starts_us, at_us)
    return min(before.pico, spent_us // MINUTE_US * terms.minute_pico)
