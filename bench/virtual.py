"""The gateway's own walk, scheduler, books and simulated engines on a virtual clock, without HTTP and disk.

Three models: small is fast and cheap, large is good, slow and dear, middle is between them. A run says the same anywhere.
"""

import asyncio
import random
import selectors
from collections.abc import Coroutine, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, Self, cast

from bench.measure import NONE
from fareclass.core.events import Finished
from fareclass.core.outcomes import Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Key, Model, PriceBook, Project, Route, RouteModel, RouteRule, Snapshot
from fareclass.core.tiers import DEFAULT_POLICIES, TIERS
from fareclass.core.usage import Usage
from fareclass.engine.sim_replica import Speed
from fareclass.engine.simulated import SimulatedEngine
from fareclass.flow.dispatch import Berth, Dispatcher
from fareclass.flow.escalations import Escalations
from fareclass.flow.prompt_cache import PromptCaches
from fareclass.flow.purse import Purses
from fareclass.flow.reply import Served, Translated
from fareclass.flow.request import Walk
from fareclass.flow.reserved import Standing
from fareclass.flow.routing import Routing
from fareclass.metering.ledger import Ledger
from fareclass.metering.pricing import compile_book
from fareclass.policy.budgets import Budgets
from fareclass.policy.escalation import Escalator
from fareclass.policy.estimate import Estimator

SEED = 1
SLOTS = 16
PROMPT_TOKENS, OUTPUT_TOKENS = 400, 80
MULTIPLIERS = [Decimal(text) for text in ("1", "1.75", "1", "0.5", "0.5")]


class Kind(NamedTuple):
    """A simulated model. Prices are USD per 1M tokens."""

    quality: float
    speed: Speed
    input: str
    output: str


KINDS = {
    "small": Kind(0.5, Speed(limit=SLOTS + 2, base_us=4_000, sequence_us=300, prefill_tokens_s=40_000), "0.1", "0.4"),
    "middle": Kind(0.7, Speed(limit=SLOTS + 2, base_us=10_000, sequence_us=600, prefill_tokens_s=15_000), "0.5", "2"),
    "large": Kind(0.9, Speed(limit=SLOTS + 2, base_us=25_000, sequence_us=1_500, prefill_tokens_s=5_000), "2", "8"),
}
_BEYOND_S = 1e-6
"""A time is never just short of what was waited for, however it is rounded."""


class _Skipping(selectors.DefaultSelector):
    """Where nothing is ready, the time is at once what was waited for."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("the run has nothing to wait for")
        if not ready and timeout:
            self.now_s += timeout + _BEYOND_S
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Skipping()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s


class _Memory:
    """In the ledger's place: an entry is safe at once."""

    healthy = True

    def note(self, entry: Finished) -> None:
        """Nothing is kept: the bench reads what was observed."""

    async def append(self, entry: Finished) -> None:
        """The same."""


class Caller:
    """One request as its caller saw it: when it came, its first token, its end, and who served it."""

    def __init__(self, arrived_s: float) -> None:
        self.arrived_s = arrived_s
        self.first_s = self.last_s = NONE
        self.served: Served | None = None
        self.refusal: Refusal | None = None
        self.entry: Finished | None = None
        self.gone = self.billed = False

    @property
    def started(self) -> bool:
        return self.served is not None

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.arrived_s

    @property
    def model(self) -> str:
        return "" if self.served is None else self.served.model

    async def start(self, served: Served) -> None:
        self.served = served
        self.first_s = asyncio.get_running_loop().time()

    async def relay(self, events: bytes) -> None:
        self.last_s = asyncio.get_running_loop().time()

    def continued(self) -> None: ...

    async def cut(self, choices: Sequence[int]) -> None: ...

    async def comment(self) -> None: ...

    async def end(self, usage: Usage) -> None: ...

    def translated(self, served: Served, body: bytes, usage: Usage) -> Translated:
        raise RuntimeError("every request of this bench is streamed")

    async def whole(self, served: Served, answer: Translated) -> None: ...

    async def refuse(self, refusal: Refusal, served: Served | None = None) -> None:
        self.refusal = refusal


