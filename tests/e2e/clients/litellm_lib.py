"""LiteLLM as a client library."""

import json
import os
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import fetches a table of prices
import litellm

from tests.e2e.clients import client as words
from tests.e2e.clients.client import MAX_TOKENS, Called, City, Client, Said
from tests.e2e.clients.openai_sdk import FUNCTION, chat_messages
from tests.e2e.gateway import MODEL


class LiteLLM(Client):
    name = "litellm"
    refused = litellm.RateLimitError

    def complete(self, messages: list[Any], max_tokens: int = MAX_TOKENS, **more: Any) -> Any:
        own = {} if self.retries is None else {"max_retries": self.retries}
        where = {"model": f"openai/{MODEL}", "api_base": f"{self.url}/v1", "api_key": self.key}
        asked = {"messages": messages, "max_tokens": max_tokens, "temperature": 0}
        return litellm.completion(**where | asked | own | more)

    def chat(self, question: str, system: str | None = None, tier: str | None = None) -> Said:
        more = {"service_tier": tier} if tier else {}
        answer = self.complete(chat_messages(question, system), **more)
        usage = answer.usage
        cached = usage.prompt_tokens_details.cached_tokens
        text = answer.choices[0].message.content
        return Said(text, usage.prompt_tokens, cached, usage.completion_tokens, answer.service_tier)

    def stream(self, question: str) -> list[str]:
        pieces = self.complete(chat_messages(question, None), stream=True)
        return [text for piece in pieces if (text := piece.choices[0].delta.content)]

    def call_tool(self) -> Called:
        messages: list[Any] = chat_messages(words.WEATHER_QUESTION, None)
        tools = [{"type": "function", "function": FUNCTION}]
        choice = {"type": "function", "function": {"name": words.WEATHER}}
        first = self.complete(messages, 40, tools=tools, tool_choice=choice).choices[0].message
        (call,) = first.tool_calls
        messages += [first, {"role": "tool", "tool_call_id": call.id, "content": words.SUNNY}]
        second = self.complete(messages, 40, tools=tools)
        return Called(call.function.name, json.loads(call.function.arguments), second.choices[0].message.content)

    def structured(self) -> object:
        answer = self.complete(chat_messages(words.CITY_QUESTION, None), 40, response_format=City)
        return City.model_validate_json(answer.choices[0].message.content)
