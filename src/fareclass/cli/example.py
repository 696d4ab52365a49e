"""The request that a newcomer is shown."""

import json


def example_body(model: str, **fields: object) -> str:
    """A short chat request as JSON on one line; `temperature` 0 keeps a very small model sensible."""
    messages = [{"role": "user", "content": "Say hello."}]
    return json.dumps({"model": model, **fields, "max_tokens": 64, "temperature": 0, "messages": messages})
