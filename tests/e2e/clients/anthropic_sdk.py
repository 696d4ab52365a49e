"""The Anthropic SDK, directly and through its client for Bedrock."""

from typing import Any, ClassVar

import anthropic

from fareclass.core.tokens import key_id
from tests.e2e.clients import client as words
from tests.e2e.clients.client import MAX_TOKENS, Called, City, Client, Said
from tests.e2e.gateway import MODEL


class AnthropicMessages(Client):
    name = "anthropic"
    told = "standard"
    refused = anthropic.RateLimitError
    asked: ClassVar[dict[str, Any]] = {"model": MODEL, "max_tokens": MAX_TOKENS, "extra_body": {"temperature": 0}}

    @property
    def patience(self) -> dict[str, Any]:
        return {} if self.retries is None else {"max_retries": self.retries}

    @property
    def sdk(self) -> Any:
        return anthropic.Anthropic(base_url=self.url, api_key=self.key, **self.patience)

    def chat(self, question: str, system: str | None = None, tier: str | None = None) -> Said:
        more: dict[str, Any] = {"service_tier": tier} if tier else {}
        if system:
            more["system"] = [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]
        answer = self.sdk.messages.create(**self.asked, messages=[{"role": "user", "content": question}], **more)
        usage = answer.usage
        cached = usage.cache_read_input_tokens
        prompt = usage.input_tokens + cached + usage.cache_creation_input_tokens
        return Said(answer.content[0].text, prompt, cached, usage.output_tokens, usage.service_tier)

    def stream(self, question: str) -> list[str]:
        with self.sdk.messages.stream(**self.asked, messages=[{"role": "user", "content": question}]) as events:
            return list(events.text_stream)

    def call_tool(self) -> Called:
        tool = {"name": words.WEATHER, "description": words.WEATHER_IS, "input_schema": words.SCHEMA}
        asked = self.asked | {"tools": [tool], "max_tokens": 40}
        messages: list[Any] = [{"role": "user", "content": words.WEATHER_QUESTION}]
        choice = {"type": "tool", "name": words.WEATHER}
        first = self.sdk.messages.create(**asked, messages=messages, tool_choice=choice)
        (call,) = first.content
        result = {"type": "tool_result", "tool_use_id": call.id, "content": words.SUNNY}
        messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        second = self.sdk.messages.create(**asked, messages=messages)
        return Called(call.name, call.input, second.content[0].text)

    def structured(self) -> object:
        messages = [{"role": "user", "content": words.CITY_QUESTION}]
        asked = self.asked | {"max_tokens": 40, "messages": messages}
        return self.sdk.messages.parse(**asked, output_format=City).parsed_output


class AnthropicBedrock(AnthropicMessages):
    name = "anthropic-bedrock"

    @property
    def sdk(self) -> Any:
        keys = {"aws_access_key": key_id(self.key.encode()), "aws_secret_key": self.key}
        return anthropic.AnthropicBedrock(**keys, aws_region="us-east-1", base_url=self.url, **self.patience)
