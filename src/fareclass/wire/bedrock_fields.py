"""The Converse API's own request fields and their types (R50). A union has its kinds as fields, one of them given."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from fareclass.wire.anthropic_fields import ThinkingConfig
from fareclass.wire.openai_fields import Count, Object


class Strict(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """What nobody knows here can't be carried, so it is refused by name."""


class Union(Strict):
    """Has one of its kinds."""

    def given(self) -> list[str]:
        """Their names."""
        kinds = zip(self.__struct_encode_fields__, self.__struct_fields__, self.__struct_defaults__, strict=True)
        return [name for name, attribute, default in kinds if getattr(self, attribute) is not default]


class CachePoint(Strict):
    """A cache point (R28), behind what it stands for."""

    type: Literal["default"]
    ttl: Literal["5m", "1h"] | None = None


class ImageSource(Strict):
    """The bytes of an image, in base64."""

    bytes: str


class Image(Strict):
    """A picture."""

    format: Literal["png", "jpeg", "gif", "webp"]
    source: ImageSource


class ToolUse(Strict):
    """A call that the model made."""

    tool_use_id: str
    name: str
    input: Object


class ResultContent(Union):
    """A part of what came of it."""

    text: str | None = None
    json: Any = msgspec.UNSET
    image: Image | None = None


class ToolResult(Strict):
    """What came of a call."""

    tool_use_id: str
    content: list[ResultContent]
    status: Literal["success", "error"] | None = None
    type: str | None = None


class ReasoningText(Strict):
    """What the model thought."""

    text: str
    signature: str | None = None


class Reasoning(Union):
    """The same, or bytes that only another server can read."""

    reasoning_text: ReasoningText | None = None
    redacted_content: str | None = None


class Content(Union):
    """One block of a message."""

    text: str | None = None
    image: Image | None = None
    tool_use: ToolUse | None = None
    tool_result: ToolResult | None = None
    reasoning_content: Reasoning | None = None
    cache_point: CachePoint | None = None


class Message(Strict):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: list[Content]


class System(Union):
    """A piece of what the model is told before all."""

    text: str | None = None
    cache_point: CachePoint | None = None


class InputSchema(Strict):
    """What a tool takes."""

    json: Object


class ToolSpec(Strict):
    """A tool of the caller's own."""

    name: str
    input_schema: InputSchema
    description: str | None = None
    strict: bool | None = None


class Tool(Union):
    """One of the tools, or a cache point behind them."""

    tool_spec: ToolSpec | None = None
    cache_point: CachePoint | None = None


class NamedTool(Strict):
    """The tool that must be called."""

    name: str


class ToolChoice(Union):
    """Whether and which tools must be called."""

    auto: Object | None = None
    any: Object | None = None
    tool: NamedTool | None = None


class ToolConfig(Strict):
    """Tools, and what is to be done with them."""

    tools: list[Tool]
    tool_choice: ToolChoice | None = None


class Inference(Strict):
    """How the answer is sampled."""

    max_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop_sequences: Annotated[list[str], Meta(max_length=64)] | None = None


class JsonSchema(Strict):
    """A schema, as the text of its JSON."""

    schema: str
    name: str | None = None
    description: str | None = None


class Structure(Strict):
    """Of an answer's text."""

    json_schema: JsonSchema


class TextFormat(Strict):
    """What an answer's text must look like."""

    type: Literal["json_schema"]
    structure: Structure


class Output(Strict):
    """How the answer is written."""

    text_format: TextFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class ServiceTier(Strict):
    """The tier (R1)."""

    type: str


class Additional(msgspec.Struct):
    """Of `additionalModelRequestFields`, what engines know by another name, or a chat by none."""

    thinking: ThinkingConfig | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None


class Prompt(msgspec.Struct, rename="camel", kw_only=True):
    """`input.converse` of `POST /model/{id}/count-tokens`: what makes the prompt."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    system: list[System] | None = None
    tool_config: ToolConfig | None = None
    additional_model_request_fields: Object | None = None


class Converse(Prompt, kw_only=True):
    """`POST /model/{id}/converse` and `/converse-stream`."""

    inference_config: Inference | None = None
    output_config: Output | None = None
    service_tier: ServiceTier | None = None
    request_metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None
    performance_config: Object | None = None
    additional_model_response_field_paths: list[str] | None = None
    guardrail_config: Any = None
    prompt_variables: Any = None
