"""What time does to a ticket in line: it may go anywhere, is guarded, or has waited for too long (R11, R14)."""

from collections.abc import Mapping

from fareclass.core.limits import GUARD_SHARE, MAX_PAUSED_S
from fareclass.core.outcomes import Outcome
from fareclass.core.tiers import Tier, TierPolicy
from fareclass.sched.lines import Lines, flex_code
from fareclass.sched.replica import Replica
from fareclass.sched.ticket import Refuse, State, Ticket
from fareclass.sched.timers import Timers

_ROAM_PREFILLS = 10.0
"""A ticket waits for its own replica this many times what prefilling elsewhere would cost (R11)."""


class Waits:
    """Sets the one timer of each ticket in line, and says what is due when it rings."""

    def __init__(
        self, policies: Mapping[Tier, TierPolicy], replicas: Mapping[str, Replica], lines: Lines, timers: Timers
    ) -> None:
        self._policies = policies
        self._replicas = replicas
        self._lines = lines
        self._timers = timers

    def begin(self, ticket: Ticket, now: float) -> None:
        """Set the timer to the first thing that will be due."""
        moments = [self._limit(ticket)]
        if not ticket.roams:
            moments.append(ticket.paused_at + self._roam_s(ticket))
        if self._guard_ahead(ticket):
            moments.append(ticket.paused_at + self._guard_s(ticket))
        self._timers.set(ticket, max(now, min(moments)))

    def ring(self, ticket: Ticket, now: float) -> Refuse | None:
        """Do what is due for a ticket in line; a refusal if its time is over."""
        if now >= self._limit(ticket):
            return self._over(ticket, now)
        assert ticket.line is not None
        gap_s = now - ticket.paused_at
        if self._guard_ahead(ticket) and gap_s >= self._guard_s(ticket):
            self._lines.guard_from_now(ticket)
        if not ticket.roams and gap_s >= self._roam_s(ticket):
            ticket.line.roam(ticket)
        self.begin(ticket, now)
        return None

    def _limit(self, ticket: Ticket) -> float:
        """When it is out: what has sent nothing by its wait limit, a paused one by its pauses, batch by its window."""
        if ticket.state is State.WAITING:
            return ticket.expires_at
        if ticket.tier is Tier.BATCH:
            return ticket.deadline or float("inf")
        return ticket.paused_at + MAX_PAUSED_S - ticket.paused_s

    def _over(self, ticket: Ticket, now: float) -> Refuse:
        policy = self._policies[ticket.tier]
        if ticket.state is State.PAUSED:
            billed = "; what was sent so far is billed" if ticket.sent else ""
            message = f"The answer was paused for {MAX_PAUSED_S:.0f} s in all{billed}."
        elif ticket.deadline is not None and ticket.deadline <= now:
            message = "The request waited in line until it was due."
        else:
            message = f"The request waited longer than the {ticket.tier.word} tier allows."
        wait_s = min(policy.max_wait_s, max(1.0, self._lines.wait_s(ticket.rank, now)))
        return Refuse(ticket, Outcome.EXPIRED, message, wait_s, flex_code(ticket))

    def _guard_ahead(self, ticket: Ticket) -> bool:
        return (
            ticket.state is State.PAUSED
            and ticket.sent
            and not ticket.guarded
            and self._policies[ticket.tier].gap_guard_s is not None
        )

    def _guard_s(self, ticket: Ticket) -> float:
        return GUARD_SHARE * (self._policies[ticket.tier].gap_guard_s or 0.0)

    def _roam_s(self, ticket: Ticket) -> float:
        replica = self._replicas[ticket.home] if ticket.home is not None else None
        cost_s = 0.0 if replica is None else (ticket.prompt_tokens + ticket.made_tokens) / replica.prefill_tps
        return self._policies[ticket.tier].roam_after_s + _ROAM_PREFILLS * cost_s