class World:
    """A gateway with the three models, inside the running virtual loop. Every name of `rules` is a route."""

    def __init__(self, rules: Mapping[str, RouteRule]) -> None:
        models = {name: _model(name) for name in KINDS}
        self.engines = {name: SimulatedEngine(kind.speed, mean_tokens=OUTPUT_TOKENS) for name, kind in KINDS.items()}
        self.dispatchers = {
            name: Dispatcher(models[name], [Berth("r", engine, SLOTS)], DEFAULT_POLICIES)
            for name, engine in self.engines.items()
        }
        project = Project(id="proj", name="bench")
        self.key = Key(id="key", project=project, name="bench", secret=b"")
        members = tuple(RouteModel(model=name, quality=kind.quality) for name, kind in KINDS.items())
        snapshot = Snapshot(
            projects={project.id: project},
            keys={self.key.id: self.key},
            models=models,
            quotas={},
            books={name: _book(name) for name in KINDS},
            routes={name: Route(name=name, created=0, models=members, rule=rule) for name, rule in rules.items()},
        )
        self.callers: dict[str, Caller] = {}
        estimator = Estimator()
        standing = Standing(lambda: snapshot, self.dispatchers)
        caches = PromptCaches(b"bench", models)
        self.walk = Walk(
            lambda: snapshot,
            self.dispatchers,
            standing,
            Routing(self.dispatchers, standing, caches, estimator),
            Escalations(Escalator(0, {}), estimator),
            caches,
            Purses(Budgets(0), estimator),
            estimator,
            cast("Ledger", _Memory()),
            self._observe,
        )

    async def __aenter__(self) -> Self:
        for dispatcher in self.dispatchers.values():
            await dispatcher.open()
        return self

    async def __aexit__(self, *_error: object) -> None:
        for dispatcher in self.dispatchers.values():
            await dispatcher.close()

    async def play(self, model: str, steps: Sequence[tuple[float, float]]) -> list[Caller]:
        """Poisson arrivals at each rate for so many seconds; all callers, in order, once all have ended."""
        dice, loop, tasks, first = random.Random(SEED), asyncio.get_running_loop(), [], len(self.callers)
        for rate, seconds in steps:
            until_s = loop.time() + seconds
            while (pause_s := dice.expovariate(rate)) + loop.time() < until_s:
                await asyncio.sleep(pause_s)
                request = self._request(model, dice, len(self.callers))
                self.callers[request.id] = Caller(loop.time())
                tasks.append(loop.create_task(self.walk.run(request, self.callers[request.id])))
            await asyncio.sleep(until_s - loop.time())
        await asyncio.gather(*tasks)
        return list(self.callers.values())[first:]

    def _request(self, model: str, dice: random.Random, number: int) -> Request:
        words = f"{number} " + "word " * (8 + int(dice.expovariate(1 / PROMPT_TOKENS)))
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": words}]}
        return Request(
            id=f"req_{number}",
            caller_id="",
            endpoint="/v1/chat/completions",
            path="/chat/completions",
            key=self.key,
            model=model,
            tier_word=None,
            stream=True,
            body=body,
            extra={},
            max_tokens=None,
            width=1,
            size_bytes=len(words),
            prompt_bytes=len(words),
            continuable=True,
            constrained=False,
            stop=(),
            media_hosts=(),
            traceparent=None,
            arrived_s=asyncio.get_running_loop().time(),
            arrived_us=number,
        )

    def _observe(self, entry: Finished) -> None:
        self.callers[entry.id].entry = entry


def _model(name: str) -> Model:
    return Model(name=name, upstream_model=name, created=0, tiers=frozenset(TIERS), max_tokens_default=OUTPUT_TOKENS)


def _book(name: str) -> PriceBook:
    kind = KINDS[name]
    prices = [Decimal(kind.input)] * 4 + [Decimal(kind.output)]
    return compile_book(name, 1, prices, MULTIPLIERS)


def virtual(run: Coroutine[Any, Any, Any]) -> Any:
    """Run in a loop of its own, from second 0 on."""
    loop = _VirtualLoop()
    try:
        return loop.run_until_complete(run)
    finally:
        loop.close()
