"""Callers of a gateway: one who reads a stream in the background, one who waits for the whole answer."""

import asyncio
from typing import Any

import httpx
import msgspec

from tests.e2e.gateway import MODEL, Gateway

COUNT = {"model": MODEL, "messages": [{"role": "user", "content": "Count from 1 to 40."}], "temperature": 0}
"""What the built-in model answers at length, and always in the same words."""
RULES = {
    "role": "system",
    "content": "You are a patient clerk at an airport who answers briefly and to the point. " * 8,
}
"""Makes a prompt long enough to be looked for in a cache."""


class Listener:
    """A caller who reads a stream in the background."""

    def __init__(
        self, gateway: Gateway, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        self.chunks: list[dict[str, Any]] = []
        self.error: dict[str, Any] | None = None
        self.done = False
        self._body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        self.task = asyncio.create_task(self._read(gateway.http, path, headers))

    @property
    def text(self) -> str:
        choices = [chunk["choices"][0] for chunk in self.chunks if chunk["choices"]]
        return "".join(c["text"] if "text" in c else c["delta"].get("content") or "" for c in choices)

    async def _read(self, http: httpx.AsyncClient, path: str, headers: dict[str, str] | None) -> None:
        async with http.stream("POST", path, json=self._body, headers=headers) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    self.done = True
                elif line.startswith("data: "):
                    chunk = msgspec.json.decode(line[6:])
                    self.error = chunk.get("error")
                    if self.error is None:
                        self.chunks.append(chunk)


async def whole(gateway: Gateway, path: str, asked: dict[str, Any]) -> dict[str, Any]:
    answer = await gateway.http.post(path, json=asked)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body
