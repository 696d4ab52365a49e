"""May a ticket stand in line at all: can any replica ever run it, and is it within its project's quota (R25, R49)."""

from collections.abc import Collection, Mapping, Sequence

from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import Quota
from fareclass.core.tiers import Tier
from fareclass.sched.buckets import Account
from fareclass.sched.replica import Replica
from fareclass.sched.ticket import Refuse, Ticket

DOWN_RETRY_S = 2.0
"""When to come back while no replica is up: about the time in which one is found healthy again."""


class Admission:
    """The quota accounts of a pool, one per project that has a quota, and the checks before the line."""

    __slots__ = ("_accounts",)

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}

    def unfit(self, ticket: Ticket, replicas: Collection[Replica]) -> Refuse | None:
        """Refuse what no replica could run now or ever."""
        for replica in replicas:
            if replica.open and replica.slots >= ticket.width and replica.admits(ticket):
                return None
        admitting = [replica for replica in replicas if replica.admits(ticket)]
        widest = max((replica.slots for replica in admitting), default=0)
        if not admitting:
            message = f"No replica of this model is given to the {ticket.tier.word} tier."
            return Refuse(ticket, Outcome.FORBIDDEN, message)
        if ticket.width > widest:
            message = f"The request asks for {ticket.width} answers at once; this model runs at most {widest}."
            return Refuse(ticket, Outcome.INVALID, message)
        if ticket.tier >= Tier.FLEX:
            return None  # it waits for minutes anyway: until one is back
        return Refuse(ticket, Outcome.SHED, "No replica of this model can serve at the moment.", DOWN_RETRY_S)

    def hold(self, ticket: Ticket, quota: Quota | None, now: float) -> Refuse | None:
        """Take the ticket's hold from its project's quota, or say when to come back."""
        account = self._accounts.get(ticket.project)
        if account is None:
            if quota is None:
                return None
            account = self._accounts[ticket.project] = Account(quota, int(now * 1e6))
        now_us = int(now * 1e6)
        if quota is not None and quota != account.quota:
            account.change(quota, now_us)
        elif quota is None:
            account.change(Quota(), now_us)
        blocked = account.blocked(ticket, now_us)
        if blocked is None:
            account.hold(ticket)
            return None
        message = f"The project's quota on this model is used up: {blocked.what}."
        return Refuse(ticket, Outcome.THROTTLED, message, blocked.wait_s, hopeless=blocked.hopeless)

    def account(self, project: str) -> Account | None:
        """What the project has left, as of its last request; None where it never had a quota."""
        return self._accounts.get(project)

    def levels(self, now: float) -> dict[str, dict[str, list[int | None]]]:
        """What must outlive a restart, by project."""
        return {project: account.levels(int(now * 1e6)) for project, account in self._accounts.items()}

    def restore(self, levels: Mapping[str, Mapping[str, Sequence[int | None]]], at: float) -> None:
        """Go on from the levels of another time."""
        for project, kept in levels.items():
            tpm, priority_tpm, rpm = kept["limits"]
            account = Account(Quota(tpm=tpm, priority_tpm=priority_tpm or 0, rpm=rpm), int(at * 1e6))
            account.restore(kept["levels"], int(at * 1e6))
            self._accounts[project] = account

    def charge(self, project: str, tier: Tier, tokens: int, width: int, quota: Quota | None, at: float) -> None:
        """A request ended after the levels were taken that are gone on from; `quota` is its project's now."""
        account, at_us = self._accounts.get(project), int(at * 1e6)
        if account is None and quota is not None:
            account = self._accounts[project] = Account(quota, at_us)
        if account is not None:
            account.charge(tier, tokens, width, at_us)

    def settle(self, ticket: Ticket, used_tokens: int, now: float) -> None:
        """Correct the ticket's hold to what was used; without use all of it is given back."""
        if not ticket.held:
            return
        account = self._accounts[ticket.project]
        if used_tokens:
            account.settle(ticket, used_tokens, int(now * 1e6))
        else:
            account.void(ticket, int(now * 1e6))
