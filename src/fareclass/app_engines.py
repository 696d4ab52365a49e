"""The engines of a `Config`: started or reached, each behind a berth of its model's pool."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import aiohttp

from fareclass import config as settings
from fareclass.config import Config
from fareclass.core.snapshot import Model
from fareclass.engine.base import Engine, EngineFailed, EngineRefused
from fareclass.engine.local import LocalEngine
from fareclass.engine.model_file import ModelUnavailableError, fetch_default_model
from fareclass.engine.openai_http import HttpEngine
from fareclass.engine.sim_replica import Speed
from fareclass.engine.simulated import SimulatedEngine
from fareclass.flow.dispatch import Berth, Dispatcher

Step = Callable[..., None]
SPARE_SLOTS = 2
"""Slots of an engine of ours beyond the scheduler's (R17)."""


class StartError(Exception):
    """The gateway can't start; the message says why and what to do."""


async def pools(
    config: Config, models: Mapping[str, Model], step: Step, stack: AsyncExitStack
) -> dict[str, Dispatcher]:
    """Every model's pool, its engines looked at once; `step` is told what is going on.

    Raises:
        ModelUnavailableError, EngineFailed: an engine of ours can't be started.
    """
    session = _session(stack)
    dispatchers = {}
    for name, model in config.models.items():
        berths = await _berths(name, model, session, step, stack)
        dispatchers[name] = Dispatcher(models[name], berths, config.policies())
        stack.push_async_callback(dispatchers[name].close)
    step("Looking at the engines")
    await asyncio.gather(*(dispatcher.open() for dispatcher in dispatchers.values()))
    return dispatchers


@asynccontextmanager
async def engines(config: Config, model: str, step: Step) -> AsyncIterator[Sequence[Berth]]:
    """The replicas of one model alone: no database, no scheduler, no gateway.

    Raises:
        StartError: an engine can't be started, or fails what is done with it meanwhile.
    """
    try:
        async with AsyncExitStack() as stack:
            berths = await _berths(model, config.models[model], _session(stack), step, stack)
            for berth in berths:
                stack.push_async_callback(berth.engine.close)
            yield berths
    except* (ModelUnavailableError, EngineFailed, EngineRefused) as errors:
        raise StartError("; ".join(dict.fromkeys(map(str, _leaves(errors))))) from None


def _leaves(group: BaseExceptionGroup[Exception]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _session(stack: AsyncExitStack) -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),  # what one caller's answer sets must not go out with another's request
        auto_decompress=False,
    )
    stack.push_async_callback(session.close)
    return session


async def _berths(
    name: str, model: settings.Model, session: aiohttp.ClientSession, step: Step, stack: AsyncExitStack
) -> Sequence[Berth]:
    match model.engine:
        case settings.LocalEngine() as local:
            path = local.model_file
            if path is None:
                fetching = partial(step, f"Fetching the model of {name}")
                path = await asyncio.to_thread(fetch_default_model, progress=fetching)
            step(f"Starting the engine of {name}")
            engine = LocalEngine(session, path, model_name=name, slots=local.slots, context_tokens=local.context_tokens)
            stack.push_async_callback(engine.close)
            await engine.start()
            return [Berth("local", engine, local.slots)]
        case settings.SimulatedEngine() as simulated:
            return [
                Berth(f"sim-{number}", _simulated(simulated), simulated.slots) for number in range(simulated.replicas)
            ]
        case None:
            return [_http_berth(number, name, model, replica, session) for number, replica in enumerate(model.replicas)]


def _simulated(engine: settings.SimulatedEngine) -> Engine:
    return SimulatedEngine(
        Speed(
            limit=engine.slots + SPARE_SLOTS,
            base_us=engine.base_us,
            sequence_us=engine.sequence_us,
            context_ns=engine.context_ns,
            chunk_tokens=engine.chunk_tokens,
            prefill_tokens_s=engine.prefill_tokens_s,
            kv_tokens=engine.kv_tokens,
            lead_steps=engine.lead_steps,
            overcommits=engine.overcommits,
        )
    )


def _http_berth(
    number: int, name: str, model: settings.Model, replica: settings.Replica, session: aiohttp.ClientSession
) -> Berth:
    engine = HttpEngine(
        session,
        replica.url,
        model.upstream_model or name,
        api_key=replica.api_key.value if replica.api_key else None,
    )
    tiers = None if replica.tiers is None else frozenset(replica.tiers)
    return Berth(f"replica-{number}", engine, replica.slots, tiers)
