"""Tools on llama.cpp, which knows less of a chat's `tool_choice` than other engines do."""

from typing import Any, Final, NoReturn

from fareclass.engine.base import EngineRefused, Prompt, Traits

CALL_OPENING: Final = "<tool_call>["
"""What a call begins with in the template of the built-in model."""


def check_tools(prompt: Prompt, traits: Traits) -> None:
    """Tools that the model would never be told of are refused rather than left out.

    Raises:
        EngineRefused: the chat template has no place for them.
    """
    body = prompt.body
    if traits.takes_tools is False and body.get("tools") and body.get("tool_choice") != "none":
        _refuse("tools", "`tools`: the chat template of this model has no place for them; leave them out.")


def choose_tool(body: dict[str, Any], opening: str) -> None:
    """Say in llama.cpp's words which tool is to be called; `body` is ours, what is in it is shared.

    It does not know a choice by name, so it is given that tool alone. A model that is too small to begin a call of its own
    accord has it begun by `opening`; then one call is enough, unless the caller says otherwise.

    Raises:
        EngineRefused: the tool that is chosen is none of those given.
    """
    choice, tools = body.get("tool_choice"), body.get("tools") or []
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        chosen = [tool for tool in tools if (tool.get("function") or {}).get("name") == name]
        if not chosen:
            _refuse("tool_choice", "`tool_choice` names none of `tools`.")
        body["tools"], choice = chosen, "required"
        body["tool_choice"] = choice
    if choice == "required" and opening and tools:
        body.setdefault("parallel_tool_calls", False)
        messages = body["messages"]
        if messages[-1].get("role") != "assistant":
            body["messages"] = [*messages, {"role": "assistant", "content": opening}]


def _refuse(param: str, message: str) -> NoReturn:
    raise EngineRefused(400, {"message": message, "param": param})
