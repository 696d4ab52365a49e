"""A pool under test: a brain, and the shortest words for what happens to it."""

from collections.abc import Callable
from typing import Any

from fareclass.core.snapshot import Capacity, Quota
from fareclass.core.tiers import DEFAULT_POLICIES, Tier
from fareclass.core.usage import Usage
from fareclass.sched.brain import Brain
from fareclass.sched.ticket import Effect, Pause, Refuse, Restart, Start, State, Ticket


class Pool:
    """Drives a brain and remembers what it decided, as words: `start a on r0`, `pause b`."""

    def __init__(self, *slots: int, continuable: bool = True, recompute_tokens: int = 1, keeps_cut: bool = True,
                 policies: dict[Tier, Any] | None = None, capacity: Capacity | None = None,
                 headroom: int | None = None) -> None:  # fmt: skip
        self.now = 100.0
        self.brain = Brain({**DEFAULT_POLICIES, **(policies or {})}, capacity=capacity, headroom=headroom)
        self.log: list[str] = []
        self.refused: dict[str, Refuse] = {}
        self.on_start: Callable[[Ticket], None] = lambda ticket: None
        self.tickets: dict[str, Ticket] = {}
        for number, count in enumerate(slots):
            self.brain.add_replica(f"r{number}", count, self.now)
            self.brain.set_replica(
                f"r{number}", self.now, continuable=continuable, recompute_tokens=recompute_tokens, keeps_cut=keeps_cut
            )

    def offer(self, name: str, tier: Tier, *, quota: Quota | None = None, **fields: Any) -> Ticket:
        """A ticket named `name`, of project `p` unless told otherwise, with a small continuable answer."""
        settings = {"project": "p", "prompt_tokens": 10, "continuable": True} | fields
        ticket = self.tickets[name] = Ticket(name, tier=tier, **settings)
        self.do(self.brain.offer(ticket, self.now, quota))
        return ticket

    def running(self, name: str, tier: Tier, **fields: Any) -> Ticket:
        """A ticket that has started and streams."""
        ticket = self.offer(name, tier, **fields)
        assert ticket.state is State.RUNNING, f"{name} did not start"
        self.stream(name)
        return ticket

    def stream(self, name: str, tokens: int = 1) -> None:
        """First token, and a byte to the caller."""
        ticket = self.tickets[name]
        self.do(self.brain.first_token(ticket, self.now))
        self.brain.produced(ticket, tokens, self.now)
        self.brain.sent(ticket)

    def finish(self, name: str, used: int = 0) -> None:
        self.do(self.brain.finish(self.tickets[name], self.now, Usage(output=used)))

    def paused(self, name: str) -> None:
        self.do(self.brain.paused(self.tickets[name], self.now))

    def wait(self, seconds: float) -> None:
        """Time passes, with every timer on the way."""
        end = self.now + seconds
        while (wake := self.brain.next_wake) is not None and wake <= end:
            self.now = max(self.now, wake)
            self.do(self.brain.tick(self.now))
        self.now = end

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            name = effect.ticket.id
            match effect:
                case Start():
                    self.log.append(f"start {name} on {effect.replica}")
                    self.on_start(effect.ticket)
                case Pause():
                    self.log.append(f"pause {name}")
                case Restart():
                    self.log.append(f"restart {name}")
                case Refuse():
                    self.log.append(f"refuse {name}")
                    self.refused[name] = effect

    def said(self) -> list[str]:
        """What was decided since it was asked last."""
        log, self.log = self.log, []
        return log
