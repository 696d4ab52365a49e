"""The composition root: a `Config` becomes a running gateway. The only place that constructs long-lived things."""

import asyncio
import os
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import msgspec
from msgspec import structs

from fareclass import config as settings
from fareclass.app_engines import StartError, Step, pools
from fareclass.config import Config
from fareclass.core.snapshot import Burndown, Capacity, Model
from fareclass.core.tiers import TIERS
from fareclass.core.times import DAY_US
from fareclass.engine.base import EngineFailed
from fareclass.engine.model_file import ModelUnavailableError
from fareclass.engine.object_store import ObjectStore
from fareclass.engine.outbound import Names, Outbound
from fareclass.flow.batch_carrying import Places
from fareclass.flow.batch_lines import LineFormat
from fareclass.flow.batch_roots import BatchRoots
from fareclass.flow.batch_state import batch_state
from fareclass.flow.batches import Batches
from fareclass.flow.clock import now_us
from fareclass.flow.control import Control, Tariff
from fareclass.flow.counting import TokenCounts
from fareclass.flow.dispatch import Dispatcher
from fareclass.flow.escalations import Escalations
from fareclass.flow.files import Files
from fareclass.flow.fleet import Fleet
from fareclass.flow.keeper import Keeper
from fareclass.flow.levels import Estimates, Levels
from fareclass.flow.planning import Planning
from fareclass.flow.prompt_cache import PromptCaches
from fareclass.flow.purse import Purses
from fareclass.flow.request import Walk
from fareclass.flow.reserved import Standing
from fareclass.flow.routes import Routes
from fareclass.flow.routing import Routing
from fareclass.flow.spending import Spending
from fareclass.flow.stored_responses import StoredResponses
from fareclass.flow.webhook_sending import WebhookSender
from fareclass.flow.webhooks import Webhooks
from fareclass.metering.ledger import Ledger
from fareclass.metering.pricing import PriceError
from fareclass.metering.rollup import Rollup
from fareclass.planner.pools import pools_of
from fareclass.policy.budgets import Budgets
from fareclass.policy.escalation import Escalator
from fareclass.policy.estimate import Estimator
from fareclass.policy.outbound_address import judge
from fareclass.store import StoreError
from fareclass.store.database import Store
from fareclass.store.entries import escalated_cost
from fareclass.store.fingerprints import open_master_key
from fareclass.store.master_key import MasterKey
from fareclass.telemetry.counts import Counts
from fareclass.telemetry.metrics import Metrics
from fareclass.telemetry.states import LedgerState, TraceState
from fareclass.telemetry.wanted import wanted
from fareclass.wire import anthropic_batches, bedrock_jobs
from fareclass.wire import batches as batch_calls
from fareclass.wire.admin import admin_app
from fareclass.wire.anthropic_count import count_operation
from fareclass.wire.asgi import ASGIApp, DataPlane
from fareclass.wire.bedrock_count import count_operation as bedrock_count_operation
from fareclass.wire.bedrock_lines import RecordLines
from fareclass.wire.calls import Calls
from fareclass.wire.console_redirect import ConsolePlace, console_route
from fareclass.wire.files import FileCalls
from fareclass.wire.metrics import metrics_route
from fareclass.wire.project_plane import Operation, project_app
from fareclass.wire.responses_background import Background
from fareclass.wire.responses_plane import ResponsesPlane
from fareclass.wire.responses_stored import Conversations
from fareclass.wire.routes import GENERATING

if TYPE_CHECKING:
    from fareclass.telemetry.traces import Traces


class FirstKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The secrets of a gateway's very first start. `admin` is None where the operator set it himself."""

    admin: str | None
    project: str


class System:
    """A running gateway: its ASGI application, why it can't serve yet (or None), and how to take it down.

    `console` is to be told where a console of it listens. `read_only_key` is None where the operator set it himself.
    """

    def __init__(
        self,
        asgi: ASGIApp,
        first_keys: FirstKeys | None,
        not_ready: Callable[[], str | None],
        stack: AsyncExitStack,
        console: ConsolePlace,
        read_only_key: str | None,
    ) -> None:
        self.asgi = asgi
        self.first_keys = first_keys
        self.not_ready = not_ready
        self.console = console
        self.read_only_key = read_only_key
        self._stack = stack

    async def aclose(self) -> None:
        """End everything, in reverse order: engines stopped, the ledger flushed, the database closed."""
        await self._stack.aclose()


async def build(config: Config, step: Step) -> System:
    """Open the store, start the engines and put the parts together; `step` is told what is going on.

    Raises:
        StartError: something that the gateway can't do without is not there.
    """
    stack = AsyncExitStack()
    try:
        return await _build(config, step, stack)
    except (StoreError, PriceError, ModelUnavailableError, EngineFailed) as error:
        await stack.aclose()
        raise StartError(str(error)) from error
    except BaseException:
        await stack.aclose()
        raise


