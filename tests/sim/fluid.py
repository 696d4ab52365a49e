"""One side of a floor as the rules say it is (R20, R22, R23), kept the slow and simple way."""

UNITS = 60_000_000 * 100
"""A token, in the units in which a rate of one token a minute makes 100 a microsecond."""


class Fluid:
    """Water in a bucket: what flowed in, what ran over the rim, what was drawn.

    `drawn` holds what running tickets have drawn; `spent` what ended ones really used.
    """

    def __init__(self, tpm: int, now: float) -> None:
        self.rate = tpm * 100
        self.at_us = int(now * 1e6)
        self.started_full = self.full
        self.flowed = self.lost = self.spent = 0
        self.drawn: dict[str, int] = {}

    @property
    def full(self) -> int:
        return self.rate * 60_000_000

    @property
    def level(self) -> int:
        return self.started_full + self.flowed - self.lost - self.spent - sum(self.drawn.values())

    def pass_time(self, now: float) -> None:
        now_us = int(now * 1e6)
        if now_us > self.at_us:
            self.flowed += self.rate * (now_us - self.at_us)
            self.at_us = now_us
            self.spill_over()

    def spill_over(self) -> None:
        self.lost += max(0, self.level - self.full)

    def resize(self, rate: int) -> None:
        self.rate = rate
        self.spill_over()

    def fits(self, amount: int) -> bool:
        if not self.rate:
            return not amount
        return self.level >= min(amount * 60_000_000, self.full)

    def draw(self, ticket: str, amount: int) -> None:
        self.drawn[ticket] = self.drawn.get(ticket, 0) + amount * 60_000_000

    def settle(self, ticket: str, used: int) -> None:
        del self.drawn[ticket]
        self.spent += used * 60_000_000
        self.spill_over()
