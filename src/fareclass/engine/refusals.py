"""What an engine's answer means that is not 200: a mistake in the request, for its caller to read, or the replica's."""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from fareclass.engine.base import EngineFailed, EngineRefused

_NOT_THE_CALLERS_FAULT: Final = frozenset({401, 402, 403, 407, 408, 429})
"""4xx answers that tell of the replica, its credentials or its load, not of the request."""
_FAILED: Final = 500
_NOT_IMPLEMENTED: Final = 501
"""What this engine does not do at all: the request asks for the wrong model."""
_UNREADABLE: Final = re.compile(
    r"Failed to parse (?P<field>messages|tools)\b|(?P<medium>image|audio) input is not supported"
)
"""What llama.cpp says with a 500 of requests that it can't read, or of media for a model that has no eyes or ears."""
_TOO_LONG: Final = re.compile(r"context (?:size|length|window)|maximum input length", re.IGNORECASE)
"""What llama.cpp, vLLM and SGLang say of a prompt that is longer than the model's context."""


def read_refusal(status: int, answer: Any, body: Mapping[str, Any]) -> EngineRefused | EngineFailed:
    """The error for an answer, decoded or text, to a request with this body."""
    error = _error_object(answer, status)
    if (400 <= status < 500 and status not in _NOT_THE_CALLERS_FAULT) or status == _NOT_IMPLEMENTED:
        return EngineRefused(status, _too_long(error) if _TOO_LONG.search(error["message"]) else error)
    unreadable = _UNREADABLE.search(error["message"]) if status == _FAILED else None
    if unreadable is None:
        return EngineFailed("refused", f"the engine answered {status}: {error['message'][:500]}")
    if unreadable["field"]:
        return EngineRefused(400, {"message": error["message"], "param": unreadable["field"]})
    path = _part(body.get("messages"), unreadable["medium"])
    return EngineRefused(
        400, {"message": f"`{path}`: this model takes no {unreadable['medium']} input.", "param": path}
    )


def _too_long(error: Mapping[str, Any]) -> dict[str, Any]:
    """The same in the words that clients look for: OpenAI's code, and how Anthropic's message begins."""
    prompt_tokens, context_tokens = error.get("n_prompt_tokens"), error.get("n_ctx")
    why = f"{prompt_tokens} tokens > {context_tokens} maximum" if prompt_tokens and context_tokens else error["message"]
    return {"message": f"prompt is too long: {why}", "code": "context_length_exceeded"}


def _part(messages: Any, medium: str) -> str:
    """The path of the first part of this medium (`image_url`, `input_audio`)."""
    for index, message in enumerate(messages):
        content = message.get("content")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            if medium in str(part.get("type")):
                return f"messages[{index}].content[{place}]"
    return "messages"


def _error_object(answer: Any, status: int) -> dict[str, Any]:
    """The engine's error as OpenAI writes it, whatever shape it came in."""
    found = answer
    if isinstance(answer, dict):
        found = answer.get("error") or answer.get("detail") or answer
    if isinstance(found, dict) and isinstance(found.get("message"), str):
        return found
    message = found if isinstance(found, str) and found.strip() else f"the engine refused the request ({status})"
    if isinstance(found, dict | list) and found:
        message = msgspec.json.encode(found).decode()
    return {"message": message[:2000], "type": "invalid_request_error"}
