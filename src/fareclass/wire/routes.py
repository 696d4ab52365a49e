"""Which call of which API a path is."""

from collections.abc import Mapping
from types import MappingProxyType

from fareclass.wire import anthropic, openai, responses
from fareclass.wire.arrival import Message
from fareclass.wire.dialect import Endpoint

GENERATING: Mapping[str, Endpoint] = MappingProxyType(
    {**openai.ENDPOINTS, responses.PATH: responses.ENDPOINT, anthropic.PATH: anthropic.ENDPOINT}
)


def find(scope: Message) -> Endpoint | None:
    """The generating call at this path, None if there is none."""
    return GENERATING.get(scope["path"])
