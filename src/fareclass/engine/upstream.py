"""What goes upstream: a request's body in the words of one engine flavour (R17, R31, R50)."""

from enum import StrEnum
from typing import Any, Final

import msgspec

from fareclass.engine.base import Prompt
from fareclass.engine.tools import choose_tool

_LIMITS: Final = ("max_tokens", "max_completion_tokens")
GENERATING: Final = frozenset({"/chat/completions", "/completions"})
CONTINUES: Final = "continue_final_message"
"""A field of a chat that the wire sets, never a caller (R50): the answer goes on with the last message, the assistant's."""


class Flavour(StrEnum):
    """The kinds of server that are told apart; any other is `openai`."""

    LLAMA = "llama.cpp"
    VLLM = "vllm"
    SGLANG = "sglang"
    OPENAI = "openai"


_SALTED: Final = frozenset({Flavour.VLLM, Flavour.SGLANG})
"""Engines that keep prompts with different salts apart."""
_TOLD_TO_CONTINUE: Final = frozenset({Flavour.VLLM, Flavour.SGLANG})
"""Engines that go on with a last message of the assistant only when told so."""


def upstream_body(
    prompt: Prompt, flavour: str, model: str, priority_sign: int, call_opening: str = ""
) -> dict[str, Any]:
    """The caller's body with the gateway's own fields set; `prompt.body` stays as it is.

    `priority_sign` is 1 where the engine takes small priorities first, -1 where large ones,
    0 where it takes none. `call_opening` begins a tool's call for a model that would not.

    Raises:
        EngineRefused: it asks for a tool that is not there.
    """
    body = {**prompt.body, "model": model}
    if flavour in _SALTED and prompt.salt:
        body["cache_salt"] = prompt.salt
    if prompt.path not in GENERATING:
        return body
    begun = bool(body.pop(CONTINUES, False))
    body["stream"] = prompt.stream
    body.pop("stream_options", None)
    if prompt.stream:
        body["stream_options"] = {**_plain(prompt.body.get("stream_options") or {}), "include_usage": True}
    if flavour == Flavour.LLAMA:
        # R31: llama.cpp's cache is shared by all callers, so only an answer that was prefilled before may use it.
        # Where slots are known, they decide (`slots`).
        body["cache_prompt"] = bool(prompt.beginning) or not prompt.salt
        if prompt.stream:
            body["return_progress"] = True
            body["timings_per_token"] = True
        if body.get("tool_choice") is not None:
            choose_tool(body, call_opening)
    elif flavour == Flavour.VLLM and prompt.stream:
        body["stream_options"]["continuous_usage_stats"] = True
    if priority_sign:
        body["priority"] = priority_sign * prompt.rank
    if prompt.beginning:
        _continue(body, prompt, merges=begun or flavour == Flavour.LLAMA)
    if flavour in _TOLD_TO_CONTINUE and prompt.path != "/completions" and (begun or prompt.beginning):
        body[CONTINUES] = True
        body["add_generation_prompt"] = False
    return body


def _continue(body: dict[str, Any], prompt: Prompt, *, merges: bool) -> None:
    """Put the answer's beginning behind the prompt; `merges`: into a last message of the assistant."""
    for name in _LIMITS:
        limit = _plain(body.get(name))
        if isinstance(limit, int):
            body[name] = max(1, limit - prompt.made_tokens)
    if prompt.path == "/completions":
        body.pop("echo", None)
        given = _plain(body.get("prompt"))
        body["prompt"] = (given[0] if isinstance(given, list) else given) + prompt.beginning
        return
    messages = list(_plain(body["messages"]))
    if merges and _prefilled(messages[-1]):
        # What the caller began goes on as one message; llama.cpp does so unasked, and refuses two of them.
        messages[-1] = {**messages[-1], "content": messages[-1]["content"] + prompt.beginning}
    else:
        messages.append({"role": "assistant", "content": prompt.beginning})
    body["messages"] = messages


def _prefilled(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant" and isinstance(message.get("content"), str)


def _plain(value: Any) -> Any:
    """A field that may still be undecoded JSON, decoded."""
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
