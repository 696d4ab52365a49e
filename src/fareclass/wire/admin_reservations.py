"""Reservations and capacity over HTTP (R18, R19)."""

import asyncio
from functools import partial

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from fareclass.core.tiers import Tier
from fareclass.flow.control import Control
from fareclass.flow.operator_rules import ControlError
from fareclass.flow.pools import Pools
from fareclass.flow.reserving import CapacityView, Reserving, Slots, Terms
from fareclass.store.records import HoursRecord, ReservationRecord
from fareclass.wire import admin_types as types
from fareclass.wire.admin_http import ACTOR, Operation, answer, micros, page, path_part, read_body, read_query


class ReservationAdmin:
    """Turns HTTP into commands of `Reserving`, as `Admin` does for `Control`.

    A pool's slots are read in the event loop, before a command goes to its thread.
    """

    def __init__(self, control: Control, pools: Pools) -> None:
        self._reserving = Reserving(control)
        self._pools = pools

    def operations(self) -> list[Operation]:
        """What the control plane can do with reservations."""
        one, record = "/reservations/{reservation}", ReservationRecord
        listed = partial(Operation, query=types.ReservationPage, many=True)
        capacity = partial(Operation, query=types.PoolsQuery, many=True)
        make, change = types.ReservationIn, types.ReservationPatch
        return [
            listed("GET", "/reservations", self.list_reservations, "List reservations, past ones too", record),
            Operation("POST", "/reservations", self.create, "Make a reservation", record, make, status=201),
            Operation("GET", one, self.get, "Show a reservation", record),
            Operation("PATCH", one, self.update, "Change a reservation", record, change),
            Operation("DELETE", one, self.cancel, "Cancel a reservation", record),
            capacity("GET", "/capacity", self.capacity, "What pools can do, and what is sold of it", CapacityView),
        ]

    async def list_reservations(self, request: Request) -> Response:
        part = read_query(request, types.ReservationPage)
        found = await asyncio.to_thread(
            self._reserving.reservations,
            project=part.project,
            model=part.model,
            after=part.after,
            limit=part.limit + 1,
        )
        return page(found, part.limit, "id")

    async def create(self, request: Request) -> Response:
        body = await read_body(request, types.ReservationIn)
        slots = self._slots(body.model)
        made = await asyncio.to_thread(self._reserving.create, ACTOR, body.project, body.model, _terms(body), slots)
        self._pools.follow()
        return answer(made, 201)

    async def get(self, request: Request) -> Response:
        return answer(await asyncio.to_thread(self._reserving.reservation, path_part(request, "reservation")))

    async def update(self, request: Request) -> Response:
        body = await read_body(request, types.ReservationPatch)
        ref = path_part(request, "reservation")
        found = await asyncio.to_thread(self._reserving.reservation, ref)
        slots = self._slots(found.model)
        changed = await asyncio.to_thread(self._reserving.update, ACTOR, ref, _terms(body), slots)
        self._pools.follow()
        return answer(changed)

    async def cancel(self, request: Request) -> Response:
        over = await asyncio.to_thread(self._reserving.cancel, ACTOR, path_part(request, "reservation"))
        self._pools.follow()
        return answer(over)

    async def capacity(self, request: Request) -> Response:
        wanted = read_query(request, types.PoolsQuery).model
        try:
            models = [pool["model"] for pool in self._pools.describe(wanted)]
        except LookupError:
            raise ControlError("not_found", f"no model {wanted!r}", "model") from None
        found = [await asyncio.to_thread(self._reserving.capacity, name, self._slots(name)) for name in models]
        return page(found, len(found), "model")

    def _slots(self, model: str) -> Slots:
        """As the replicas are set now, those that are down included; none where there is no such pool."""
        try:
            replicas = [replica for pool in self._pools.describe(model) for replica in pool["replicas"]]
        except LookupError:
            return Slots(0, 0)
        lane = [one for one in replicas if one["tiers"] is None or Tier.RESERVED.word in one["tiers"]]
        return Slots(sum(one["slots"] for one in replicas), sum(one["slots"] for one in lane))


def _terms(body: types.ReservationIn | types.ReservationPatch) -> Terms:
    hours: HoursRecord | UnsetType | None = UNSET
    if body.hours is not UNSET:
        hours = None if body.hours is None else body.hours.record()
    return Terms(
        input_tpm=body.input_tpm,
        output_tpm=body.output_tpm,
        overflow=body.overflow,
        starts_us=UNSET if body.starts_at is UNSET else micros(body.starts_at),
        ends_us=UNSET if body.ends_at is UNSET else micros(body.ends_at),
        hours=hours,
    )
