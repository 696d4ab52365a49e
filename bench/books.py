"""A brain whose floors are held, at every claim, to books kept the slow and simple way (R20 to R22)."""

from typing import Any

from fareclass.core.usage import Usage
from fareclass.sched.brain import Brain
from fareclass.sched.ticket import Effect, Ticket
from tests.sim.fluid import UNITS, Fluid


class Books(Brain):
    """The real brain. `wrong` counts claims that it decided otherwise than the books: work inside its floor that was
    diverted, or work beyond it that was let in. `wrong_levels`: buckets that were not what the books say.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        self.claims = self.granted = self.wrong = self.wrong_levels = 0
        self.sides: dict[str, tuple[Fluid, Fluid]] = {}
        self._left: dict[str, int] = {}
        super().__init__(*given, **named)

    def claim(self, ticket: Ticket, now: float) -> bool:
        account = self.reserves.accounts[ticket.project]
        sides, amounts = self.sides[ticket.project], (ticket.floor_input, 100 * ticket.floor_output)
        fits = True
        for mine, its, amount in zip(sides, (account.input, account.output), amounts, strict=True):
            mine.pass_time(now)
            its.minute.refill(int(now * 1e6))
            self.wrong_levels += its.minute.tokens != mine.level // 60_000_000
            fits = fits and mine.fits(amount)
        granted = super().claim(ticket, now)
        self.claims += 1
        self.granted += granted
        self.wrong += granted is not fits
        if granted:
            for mine, amount in zip(sides, amounts, strict=True):
                mine.draw(ticket.id, amount)
            self._left[ticket.id] = ticket.floor_output
        return granted

    def produced(self, ticket: Ticket, tokens: int, now: float) -> None:
        super().produced(ticket, tokens, now)
        if ticket.id in self._left:
            self._left[ticket.id] -= tokens
            if self._left[ticket.id] < 0:
                self.sides[ticket.project][1].pass_time(now)
                self.sides[ticket.project][1].draw(ticket.id, -100 * self._left[ticket.id])
                self._left[ticket.id] = 0

    def finish(self, ticket: Ticket, now: float, usage: Usage) -> list[Effect]:
        if self._left.pop(ticket.id, None) is not None:
            for mine, used in zip(self.sides[ticket.project], (usage.input, usage.output), strict=True):
                mine.pass_time(now)
                mine.settle(ticket.id, 100 * used)
        return super().finish(ticket, now, usage)

    def _resupplied(self, now: float, out: list[Effect]) -> list[Effect]:
        for project, account in self.reserves.accounts.items():
            if project not in self.sides:
                self.sides[project] = Fluid(account.floor.input_tpm, now), Fluid(account.floor.output_tpm, now)
        out = super()._resupplied(now, out)
        for project, sides in self.sides.items():
            for mine, tpm in zip(sides, self.reserves.accounts[project].floor, strict=True):
                mine.pass_time(now)
                mine.resize(tpm * 100 * self.reserves.share_ppm // 1_000_000)
        return out

    def unexplained(self, project: str, output_tokens: int, now: float) -> int:
        """What the fleet really made for a project, less what its floor's bucket says of it, in 1/6,000,000,000 tokens.

        Charged = floor × time + fall of the bucket − refill lost at the rim − estimates in flight (R22).
        """
        mine, its = self.sides[project][1], self.reserves.accounts[project].output
        mine.pass_time(now)
        its.minute.refill(int(now * 1e6))
        fall = mine.started_full - its.minute._level  # noqa: SLF001 - to the last unit
        return output_tokens * UNITS - (mine.flowed + fall - mine.lost - its.in_flight * 60_000_000)
