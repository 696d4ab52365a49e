"""The floors of a pool's reservations: what each project may still claim of what it bought (R20 to R24)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fareclass.core.capacity import MICRO, load_micro, max_load_micro
from fareclass.core.snapshot import Burndown, Capacity
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from fareclass.sched.buckets import US_PER_MINUTE, Bucket
from fareclass.sched.ticket import Ticket

_NEAR_S = 10
"""What a project asks beyond so much of its floor at once ranks as priority (R8)."""
HUNDREDTHS = 100
"""Floors are counted in hundredths of a token, as fine as the burn-down weights."""


class Floor(NamedTuple):
    """What a project has reserved on this pool at the moment, in tokens a minute of each side."""

    input_tpm: int
    output_tpm: int


class _Side:
    """One side of a floor: a bucket of a minute, and one of ten seconds that only the rank comes from.

    `in_flight` is what running tickets have taken of the first, to be settled when they end.
    """

    __slots__ = ("in_flight", "minute", "near")

    def __init__(self, tpm: int, now_us: int) -> None:
        self.minute = Bucket(tpm * HUNDREDTHS, now_us)
        self.near = Bucket(tpm * HUNDREDTHS, now_us, _NEAR_S)
        self.in_flight = 0

    def resize(self, per_minute: int, now_us: int) -> None:
        self.refill(now_us)
        self.minute.resize(per_minute)
        self.near.resize(per_minute)

    def refill(self, now_us: int) -> None:
        """Bring both levels to now."""
        self.minute.refill(now_us)
        self.near.refill(now_us)

    def wait_us(self, amount: int, now_us: int, *, near: bool = False) -> int | None:
        """How long until so much fits; None if it never will."""
        bucket = self.near if near else self.minute
        if bucket.per_minute:
            return bucket.wait_us(amount, now_us)
        return None if amount else 0

    def take(self, amount: int, *, near: bool) -> None:
        self.minute.take(amount)
        self.in_flight += amount
        if near:
            self.near.take(amount)

    def left(self, now: float) -> int:
        """Whole tokens of its minute that could be claimed now; below zero is debt."""
        self.minute.refill(int(now * 1e6))
        return self.minute.tokens // HUNDREDTHS

    @property
    def settled(self) -> int:
        """The level of `minute`, without what is in flight, in the units of a bucket."""
        return self.minute.level + self.in_flight * US_PER_MINUTE

    def settle(self, taken: int, used: int, now_us: int, *, near: bool) -> None:
        """A ticket that took so much has used so much."""
        self.in_flight -= taken
        for bucket in (self.minute, self.near) if near else (self.minute,):
            bucket.refill(now_us)
            if used > taken:
                bucket.take(used - taken)
            else:
                bucket.give(taken - used)


class FloorAccount:
    """The two buckets of one project's floor. Tokens beyond a ticket's hold are charged as they are made (R20)."""

    __slots__ = ("_burndown", "floor", "input", "open", "output")

    def __init__(self, floor: Floor, burndown: Burndown, now_us: int) -> None:
        self.floor = floor
        self.open = True
        self._burndown = burndown
        self.input = _Side(floor.input_tpm, now_us)
        self.output = _Side(floor.output_tpm, now_us)

    def apply(self, share_ppm: int, now_us: int) -> None:
        """From now on this share of `floor` is kept; levels stay as far as they fit."""
        for side, tpm in ((self.input, self.floor.input_tpm), (self.output, self.floor.output_tpm)):
            side.resize(tpm * HUNDREDTHS * share_ppm // MICRO, now_us)

    def wait_s(self, ticket: Ticket, now_us: int) -> float | None:
        """How long until the ticket's holds fit, 0 if they do now, None if they never will."""
        waits = self._waits(ticket, now_us, near=False)
        return None if None in waits else max(wait or 0 for wait in waits) / 1e6

    def claim(self, ticket: Ticket, now_us: int) -> None:
        """Take the ticket's holds, which fit; within ten seconds of the floor it ranks as reserved (R8)."""
        near = self._waits(ticket, now_us, near=True) == (0, 0)
        ticket.tier, ticket.rank = Tier.RESERVED, Tier.RESERVED if near else Tier.PRIORITY
        ticket.weight = float(max(1, self.floor.input_tpm + 2 * self.floor.output_tpm))
        self.input.take(ticket.floor_input, near=near)
        self.output.take(ticket.floor_output * self._burndown.output, near=near)
        ticket.floor, ticket.floor_left = self, ticket.floor_output

    def charge(self, usage: Usage, at_us: int) -> None:
        """What a request used that never held anything here."""
        for side, used in (
            (self.input, self._burndown.floor_input(usage)),
            (self.output, usage.output * self._burndown.output),
        ):
            side.minute.refill(at_us)
            side.minute.take(used)

    def made(self, ticket: Ticket, tokens: int, now: float) -> None:
        """Charge what a ticket makes beyond its hold."""
        ticket.floor_left -= tokens
        if ticket.floor_left < 0:
            self.output.refill(int(now * 1e6))  # first, or what ran over the rim until now would pay for it
            self.output.take(-ticket.floor_left * self._burndown.output, near=ticket.rank == Tier.RESERVED)
            ticket.floor_output -= ticket.floor_left
            ticket.floor_left = 0

    def settle(self, ticket: Ticket, usage: Usage, now_us: int) -> None:
        """Correct what the ticket took to what was used; without use all of it is given back."""
        weights, near = self._burndown, ticket.rank == Tier.RESERVED
        self.input.settle(ticket.floor_input, weights.floor_input(usage), now_us, near=near)
        taken = ticket.floor_output * weights.output
        self.output.settle(taken, usage.output * weights.output, now_us, near=near)
        ticket.floor = None

    def _waits(self, ticket: Ticket, now_us: int, *, near: bool) -> tuple[int | None, int | None]:
        return (
            self.input.wait_us(ticket.floor_input, now_us, near=near),
            self.output.wait_us(ticket.floor_output * self._burndown.output, now_us, near=near),
        )


