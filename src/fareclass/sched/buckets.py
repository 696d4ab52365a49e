"""Token buckets in exact integers, and the on-demand quota of one project on one pool (R25)."""

from typing import NamedTuple

from fareclass.core.snapshot import Quota
from fareclass.sched.ticket import Ticket

US_PER_MINUTE = 60_000_000


class Bucket:
    """A bucket that holds one minute of its rate and refills continuously (R20).

    The level is kept in units of 1/60,000,000 token, so that a rate of `per_minute`
    adds exactly `per_minute` units a microsecond and nothing is ever rounded. It may be
    negative: what was used beyond a hold is debt.
    """

    __slots__ = ("_at_us", "_level", "per_minute")

    def __init__(self, per_minute: int, now_us: int) -> None:
        self.per_minute = per_minute
        self._level = per_minute * US_PER_MINUTE
        self._at_us = now_us

    def refill(self, now_us: int) -> None:
        """Bring the level to `now_us`; a clock that went back adds nothing."""
        if now_us > self._at_us:
            full = self.per_minute * US_PER_MINUTE
            self._level = min(full, self._level + self.per_minute * (now_us - self._at_us))
            self._at_us = now_us

    def set_rate(self, per_minute: int, now_us: int) -> None:
        """Change the rate from now on; what was used stays used."""
        self.refill(now_us)
        self._level += (per_minute - self.per_minute) * US_PER_MINUTE
        self.per_minute = per_minute

    def wait_us(self, amount: int, now_us: int) -> int:
        """How long until `amount` fits, 0 if it does now. A larger one than the bucket fits when it is full.

        A bucket of rate 0 lets nothing through, ever; ask `per_minute` first.
        """
        self.refill(now_us)
        missing = min(amount, self.per_minute) * US_PER_MINUTE - self._level
        return 0 if missing <= 0 else -(-missing // self.per_minute)

    def take(self, amount: int) -> None:
        """Charge `amount`, into debt if need be."""
        self._level -= amount * US_PER_MINUTE

    def give(self, amount: int) -> None:
        """Give back what a hold took too much, never beyond full."""
        self._level = min(self.per_minute * US_PER_MINUTE, self._level + amount * US_PER_MINUTE)

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
    """What one project may still ask of one pool on demand: TPM, RPM and concurrent sequences (R25)."""

    __slots__ = ("active", "quota", "rpm", "tpm")

    def __init__(self, quota: Quota, now_us: int) -> None:
        self.quota = quota
        self.active = 0
        self.tpm = _changed(None, quota.tpm, now_us)
        self.rpm = _changed(None, quota.rpm, now_us)

    def change(self, quota: Quota, now_us: int) -> None:
        """Put a changed quota into force; tickets that run keep their holds."""
        self.quota = quota
        self.tpm = _changed(self.tpm, quota.tpm, now_us)
        self.rpm = _changed(self.rpm, quota.rpm, now_us)

    def blocked(self, ticket: Ticket, now_us: int) -> "Blocked | None":
        """Which limit stands in the way; None if the ticket may be held."""
        quota = self.quota
        if quota.concurrency is not None and self.active + ticket.width > quota.concurrency:
            what = f"{quota.concurrency} concurrent sequences"
            return Blocked(what, None, hopeless=ticket.width > quota.concurrency)
        for bucket, amount, what in (
            (self.rpm, ticket.width, "requests per minute"),
            (self.tpm, ticket.hold_tokens, "tokens per minute"),
        ):
            if bucket is None:
                continue
            if not bucket.per_minute:
                return Blocked(f"0 {what}", None, hopeless=True)
            if wait_us := bucket.wait_us(amount, now_us):
                return Blocked(f"{bucket.per_minute} {what}", wait_us / 1e6)
        return None

    def hold(self, ticket: Ticket) -> None:
        """Take the ticket's hold; `blocked` was asked first."""
        self.active += ticket.width
        ticket.held = True
        if self.rpm is not None:
            self.rpm.take(ticket.width)
        if self.tpm is not None:
            self.tpm.take(ticket.hold_tokens)

    def settle(self, ticket: Ticket, used_tokens: int, now_us: int) -> None:
        """Correct the hold to what was used."""
        self.active -= ticket.width
        ticket.held = False
        if self.tpm is not None:
            self.tpm.refill(now_us)
            left = ticket.hold_tokens - used_tokens
            if left >= 0:
                self.tpm.give(left)
            else:
                self.tpm.take(-left)

    def void(self, ticket: Ticket, now_us: int) -> None:
        """Give back everything: the ticket never got a token."""
        self.settle(ticket, 0, now_us)
        if self.rpm is not None:
            self.rpm.refill(now_us)
            self.rpm.give(ticket.width)


def _changed(bucket: Bucket | None, per_minute: int | None, now_us: int) -> Bucket | None:
    if per_minute is None:
        return None
    if bucket is None:
        return Bucket(per_minute, now_us)
    bucket.set_rate(per_minute, now_us)
    return bucket
