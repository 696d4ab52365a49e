"""The `llm` CLI, each call a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.e2e.clients import client as words
from tests.e2e.clients.client import MAX_TOKENS, Called, City, Client, Failed, Said
from tests.e2e.gateway import MODEL

LLM = Path(sys.executable).parent / "llm"
FUNCTION = f'def {words.WEATHER}(city: str) -> str:\n    "{words.WEATHER_IS}"\n    return "{words.SUNNY}"\n'
CALL = f'<tool_call>[{{"name": "{words.WEATHER}", "arguments": {{"city": "Paris"}}}}]</tool_call>'


class LlmCli(Client):
    """It can't mark a prompt, and can't force a tool: the model is asked to copy a call, which makes it one."""

    name = "llm"
    refused = Failed
    marks = False

    def command(self, question: str, *more: str, max_tokens: int = MAX_TOKENS) -> list[str | Path]:
        options = ["-m", "fareclass", "-o", "temperature", "0", "-o", "max_tokens", str(max_tokens)]
        return [LLM, *options, *more, question]

    def environ(self, home: str) -> dict[str, str]:
        """Its own settings, all of them in one folder."""
        model = {"model_id": "fareclass", "model_name": MODEL, "api_base": f"{self.url}/v1"}
        can = {"api_key_name": "fareclass", "supports_schema": True, "supports_tools": True, "service_tier": True}
        (Path(home) / "extra-openai-models.yaml").write_text(json.dumps([model | can]))
        (Path(home) / "keys.json").write_text(json.dumps({"fareclass": self.key}))
        return {**os.environ, "LLM_USER_PATH": home}

    def ask(self, question: str, *more: str, max_tokens: int = MAX_TOKENS) -> Any:
        """Its answers, as it logs them."""
        command = self.command(question, "--json", *more, max_tokens=max_tokens)
        with tempfile.TemporaryDirectory() as home:
            environ = self.environ(home)
            done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise Failed(done.stderr)
        return json.loads(done.stdout)

    def chat(self, question: str, system: str | None = None, tier: str | None = None) -> Said:
        more = [*(["-s", system] if system else []), *(["-o", "service_tier", tier] if tier else [])]
        (answer,) = self.ask(question, *more)
        body = answer["response_json"]
        cached = body["usage"]["prompt_tokens_details"]["cached_tokens"]
        return Said(answer["response"], answer["input_tokens"], cached, answer["output_tokens"], body["service_tier"])

    def stream(self, question: str) -> list[str]:
        with tempfile.TemporaryDirectory() as home:
            command = self.command(question)
            with subprocess.Popen(command, env=self.environ(home), stdout=subprocess.PIPE, bufsize=0) as process:
                assert process.stdout is not None
                pieces = [piece.decode() for piece in iter(lambda: process.stdout.read(4096), b"")]
        pieces[-1] = pieces[-1].removesuffix("\n")  # which ends what the command prints
        return [piece for piece in pieces if piece]

    def call_tool(self) -> Called:
        question = f"Copy this text word for word:\n{CALL}"
        first, second = self.ask(question, "--functions", FUNCTION, max_tokens=40)
        (call,) = first["tool_calls"]
        return Called(call["name"], call["arguments"], second["response"])

    def structured(self) -> object:
        (answer,) = self.ask(words.CITY_QUESTION, "--schema", "city str", max_tokens=40)
        return City.model_validate_json(answer["response"])
