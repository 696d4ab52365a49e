"""The models as the Anthropic API lists them, and routes as models."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fareclass.core.snapshot import Model, Route


def models_page(models: Sequence[Model]) -> dict[str, Any]:
    """All of them: there is never a second page."""
    data = [model_info(model) for model in models]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"data": data, "has_more": False, **ends}


def model_info(model: Model) -> dict[str, Any]:
    return {
        "type": "model",
        "id": model.name,
        "display_name": model.name,
        "created_at": datetime.fromtimestamp(model.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": model.context_tokens,
    }


def route_model(route: Route, models: Mapping[str, Model]) -> Model:
    """A route as its callers see it: a model with the largest context of its own (R45)."""
    own = [models[each.model] for each in route.models]
    sizes = [model.context_tokens for model in own]
    return Model(
        name=route.name,
        upstream_model=route.name,
        created=route.created,
        tiers=frozenset(tier for model in own for tier in model.tiers),
        context_tokens=None if None in sizes else max((size for size in sizes if size is not None), default=None),
    )
