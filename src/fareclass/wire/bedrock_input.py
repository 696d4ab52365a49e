"""Turns and tools of the Converse API as those of a chat: its blocks are those of the Messages API by other names."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fareclass.wire import anthropic_fields as blocks
from fareclass.wire import bedrock_fields as fields
from fareclass.wire.anthropic_input import Placed, Turns, chat_choice, chat_tool
from fareclass.wire.refusals import refuse

_encode = msgspec.json.Encoder().encode


def add_turns(turns: Turns, asked: fields.Prompt) -> None:
    """The messages of a chat, and where each of them stands in the caller's body.

    Raises:
        Refusal: `invalid`, with the path of what a chat can't carry.
    """
    if asked.system:
        turns.add_blocks("system", _system(asked.system), "system")
    for number, message in enumerate(asked.messages):
        place = f"messages[{number}]"
        said: list[Placed] = []
        for index, content in enumerate(message.content):
            _add(said, content, f"{place}.content[{index}]")
        turns.add_blocks(message.role, said, place)


def chat_tools(config: fields.ToolConfig) -> tuple[list[dict[str, Any]], list[str]]:
    """The caller's tools, and where each stands in its body.

    Raises:
        Refusal: `invalid`: something that is no tool, or a cache point before all of them.
    """
    made: list[blocks.Tool] = []
    places: list[str] = []
    for number, tool in enumerate(config.tools):
        place = f"toolConfig.tools[{number}]"
        _only(tool, place)
        if tool.tool_spec is not None:
            spec = tool.tool_spec
            made.append(blocks.Tool(spec.name, spec.input_schema.json, None, spec.description, spec.strict))
            places.append(f"{place}.toolSpec")
        elif tool.cache_point is not None:
            _point_at(made[-1] if made else None, tool.cache_point, place)
    return [chat_tool(tool) for tool in made], places


def chosen(choice: fields.ToolChoice, tools: Sequence[Mapping[str, Any]]) -> str | dict[str, Any]:
    """Which of these tools is to be called.

    Raises:
        Refusal: `invalid`: none of them, or two choices at once.
    """
    place = "toolConfig.toolChoice"
    kind = _only(choice, place)
    if not tools:
        refuse(f"`{place}.{kind}` needs `toolConfig.tools`.")
    if choice.tool is not None:
        return chat_choice(blocks.ToolChoice("tool", choice.tool.name), tools)
    return chat_choice(blocks.ToolChoice("auto" if kind == "auto" else "any"), tools)


def _system(system: Sequence[fields.System]) -> list[Placed]:
    said: list[Placed] = []
    for number, piece in enumerate(system):
        place = f"system[{number}]"
        _only(piece, place)
        if piece.text is not None:
            said.append((place, blocks.Text(text=piece.text)))
        elif piece.cache_point is not None:
            _point_at(said[-1][1] if said else None, piece.cache_point, place)
    return said


def _add(said: list[Placed], content: fields.Content, place: str) -> None:
    kind = _only(content, place)
    if content.text is not None:
        said.append((place, blocks.Text(text=content.text)))
    elif content.cache_point is not None:
        _point_at(said[-1][1] if said else None, content.cache_point, place)
    elif content.image is not None:
        said.append((f"{place}.{kind}", _image(content.image)))
    elif content.tool_use is not None:
        call = content.tool_use
        said.append((f"{place}.{kind}", blocks.ToolUse(id=call.tool_use_id, name=call.name, input=call.input)))
    elif content.tool_result is not None:
        said.append((f"{place}.{kind}", _result(content.tool_result, f"{place}.{kind}")))
    elif content.reasoning_content is not None:
        said.append((f"{place}.{kind}", _thought(content.reasoning_content, f"{place}.{kind}")))


def _image(image: fields.Image) -> blocks.Image:
    return blocks.Image(source=blocks.Base64Source(f"image/{image.format}", image.source.bytes))


def _result(result: fields.ToolResult, place: str) -> blocks.ToolResult:
    content: list[blocks.Text | blocks.Image] = []
    for number, part in enumerate(result.content):
        _only(part, f"{place}.content[{number}]")
        if part.image is not None:
            content.append(_image(part.image))
        else:
            text = _encode(part.json).decode() if part.text is None else part.text
            content.append(blocks.Text(text=text))
    return blocks.ToolResult(tool_use_id=result.tool_use_id, content=content or None, is_error=result.status == "error")


def _thought(reasoning: fields.Reasoning, place: str) -> blocks.Thinking | blocks.RedactedThinking:
    _only(reasoning, place)
    if reasoning.reasoning_text is None:
        return blocks.RedactedThinking(data="")
    return blocks.Thinking(thinking=reasoning.reasoning_text.text)


def _point_at(block: blocks.Block | blocks.Tool | None, point: fields.CachePoint, place: str) -> None:
    if block is None:
        refuse(f"`{place}.cachePoint` follows nothing that could be cached; put it behind what it shall keep.")
    block.cache_control = blocks.CacheControl("ephemeral", point.ttl)


def _only(union: fields.Union, place: str) -> str:
    """The name of the one kind that a union is of."""
    given = union.given()
    if len(given) != 1:
        refuse(
            f"`{place}` must have exactly one of {', '.join(f'`{name}`' for name in union.__struct_encode_fields__)}."
        )
    return given[0]
