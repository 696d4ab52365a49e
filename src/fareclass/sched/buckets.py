"""Token buckets in exact integers, and the on-demand quota of one project on one pool (R25)."""

from collections.abc import Sequence
from typing import NamedTuple

from fareclass.core.snapshot import Quota
from fareclass.core.tiers import Tier
from fareclass.sched.forecast import Service
from fareclass.sched.ticket import Ticket

US_PER_MINUTE = 60_000_000
_SOONEST_S = 1.0
"""When to come back at a concurrency limit at the soonest, and while none of the project's requests has ended."""


class Bucket:
    """A bucket that holds `depth_s` of its rate and refills continuously (R20).

    The level is kept in units of 1/60,000,000 token, so that a rate of `per_minute`
    adds exactly `per_minute` units a microsecond and nothing is ever rounded. It may be
    negative: what was used beyond a hold is debt.
    """

    __slots__ = ("_at_us", "_depth_us", "_level", "per_minute")

    def __init__(self, per_minute: int, now_us: int, depth_s: int = 60) -> None:
        self.per_minute = per_minute
        self._depth_us = depth_s * 1_000_000
        self._level = self._full
        self._at_us = now_us

    @property
    def _full(self) -> int:
        return self.per_minute * self._depth_us

    @property
    def level(self) -> int:
        """What is in it at the last refill, in units of 1/60,000,000 token."""
        return self._level

    def restore(self, level: int, at_us: int) -> None:
        """Go on from what was in it at another time, before a restart."""
        self._level, self._at_us = min(level, self._full), at_us

    def refill(self, now_us: int) -> None:
        """Bring the level to `now_us`; a clock that went back adds nothing."""
        if now_us > self._at_us:
            self._level = min(self._full, self._level + self.per_minute * (now_us - self._at_us))
            self._at_us = now_us

    def set_rate(self, per_minute: int, now_us: int) -> None:
        """Change the rate from now on; what was used stays used."""
        self.refill(now_us)
        self._level += (per_minute - self.per_minute) * self._depth_us
        self.per_minute = per_minute

    def resize(self, per_minute: int) -> None:
        """Change the rate since the last refill, and the depth with it; what is in it stays, as far as it fits."""
        self.per_minute = per_minute
        self._level = min(self._level, self._full)

    def wait_us(self, amount: int, now_us: int) -> int:
        """How long until `amount` fits, 0 if it does now. A larger one than the bucket fits when it is full.

        A bucket of rate 0 lets nothing through, ever; ask `per_minute` first.
        """
        self.refill(now_us)
        missing = min(amount * US_PER_MINUTE, self._full) - self._level
        return 0 if missing <= 0 else -(-missing // self.per_minute)

    def take(self, amount: int) -> None:
        """Charge `amount`, into debt if need be."""
        self._level -= amount * US_PER_MINUTE

    def give(self, amount: int) -> None:
        """Give back what a hold took too much, never beyond full."""
        self._level = min(self._full, self._level + amount * US_PER_MINUTE)

    @property
    def full_us(self) -> int:
        """How long after the last refill until it is full, if nothing more is taken; 0 for one of rate 0."""
        missing = self._full - self._level
        return -(-missing // self.per_minute) if self.per_minute else 0

    @property
    def tokens(self) -> int:
        """Whole tokens in it at the last refill; negative is debt."""
        return self._level // US_PER_MINUTE


class Blocked(NamedTuple):
    """A limit in the way: what it allows, for how long if that is known, and whether waiting can help at all."""

    what: str
    wait_s: float | None
    hopeless: bool = False


class Account:
    """What one project may still ask of one pool on demand: TPM, RPM and concurrent sequences (R25).

    `tpm` is for all tiers; what is not priority also needs room in `shared`, which is smaller by what is kept for priority.
    `in_flight` tokens of these two are held by tickets that have not ended. `stay` is how long tickets hold their place
    among the concurrent ones, from their arrival on.
    """

    __slots__ = ("active", "in_flight", "quota", "rpm", "shared", "stay", "tpm")

    def __init__(self, quota: Quota, now_us: int) -> None:
        self.quota = quota
        self.active = 0
        self.in_flight = [0, 0]
        self.stay = Service()
        self.tpm = _changed(None, quota.tpm, now_us)
        self.shared = _changed(None, _shared_tpm(quota), now_us)
        self.rpm = _changed(None, quota.rpm, now_us)

    def change(self, quota: Quota, now_us: int) -> None:
        """Put a changed quota into force; tickets that run keep their holds."""
        self.quota = quota
        self.tpm = _changed(self.tpm, quota.tpm, now_us)
        self.shared = _changed(self.shared, _shared_tpm(quota), now_us)
        self.rpm = _changed(self.rpm, quota.rpm, now_us)

    def blocked(self, ticket: Ticket, now_us: int) -> "Blocked | None":
        """Which limit stands in the way; None if the ticket may be held."""
        quota = self.quota
        if quota.concurrency is not None and self.active + ticket.width > quota.concurrency:
            hopeless = ticket.width > quota.concurrency
            wait_s = None if hopeless else self._leave_s(self.active + ticket.width - quota.concurrency)
            return Blocked(f"{quota.concurrency} concurrent sequences", wait_s, hopeless=hopeless)
        longest: Blocked | None = None
        for bucket, amount, what in (
            (self.rpm, ticket.width, "requests per minute"),
            (self.tpm, ticket.hold_tokens, "tokens per minute"),
            (self._shared(ticket.tier), ticket.hold_tokens, "tokens per minute beside what is kept for priority"),
        ):
            if bucket is None:
                continue
            if not bucket.per_minute:
                return Blocked(f"0 {what}", None, hopeless=True)
            wait_s = bucket.wait_us(amount, now_us) / 1e6
            if wait_s > (longest.wait_s or 0.0 if longest else 0.0):
                longest = Blocked(f"{bucket.per_minute} {what}", wait_s)
        return longest

    def hold(self, ticket: Ticket) -> None:
        """Take the ticket's hold; `blocked` was asked first."""
        self.active += ticket.width
        ticket.held = True
        if self.rpm is not None:
            self.rpm.take(ticket.width)
        for bucket in (self.tpm, self._shared(ticket.tier)):
            if bucket is not None:
                bucket.take(ticket.hold_tokens)
        self._fly(ticket, ticket.hold_tokens)

    def settle(self, ticket: Ticket, used_tokens: int, now_us: int) -> None:
        """Correct the hold to what was used."""
        self.stay.ran(now_us / 1e6 - ticket.arrival)
        self.active -= ticket.width
        ticket.held = False
        self._fly(ticket, -ticket.hold_tokens)
        left = ticket.hold_tokens - used_tokens
        for bucket in (self.tpm, self._shared(ticket.tier)):
            if bucket is None:
                continue
            bucket.refill(now_us)
            if left >= 0:
                bucket.give(left)
            else:
                bucket.take(-left)

    def void(self, ticket: Ticket, now_us: int) -> None:
        """Give back everything: the ticket never got a token."""
        self.settle(ticket, 0, now_us)
        if self.rpm is not None:
            self.rpm.refill(now_us)
            self.rpm.give(ticket.width)

    def tightest(self, tier: Tier) -> Bucket | None:
        """The TPM bucket that leaves a request of this tier the least, None where there is none."""
        shared = self._shared(tier)
        if self.tpm is None or shared is None:
            return self.tpm
        return min(shared, self.tpm, key=lambda bucket: bucket.level)

    def levels(self, now_us: int) -> dict[str, list[int | None]]:
        """What must outlive a restart: the limits, and what would be in the buckets without work in flight.

        That is charged once it has ended, its requests a minute too.
        """
        levels: list[int | None] = []
        for bucket, in_flight in zip((self.tpm, self.shared, self.rpm), (*self.in_flight, self.active), strict=True):
            if bucket is not None:
                bucket.refill(now_us)
            levels.append(None if bucket is None else bucket.level + in_flight * US_PER_MINUTE)
        return {"limits": [self.quota.tpm, self.quota.priority_tpm, self.quota.rpm], "levels": levels}

    def restore(self, levels: Sequence[int | None], at_us: int) -> None:
        """Go on from the levels of another time, before a restart."""
        for bucket, level in zip((self.tpm, self.shared, self.rpm), levels, strict=True):
            if bucket is not None and level is not None:
                bucket.restore(level, at_us)

    def charge(self, tier: Tier, tokens: int, width: int, at_us: int) -> None:
        """A request ended after the levels were taken that are gone on from."""
        for bucket, amount in ((self.tpm, tokens), (self._shared(tier), tokens), (self.rpm, width)):
            if bucket is not None:
                bucket.refill(at_us)
                bucket.take(amount)

    def _leave_s(self, sequences: int) -> float:
        """How long until so many of those that are active have ended (R14)."""
        return max(_SOONEST_S, (self.stay.mean_s or 0.0) * sequences / self.active)

    def _fly(self, ticket: Ticket, tokens: int) -> None:
        self.in_flight[0] += tokens
        if ticket.tier > Tier.PRIORITY:
            self.in_flight[1] += tokens

    def _shared(self, tier: Tier) -> Bucket | None:
        return self.shared if tier > Tier.PRIORITY else None


def _shared_tpm(quota: Quota) -> int | None:
    return quota.tpm - quota.priority_tpm if quota.tpm is not None and quota.priority_tpm else None


def _changed(bucket: Bucket | None, per_minute: int | None, now_us: int) -> Bucket | None:
    if per_minute is None:
        return None
    if bucket is None:
        return Bucket(per_minute, now_us)
    bucket.set_rate(per_minute, now_us)
    return bucket
