"""Input items of the Responses API as messages of a chat, its tools as a chat's, and where each of them came from."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.wire import responses_fields as fields
from fareclass.wire.openai import invalid_field

T = TypeVar("T")
_ROLES: Mapping[str, str] = MappingProxyType(
    {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}  # what open models know
)
MARKS: Final = ("prompt_cache_breakpoint", "cache_control")
"""What sets a cache point, on a part or a tool."""


class Messages:
    """The chat that input items make; `places` is where each of its messages stands in the caller's own body."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.places: list[str] = []
        self._thought = ""

    def say(self, role: str, content: Any, place: str) -> None:
        """One message."""
        message: dict[str, Any] = {"role": role, "content": content}
        if role == "assistant" and self._thought:
            message["reasoning_content"], self._thought = self._thought, ""
        self.messages.append(message)
        self.places.append(place)

    def add(self, item: fields.Item, place: str) -> None:
        """One input item.

        Raises:
            Refusal: `invalid`, for what a chat can't carry.
        """
        kind = item.get("type", "message")
        translate = _ITEMS.get(kind) if isinstance(kind, str) else None
        if translate is None:
            shown = f"`{kind[:64]}`" if isinstance(kind, str) else "of this form"
            _refuse(f"`{place}.type`: items {shown} are not supported; {', '.join(_ITEMS)} are.", f"{place}.type")
        translate(self, item, place)

    def add_message(self, item: fields.Item, place: str) -> None:
        """Of a role, in one piece or in parts."""
        said = _read(item, fields.Message, place)
        role = _ROLES.get(said.role)
        if role is None:
            _refuse(f"`{place}.role` must be one of {', '.join(_ROLES)}.", f"{place}.role")
        content = said.content if isinstance(said.content, str) else _parts(said.content, f"{place}.content")
        if role == "assistant" and not isinstance(content, str) and not any(part.keys() & MARKS for part in content):
            content = "".join(part.get("text", "") for part in content)
        self.say(role, content, place)

    def add_call(self, item: fields.Item, place: str) -> None:
        """Calls that follow a message of the assistant, or each other, are one message there."""
        call = _read(item, fields.FunctionCall, place)
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.say("assistant", None, place)
        function = {"name": call.name, "arguments": call.arguments}
        calls: list[Any] = self.messages[-1].setdefault("tool_calls", [])
        calls.append({"id": call.call_id, "type": "function", "function": function})

    def add_result(self, item: fields.Item, place: str) -> None:
        """What came of a call."""
        result = _read(item, fields.FunctionCallOutput, place)
        output = result.output if isinstance(result.output, str) else _parts(result.output, f"{place}.output")
        self.say("tool", output, place)
        self.messages[-1]["tool_call_id"] = result.call_id

    def add_reasoning(self, item: fields.Item, place: str) -> None:
        """It goes with the message that it led to. What is encrypted is another server's."""
        for part in _read(item, fields.ReasoningItem, place).content or ():
            if isinstance(text := part.get("text"), str):
                self._thought += text

    def refuse_reference(self, item: fields.Item, place: str) -> None:
        """One that nobody has filled in."""
        _read(item, fields.ItemReference, place)
        _refuse(f"`{place}` points to a stored item, which a call of a batch can't; put the item itself there.", place)


_Translate = Callable[[Messages, fields.Item, str], None]
_ITEMS: Mapping[str, _Translate] = MappingProxyType(
    {
        "message": Messages.add_message,
        "function_call": Messages.add_call,
        "function_call_output": Messages.add_result,
        "reasoning": Messages.add_reasoning,
        "item_reference": Messages.refuse_reference,
    }
)


