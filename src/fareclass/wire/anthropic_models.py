"""The models as the Anthropic API lists them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fareclass.core.snapshot import Model


def models_page(models: Mapping[str, Model]) -> dict[str, Any]:
    """All of them: there is never a second page."""
    data = [model_info(model) for model in models.values()]
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
