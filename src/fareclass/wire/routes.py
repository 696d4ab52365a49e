"""Which call of which API a path is."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final

from fareclass.wire import anthropic, openai, responses
from fareclass.wire.arrival import Message
from fareclass.wire.bedrock import ConverseEndpoint, model_name
from fareclass.wire.bedrock_invoke import InvokeEndpoint
from fareclass.wire.dialect import Endpoint

GENERATING: Mapping[str, Endpoint] = MappingProxyType(
    {**openai.ENDPOINTS, responses.PATH: responses.ENDPOINT, anthropic.PATH: anthropic.ENDPOINT}
)

_BEDROCK: Final = "/model/"
_OF_MODELS: Mapping[str, Callable[[str], Endpoint]] = MappingProxyType(
    {
        "converse": partial(ConverseEndpoint, stream=False),
        "converse-stream": partial(ConverseEndpoint, stream=True),
        "invoke": partial(InvokeEndpoint, stream=False),
        "invoke-with-response-stream": partial(InvokeEndpoint, stream=True),
    }
)
"""Calls of Bedrock's API, whose path names the model."""


def find(scope: Message) -> Endpoint | None:
    """The generating call at this path, None if there is none."""
    path: str = scope["path"]
    if not path.startswith(_BEDROCK):
        return GENERATING.get(path)
    model, _, call = path[len(_BEDROCK) :].rpartition("/")
    make = _OF_MODELS.get(call)
    return None if make is None or not model else make(model_name(model))
