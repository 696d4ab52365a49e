"""Input items of the Responses API as messages of a chat, its tools as a chat's, and where each of them came from."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec

from fareclass.core.outcomes import Refusal
from fareclass.wire import responses_fields as fields
from fareclass.wire.openai import invalid_field
from fareclass.wire.refusals import refuse

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
        self._thought_at = ""

    def say(self, role: str, content: Any, place: str) -> None:
        """One message."""
        if role != "assistant":
            self.end_turn()
        self.messages.append({"role": role, "content": content})
        self.places.append(place)
        if self._thought:
            self._add_thought()

    def end_turn(self) -> None:
        """What was thought last and led to nothing more is the end of its turn, or all of it."""
        if self._thought and not self._in_answer:
            self.messages.append({"role": "assistant", "content": ""})
            self.places.append(self._thought_at)
        if self._thought:
            self._add_thought()

    def _add_thought(self) -> None:
        """To the answer that comes last."""
        message = self.messages[-1]
        message["reasoning_content"] = message.get("reasoning_content", "") + self._thought
        self._thought = ""

    @property
    def _in_answer(self) -> bool:
        return bool(self.messages) and self.messages[-1]["role"] == "assistant"

    def add(self, item: fields.Item, place: str) -> None:
        """One input item.

        Raises:
            Refusal: `invalid`, for what a chat can't carry.
        """
        kind = item.get("type", "message")
        translate = _ITEMS.get(kind) if isinstance(kind, str) else None
        if translate is None:
            shown = f"`{kind[:64]}`" if isinstance(kind, str) else "of this form"
            refuse(f"`{place}.type`: items {shown} are not supported; {', '.join(_ITEMS)} are.", f"{place}.type")
        _read(item, fields.Common, place)
        translate(self, item, place)

    def add_message(self, item: fields.Item, place: str) -> None:
        """Of a role, in one piece or in parts."""
        said = _read(item, fields.Message, place)
        role = _ROLES.get(said.role)
        if role is None:
            refuse(f"`{place}.role` must be one of {', '.join(_ROLES)}.", f"{place}.role")
        content = said.content if isinstance(said.content, str) else _parts(said.content, f"{place}.content")
        if role == "assistant" and not isinstance(content, str):
            content = _answer(content, f"{place}.content")
        self.say(role, content, place)

    def add_call(self, item: fields.Item, place: str) -> None:
        """Calls that follow a message of the assistant, or each other, are one message there, with the thoughts between."""
        call = _read(item, fields.FunctionCall, place)
        if not self._in_answer:
            self.say("assistant", None, place)
        elif self._thought:
            self._add_thought()
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
        """It goes with the message or call that it led to. What is encrypted is another server's."""
        for part in _read(item, fields.ReasoningItem, place).content or ():
            if isinstance(text := part.get("text"), str):
                self._thought += text
                self._thought_at = place

    def refuse_reference(self, item: fields.Item, place: str) -> None:
        """One that nobody has filled in."""
        _read(item, fields.ItemReference, place)
        refuse(f"`{place}` points to a stored item, which a call of a batch can't; put the item itself there.", place)


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
            refuse(f"`{place}.type` must be one of {', '.join(_PARTS)}.", f"{place}.type")
        made.append(translate(part, place) | {mark: part[mark] for mark in MARKS if mark in part})
    return made


def _answer(parts: list[dict[str, Any]], path: str) -> str | list[dict[str, Any]]:
    """What the assistant said: one text, or parts where a cache point stands on one of them."""
    for number, part in enumerate(parts):
        if part["type"] != "text":
            refuse(f"`{path}[{number}]`: a message of the assistant holds only text.", f"{path}[{number}].type")
    if any(part.keys() & MARKS for part in parts):
        return parts
    return "".join(part["text"] for part in parts)


def _text(part: fields.Item, place: str) -> dict[str, Any]:
    return {"type": "text", "text": _string(part, "text", place)}


def _refusal(part: fields.Item, place: str) -> dict[str, Any]:
    return {"type": "text", "text": _string(part, "refusal", place)}


def _image(part: fields.Item, place: str) -> dict[str, Any]:
    if part.get("file_id") is not None:
        refuse(f"`{place}.file_id`: stored files can't be shown to a model; send `image_url`.", f"{place}.file_id")
    image: dict[str, Any] = {"url": _string(part, "image_url", place)}
    if part.get("detail") is not None:
        image["detail"] = _string(part, "detail", place)
    return {"type": "image_url", "image_url": image}


def _file(part: fields.Item, place: str) -> dict[str, Any]:
    for name in ("file_id", "file_url"):
        if part.get(name) is not None:
            refuse(f"`{place}.{name}` is not supported; send the file's data as `file_data`.", f"{place}.{name}")
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
            refuse(f"`{place}.type`: the tool `{shown}` is not run here; only `function` is.", f"{place}.type")
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
            refuse("`tool_choice` must be auto, none, required or a function.", "tool_choice")
        return choice
    if choice.get("type") != "function":
        refuse('`tool_choice` can be auto, none, required, or {"type": "function", "name"}.', "tool_choice.type")
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
        refuse(f"`{place}.{name}` must be a string.", f"{place}.{name}")
    return value
