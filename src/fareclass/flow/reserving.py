"""Operator commands on reservations: floors that are promised, checked against the pool's whole calendar (R18, R19)."""

import threading
from datetime import datetime
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import Connection

from fareclass.core.limits import FEE_USD, MODEL_CHARS, RESERVATIONS
from fareclass.core.money import PICO_PER_USD, usd
from fareclass.core.snapshot import Model, Reservation
from fareclass.core.tiers import BY_WORD, Tier
from fareclass.core.times import MINUTE_US
from fareclass.flow.audit import note
from fareclass.flow.clock import now_us
from fareclass.flow.control import Control
from fareclass.flow.lookups import find_project
from fareclass.flow.operator_rules import REJECT, ControlError
from fareclass.flow.reservation_rules import (
    check_floor,
    check_start,
    check_times,
    hours_of,
    hours_record,
    overflow_word,
    utc_text,
)
from fareclass.metering.pricing import minute_fee
from fareclass.policy.calendar import in_force, in_force_us, status
from fareclass.policy.capacity import Pool, Tpm, fullest, grows, largest_fit, lone, shortage, sold
from fareclass.store import ids
from fareclass.store.records import HoursRecord, ReservationRecord, moment
from fareclass.store.reservations import (
    Reserved,
    Settled,
    add_reservation,
    change_reservation,
    find_reservation,
    keep_terms,
    list_reservations,
    standing_reservations,
)


class Slots(NamedTuple):
    """Of a running pool: those of all replicas, and of those that admit reserved work (R16)."""

    all: int
    reservable: int


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for; UNSET stays as it is, or gets its default. Times in microseconds since the epoch.

    `starts_us` None is now.
    """

    input_tpm: int | UnsetType = UNSET
    output_tpm: int | UnsetType = UNSET
    overflow: str | UnsetType = UNSET
    starts_us: int | UnsetType | None = UNSET
    ends_us: int | UnsetType | None = UNSET
    hours: HoursRecord | UnsetType | None = UNSET


class Sold(msgspec.Struct, frozen=True, kw_only=True):
    """What is sold at a moment, and how much more of either side alone would fit then, all in tokens a minute."""

    at: datetime
    sold_input_tpm: int
    sold_output_tpm: int
    free_input_tpm: int
    free_output_tpm: int


class CapacityView(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool does of each kind alone, and what of it is sold: now, and when the calendar is fullest (R19).

    Null where the pool's capacity is not known.
    """

    model: str
    slots: int
    reservable_slots: int
    input_tpm: int | None
    output_tpm: int | None
    now: Sold | None
    peak: Sold | None


class InsufficientCapacity(ControlError):
    """A reservation that does not fit; `available` is the most of what was asked that would."""

    def __init__(self, message: str, available: Tpm) -> None:
        super().__init__("insufficient_capacity", message)
        self.available = available


