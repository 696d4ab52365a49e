"""Operator commands on routes: public names that stand for several models (R45)."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final

from msgspec import to_builtins
from msgspec.structs import replace
from sqlalchemy import Connection

from fareclass.core.limits import MODEL_CHARS, PRICE_USD, ROUTE_MODELS, ROUTE_RULES, RULE_S, TOKENS_PER_S
from fareclass.core.money import pico, usd
from fareclass.flow.audit import note
from fareclass.flow.clock import now_us
from fareclass.flow.control import Control
from fareclass.flow.operator_rules import ControlError, tier_of
from fareclass.store import routes, workloads
from fareclass.store.records import LimitsRecord, RouteModelRecord, RouteRecord, RuleRecord

_log = logging.getLogger(__name__)
ORDERS: Final = ("quality", "latency", "cost")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Routes:
    """Commands beside those of `Control`, in the same transactions and audit."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def put(
        self,
        actor: str,
        name: str,
        *,
        models: Sequence[RouteModelRecord],
        rule: RuleRecord,
        by_tier: Mapping[str, RuleRecord],
        by_workload: Mapping[str, RuleRecord],
    ) -> RouteRecord:
        """Make a route, or replace it for the next requests."""
        known = self._control.models
        _check_name(name, known)
        _check_models(models, known)
        tiers = {tier_of(word, f"by_tier.{word}").word: each for word, each in by_tier.items()}
        rules = {"": rule, **{f"by_tier.{word}.": each for word, each in by_tier.items()}}
        rules |= {f"by_workload.{use}.": each for use, each in by_workload.items()}
        if len(by_workload) > ROUTE_RULES:
            raise ControlError("invalid", f"at most {ROUTE_RULES} rules for workloads", "by_workload")
        for path, each in rules.items():
            _check_rule(each, models, path)
        values = {
            "models": to_builtins(models),
            "order_by": rule.order_by,
            "limits": to_builtins(_plain(rule).limits),
            "by_tier": to_builtins({word: _plain(each) for word, each in tiers.items()}),
            "by_workload": to_builtins({use: _plain(each) for use, each in by_workload.items()}),
        }
        with self._control.change() as connection:
            for use in by_workload:
                if workloads.find_workload(connection, use) is None:
                    raise ControlError("not_found", f"no workload {use[:MODEL_CHARS]!r}", f"by_workload.{use}")
            before = routes.find_route(connection, name, known)
            routes.put_route(connection, name, values, now_us())
            after = self._find(connection, name)
            note(connection, actor, "route.set", name, before, after)
            return after

    def get(self, name: str) -> RouteRecord:
        with self._control.store.read() as connection:
            return self._find(connection, name)

    def page(self, *, after: str, limit: int) -> list[RouteRecord]:
        with self._control.store.read() as connection:
            return routes.list_routes(connection, self._control.models, after=after, limit=limit)

    def delete(self, actor: str, name: str) -> RouteRecord:
        """From then on the name is that of no model."""
        with self._control.change() as connection:
            before = self._find(connection, name)
            routes.delete_route(connection, name)
            note(connection, actor, "route.delete", name, before, None)
            return before

    def tell_gaps(self) -> None:
        """At the start: what the configuration no more has of the routes, and those that a model's name hides."""
        with self._control.store.read() as connection:
            found = routes.list_routes(connection, self._control.models)
        for route in found:
            if route.name in self._control.models:
                _log.warning("a model of the same name hides a route", extra={"route": route.name})
            elif route.unknown:
                models = ", ".join(route.unknown)
                _log.warning(
                    "a route skips models that are not configured", extra={"route": route.name, "models": models}
                )

    def _find(self, connection: Connection, name: str) -> RouteRecord:
        route = routes.find_route(connection, name, self._control.models)
        if route is None:
            raise ControlError("not_found", f"no route {name[:MODEL_CHARS]!r}", "route")
        return route


def _check_name(name: str, known: Mapping[str, object]) -> None:
    if name in known:
        raise ControlError("already_exists", f"a model is named {name!r}: a route needs a name of its own", "route")
    if not _NAME.fullmatch(name):
        raise ControlError("invalid", "a route's name must be 1 to 128 of A-Z a-z 0-9 . _ -, not first . _ -", "route")


def _check_models(models: Sequence[RouteModelRecord], known: Mapping[str, object]) -> None:
    if not 1 <= len(models) <= ROUTE_MODELS:
        raise ControlError("invalid", f"must name 1 to {ROUTE_MODELS} models", "models")
    seen: set[str] = set()
    for place, each in enumerate(models):
        if each.model not in known:
            shown = each.model[:MODEL_CHARS]
            there = ", ".join(known)
            raise ControlError("not_found", f"no model {shown!r}; there are: {there}", f"models[{place}].model")
        if each.model in seen:
            raise ControlError("invalid", f"names {each.model!r} twice", f"models[{place}].model")
        seen.add(each.model)
        if each.quality is not None and not 0 <= each.quality <= 1:
            raise ControlError("invalid", "quality must be from 0 to 1", f"models[{place}].quality")


def _check_rule(rule: RuleRecord, models: Sequence[RouteModelRecord], path: str) -> None:
    """`path` is where the rule stands, with a dot behind it; empty for that of the route itself."""
    if rule.order_by not in ORDERS:
        raise ControlError(
            "invalid", f"unknown order {rule.order_by!r}; valid are: {', '.join(ORDERS)}", f"{path}order_by"
        )
    limits = rule.limits
    for name, problem in _problems(limits):
        raise ControlError("invalid", f"{name} {problem}", f"{path}limits.{name}")
    if rule.order_by != "quality" and limits.quality_min is None:
        return
    for place, each in enumerate(models):
        if each.quality is None:
            asks = f"`{path}limits.quality_min`" if rule.order_by != "quality" else f"`{path}order_by`"
            raise ControlError(
                "invalid", f"declare the quality, 0 to 1: {asks} asks for it", f"models[{place}].quality"
            )
    if limits.quality_min is not None and all((each.quality or 0) < limits.quality_min for each in models):
        raise ControlError("invalid", "no model of the route is that good", f"{path}limits.quality_min")


def _plain(rule: RuleRecord) -> RuleRecord:
    """A price as every other is shown, however it was written."""
    amount = rule.limits.usd_per_1m_max
    if amount is None:
        return rule
    return replace(rule, limits=replace(rule.limits, usd_per_1m_max=usd(pico(Decimal(amount)))))


def _problems(limits: LimitsRecord) -> Iterator[tuple[str, str]]:
    """Each limit that can't be one, and why."""
    if limits.quality_min is not None and not 0 <= limits.quality_min <= 1:
        yield "quality_min", "must be from 0 to 1"
    if limits.usd_per_1m_max is not None and not _is_price(Decimal(limits.usd_per_1m_max)):
        yield "usd_per_1m_max", f"must be a number from 0 to {PRICE_USD}, of at most 12 decimals"
    if limits.ttft_p95_ms_max is not None and not 1 <= limits.ttft_p95_ms_max <= RULE_S * 1000:
        yield "ttft_p95_ms_max", f"must be from 1 to {RULE_S * 1000}"
    if limits.tokens_per_s_min is not None and not 0 < limits.tokens_per_s_min <= TOKENS_PER_S:
        yield "tokens_per_s_min", f"must be more than 0, and at most {TOKENS_PER_S}"


def _is_price(amount: Decimal) -> bool:
    if not (amount.is_finite() and 0 <= amount <= PRICE_USD):
        return False
    try:
        pico(amount)
    except ValueError:
        return False
    return True
