"""A fleet of simulated replicas in virtual time: what the gateway does for the brain, without waiting.

The driver performs the brain's effects and reports what the engines do, as the live
gateway would: a pause ends the call at the next token, a restart at once, and the engine
notices either 0.1 s later. It also keeps the brain honest: whatever it finds wrong (a
stream cut, a token lost or told twice, a slot too many) ends up in `faults`.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Seq
from itertools import count
from typing import Protocol

from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from fareclass.engine.sim_replica import SimReplica
from fareclass.engine.sim_sequence import Event, Sequence
from fareclass.planner.estimates import Estimates
from fareclass.planner.job import Job
from fareclass.sched.brain import Brain
from fareclass.sched.ticket import NOWHERE, Effect, Pause, Refuse, Restart, Start, Ticket

US = 1_000_000
NEVER_US = 1 << 62
BATCH_WINDOW_S = 86_400


class Scheduler(Protocol):
    """What the driver needs of the brain, and of the policies that it is held against. Times in seconds."""

    @property
    def next_wake(self) -> float | None: ...
    def claim(self, ticket: Ticket, now: float) -> bool: ...
    def offer(self, ticket: Ticket, now: float) -> Seq[Effect]: ...
    def first_token(self, ticket: Ticket, now: float) -> Seq[Effect]: ...
    def produced(self, ticket: Ticket, tokens: int, now: float) -> None: ...
    def sent(self, ticket: Ticket) -> None: ...
    def paused(self, ticket: Ticket, now: float) -> Seq[Effect]: ...
    def finish(self, ticket: Ticket, now: float, usage: Usage) -> Seq[Effect]: ...
    def tick(self, now: float) -> Seq[Effect]: ...


class Placing(Protocol):
    """Who knows what replicas have cached: asked when a job arrives, told where it is sent."""

    def holders(self, job: Job, now_us: int) -> Mapping[str, int]: ...
    def sent(self, job: Job, now_us: int) -> None: ...


class Fleet:
    """Replicas named "0", "1", … behind one scheduler.

    `arrivals` come in order of time. `backlog` makes endless batch work; `backlog_waiting`
    of it always stands in line. With `engine_orders` the engines sort what waits inside
    them by tier. With `estimates` reserved jobs must claim from their project's floor.
    Whenever something happens on a replica the scheduler is told what all its calls have made, unless that was done
    within the last `told_us`: what a long batch makes is then told late, and costs less.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        replicas: Seq[SimReplica],
        arrivals: Iterable[Job],
        *,
        backlog: Callable[[int], Job] | None = None,
        backlog_waiting: int = 0,
        engine_orders: bool = False,
        placing: Placing | None = None,
        estimates: Estimates | None = None,
        told_us: int = 0,
    ) -> None:
        self.scheduler = scheduler
        self.replicas = replicas
        self.jobs: list[Job] = []
        self.delivered_prompt: Counter[str] = Counter()
        self.delivered_output: Counter[str] = Counter()
        self.restarts = 0
        self.faults: Counter[str] = Counter()
        self.now_us = 0
        self._told_us = told_us
        self._told_at = [-told_us] * len(replicas)
        self._arrivals: Iterator[Job] = iter(arrivals)
        self._next = next(self._arrivals, None)
        self._backlog = backlog
        self._missing = backlog_waiting
        self._engine_orders = engine_orders
        self._placing = placing
        self._estimates = estimates
        self._jobs: dict[Ticket, Job] = {}
        self._tickets: dict[Sequence, Ticket] = {}
        self._running: list[dict[Sequence, Job]] = [{} for _ in self.replicas]
        self._due_us = [NEVER_US] * len(replicas)
        self._order = count()
        self._cuts: list[tuple[int, int, int, Sequence]] = []
        self._events: deque[tuple[int, Event]] = deque()
        self._effects: deque[Effect] = deque()

    def run(self, until_us: int) -> None:
        """Let the time pass until `until_us`."""
        self.pass_time(until_us)
        self.now_us = until_us
        for index in range(len(self.replicas)):
            self._look_at(index, tell=True)
        self._settle()

    def pass_time(self, until_us: int) -> None:
        """The same, without a look at what the calls under way have made by then."""
        self._settle()
        due, cuts, scheduler = self._due_us, self._cuts, self.scheduler
        while True:
            due_us = next_us = min(due)
            if cuts and cuts[0][0] < next_us:
                next_us = cuts[0][0]
            if self._next is not None and self._next.arrival_us < next_us:
                next_us = self._next.arrival_us
            wake = scheduler.next_wake
            if wake is not None and (wake_us := int(wake * US) + 1) < next_us:
                next_us = wake_us
            if next_us > until_us:
                return
            self.now_us = max(self.now_us, next_us)
            if due_us == next_us:
                self._look_at(due.index(due_us))
            elif cuts and cuts[0][0] == next_us:
                _, _, index, call = heapq.heappop(cuts)
                self._cut(index, call)
            elif self._next is not None and self._next.arrival_us == next_us:
                job, self._next = self._next, next(self._arrivals, None)
                self.offer(job)
            else:
                self._effects += scheduler.tick(self.now_us / US)
            if self._effects or self._events:
                self._settle()

    def _look_at(self, index: int, *, tell: bool = False) -> None:
        """Bring a replica up to now, and come back when something next happens there."""
        self._advance(index, tell=tell)
        self._watch(index)

    def _advance(self, index: int, *, tell: bool = False) -> None:
        """Bring a replica up to now, tell the scheduler what was made, and keep its events for `_settle`."""
        replica = self.replicas[index]
        for event in replica.advance(self.now_us):
            self._events.append((index, event))
        if tell or self.now_us - self._told_at[index] >= self._told_us:
            self._told_at[index] = self.now_us
            deliver, made = self._deliver, replica.made
            for sequence, job in self._running[index].items():
                if (known := made(sequence)) > job.called:
                    deliver(job, known)

    def _watch(self, index: int) -> None:
        """Come back when something next happens on the replica."""
        at_us = self.replicas[index].next_event_us()
        self._due_us[index] = NEVER_US if at_us is None else at_us

    def _deliver(self, job: Job, made: int) -> None:
        """Its call has made `made` tokens: pass on and report what is new."""
        new = made - job.called
        if new > 0 and job.call is not None:
            job.called = made
            job.delivered += new
            self.delivered_output[job.project] += new
            ticket = self._tickets[job.call]
            if ticket.streamed:
                self.scheduler.produced(ticket, new, self.now_us / US)

    def _settle(self) -> None:
        """Work off events and effects until neither leads to another."""
        while True:
            if self._effects:
                self._perform(self._effects.popleft())
            elif self._events:
                self._happened(*self._events.popleft())
            elif self._missing and self._backlog is not None:
                self._missing -= 1
                self.offer(self._backlog(self.now_us))
            else:
                return

    def offer(self, job: Job) -> None:
        """A request arrives now."""
        self.jobs.append(job)
        ticket = Ticket(
            str(len(self.jobs)),
            job.project,
            job.tier,
            prompt_tokens=job.prompt,
            hold_tokens=job.prompt + job.output,
            continuable=job.movable,
            streamed=job.streamed or job.movable,
            deadline=self.now_us / US + BATCH_WINDOW_S if job.tier is Tier.BATCH else None,
            holders=NOWHERE if self._placing is None else self._placing.holders(job, self.now_us),
        )
        if self._estimates is not None and job.tier is Tier.RESERVED:
            ticket.floor_input = 100 * job.prompt
            ticket.floor_output = self._estimates.output_tokens(job.project, job.max_tokens)
            self._claim(ticket, job)
        self._jobs[ticket] = job
        self._effects += self.scheduler.offer(ticket, self.now_us / US)

    def _claim(self, ticket: Ticket, job: Job) -> None:
        """It is reserved work if its project's floor has room for its holds, else what its reservation overflows to."""
        if not self.scheduler.claim(ticket, self.now_us / US):
            ticket.tier = ticket.rank = job.overflow
        job.served, job.rank = ticket.tier, ticket.rank

    def fail(self, index: int) -> None:
        """A replica dies, with all that runs there (R46)."""
        brain = self.scheduler
        assert isinstance(brain, Brain)
        self._look_at(index, tell=True)
        self._settle()
        self._effects += brain.set_replica(str(index), self.now_us / US, up=False)
        for job in list(self._running[index].values()):
            ticket = self._leave(job)
            self._effects += brain.failed(ticket, self.now_us / US)
            if not ticket.made_tokens:
                self._forget(job)
        self._settle()

    def recover(self, index: int) -> None:
        """The replica is back."""
        assert isinstance(self.scheduler, Brain)
        self._effects += self.scheduler.set_replica(str(index), self.now_us / US, up=True)
        self._settle()

    def _perform(self, effect: Effect) -> None:
        job = self._jobs[effect.ticket]
        if isinstance(effect, Start):
            self._start(job, effect.ticket, int(effect.replica))
        elif isinstance(effect, Pause):
            self._pause(job)
        elif isinstance(effect, Restart):
            self._restart(job)
        else:
            self._refuse(job, effect)

    def _start(self, job: Job, ticket: Ticket, index: int) -> None:
        self._fault(job.call is not None, "started while it runs")
        self._fault(job.delivered != ticket.made_tokens, "the brain's count of tokens is wrong")
        if not self._engine_orders:
            self._refill(job)
        self._advance(index)
        rank = job.tier if self._engine_orders else 0
        left = job.output - job.delivered
        call = Sequence(
            ticket.id,
            job.prompt + job.delivered,
            left,
            reuses=True,
            rank=rank,
            pieces=job.pieces,
            known=job.cache_read,
        )
        job.call, job.called, job.replica, job.began_us = call, 0, index, self.now_us
        if job.sent_us is None:
            job.sent_us = self.now_us
        if self._placing is not None:
            self._placing.sent(job, self.now_us)
        self._tickets[call] = ticket
        self._running[index][call] = job
        self._fault(
            not self._engine_orders and len(self._running[index]) > self.replicas[index].speed.limit - 2,
            "more than its slots",
        )
        self.replicas[index].submit(call, self.now_us)
        self._watch(index)

    def _refill(self, job: Job) -> None:
        """A job has left the line; if it was of the endless batch, another one takes its place."""
        self._missing += job.tier is Tier.BATCH and not job.started
        job.started = True

    def _pause(self, job: Job) -> None:
        call = job.call
        if call is None:
            return self._fault(True, "paused while it does not run")
        self._look_at(job.replica)
        cut_us = self.replicas[job.replica].step_end_us if self.replicas[job.replica].made(call) else self.now_us
        if not call.ended and cut_us is not None:
            heapq.heappush(self._cuts, (cut_us, next(self._order), job.replica, call))
        return None

    def _cut(self, index: int, call: Sequence) -> None:
        """The next clean cut has come, if the answer was not over before."""
        self._look_at(index)
        self._settle()
        job = self._running[index].get(call)
        if job is None:
            return
        made = self.replicas[index].made(call)
        self._deliver(job, made)
        ticket = self._leave(job)
        job.pauses += 1
        if made:
            job.last_us = self.now_us
        self._effects += self.scheduler.paused(ticket, self.now_us / US)

    def _restart(self, job: Job) -> None:
        if job.call is None:
            return self._fault(True, "restarted while it does not run")
        self._fault(job.sent, "restarted after its caller got a byte")
        self._leave(job)
        self._forget(job)
        job.restarts += 1
        self.restarts += 1
        return None

    def _forget(self, job: Job) -> None:
        """What it made so far came to nothing."""
        self.delivered_output[job.project] -= job.delivered
        job.delivered = 0
        if job.first_us is not None:
            self.delivered_prompt[job.project] -= job.prompt
            job.first_us = None

    def _refuse(self, job: Job, refusal: Refuse) -> None:
        self._fault(job.sent, "a stream was cut")
        self._fault(job.call is not None, "refused while it runs")
        self._fault(job.tier is Tier.BATCH and self._backlog is not None, "batch was refused")
        job.refused = refusal
        del self._jobs[refusal.ticket]
        self._effects += self.scheduler.finish(refusal.ticket, self.now_us / US, Usage())
        self._over(job)

    def _leave(self, job: Job) -> Ticket:
        """Its call is given up."""
        call = job.call
        assert call is not None
        del self._running[job.replica][call]
        self._advance(job.replica)
        self.replicas[job.replica].abort(call, self.now_us)
        self._watch(job.replica)
        job.call = None
        job.busy_us += self.now_us - job.began_us
        return self._tickets.pop(call)

    def _happened(self, index: int, event: Event) -> None:
        job = self._running[index].get(event.sequence)
        if job is None:
            return
        ticket = self._tickets[event.sequence]
        self._deliver(job, self.replicas[index].made(event.sequence))
        if not event.finished:
            self._first_token(job, ticket, event)
            return
        if not ticket.streamed:
            self.scheduler.produced(ticket, job.output, self.now_us / US)
        job.whole_us = job.last_us = event.at_us
        job.busy_us += self.now_us - job.began_us
        self._fault(job.delivered != job.output or ticket.made_tokens != job.output, "an answer is not whole")
        del self._running[index][event.sequence]
        del self._tickets[event.sequence]
        del self._jobs[ticket]
        job.call = None
        if self._estimates:
            self._estimates.learn(job.project, job.output)
        usage = Usage(input=job.prompt - job.cache_read, cache_read=job.cache_read, output=job.output)
        self._effects += self.scheduler.finish(ticket, self.now_us / US, usage)
        self._over(job)

    def _over(self, job: Job) -> None:
        """A job has come to its end."""

    def _first_token(self, job: Job, ticket: Ticket, event: Event) -> None:
        if job.first_us is None:
            job.first_us = event.at_us
            job.run_us = event.sequence.admitted_us
            job.cached = event.sequence.cached
            self.delivered_prompt[job.project] += job.prompt
            if self._engine_orders:
                self._refill(job)
        else:
            job.gaps.append(event.at_us - job.last_us)
        if job.streamed:
            job.sent = True
            self.scheduler.sent(ticket)
        if ticket.streamed:
            self._effects += self.scheduler.first_token(ticket, self.now_us / US)

    def _fault(self, wrong: bool, what: str) -> None:
        if wrong:
            self.faults[what] += 1
