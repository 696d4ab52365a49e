"""What an answer used, as its caller is told."""

from collections.abc import Mapping
from typing import Any

import msgspec

from fareclass.core.usage import Usage


def with_usage(body: bytes, usage: Usage) -> bytes:
    """The engine's own body, its usage told as it is billed."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    told = msgspec.json.decode(fields["usage"]) if "usage" in fields else {}
    details = wire_usage(usage)["prompt_tokens_details"]
    fields["usage"] = msgspec.Raw(msgspec.json.encode({**told, "prompt_tokens_details": details}))
    return msgspec.json.encode(fields)


def wire_usage(usage: Usage) -> dict[str, object]:
    """Usage in the words of the OpenAI API, whose `prompt_tokens` include what was cached."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": usage.prompt + usage.output,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write_5m + usage.cache_write_1h,
        },
    }


def with_output(prompt: Usage, output: int) -> Usage:
    if prompt.output == output:
        return prompt
    return Usage(
        input=prompt.input,
        cache_write_5m=prompt.cache_write_5m,
        cache_write_1h=prompt.cache_write_1h,
        cache_read=prompt.cache_read,
        output=output,
    )


def prompt_text(body: Mapping[str, Any]) -> str:
    """The words of a request, for a tokenizer that knows no chat template."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        given = body.get("prompt", body.get("input", ""))
        return given if isinstance(given, str) else "\n".join(str(part) for part in given)
    parts = [message.get("content") for message in messages]
    return "\n".join(part if isinstance(part, str) else str(part or "") for part in parts)
