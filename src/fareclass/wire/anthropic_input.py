"""Turns and tools of the Messages API as those of a chat, and where each of them came from."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.wire import anthropic_fields as fields
from fareclass.wire.openai import invalid_field

T = TypeVar("T")
Placed = tuple[str, fields.Block]
"""A block, and where it stands in the caller's body."""
FAILED: Final = "Error: "
"""What a result of a failed call begins with, since a chat has no field for that."""
_CHOICES: Mapping[str, str] = MappingProxyType({"auto": "auto", "any": "required", "none": "none"})
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*?)`(?: - at `\$(?P<path>.*)`)?", re.DOTALL)

_encode = msgspec.json.Encoder().encode


class Turns:
    """The messages of a chat; `places` has where each stands in the caller's body, and where each of its parts does.

    Other APIs whose messages are made of such blocks say them in these words too.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.places: list[tuple[str, Sequence[str]]] = []

    def add_system(self, system: str | Sequence[fields.Text]) -> None:
        """What the model is told before all."""
        if isinstance(system, str):
            self._say("system", system, "system")
        elif system:
            self.add_blocks("system", _placed(system, "system"), "system")

    def add(self, message: fields.Message, place: str) -> None:
        """One turn, which is several messages where it has results of calls.

        Raises:
            Refusal: `invalid`: a block that has no place in a turn of this role.
        """
        content = message.content
        if isinstance(content, str):
            self._say(message.role, content, place)
        else:
            self.add_blocks(message.role, _placed(content, f"{place}.content"), place)

    def add_blocks(self, role: str, content: Sequence[Placed], place: str) -> None:
        """The same of a turn in blocks."""
        if role == "assistant":
            self._add_answer(content, place)
        else:
            self._add_others(role, content, place)

    def _add_others(self, role: str, content: Sequence[Placed], place: str) -> None:
        said: list[tuple[str, fields.Text | fields.Image]] = []
        for path, block in content:
            if isinstance(block, fields.Text | fields.Image):
                said.append((path, block))
            elif isinstance(block, fields.ToolResult) and role == "user":
                self._say_blocks(role, said, place)
                said = []
                self._add_result(block, path)
            else:
                raise _misplaced(path, role)
        if said or not content:
            self._say_blocks(role, said, place, even_nothing=True)

    def _add_result(self, result: fields.ToolResult, path: str) -> None:
        content = result.content or ""
        if isinstance(content, str):
            self._say("tool", content, path)
        else:
            blocks = [(f"{path}.content[{number}]", block) for number, block in enumerate(content)]
            self._say_blocks("tool", blocks, path, even_nothing=True)
        message = self.messages[-1]
        message["tool_call_id"] = result.tool_use_id
        if result.is_error:
            told = message["content"]
            message["content"] = FAILED + told if isinstance(told, str) else [{"type": "text", "text": FAILED}, *told]
            self.places[-1] = (path, [path, *self.places[-1][1]])
        _mark(message, result)

    def _add_answer(self, content: Sequence[Placed], place: str) -> None:
        """An answer is one text with calls behind it: that is how a chat has it, and how one is begun for the model."""
        message: dict[str, Any] = {"role": "assistant", "content": ""}
        calls: list[dict[str, Any]] = []
        for path, block in content:
            match block:
                case fields.Text(text=text):
                    message["content"] += text
                case fields.ToolUse():
                    function = {"name": block.name, "arguments": _encode(block.input).decode()}
                    calls.append({"id": block.id, "type": "function", "function": function})
                case fields.Thinking(thinking=thought):
                    message["reasoning_content"] = message.get("reasoning_content", "") + thought
                case fields.RedactedThinking():
                    pass
                case _:
                    raise _misplaced(path, "assistant")
            _mark(message, block)
        if calls:
            message["tool_calls"] = calls
            message["content"] = message["content"] or None
        if len(message) > 2 or message["content"]:
            self.messages.append(message)
            self.places.append((place, ()))

    def _say(self, role: str, content: Any, place: str, parts: Sequence[str] = ()) -> None:
        self.messages.append({"role": role, "content": content})
        self.places.append((place, parts))

    def _say_blocks(
        self,
        role: str,
        said: Sequence[tuple[str, fields.Text | fields.Image]],
        place: str,
        *,
        even_nothing: bool = False,
    ) -> None:
        """A single text is said as such, with or without a cache point: what is cached shall not depend on that."""
        path, only = said[0] if len(said) == 1 else (place, None)
        if isinstance(only, fields.Text):
            self._say(role, only.text, path)
            _mark(self.messages[-1], only)
        elif said:
            self._say(role, [_part(block) for _, block in said], place, [path for path, _ in said])
        elif even_nothing:
            self._say(role, "", place)


def chat_tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The caller's own tools.

    Raises:
        Refusal: `invalid`: a tool that a server would run, or a malformed one.
    """
    made = []
    for number, given in enumerate(tools):
        kind = given.get("type")
        if kind is not None and kind != "custom":
            path = f"tools[{number}].type"
            shown = f" `{kind[:64]}`" if isinstance(kind, str) else ""
            raise Refusal(
                Outcome.INVALID,
                f"`{path}`: tools that the server runs{shown} are not supported; only your own (`custom`) are.",
                param=path,
            )
        made.append(chat_tool(read(given, fields.Tool, f"tools[{number}]")))
    return made


def chat_tool(tool: fields.Tool) -> dict[str, Any]:
    """One of them."""
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    made = {"type": "function", "function": function}
    _mark(made, tool)
    return made


def chat_choice(choice: fields.ToolChoice, tools: Sequence[Mapping[str, Any]]) -> str | dict[str, Any]:
    """Which of these tools is to be called.

    Raises:
        Refusal: `invalid`: type `tool` without a name.
    """
    if choice.type != "tool":
        return _CHOICES[choice.type]
    if choice.name is None:
        raise Refusal(Outcome.INVALID, "`tool_choice.name` is required.", param="tool_choice.name")
    if all(tool["function"]["name"] != choice.name for tool in tools):
        raise Refusal(Outcome.INVALID, "`tool_choice.name` is none of `tools`.", param="tool_choice.name")
    return {"type": "function", "function": {"name": choice.name}}


def read(given: Any, kind: type[T], place: str = "") -> T:
    """A decoded body, or what stands at `place` in it, as `kind`.

    Raises:
        Refusal: `invalid`, with the path of the offending field in `param`.
    """
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        text = str(error)
    unknown = _UNKNOWN.fullmatch(text)
    if unknown is not None:
        path = ".".join(filter(None, (place, (unknown["path"] or "").removeprefix("."), unknown["name"])))
        raise Refusal(Outcome.INVALID, f"`{path}` is not supported here; leave it out.", param=path)
    if place:
        what, at, path = text.partition(" - at `$")
        dot = "." if path[:1] not in ("", ".", "[", "`") else ""
        text = f"{what} - at `$.{place}{dot}{path}" if at else f"{what} - at `$.{place}`"
    raise invalid_field(text)


def _placed(blocks: Sequence[fields.Block], place: str) -> list[Placed]:
    return [(f"{place}[{number}]", block) for number, block in enumerate(blocks)]


def _part(block: fields.Text | fields.Image) -> dict[str, Any]:
    if isinstance(block, fields.Text):
        part: dict[str, Any] = {"type": "text", "text": block.text}
    else:
        part = {"type": "image_url", "image_url": {"url": _url(block.source)}}
    _mark(part, block)
    return part


def _url(source: fields.Base64Source | fields.UrlSource) -> str:
    if isinstance(source, fields.UrlSource):
        return source.url
    return f"data:{source.media_type};base64,{source.data}"


def _mark(node: dict[str, Any], block: fields.Block | fields.Tool) -> None:
    """Take a cache point over."""
    point = block.cache_control
    if point is not None:
        node["cache_control"] = {"type": "ephemeral", "ttl": point.ttl or "5m"}


def _misplaced(path: str, role: str) -> Refusal:
    return Refusal(Outcome.INVALID, f"`{path}` has no place in a message of role {role}.", param=f"{path}.type")
