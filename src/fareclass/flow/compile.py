"""Out of the database into memory: the `Snapshot` that the data path reads."""

from collections.abc import Mapping
from decimal import Decimal

from msgspec import UNSET, UnsetType
from sqlalchemy import Connection

from fareclass.core.limits import EXHAUSTED_S
from fareclass.core.money import pico
from fareclass.core.snapshot import (
    Escalation,
    Key,
    Model,
    PriceBook,
    Project,
    Quota,
    Reservation,
    Route,
    RouteModel,
    RouteRule,
    Snapshot,
)
from fareclass.core.tiers import BY_WORD, TIERS, Tier
from fareclass.core.usage import KINDS
from fareclass.flow.clock import now_us
from fareclass.metering.pricing import compile_book, free_book
from fareclass.store import catalog, routes, workloads
from fareclass.store.budgets import list_budgets
from fareclass.store.master_key import MasterKey
from fareclass.store.records import (
    BookRecord,
    EscalationRecord,
    KeyRecord,
    LimitsRecord,
    QuotaRecord,
    RouteRecord,
    WorkloadRecord,
)
from fareclass.store.reservations import standing_reservations


def compile_snapshot(connection: Connection, master: MasterKey, models: Mapping[str, Model]) -> Snapshot:
    """Everything that is in force, as this transaction sees it."""
    projects = {
        record.id: Project(id=record.id, name=record.name, weight=record.weight)
        for record in catalog.list_projects(connection)
    }
    uses = {record.name: record for record in workloads.list_workloads(connection)}
    budgets = list_budgets(connection)
    return Snapshot(
        projects=projects,
        keys={
            record.id: _key(record, projects[record.project], master, uses.get(record.workload or ""))
            for record in catalog.list_keys(connection, in_force=True)
        },
        models=models,
        quotas={(record.project, record.model): _quota(record) for record in catalog.list_quotas(connection)},
        books={name: price_book(name, catalog.newest_book(connection, name)) for name in models},
        reservations=_reservations(connection, models),
        project_budgets={row.project: row.budget for row in budgets if not row.key},
        key_budgets={row.key: row.budget for row in budgets if row.key},
        routes={route.name: _route(route) for route in routes.list_routes(connection, models)},
    )


def _route(record: RouteRecord) -> Route:
    """Without the models that the configuration has no more (R45)."""
    return Route(
        name=record.name,
        created=int(record.created.timestamp()),
        models=tuple(
            RouteModel(model=each.model, quality=each.quality)
            for each in record.models
            if each.model not in record.unknown
        ),
        rule=_rule(record.order_by, record.limits),
        by_tier={BY_WORD[word]: _rule(each.order_by, each.limits) for word, each in record.by_tier.items()},
        by_workload={use: _rule(each.order_by, each.limits) for use, each in record.by_workload.items()},
    )


def _rule(order_by: str, limits: LimitsRecord) -> RouteRule:
    usd = limits.usd_per_1m_max
    return RouteRule(
        order_by=order_by,
        quality_min=limits.quality_min,
        pico_per_1m_max=None if usd is None else pico(Decimal(usd)),
        ttft_p95_ms_max=limits.ttft_p95_ms_max,
        tokens_per_s_min=limits.tokens_per_s_min,
    )


def _quota(record: QuotaRecord) -> Quota:
    return Quota(
        tpm=record.tpm,
        priority_tpm=int((record.tpm or 0) * record.priority_share),
        rpm=record.rpm,
        concurrency=record.concurrency,
    )


def _key(record: KeyRecord, project: Project, master: MasterKey, workload: WorkloadRecord | None) -> Key:
    """What the key has not of its own is its workload's (R41)."""
    allowed = record.allowed_tiers
    default_tier, rule = record.default_tier, record.escalation
    overflow: Tier | UnsetType | None = UNSET
    if workload is not None:
        default_tier = default_tier or workload.default_tier
        rule = rule or workload.escalation
        overflow = UNSET if workload.overflow is None else BY_WORD.get(workload.overflow)
    return Key(
        id=record.id,
        project=project,
        name=record.name,
        secret=master.bearer(record.id, record.key_version).encode(),
        default_tier=BY_WORD[default_tier or Tier.DEFAULT.word],
        allowed_tiers=None if allowed is None else frozenset(BY_WORD[word] for word in allowed),
        tags=record.tags,
        workload=record.workload or "",
        escalation=None if rule is None else _escalation(rule),
        overflow=overflow,
    )


def _escalation(rule: EscalationRecord) -> Escalation:
    return Escalation(
        to=BY_WORD[rule.to],
        for_s=rule.for_s,
        after_throttles=rule.after_throttles,
        slower_than_ms=rule.slower_than_ms,
        window_s=rule.window_s,
        pico_per_day=None if rule.usd_per_day is None else pico(Decimal(rule.usd_per_day)),
    )


def price_book(model: str, record: BookRecord | None) -> PriceBook:
    """Prices as they are kept, compiled; without any everything is free."""
    if record is None:
        return free_book(model)
    prices = [Decimal(getattr(record, kind)) for kind in KINDS]
    return compile_book(
        model,
        record.version,
        prices,
        [Decimal(record.tiers[tier.word]) for tier in TIERS],
        [Decimal(record.reserved_input), Decimal(record.reserved_output)],
    )


def _reservations(
    connection: Connection, models: Mapping[str, Model]
) -> dict[tuple[str, str], tuple[Reservation, ...]]:
    """By project and model, those that still count: after its end one is exhausted for a day, rather than none (R3)."""
    found: dict[tuple[str, str], tuple[Reservation, ...]] = {}
    for one in standing_reservations(connection, now_us() - EXHAUSTED_S * 1_000_000):
        if one.model in models:
            found[one.project, one.model] = (*found.get((one.project, one.model), ()), one)
    return found
