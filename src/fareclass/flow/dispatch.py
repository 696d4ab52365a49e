"""Drives one pool's brain in the event loop: its effects become awaited turns, cuts and refusals."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from fareclass.core.capacity import MICRO
from fareclass.core.snapshot import Model, Quota
from fareclass.core.tiers import BY_WORD, TIERS, Tier, TierPolicy
from fareclass.core.usage import Usage
from fareclass.engine.base import Engine, EngineFailed, Isolation, Traits
from fareclass.engine.health import Watch
from fareclass.flow.pool_view import show_floors, show_headroom, show_tiers
from fareclass.flow.reply import Allowance, Allowances
from fareclass.flow.seat import Seat, call_to, move_elsewhere
from fareclass.sched.brain import Brain
from fareclass.sched.reserves import HUNDREDTHS, Floor
from fareclass.sched.ticket import Effect, Pause, Refuse, Restart, Start, Ticket

_log = logging.getLogger(__name__)
_FIRST_LOOKS_S = 30.0
"""A start waits no longer for the first look at its replicas; the built-in engine's takes some 2.5 s on two idle cores."""
_SILENT_S = 5.0
"""On a replica that was found down, a call that has been silent for so long is taken for dead (R46)."""


class Berth:
    """One replica of a pool: its engine, and the watch over its health."""

    def __init__(self, id: str, engine: Engine, slots: int, tiers: frozenset[Tier] | None = None) -> None:
        self.id = id
        self.engine = engine
        self.slots = slots
        self.tiers = tiers
        self.watch: Watch