class Reserving:
    """One command at a time, so that none counts on capacity that another is taking.

    The calendar is read and checked before the transaction that writes: it may take a
    second, in which the ledger must not wait for the database.
    """

    def __init__(self, control: Control) -> None:
        self._control = control
        self._lock = threading.Lock()

    def create(self, actor: str, project: str, model: str, terms: Terms, slots: Slots) -> ReservationRecord:
        """A new reservation; what the price book in force says is its fee."""
        with self._lock:
            now = now_us()
            with self._control.store.read() as connection:
                owner = find_project(connection, project)
                new = _changed(_blank(ids.new_id(ids.RESERVATION), owner.id, self._known(model).name), terms, now)
                others = standing_reservations(connection, now, model)
            self._check(new, others, slots, now)
            with self._control.change() as connection:
                values = _columns(new) | {"project": new.project, "model": model, "created_us": now}
                add_reservation(connection, {"id": new.id, **values, "minute_pico": self._fee(new)})
                made = _record(_found(connection, new.id), now)
                note(connection, actor, "reservation.create", new.id, None, made)
                return made

    def update(self, actor: str, ref: str, terms: Terms, slots: Slots) -> ReservationRecord:
        """Change one that is not over. Its fee stays, unless its tokens change: then it is that of today's prices."""
        with self._lock:
            now = now_us()
            with self._control.store.read() as connection:
                found = _found(connection, ref)
                old = found.reservation
                before = _record(found, now)
                others = [one for one in standing_reservations(connection, now, old.model) if one.id != ref]
            if before.status in {"ended", "cancelled"}:
                raise ControlError("ended", f"reservation {ref} is {before.status}; make a new one instead")
            new = _changed(old, terms, now)
            if grows(new, old):
                self._check(new, others, slots, now)
            values = _columns(new) | {"settled": msgspec.to_builtins(settled(found, now))}
            if (new.input_tpm, new.output_tpm) != (old.input_tpm, old.output_tpm):
                values["minute_pico"] = self._fee(new)
            with self._control.change() as connection:
                keep_terms(connection, ref, now)
                change_reservation(connection, ref, values)
                after = _record(_found(connection, ref), now)
                note(connection, actor, "reservation.update", ref, before, after)
                return after

    def cancel(self, actor: str, ref: str) -> ReservationRecord:
        """End it now, or before it began. One that is over stays as it is."""
        with self._lock, self._control.change() as connection:
            now = now_us()
            before = _record(_found(connection, ref), now)
            if before.status in {"ended", "cancelled"}:
                return before
            change_reservation(connection, ref, {"cancelled_us": now})
            after = _record(_found(connection, ref), now)
            note(connection, actor, "reservation.cancel", ref, before, after)
            return after

    def reservation(self, ref: str) -> ReservationRecord:
        with self._control.store.read() as connection:
            return _record(_found(connection, ref), now_us())

    def reservations(
        self, *, project: str | None, model: str | None, after: str, limit: int
    ) -> list[ReservationRecord]:
        """Of one project or all, of one model or all; ended and cancelled ones too."""
        with self._control.store.read() as connection:
            owner = None if project is None else find_project(connection, project).id
            found = list_reservations(connection, project=owner, model=model, after=after, limit=limit)
        now = now_us()
        return [_record(one, now) for one in found]

    def capacity(self, model: str, slots: Slots) -> CapacityView:
        """What is sold of a pool and what is left, now and at the fullest time of the calendar."""
        capacity = self._known(model).capacity
        view = CapacityView(
            model=model,
            slots=slots.all,
            reservable_slots=slots.reservable,
            input_tpm=None,
            output_tpm=None,
            now=None,
            peak=None,
        )
        if capacity is None:
            return view
        now = now_us()
        with self._control.store.read() as connection:
            standing = standing_reservations(connection, now, model)
        pool = Pool(capacity, slots.all, slots.reservable)
        peak = fullest(pool, standing, _blank("", "", model), now)
        return msgspec.structs.replace(
            view,
            input_tpm=capacity.input_tpm,
            output_tpm=capacity.output_tpm,
            now=_sold(pool, sold(standing, now), now),
            peak=_sold(pool, peak.sold, peak.at_us),
        )

    def _known(self, model: str) -> Model:
        self._control.known_model(model)
        return self._control.models[model]

    def _check(self, new: Reservation, others: list[Reservation], slots: Slots, now: int) -> None:
        """Whether the pool can promise it beside the others, in every minute in which it is in force (R19)."""
        model = self._known(new.model)
        if Tier.RESERVED not in model.tiers:
            raise ControlError(
                "invalid", f"model {model.name} does not serve tier reserved: add it to its `tiers`", "model"
            )
        if model.capacity is None:
            raise ControlError(
                "capacity_unknown",
                f"nobody knows what the pool of {model.name} can do: set models.{model.name}.capacity in the "
                f"configuration; `fareclass bench capacity {model.name} --config FILE` measures it",
                "model",
            )
        if len(others) >= RESERVATIONS:
            raise ControlError("too_many", f"model {model.name} has {RESERVATIONS} reservations that are not over yet")
        pool = Pool(model.capacity, slots.all, slots.reservable)
        worst = shortage(pool, others, new, now)
        if worst is not None:
            free = largest_fit(pool, worst.sold, Tpm(new.input_tpm, new.output_tpm))
            offer = (
                f"the largest that fits all the time, in the proportion asked for, is {free.input} input and "
                f"{free.output} output tokens a minute"
            )
            raise InsufficientCapacity(
                f"the pool of {model.name} can't promise that beside what is sold at {utc_text(worst.at_us)}; "
                + (offer if any(free) else "nothing in the proportion asked for fits all the time"),
                free,
            )

    def _fee(self, new: Reservation) -> int:
        """For each minute in force, by the book in force now (R33)."""
        pico = minute_fee(self._control.snapshot.books[self._known(new.model).name], new.input_tpm, new.output_tpm)
        if pico * 60 > FEE_USD * PICO_PER_USD:
            raise ControlError("invalid", f"this would cost more than {FEE_USD} USD an hour", "input_tpm")
        return pico