class Reserves:
    """All floors of a pool. `share_ppm` is what of them can be kept with the replicas that are left (R23)."""

    def __init__(self, capacity: Capacity | None, burndown: Burndown) -> None:
        self.share_ppm = MICRO
        self.accounts: dict[str, FloorAccount] = {}
        self._capacity = capacity
        self._burndown = burndown
        self._slots = self._able = 0

    def set_floors(self, floors: Mapping[str, Floor], now: float) -> None:
        """These floors are in force from now on, and no others."""
        now_us = int(now * 1e6)
        for project, account in self.accounts.items():
            account.open = project in floors
        for project, floor in floors.items():
            if project in self.accounts:
                self.accounts[project].floor = floor
            else:
                self.accounts[project] = FloorAccount(floor, self._burndown, now_us)
        self._apply(now_us)

    def supply(self, slots: int, able: int, now: float) -> None:
        """The pool has so many slots, of which so many can serve reserved work now."""
        if (slots, able) != (self._slots, self._able):
            self._slots, self._able = slots, able
            self._apply(int(now * 1e6))

    @property
    def load_micro(self) -> int:
        """What the floors in force keep busy, in 10⁻⁶ slots, as far as they can be kept (R10, R19)."""
        return self._sold_micro() * self.share_ppm // MICRO

    def claim(self, ticket: Ticket, now: float) -> bool:
        """Take the ticket's holds from its project's floor if both sides fit; it is then reserved work (R20, R21)."""
        account, now_us = self.accounts.get(ticket.project), int(now * 1e6)
        if account is None or not account.open or account.wait_s(ticket, now_us) != 0:
            return False
        account.claim(ticket, now_us)
        return True

    def wait_s(self, ticket: Ticket, now: float) -> float | None:
        """When the ticket's holds would fit, None if that is not known."""
        account = self.accounts.get(ticket.project)
        return None if account is None or not account.open else account.wait_s(ticket, int(now * 1e6))

    def levels(self, now: float) -> dict[str, list[int]]:
        """What must outlive a restart, by project: the floor, and what would be in its buckets without work in flight."""
        kept = {}
        for project, account in self.accounts.items():
            sides = account.input, account.output
            for side in sides:
                side.minute.refill(int(now * 1e6))
            kept[project] = [*account.floor, *(side.settled for side in sides)]
        return kept

    def restore(self, levels: Mapping[str, Sequence[int]], at: float) -> None:
        """Go on from the levels of another time: no minute is given away, and none is taken (R20)."""
        for project, (input_tpm, output_tpm, input_level, output_level) in levels.items():
            account = FloorAccount(Floor(input_tpm, output_tpm), self._burndown, int(at * 1e6))
            account.open = False
            account.input.minute.restore(input_level, int(at * 1e6))
            account.output.minute.restore(output_level, int(at * 1e6))
            self.accounts[project] = account

    def charge(self, project: str, usage: Usage, at: float) -> None:
        """A request ended after the levels were taken that are gone on from."""
        account = self.accounts.get(project)
        if account is not None:
            account.charge(usage, int(at * 1e6))

    def _sold_micro(self) -> int:
        if self._capacity is None:
            return 0
        floors = [account.floor for account in self.accounts.values() if account.open]
        input_tpm, output_tpm = sum(floor.input_tpm for floor in floors), sum(floor.output_tpm for floor in floors)
        return load_micro(input_tpm, output_tpm, self._capacity, self._slots)

    def _apply(self, now_us: int) -> None:
        """Shrink all floors in proportion where they no longer fit, and let them grow back where they do (R23)."""
        sold = self._sold_micro()
        if self._able or not sold:  # without any replica nothing is served anyway, and nothing shall be forgotten
            self.share_ppm = min(MICRO, max_load_micro(self._able) * MICRO // sold) if sold else MICRO
        for account in self.accounts.values():
            if account.open:
                account.apply(self.share_ppm, now_us)
