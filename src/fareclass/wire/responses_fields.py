"""The Responses API's own request fields and their types (R50)."""

from typing import Any

import msgspec

from fareclass.wire.openai_fields import Count, Name, Object

Item = dict[str, Any]


class Format(msgspec.Struct, tag_field="type"):
    """What an answer's text must look like: free here; below, JSON of some kind."""


class FreeText(Format, tag="text"):
    """Any text."""


class JsonObject(Format, tag="json_object"):
    """Any JSON object."""


class JsonSchema(Format, tag="json_schema"):
    """JSON of this schema."""

    name: str
    schema: Object
    description: str | None = None
    strict: bool | None = None


class Text(msgspec.Struct):
    """`text`: how the answer is written."""

    format: FreeText | JsonObject | JsonSchema | None = None
    verbosity: str | None = None


class Reasoning(msgspec.Struct):
    """`reasoning`: how much of it there is."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class Responses(msgspec.Struct, kw_only=True):
    """`POST /v1/responses`."""

    model: Name
    input: str | list[Item] = []
    instructions: str | None = None
    tools: list[Object] | None = None
    tool_choice: str | Object | None = None
    parallel_tool_calls: bool | None = None
    text: Text | None = None
    max_output_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, str] | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    truncation: str | None = None
    include: list[str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Object | None = None
    prompt_cache_retention: str | None = None
    stream: bool | None = None
    stream_options: Object | None = None
    background: bool | None = None
    max_tool_calls: int | None = None
    conversation: str | Object | None = None
    prompt: Object | None = None
    moderation: Object | None = None
    context_management: list[Object] | None = None


class Function(msgspec.Struct):
    """A tool of type `function`."""

    name: str
    description: str | None = None
    parameters: Object | None = None
    strict: bool | None = None


class Common(msgspec.Struct):
    """What any item may have, whether or not its kind makes use of it: it is stored with the item, and found by `id`."""

    id: str | None = None
    content: str | list[Item] | None = None
    output: str | list[Item] | None = None


class Message(msgspec.Struct):
    """A message; its text in one piece, or in parts."""

    role: str
    content: str | list[Item]


class FunctionCall(msgspec.Struct):
    """A call that the model made."""

    call_id: str
    name: str
    arguments: str


class FunctionCallOutput(msgspec.Struct):
    """What came of it."""

    call_id: str
    output: str | list[Item]


class ReasoningItem(msgspec.Struct):
    """What the model thought, where that was told."""

    content: list[Item] | None = None


class ItemReference(msgspec.Struct):
    """An item of a stored response."""

    id: str