def _parts(parts: Sequence[fields.Item], path: str) -> list[dict[str, Any]]:
    """One for one, so that a path into the one is a path into the other."""
    made = []
    for number, part in enumerate(parts):
        place = f"{path}[{number}]"
        kind = part.get("type")
        translate = _PARTS.get(kind) if isinstance(kind, str) else None
        if translate is None:
            _refuse(f"`{place}.type` must be one of {', '.join(_PARTS)}.", f"{place}.type")
        made.append(translate(part, place) | {mark: part[mark] for mark in MARKS if mark in part})
    return made


def _text(part: fields.Item, place: str) -> dict[str, Any]:
    return {"type": "text", "text": _string(part, "text", place)}


def _refusal(part: fields.Item, place: str) -> dict[str, Any]:
    return {"type": "text", "text": _string(part, "refusal", place)}


def _image(part: fields.Item, place: str) -> dict[str, Any]:
    if part.get("file_id") is not None:
        _refuse(f"`{place}.file_id`: stored files can't be shown to a model; send `image_url`.", f"{place}.file_id")
    image: dict[str, Any] = {"url": _string(part, "image_url", place)}
    if part.get("detail") is not None:
        image["detail"] = _string(part, "detail", place)
    return {"type": "image_url", "image_url": image}


def _file(part: fields.Item, place: str) -> dict[str, Any]:
    for name in ("file_id", "file_url"):
        if part.get(name) is not None:
            _refuse(f"`{place}.{name}` is not supported; send the file's data as `file_data`.", f"{place}.{name}")
    file = {"file_data": _string(part, "file_data", place)}
    if part.get("filename") is not None:
        file["filename"] = _string(part, "filename", place)
    return {"type": "file", "file": file}


_PARTS: Mapping[str, Callable[[fields.Item, str], dict[str, Any]]] = MappingProxyType(
    {
        "input_text": _text,
        "output_text": _text,
        "text": _text,
        "refusal": _refusal,
        "input_image": _image,
        "input_file": _file,
    }
)


def chat_tools(tools: Sequence[fields.Item]) -> list[dict[str, Any]]:
    """Functions; the provider's own tools are refused by name.

    Raises:
        Refusal: `invalid`, with the path of the tool.
    """
    made = []
    for number, tool in enumerate(tools):
        place = f"tools[{number}]"
        kind = tool.get("type")
        if kind != "function":
            shown = kind[:64] if isinstance(kind, str) else "?"
            _refuse(f"`{place}.type`: the tool `{shown}` is not run here; only `function` is.", f"{place}.type")
        function = {
            name: value
            for name, value in msgspec.to_builtins(_read(tool, fields.Function, place)).items()
            if value is not None
        }
        made.append({"type": "function", "function": function} | {mark: tool[mark] for mark in MARKS if mark in tool})
    return made


def chat_choice(choice: str | fields.Item) -> str | dict[str, Any]:
    """Whether the model must call a tool, and which.

    Raises:
        Refusal: `invalid`: a form that a chat does not have.
    """
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            _refuse("`tool_choice` must be auto, none, required or a function.", "tool_choice")
        return choice
    if choice.get("type") != "function":
        _refuse('`tool_choice` can be auto, none, required, or {"type": "function", "name"}.', "tool_choice.type")
    return {"type": "function", "function": {"name": _string(choice, "name", "tool_choice")}}


def _read(item: fields.Item, kind: type[T], place: str) -> T:
    try:
        return msgspec.convert(item, kind)
    except msgspec.ValidationError as error:
        raise placed(invalid_field(str(error)), place) from None


def placed(refusal: Refusal, place: str) -> Refusal:
    """A refusal of something below `place`, which it does not know of."""
    param = place if not refusal.param else f"{place}.{refusal.param}"
    message = refusal.message.replace(f"`{refusal.param or ''}`", f"`{param}`", 1)
    return Refusal(refusal.outcome, message, param=param)


def _string(item: fields.Item, name: str, place: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        _refuse(f"`{place}.{name}` must be a string.", f"{place}.{name}")
    return value


def _refuse(message: str, param: str) -> NoReturn:
    raise Refusal(Outcome.INVALID, message, param=param)