def _blank(id: str, project: str, model: str) -> Reservation:
    """What a reservation is where nothing is said: open-ended, from now on, around the clock."""
    return Reservation(
        id=id, project=project, model=model, input_tpm=0, output_tpm=0, overflow=Tier.DEFAULT, starts_us=0
    )


def _changed(old: Reservation, terms: Terms, now: int) -> Reservation:
    given = {name: value for name, value in msgspec.structs.asdict(terms).items() if value is not UNSET}
    if "overflow" in given:
        given["overflow"] = BY_WORD.get(overflow_word(given["overflow"]))
    if given.get("hours") is not None:
        given["hours"] = hours_of(given["hours"])
    given["starts_us"] = check_start(old.starts_us, given.get("starts_us", old.starts_us or None), now)
    new: Reservation = msgspec.structs.replace(old, **given)
    check_floor(new.input_tpm, new.output_tpm)
    check_times(new.starts_us, new.ends_us, now)
    return new


def _columns(new: Reservation) -> dict[str, object]:
    return {
        "input_tpm": new.input_tpm,
        "output_tpm": new.output_tpm,
        "overflow": REJECT if new.overflow is None else new.overflow.word,
        "starts_us": new.starts_us,
        "ends_us": new.ends_us,
        "hours": msgspec.to_builtins(new.hours),
    }


def _found(connection: Connection, ref: str) -> Reserved:
    found = find_reservation(connection, ref)
    if found is None:
        raise ControlError("not_found", f"no reservation {ref[:MODEL_CHARS]!r}", "reservation")
    return found


def _record(found: Reserved, now: int) -> ReservationRecord:
    one = found.reservation
    return ReservationRecord(
        id=one.id,
        project=one.project,
        project_name=found.project_name,
        model=one.model,
        status=status(one.starts_us, found.ends_us, found.cancelled_us, now),
        input_tpm=one.input_tpm,
        output_tpm=one.output_tpm,
        overflow=REJECT if one.overflow is None else one.overflow.word,
        starts_at=moment(one.starts_us),
        ends_at=None if found.ends_us is None else moment(found.ends_us),
        hours=None if one.hours is None else hours_record(one.hours),
        in_force=in_force(one, now),
        hourly_usd=usd(found.minute_pico * 60),
        accrued_usd=usd(settled(found, now).pico),
        created=moment(found.created_us),
        cancelled_at=None if found.cancelled_us is None else moment(found.cancelled_us),
    )


def settled(found: Reserved, now: int) -> Settled:
    """Its fee until now: each whole minute in force costs what it did at its end (R18)."""
    before = found.settled or Settled(until_us=0, pico=0, part_us=0)
    until = max(now, before.until_us)
    spent_us = before.part_us + in_force_us(found.reservation, before.until_us, until)
    minutes, part_us = divmod(spent_us, MINUTE_US)
    return Settled(until_us=until, pico=before.pico + minutes * found.minute_pico, part_us=part_us)


def _sold(pool: Pool, taken: Tpm, at_us: int) -> Sold:
    free = lone(pool, taken)
    return Sold(
        at=moment(at_us),
        sold_input_tpm=taken.input,
        sold_output_tpm=taken.output,
        free_input_tpm=free.input,
        free_output_tpm=free.output,
    )
