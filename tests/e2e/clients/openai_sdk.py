"""The OpenAI SDK, with both of its APIs."""

import json
from typing import Any, ClassVar

import openai

from tests.e2e.clients import client as words
from tests.e2e.clients.client import MAX_TOKENS, Called, City, Client, Said
from tests.e2e.gateway import MODEL

FUNCTION = {"name": words.WEATHER, "description": words.WEATHER_IS, "parameters": words.SCHEMA}
BREAKPOINT = {"prompt_cache_breakpoint": {"mode": "explicit"}}


def chat_messages(question: str, system: str | None) -> list[dict[str, Any]]:
    content = [{"type": "text", "text": system, **BREAKPOINT}]
    marked = [{"role": "system", "content": content}] if system else []
    return [*marked, {"role": "user", "content": question}]


class OpenAIClient(Client):
    refused = openai.RateLimitError

    @property
    def sdk(self) -> openai.OpenAI:
        own = {} if self.retries is None else {"max_retries": self.retries}
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, **own)


class OpenAIChat(OpenAIClient):
    name = "openai-chat"
    asked: ClassVar[dict[str, Any]] = {"model": MODEL, "max_completion_tokens": MAX_TOKENS, "temperature": 0}

    def chat(self, question: str, system: str | None = None, tier: str | None = None) -> Said:
        more = {"service_tier": tier} if tier else {}
        answer = self.sdk.chat.completions.create(**self.asked, messages=chat_messages(question, system), **more)
        usage = answer.usage
        cached = usage.prompt_tokens_details.cached_tokens
        text = answer.choices[0].message.content
        return Said(text, usage.prompt_tokens, cached, usage.completion_tokens, answer.service_tier)

    def stream(self, question: str) -> list[str]:
        messages = chat_messages(question, None)
        with self.sdk.chat.completions.stream(**self.asked, messages=messages) as events:
            return [event.delta for event in events if event.type == "content.delta"]

    def call_tool(self) -> Called:
        messages: list[Any] = chat_messages(words.WEATHER_QUESTION, None)
        asked = self.asked | {"tools": [{"type": "function", "function": FUNCTION}], "max_completion_tokens": 40}
        choice = {"type": "function", "function": {"name": words.WEATHER}}
        first = self.sdk.chat.completions.create(**asked, messages=messages, tool_choice=choice).choices[0].message
        (call,) = first.tool_calls
        messages += [first, {"role": "tool", "tool_call_id": call.id, "content": words.SUNNY}]
        second = self.sdk.chat.completions.create(**asked, messages=messages)
        return Called(call.function.name, json.loads(call.function.arguments), second.choices[0].message.content)

    def structured(self) -> object:
        asked = self.asked | {"max_completion_tokens": 40, "messages": chat_messages(words.CITY_QUESTION, None)}
        return self.sdk.chat.completions.parse(**asked, response_format=City).choices[0].message.parsed


class OpenAIResponses(OpenAIClient):
    name = "openai-responses"
    asked: ClassVar[dict[str, Any]] = {"model": MODEL, "max_output_tokens": MAX_TOKENS, "temperature": 0}

    def chat(self, question: str, system: str | None = None, tier: str | None = None) -> Said:
        content = [{"type": "input_text", "text": system, **BREAKPOINT}]
        marked = [{"role": "system", "content": content}] if system else []
        more = {"service_tier": tier} if tier else {}
        answer = self.sdk.responses.create(**self.asked, input=[*marked, {"role": "user", "content": question}], **more)
        usage = answer.usage
        cached = usage.input_tokens_details.cached_tokens
        return Said(answer.output_text, usage.input_tokens, cached, usage.output_tokens, answer.service_tier)

    def stream(self, question: str) -> list[str]:
        events = self.sdk.responses.create(**self.asked, input=question, stream=True)
        return [event.delta for event in events if event.type == "response.output_text.delta"]

    def call_tool(self) -> Called:
        asked = self.asked | {"tools": [{"type": "function", "strict": False, **FUNCTION}], "max_output_tokens": 40}
        choice = {"type": "function", "name": words.WEATHER}
        first = self.sdk.responses.create(**asked, input=words.WEATHER_QUESTION, tool_choice=choice)
        (call,) = first.output
        result = {"type": "function_call_output", "call_id": call.call_id, "output": words.SUNNY}
        second = self.sdk.responses.create(**asked, input=[result], previous_response_id=first.id)
        return Called(call.name, json.loads(call.arguments), second.output_text)

    def structured(self) -> object:
        asked = self.asked | {"max_output_tokens": 40, "input": words.CITY_QUESTION}
        return self.sdk.responses.parse(**asked, text_format=City).output_parsed
