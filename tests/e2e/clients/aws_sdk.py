"""boto3: only `endpoint_url` is ours."""

import json
from typing import Any, ClassVar

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from fareclass.core.tokens import key_id
from tests.e2e.clients import client as words
from tests.e2e.clients.client import MAX_TOKENS, Called, City, Client, Said
from tests.e2e.gateway import MODEL


def credentials(key: str) -> dict[str, str]:
    """The id of a key is the access key id, the whole key the secret."""
    name = key_id(key.encode())
    assert name is not None
    return {"aws_access_key_id": name, "aws_secret_access_key": key, "region_name": "us-east-1"}


def turn(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


class Boto3(Client):
    name = "boto3"
    refused = ClientError
    gives_up = False
    says = f"ThrottlingException.*{Client.says}"
    asked: ClassVar[dict[str, Any]] = {"modelId": MODEL, "inferenceConfig": {"maxTokens": MAX_TOKENS, "temperature": 0}}
    longer: ClassVar[dict[str, Any]] = {"modelId": MODEL, "inferenceConfig": {"maxTokens": 40, "temperature": 0}}

    @property
    def sdk(self) -> Any:
        own = {} if self.retries is None else {"config": Config(retries={"total_max_attempts": self.retries + 1})}
        return boto3.client("bedrock-runtime", endpoint_url=self.url, **credentials(self.key), **own)

    def chat(self, question: str, system: str | None = None, tier: str | None = None) -> Said:
        more: dict[str, Any] = {"serviceTier": {"type": tier}} if tier else {}
        if system:
            more["system"] = [{"text": system}, {"cachePoint": {"type": "default"}}]
        answer = self.sdk.converse(**self.asked, messages=[turn({"text": question})], **more)
        usage = answer["usage"]
        cached = usage["cacheReadInputTokens"]
        prompt = usage["inputTokens"] + cached + usage["cacheWriteInputTokens"]
        text = answer["output"]["message"]["content"][0]["text"]
        return Said(text, prompt, cached, usage["outputTokens"], answer["serviceTier"]["type"])

    def stream(self, question: str) -> list[str]:
        events = self.sdk.converse_stream(**self.asked, messages=[turn({"text": question})])["stream"]
        return [event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event]

    def call_tool(self) -> Called:
        spec = {"name": words.WEATHER, "description": words.WEATHER_IS, "inputSchema": {"json": words.SCHEMA}}
        tools = {"tools": [{"toolSpec": spec}]}
        forced = tools | {"toolChoice": {"tool": {"name": words.WEATHER}}}
        messages = [turn({"text": words.WEATHER_QUESTION})]
        first = self.sdk.converse(**self.longer, messages=messages, toolConfig=forced)["output"]["message"]
        (call,) = [block["toolUse"] for block in first["content"]]
        result = {"toolUseId": call["toolUseId"], "content": [{"text": words.SUNNY}]}
        messages += [first, turn({"toolResult": result})]
        second = self.sdk.converse(**self.longer, messages=messages, toolConfig=tools)["output"]["message"]
        return Called(call["name"], call["input"], second["content"][0]["text"])

    def structured(self) -> object:
        form = {"type": "json_schema", "structure": {"jsonSchema": {"schema": json.dumps(words.SCHEMA)}}}
        messages = [turn({"text": words.CITY_QUESTION})]
        answer = self.sdk.converse(**self.longer, messages=messages, outputConfig={"textFormat": form})
        return City.model_validate_json(answer["output"]["message"]["content"][0]["text"])