class Dispatcher:
    """One pool: its brain, its replicas, and the seats of the requests that are in it.

    `may_cache`: a replica that is up may keep prompts for later requests. `came_up` is called with the model's name
    when it can serve again.
    All methods run in the event loop and none of them waits: a call into the brain and
    everything that follows from it happens in one step.
    """

    def __init__(self, model: Model, berths: Sequence[Berth], policies: Mapping[Tier, TierPolicy]) -> None:
        self.model = model.name
        self._shared_cache = model.shared_cache
        self.brain = Brain(policies, burndown=model.burndown, capacity=model.capacity, headroom=model.headroom)
        self.berths = {berth.id: berth for berth in berths}
        self._loop = asyncio.get_running_loop()
        self._seats: dict[Ticket, Seat] = {}
        self._up: dict[str, bool] = {}
        self._pauses: Counter[Tier] = Counter()
        self._restarts: Counter[Tier] = Counter()
        self._effects: deque[Effect] = deque()
        self._performing = False
        self._continues = self._continues_constrained = False
        self.may_cache = False
        self.came_up: Callable[[str], None] = lambda _model: None
        self._was_ready = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._share_ppm = MICRO
        self._watches: list[asyncio.Task[None]] = []
        now = self._loop.time()
        for berth in berths:
            self.brain.add_replica(berth.id, berth.slots, now, tiers=berth.tiers)
            self.brain.set_replica(berth.id, now, up=False)
            berth.watch = Watch(berth.engine, partial(self._health, berth))

    async def open(self) -> None:
        """Watch every replica from now on; returns once each was looked at.

        One that takes too long for that does not hold up the others: it stays down until it has answered.
        """
        self._watches = [self._loop.create_task(berth.watch.run()) for berth in self.berths.values()]
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LOOKS_S):
                for berth in self.berths.values():
                    await berth.watch.looked.wait()

    async def close(self) -> None:
        """Stop watching and close the engines. Requests have ended by now."""
        for task in self._watches:
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*(berth.engine.close() for berth in self.berths.values()))

    # -- what the walk of a request does with it

    def set_floors(self, floors: Mapping[str, Floor]) -> None:
        """These floors are in force from now on, by project."""
        self._do(self.brain.set_floors(floors, self._loop.time()))
        self._tell_share()

    def claim(self, ticket: Ticket) -> bool:
        """Make a new ticket reserved work if its project's floor has room for it now (R20)."""
        return self.brain.claim(ticket, self._loop.time())

    def claim_wait_s(self, ticket: Ticket) -> float | None:
        """When the floor would have room for it, None if that is not known."""
        return self.brain.reserves.wait_s(ticket, self._loop.time())

    def offer(self, seat: Seat, quota: Quota | None) -> None:
        """Put a request in line; `Seat.turn` tells what became of it."""
        self._seats[seat.ticket] = seat
        if seat.elsewhere and not self.ready:
            move_elsewhere([seat], ready=False)
            return
        self._do(self.brain.offer(seat.ticket, self._loop.time(), quota))

    def tokenizer(self) -> Engine | None:
        """A replica that is up and can count tokens."""
        able = (berth.engine for berth in self.berths.values() if self._up.get(berth.id))
        return next((engine for engine in able if engine.traits.has_tokenizer), None)

    def allowances(self, ticket: Ticket) -> Allowances | None:
        """What its project has left, of its floor for reserved work, else of its quota, after the ticket's hold (R27)."""
        if ticket.floor is not None:
            sides = Allowance.of(ticket.floor.input.minute), Allowance.of(ticket.floor.output.minute)
            return Allowances(tokens=Allowance.both(*sides, per_token=HUNDREDTHS))
        account = self.brain.admission.account(ticket.project)
        if account is None:
            return None
        tokens = account.tightest(ticket.tier)
        return Allowances(
            requests=None if account.rpm is None else Allowance.of(account.rpm),
            tokens=None if tokens is None else Allowance.of(tokens),
        )

    def first_token(self, seat: Seat) -> None:
        """The seat's call gave its first token."""
        self._do(self.brain.first_token(seat.ticket, self._loop.time()))

    def fixed(self, seat: Seat) -> None:
        """The seat's answer can no longer be continued."""
        seat.pause_due = False
        self._do(self.brain.fixed(seat.ticket, self._loop.time()))

    def paused(self, seat: Seat) -> None:
        """The seat's call was ended at a clean cut, as it was told."""
        seat.leave("pause")
        self._pauses[seat.ticket.tier] += 1
        self._do(self.brain.paused(seat.ticket, self._loop.time()))

    def failed(self, seat: Seat, error: EngineFailed) -> None:
        """The seat's replica failed it (R46).

        An answer of 5xx may be the request's own fault: it is the replica's only once another serves it.
        """
        replica = seat.replica
        seat.leave("failover")
        if replica is not None and error.reason == "refused":
            seat.refused_by.append((replica, error))
        elif replica is not None:
            self.berths[replica].watch.failed(error)
        self._do(self.brain.failed(seat.ticket, self._loop.time()))
        self._reseat()

    @property
    def service_s(self) -> float:
        """How long a request runs here, 0 before any has."""
        return self.brain.lines.service.mean_s or 0.0

    @property
    def default_wait_s(self) -> float:
        """How long a request of tier default would wait in line now."""
        return self.brain.wait_s(Tier.DEFAULT, self._loop.time())

    def waiting(self, prefix: str) -> list[str]:
        """Ids of the requests in line that begin so."""
        return [ticket.id for ticket in self._seats if ticket.line is not None and ticket.id.startswith(prefix)]

    def hasten(self, ids: Collection[str]) -> None:
        """Rank these requests of a batch, where they are in line, as default from now on (R13)."""
        if not ids:
            return
        for ticket in [ticket for ticket in self._seats if ticket.id in ids]:
            self._do(self.brain.hasten(ticket, self._loop.time()))

    def finish(self, seat: Seat, usage: Usage, *, served: bool) -> None:
        """The request is over: slot and holds go back, in whatever state it was, corrected to its usage. Idempotent."""
        if self._seats.pop(seat.ticket, None) is None and seat.ticket.floor is None:
            return
        if served and seat.replica is not None:
            self.berths[seat.replica].watch.succeeded()
            for replica, error in seat.refused_by:
                if replica != seat.replica:
                    self.berths[replica].watch.failed(error)
        self._do(self.brain.finish(seat.ticket, self._loop.time(), usage))

    # -- effects

    def _do(self, effects: list[Effect]) -> None:
        """Carry effects out in order; what follows from one comes behind what was decided before it."""
        if effects:
            self._effects.extend(effects)
        if self._performing:
            return
        self._performing = True
        try:
            while self._effects:
                self._perform(self._effects.popleft())
        finally:
            self._performing = False
        self._arm()

    def _perform(self, effect: Effect) -> None:
        seat = self._seats.get(effect.ticket)
        if seat is None:
            return  # it ended between the decision and now
        match effect:
            case Start():
                seat.started(effect.replica)
            case Pause():
                seat.pause()
            case Restart():
                self._restarts[seat.ticket.tier] += 1
                seat.vacate()
            case Refuse():
                seat.out(effect)

    def _arm(self) -> None:
        at = self.brain.next_wake
        if at is None or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._do(self.brain.tick(self._loop.time()))

    # -- health

    def _health(self, berth: Berth, up: bool) -> None:
        now = self._loop.time()
        self._up[berth.id] = up
        found = [other.engine.traits for other in self.berths.values() if self._up.get(other.id)]
        self._continues = any(traits.continuable for traits in found)
        self.may_cache = any(traits.caches is not False or self._shared_cache for traits in found)
        able = [traits for traits in found if traits.continuable]
        self._continues_constrained = bool(able) and all(traits.continues_constrained for traits in able)
        if up:
            traits = berth.engine.traits
            self._do(
                self.brain.set_replica(
                    berth.id,
                    now,
                    up=True,
                    continuable=traits.continuable,
                    recompute_tokens=traits.recompute_tokens,
                    keeps_cut=traits.keeps_cut_prefill,
                )
            )
        else:
            self._do(self.brain.set_replica(berth.id, now, up=False))
            self._give_up_silent(berth)
        self._reseat()
        self._tell_share()

    def _reseat(self) -> None:
        """Replicas may have come or gone: who may be served by other models does not wait where none can serve (R45)."""
        was_ready, self._was_ready = self._was_ready, self.ready
        if not self._was_ready:
            move_elsewhere(self._seats.values(), ready=False)
        elif not was_ready:
            self.came_up(self.model)

    def send_to(self, model: str) -> None:
        """Another model can serve again: what waits here while none can, and may be served by it, goes there (R45)."""
        if not self.ready:
            call_to(model, self._seats.values())

    def _tell_share(self) -> None:
        """The alarm of R23: the replicas that are left can't keep the floors in force, or can again."""
        share_ppm, self._share_ppm = self._share_ppm, self.brain.reserves.share_ppm
        if self._share_ppm < share_ppm:
            _log.error(
                "floors shrink: the replicas that are up can't keep all that is reserved",
                extra={"model": self.model, "kept_share": self._share_ppm / MICRO},
            )
        elif self._share_ppm > share_ppm:
            _log.warning("floors grow back", extra={"model": self.model, "kept_share": self._share_ppm / MICRO})

    def _give_up_silent(self, berth: Berth) -> None:
        """While a replica is down, move what has heard nothing from it (R46)."""
        if self.brain.replicas[berth.id].up:
            return
        now = self._loop.time()
        looks = []
        for seat in [seat for seat in self._seats.values() if seat.replica == berth.id]:
            left_s = seat.active_at + _SILENT_S - now
            if left_s <= 0:
                seat.interrupt(
                    EngineFailed("stalled", f"the engine was found down and had been silent for {_SILENT_S:g} s")
                )
            looks.append(left_s if left_s > 0 else _SILENT_S)
        if looks:
            self._loop.call_later(min(looks), self._give_up_silent, berth)

    # -- what the operator sees and changes

    def continues(self, *, constrained: bool) -> bool:
        """Whether a replica that is up can continue an answer; under a schema, whether all that continue can (R11)."""
        return self._continues_constrained if constrained else self._continues

    @property
    def busy(self) -> bool:
        """Whether any request is in it."""
        return bool(self._seats)

    @property
    def offered(self) -> int:
        """Requests that were ever put in line."""
        return self.brain.offered

    @property
    def ready(self) -> bool:
        """Whether any replica can serve."""
        return any(replica.open for replica in self.brain.replicas.values())

    def describe(self) -> dict[str, Any]:
        """The pool as the control plane shows it."""
        now = self._loop.time()
        return {
            "model": self.model,
            "slots": self.brain.slots,
            "headroom": show_headroom(self.brain),
            "floors": show_floors(self.brain, now),
            "kept_share": self.brain.reserves.share_ppm / MICRO,
            "tiers": show_tiers(self.brain, self._seats, self._pauses, self._restarts, now),
            "replicas": [self.describe_replica(berth) for berth in self.berths.values()],
        }

    def describe_replica(self, berth: Berth) -> dict[str, Any]:
        """One replica as the control plane shows it."""
        replica, traits = self.brain.replicas[berth.id], berth.engine.traits
        return {
            "id": berth.id,
            "up": replica.up,
            "drain": replica.draining,
            "slots": replica.slots,
            "tiers": None if replica.tiers is None else [tier.word for tier in sorted(replica.tiers)],
            "running": {tier.word: replica.by_rank[tier] for tier in TIERS if replica.by_rank[tier]},
            "prefill_backlog_tokens": replica.backlog,
            "circuit": berth.watch.state.value,
            "engine": traits.flavour,
            "continuable": traits.continuable,
            "recompute_tokens": traits.recompute_tokens,
            "keeps_cut_prefill": traits.keeps_cut_prefill,
            "honours_priority": traits.honours_priority,
            "takes_tools": traits.takes_tools,
            "cache_isolation": self._isolation(traits),
        }

    def _isolation(self, traits: Traits) -> Isolation:
        """How projects' cached prompts are kept apart; SHARED where the operator wants that they are not (R31)."""
        apart = traits.isolation is Isolation.SLOTS or not self._shared_cache
        return traits.isolation if apart else Isolation.SHARED

    def change(
        self, replica: str, *, drain: bool | None, tiers: Sequence[str] | None, slots: int | None
    ) -> dict[str, Any]:
        """Change a running replica; None leaves as it is, all tiers lift a restriction (R16).

        Raises:
            LookupError: no such replica.
            ValueError: a word that is no tier.
        """
        berth = self.berths[replica]
        unknown = [word for word in tiers or () if word not in BY_WORD]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no tier; valid ones are {', '.join(BY_WORD)}")
        now = self._loop.time()
        if tiers is not None:
            given = frozenset(BY_WORD[word] for word in tiers)
            self._do(self.brain.set_tiers(replica, None if len(given) == len(TIERS) else given, now))
        if drain is not None or slots is not None:
            self._do(self.brain.set_replica(replica, now, draining=drain, slots=slots))
        self._reseat()
        self._tell_share()
        return self.describe_replica(berth)