async def _build(config: Config, step: Step, stack: AsyncExitStack) -> System:
    step("Opening the database")
    store = Store(config.store, config.store_password.value if config.store_password else None)
    stack.callback(store.close)
    await asyncio.to_thread(store.claim)
    since_us = now_us()  # what the ledger has before that is not ours
    ledger = Ledger(store)
    stack.push_async_callback(ledger.close)
    await asyncio.to_thread(store.upgrade)
    master = await asyncio.to_thread(open_master_key, config.master_key_file, store)
    models = _models(config)
    control = await asyncio.to_thread(Control, store, master, models, _tariffs(config))
    await asyncio.to_thread(Routes(control).tell_gaps)
    project_key = await asyncio.to_thread(control.first_key, settings.__name__)
    dispatchers = await pools(config, models, step, stack)
    standing = Standing(lambda: control.snapshot, dispatchers)
    fleet = Fleet(dispatchers, standing)
    served, traces = Counts({name: model.burndown for name, model in models.items()}), _traces(stack)
    estimator = Estimator()
    escalations = Escalations(await asyncio.to_thread(_escalator, store), estimator)
    caches = PromptCaches(master.cache_key(), models)
    keeper = Keeper(store, [Levels(lambda: control.snapshot, dispatchers), Estimates(estimator), caches])
    stack.push_async_callback(keeper.close)
    await keeper.open()
    following = asyncio.create_task(standing.run())
    stack.callback(following.cancel)
    budgets = Budgets(since_us)
    spending = await asyncio.to_thread(Spending, control, budgets)
    walk = Walk(
        lambda: control.snapshot,
        dispatchers,
        standing,
        Routing(dispatchers, standing, caches, estimator),
        escalations,
        caches,
        Purses(budgets, estimator),
        estimator,
        ledger,
        served.observe if traces is None else traces.after(served.observe),
        None if traces is None else traces.begin,
    )
    stack.push_async_callback(walk.close)
    rollup = _rollup(store, ledger, models, stack)
    outbound = _outbound(config, stack)
    webhooks, sender = _webhooks(config, store, master, control, outbound, stack)
    console = ConsolePlace()
    roots = BatchRoots(control, config.batch_folders, config.object_stores)
    places = Places(roots.of_project, _object_stores(config, outbound))
    batches, batch_operations = await _batches(config, store, walk, control, dispatchers, places, stack)
    admin_key = config.admin_key.value if config.admin_key else master.admin_key()
    read_only_key = config.read_only_key.value if config.read_only_key else master.read_only_key()
    metrics = _metrics(served, fleet, ledger, rollup, batches, sender, traces)
    also = [metrics_route(metrics, None if config.loopback else admin_key), console_route(console)]
    planning = Planning(control, pools_of(config))
    admin = admin_app(control, spending, webhooks, roots, fleet, batches, planning, admin_key, read_only_key, also=also)

    def ready() -> str | None:
        return fleet.not_ready() if ledger.healthy else "the ledger can't be written"

    stored, commands = await _responses(store, walk, control, stack)
    counts = TokenCounts(lambda: control.snapshot, dispatchers, estimator)
    counting = [count_operation(counts.count), bedrock_count_operation(counts.count)]
    objects = project_app(lambda: control.snapshot, [*commands, *counting, *batch_operations])
    asgi = DataPlane(
        walk, snapshot=lambda: control.snapshot, ready=ready, objects=objects, fallback=admin, conversations=stored
    )
    stack.push_async_callback(asgi.close)
    first_keys = None if project_key is None else _first_keys(config, master, project_key)
    return System(asgi, first_keys, ready, stack, console, None if config.read_only_key else read_only_key)


def _first_keys(config: Config, master: MasterKey, project_key: str) -> FirstKeys:
    """What a first start has to show; of the admin key only one that nobody chose."""
    return FirstKeys(admin=None if config.admin_key else master.admin_key(), project=project_key)


def _tariffs(config: Config) -> Mapping[str, Tariff]:
    return {
        name: Tariff(price=model.price, multipliers=config.multipliers(name), reserved=model.reserved_price)
        for name, model in config.models.items()
    }


def _outbound(config: Config, stack: AsyncExitStack) -> Outbound:
    names = Names()
    stack.callback(names.close)
    return Outbound(judge(config.outbound_networks), ssl.create_default_context(), names)


def _webhooks(
    config: Config, store: Store, master: MasterKey, control: Control, outbound: Outbound, stack: AsyncExitStack
) -> tuple[Webhooks, WebhookSender]:
    """The commands on webhooks, and what sends to them."""
    sender = WebhookSender(store, master, outbound.post)
    stack.push_async_callback(sender.close)
    sender.open()
    return Webhooks(control, master, judge(config.outbound_networks), http=bool(config.outbound_networks)), sender


