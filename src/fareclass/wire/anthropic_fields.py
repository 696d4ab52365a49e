"""The Anthropic Messages API's own request fields and their types (R50)."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from fareclass.wire.openai_fields import Count, Name, Object


class CacheControl(msgspec.Struct, forbid_unknown_fields=True):
    """A cache point (R28)."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class Block(msgspec.Struct, tag_field="type", forbid_unknown_fields=True, kw_only=True):
    """One block of a message's content."""

    cache_control: CacheControl | None = None


class Text(Block, tag="text"):
    """Words."""

    text: str
    citations: None = None


class Base64Source(msgspec.Struct, tag_field="type", tag="base64", forbid_unknown_fields=True):
    """An image in the request itself."""

    media_type: Annotated[str, Meta(pattern=r"^image/[a-z0-9.+-]{1,32}$")]
    data: str


class UrlSource(msgspec.Struct, tag_field="type", tag="url", forbid_unknown_fields=True):
    """An image somewhere else."""

    url: str


class Image(Block, tag="image"):
    """A picture."""

    source: Base64Source | UrlSource


class ToolUse(Block, tag="tool_use"):
    """A call that the model made."""

    id: str
    name: str
    input: Object
    caller: Object | None = None


class ToolResult(Block, tag="tool_result"):
    """What came of it."""

    tool_use_id: str
    content: str | list[Text | Image] | None = None
    is_error: bool | None = None


class Thinking(Block, tag="thinking"):
    """What the model thought, where that was told."""

    thinking: str
    signature: str | None = None


class RedactedThinking(Block, tag="redacted_thinking"):
    """The same, readable only to another server."""

    data: str


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Text | Image | ToolUse | ToolResult | Thinking | RedactedThinking]


class Tool(msgspec.Struct, forbid_unknown_fields=True):
    """A tool of the caller's own."""

    name: str
    input_schema: Object
    type: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None


class ToolChoice(msgspec.Struct, forbid_unknown_fields=True):
    """Whether and which tools must be called; `name` goes with type `tool`."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Whether the model thinks before it answers, and for about how long."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Count | None = None
    display: Literal["summarized", "omitted"] | None = None


class Format(msgspec.Struct, forbid_unknown_fields=True):
    """What an answer's text must look like: JSON of this schema."""

    type: Literal["json_schema"]
    schema: Object


class OutputConfig(msgspec.Struct, forbid_unknown_fields=True):
    """How the answer is written."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: Format | None = None


class Metadata(msgspec.Struct):
    """Of the request: for whom it is made."""

    user_id: str | None = None


class Prompt(msgspec.Struct, kw_only=True):
    """`POST /v1/messages/count_tokens`: what makes the prompt."""

    model: Name
    messages: Annotated[list[Message], Meta(min_length=1)]
    system: str | list[Text] | None = None
    tools: list[Object] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None
    cache_control: CacheControl | None = None


class Messages(Prompt, kw_only=True):
    """`POST /v1/messages`."""

    max_tokens: Count
    stream: bool | None = None
    stop_sequences: Annotated[list[str], Meta(max_length=64)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    metadata: Metadata | None = None
    service_tier: str | None = None
    container: Any = None
    context_management: Any = None
    inference_geo: Any = None
    mcp_servers: Any = None
