"""LangChain, on top of OpenAI's SDK and of boto3."""

from abc import abstractmethod
from typing import Any

import openai
from botocore.exceptions import ClientError
from langchain_aws import ChatBedrockConverse
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from tests.e2e.clients import client as words
from tests.e2e.clients.aws_sdk import Boto3, credentials
from tests.e2e.clients.client import MAX_TOKENS, Called, City, Client, Said
from tests.e2e.clients.openai_sdk import BREAKPOINT
from tests.e2e.gateway import MODEL


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return words.SUNNY


class LangChain(Client):
    @abstractmethod
    def model(self, max_tokens: int = MAX_TOKENS, **more: Any) -> BaseChatModel:
        """The chat model, greedy."""

    @abstractmethod
    def marked(self, system: str) -> list[Any]:
        """A system prompt as content that is worth caching."""

    @abstractmethod
    def tier_of(self, answer: AIMessage) -> str:
        """Where the tier that served is shown."""

    def chat(self, question: str, system: str | None = None, tier: str | None = None) -> Said:
        marked = [SystemMessage(self.marked(system))] if system else []
        more = {"service_tier": tier} if tier else {}
        answer = self.model(**more).invoke([*marked, HumanMessage(question)])
        usage = answer.usage_metadata
        details = usage["input_token_details"]
        cached = details.get("cache_read", details.get("flex_cache_read"))
        return Said(answer.text, usage["input_tokens"], cached, usage["output_tokens"], self.tier_of(answer))

    def stream(self, question: str) -> list[str]:
        return [piece.text for piece in self.model().stream([HumanMessage(question)]) if piece.text]

    def call_tool(self) -> Called:
        model = self.model(40)
        asked = HumanMessage(words.WEATHER_QUESTION)
        first = model.bind_tools([get_weather], tool_choice=words.WEATHER).invoke([asked])
        (call,) = first.tool_calls
        result = get_weather.invoke(call)
        assert isinstance(result, ToolMessage)
        second = model.bind_tools([get_weather]).invoke([asked, first, result])
        return Called(call["name"], call["args"], second.text)

    def structured(self) -> object:
        return self.model(40).with_structured_output(City).invoke(words.CITY_QUESTION)


class LangChainOpenAI(LangChain):
    name = "langchain-openai"
    refused = openai.RateLimitError

    def model(self, max_tokens: int = MAX_TOKENS, **more: Any) -> BaseChatModel:
        own = {} if self.retries is None else {"max_retries": self.retries}
        keys = {"base_url": f"{self.url}/v1", "api_key": self.key}
        return ChatOpenAI(model=MODEL, **keys, max_tokens=max_tokens, temperature=0, **own, **more)

    def marked(self, system: str) -> list[Any]:
        return [{"type": "text", "text": system, **BREAKPOINT}]

    def tier_of(self, answer: AIMessage) -> str:
        return answer.response_metadata["service_tier"]


class LangChainAws(LangChain):
    """It knows nothing of our models, so it is told that they stream and take a choice of tools."""

    name = "langchain-aws"
    refused = ClientError
    gives_up = False
    says = Boto3.says

    def model(self, max_tokens: int = MAX_TOKENS, **more: Any) -> BaseChatModel:
        own = {} if self.retries is None else {"max_retries": self.retries}
        abilities = {"disable_streaming": False, "supports_tool_choice_values": ("auto", "any", "tool")}
        keys = {"endpoint_url": self.url, **credentials(self.key)}
        return ChatBedrockConverse(
            model=MODEL, provider="anthropic", **keys, max_tokens=max_tokens, temperature=0, **abilities, **own, **more
        )

    def marked(self, system: str) -> list[Any]:
        return [{"type": "text", "text": system}, {"cachePoint": {"type": "default"}}]

    def tier_of(self, answer: AIMessage) -> str:
        return answer.response_metadata["serviceTier"]["type"]