async def _responses(
    store: Store, walk: Walk, control: Control, stack: AsyncExitStack
) -> tuple[Conversations, Sequence[Operation]]:
    """Stored responses, and those in the background, which go on where the last end of the gateway left them."""
    stored = StoredResponses(store)
    stored.open()
    stack.push_async_callback(stored.close)
    background = Background(Calls(walk), stored, lambda: control.snapshot)
    await background.open()
    stack.push_async_callback(background.close)
    return Conversations(stored, background), ResponsesPlane(stored, background).operations()


async def _batches(
    config: Config,
    store: Store,
    walk: Walk,
    control: Control,
    dispatchers: Mapping[str, Dispatcher],
    places: Places,
    stack: AsyncExitStack,
) -> tuple[Batches, Sequence[Operation]]:
    """All batches, and the calls on them and on files of projects. They go on where the last end of the gateway left them."""
    stack.callback(places.close)
    files = Files(store, config.data_folder)
    try:
        await files.open()
    except OSError as error:
        raise StartError(f"the data folder {config.data_folder} can't be used: {error.strerror}") from error
    stack.push_async_callback(files.close)
    formats: Mapping[str, LineFormat] = {
        batch_calls.API: batch_calls.OpenAILines(Calls(walk), GENERATING),
        anthropic_batches.API: anthropic_batches.MessageLines(Calls(walk)),
        bedrock_jobs.API: RecordLines(Calls(walk)),
    }
    carriers = {bedrock_jobs.API: places}
    batches = Batches(store, config.data_folder, files, lambda: control.snapshot, dispatchers, formats, carriers)
    await batches.open()
    stack.push_async_callback(batches.close)
    calls = (
        FileCalls(files),
        batch_calls.BatchCalls(batches, files),
        anthropic_batches.MessageBatchCalls(batches, files),
        bedrock_jobs.JobCalls(batches, places),
    )
    return batches, [operation for each in calls for operation in each.operations()]


def _object_stores(config: Config, outbound: Outbound) -> Mapping[str, ObjectStore]:
    return {
        name: ObjectStore(
            outbound,
            store.url,
            region=store.region,
            access_key_id=store.access_key_id,
            secret_access_key=store.secret_access_key.value,
        )
        for name, store in config.object_stores.items()
    }


def _escalator(store: Store) -> Escalator:
    """With what escalated requests have cost today already (R40)."""
    today = now_us() // DAY_US
    with store.read() as connection:
        return Escalator(today, escalated_cost(connection, today * DAY_US))


def _models(config: Config) -> Mapping[str, Model]:
    now = int(time.time())
    return {
        name: Model(
            name=name,
            upstream_model=model.upstream_model or name,
            created=now,
            tiers=frozenset(TIERS if model.tiers is None else model.tiers),
            pass_fields=frozenset(model.pass_fields),
            media_domains=frozenset(model.media_domains),
            max_tokens_default=model.max_tokens_default,
            burndown=_burndown(model.burndown),
            capacity=None if model.capacity is None else Capacity(**structs.asdict(model.capacity)),
            headroom=model.headroom,
            context_tokens=model.most_tokens,
            cache_min_tokens=model.cache.min_tokens,
            implicit_cache=model.implicit_cache,
            shared_cache=model.shared_cache,
        )
        for name, model in config.models.items()
    }


def _burndown(weights: settings.Burndown) -> Burndown:
    return Burndown(**{kind: int(weight * 100) for kind, weight in structs.asdict(weights).items()})


def _rollup(store: Store, ledger: Ledger, models: Mapping[str, Model], stack: AsyncExitStack) -> Rollup:
    rollup = Rollup(store, ledger.horizon, {name: model.burndown for name, model in models.items()})
    stack.push_async_callback(rollup.close)
    rollup.open()
    return rollup


def _metrics(
    served: Counts,
    fleet: Fleet,
    ledger: Ledger,
    rollup: Rollup,
    batches: Batches,
    webhooks: WebhookSender,
    traces: "Traces | None",
) -> Metrics:
    def ledger_state() -> LedgerState:
        return LedgerState(
            pending=ledger.pending, dropped=ledger.dropped, lag_s=ledger.lag_s, rollup_lag_s=rollup.lag_s
        )

    return Metrics(
        served,
        pools=fleet.states,
        ledger=ledger_state,
        batches=lambda: batch_state(batches.waiting.values(), batches.jobs.values()),
        webhooks_waiting=lambda: webhooks.waiting,
        traces=lambda: TraceState() if traces is None else traces.state,
    )


def _traces(stack: AsyncExitStack) -> "Traces | None":
    """What makes spans, where somebody takes them: OpenTelemetry's own variables say so (R42)."""
    if not wanted(os.environ):
        return None
    from fareclass.telemetry.traces import Traces  # noqa: PLC0415 - a quarter of a second, for those alone who want spans

    try:
        traces = Traces()
    except ValueError as error:
        raise StartError(f"spans can't be sent as OpenTelemetry's variables (OTEL_…) say: {error}") from None
    stack.push_async_callback(traces.close)
    return traces
