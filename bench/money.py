"""Every bill is right: usage kinds × tier × requested / served × cache × streamed × overflow × width, to the last 10⁻¹² USD.

A whole gateway, over HTTP, before an engine that reports the token counts it is told to. For each answer the ledger's
entry is held against what its caller was told (usage, tiers) and against the price book, computed anew in fractions;
at the end the sums of the usage report against those of the answers. Nothing may differ.
"""

import asyncio
import itertools
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.machine import heading
from tests.e2e.gateway import MODEL, Gateway, behind, in_process
from tests.e2e.upstream import QUESTION, Turn, Upstream, serving

INPUT, OUTPUT = Fraction("0.28"), Fraction("1.12")
"""USD per 1 M tokens at tier default."""
KINDS = {
    "input": INPUT,
    "cache_write_5m": INPUT * Fraction("1.25"),
    "cache_write_1h": INPUT * 2,
    "cache_read": INPUT * Fraction("0.1"),
    "output": OUTPUT,
}
FACTORS = {"reserved": Fraction(0), "priority": Fraction("1.75"), "default": Fraction(1), "flex": Fraction("0.5")}
PROMPT, ANSWER = 400, 7
STREAMED, WIDTHS = (False, True), (1, 2)
CACHES = ("none", "write 5m", "write 1h", "read", "read and write")
_ASKED = re.compile(r"prompt=(\d+) cached=(\d+) output=(\d+)")


class Fare(NamedTuple):
    """A way to ask, whose project asks, and what it must be requested and served as."""

    project: str
    word: str | None
    requested: str
    served: str


FARES = (
    Fare("plain", None, "default", "default"),
    Fare("plain", "auto", "default", "default"),
    Fare("plain", "default", "default", "default"),
    Fare("plain", "priority", "priority", "priority"),
    Fare("plain", "fast", "priority", "priority"),
    Fare("plain", "flex", "flex", "flex"),
    Fare("roomy", "reserved", "reserved", "reserved"),
    Fare("roomy", "scale", "reserved", "reserved"),
    Fare("roomy", "auto", "reserved", "reserved"),
    Fare("roomy", "flex", "flex", "flex"),
    Fare("over-priority", "reserved", "reserved", "priority"),
    Fare("over-default", "reserved", "reserved", "default"),
    Fare("over-flex", "reserved", "reserved", "flex"),
    Fare("over-default", "auto", "default", "default"),
)
FLOORS: Mapping[str, tuple[int, str]] = {
    "roomy": (4_000_000, "default"),
    "over-priority": (1, "priority"),
    "over-default": (1, "default"),
    "over-flex": (1, "flex"),
}
"""Tokens a minute of each side, and where what does not fit goes."""


class Answered(NamedTuple):
    """What a caller was told: the usage object, and the tiers of the headers."""

    usage: dict[str, Any]
    requested: str
    served: str
    spilled: bool


async def play(turn: Turn) -> None:
    """An engine that counts what the question says."""
    asked = _ASKED.search(msgspec.json.encode(turn.body["messages"]).decode())
    assert asked is not None
    prompt, cached, output = (int(number) * (turn.body.get("n") or 1) for number in asked.groups())
    usage = {"prompt_tokens": prompt, "completion_tokens": output, "prompt_tokens_details": {"cached_tokens": cached}}
    head = {"id": "chatcmpl-1", "created": 1763900000, "model": turn.body["model"], "usage": usage}
    if not turn.body.get("stream"):
        message = {"role": "assistant", "content": "word " * ANSWER}
        choices = [{"index": n, "message": message, "finish_reason": "stop"} for n in range(turn.body.get("n") or 1)]
        await turn.answer({**head, "object": "chat.completion", "choices": choices})
        return
    for number in range(turn.body.get("n") or 1):
        await turn.event({"index": number, "delta": {"role": "assistant", "content": "word"}, "finish_reason": None})
        await turn.event({"index": number, "delta": {}, "finish_reason": "stop"})
    await turn.write(
        b"data: " + msgspec.json.encode({**head, "object": "chat.completion.chunk", "choices": []}) + b"\n\n"
    )
    await turn.write(b"data: [DONE]\n\n")


class Auditor:
    """Asks, and compares; `mismatches` says what differed, `seen` how many bills had tokens of each kind."""

    def __init__(self, gateway: Gateway, keys: Mapping[str, str]) -> None:
        self._gateway = gateway
        self._clients = {project: gateway.caller(secret) for project, secret in keys.items()}
        self._number = 0
        self.combinations = 0
        self.answers: list[tuple[Fare, str, Answered]] = []
        self.mismatches: list[str] = []
        self.seen: Counter[tuple[str, str]] = Counter()
        self.sums: dict[tuple[str, str], Fraction] = {}

    async def combination(self, fare: Fare, cache: str, *, stream: bool, width: int) -> None:
        """One of them, with the request before it that fills the cache where it is to read."""
        self._number += 1
        self.combinations += 1
        start = f"{QUESTION} About {self._number}: " + "these words are the beginning of a prompt. " * 20
        ttl = "1h" if cache == "write 1h" else "5m"
        if cache.startswith("read"):
            await self._ask(fare, cache, _messages([(start, ttl)], cached=1), stream=stream, width=1)
        points = {"none": [(start, "")], "read and write": [(start, ttl), (start[::-1], ttl)]}.get(
            cache, [(start, ttl)]
        )
        cached = {"none": 0, "read": PROMPT // 2, "read and write": PROMPT // 4}.get(cache, 1)
        await self._ask(fare, cache, _messages(points, cached), stream=stream, width=width)

    async def _ask(self, fare: Fare, cache: str, messages: list[Any], *, stream: bool, width: int) -> None:
        body: dict[str, Any] = {"model": MODEL, "messages": messages, "n": width, "max_tokens": 20}
        if fare.word is not None:
            body["service_tier"] = fare.word
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        answer = (await self._clients[fare.project].post("/chat/completions", json=body)).raise_for_status()
        events = (
            [line[6:] for line in answer.text.splitlines() if line.startswith('data: {"')] if stream else [answer.text]
        )
        usage = next(found for event in reversed(events) if (found := msgspec.json.decode(event).get("usage")))
        told = (answer.headers["x-fareclass-requested-tier"], answer.headers["x-fareclass-served-tier"])
        self.answers.append((fare, cache, Answered(usage, *told, "x-fareclass-spilled" in answer.headers)))

    async def audit(self) -> None:
        """Hold every entry of the ledger against its answer, and the report against all of them."""
        rows = await self._gateway.recorded(len(self.answers))
        if len(rows) != len(self.answers):
            self.mismatches.append(f"{len(self.answers)} answers, {len(rows)} entries")
        for row, (fare, cache, answered) in zip(rows, self.answers, strict=True):
            self._audit_one(row, fare, cache, answered)
        await self._audit_report()

    def _audit_one(self, row: Mapping[str, Any], fare: Fare, cache: str, answered: Answered) -> None:
        details = answered.usage.get("prompt_tokens_details") or {}
        read, written = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
        kinds = dict.fromkeys(KINDS, 0)
        kinds["cache_write_1h" if cache == "write 1h" else "cache_write_5m"] = written
        kinds |= {"input": answered.usage["prompt_tokens"] - read - written, "cache_read": read}
        kinds["output"] = answered.usage["completion_tokens"]
        cost = sum(kinds[kind] * price for kind, price in KINDS.items()) * FACTORS[fare.served] * 10**6
        expected = {
            **kinds,
            "cost_pico": cost,
            "requested_tier": fare.requested,
            "served_tier": fare.served,
            "told": (fare.requested, fare.served),
            "spilled": fare.requested == "reserved" != fare.served,
        }
        found = {name: row[name] for name in (*KINDS, "cost_pico", "requested_tier", "served_tier")}
        found |= {"told": (answered.requested, answered.served), "spilled": answered.spilled and bool(row["spilled"])}
        for name, value in expected.items():
            if found[name] != value:
                self.mismatches.append(f"{fare} {cache}: {name} is {found[name]}, should be {value}")
        for kind, tokens in kinds.items():
            self.seen[kind, fare.served] += tokens > 0
            self.sums[fare.served, kind] = self.sums.get((fare.served, kind), Fraction(0)) + tokens
        self.sums[fare.served, "cost"] = self.sums.get((fare.served, "cost"), Fraction(0)) + cost / 10**12

    async def _audit_report(self) -> None:
        report = (
            (await self._gateway.admin.get("/usage", params={"by": "served_tier"})).raise_for_status().json()["data"]
        )
        for tier, what in self.sums:
            reported = sum(Fraction(str(row[what])) for row in report if row["served_tier"] == tier)
            if reported != self.sums[tier, what]:
                self.mismatches.append(
                    f"usage report: {what} of {tier} is {reported}, should be {self.sums[tier, what]}"
                )


def _messages(points: list[tuple[str, str]], cached: int) -> list[Any]:
    """A prompt of one part for each cache point, and a question that tells the engine what to count."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text} for text, _ in points]
    for part, (_, ttl) in zip(parts, points, strict=True):
        if ttl:
            part["cache_control"] = {"type": "ephemeral", "ttl": ttl}
    question = f"{QUESTION} prompt={PROMPT} cached={cached} output={ANSWER}"
    return [{"role": "system", "content": parts}, {"role": "user", "content": question}]


async def _projects(gateway: Gateway) -> dict[str, str]:
    """Projects with keys of theirs, reservations where they have some, and those used up that shall be."""
    keys = {}
    for project in dict.fromkeys(fare.project for fare in FARES):
        keys[project] = (await gateway.new_key(project))["secret"]
        if project in FLOORS:
            tpm, overflow = FLOORS[project]
            floor = {"project": project, "model": MODEL, "input_tpm": tpm, "output_tpm": tpm, "overflow": overflow}
            (await gateway.admin.post("/reservations", json=floor)).raise_for_status()
    return keys


async def run(folder: Path, progress: Progress) -> Auditor:
    settings = behind("", slots=64)
    model = settings["models"][MODEL]
    model["price"] = {"input": "0.28", "output": "1.12"}
    model |= {"capacity": {"input_tpm": 10**9, "output_tpm": 10**9}, "cache": {"min_tokens": 16}}
    async with serving(Upstream()) as upstream:
        upstream.play = play
        model["replicas"][0]["url"] = upstream.url
        async with in_process(folder, settings) as gateway:
            auditor = Auditor(gateway, await _projects(gateway))
            for fare in FARES:  # the first request of a floor that is too small is still inside it
                if FLOORS.get(fare.project, (2, ""))[0] == 1 and fare.word == "reserved":
                    first = fare._replace(requested="reserved", served="reserved")
                    await auditor.combination(first, "none", stream=False, width=1)
            every = list(itertools.product(FARES, CACHES, STREAMED, WIDTHS))
            for fare, cache, stream, width in progress.track(every, description="asking"):
                await auditor.combination(fare, cache, stream=stream, width=width)
            await auditor.audit()
            return auditor


def main() -> None:
    console = Console(width=100)
    console.print(heading(), soft_wrap=True)
    with tempfile.TemporaryDirectory() as folder, Progress(console=console, transient=True) as progress:
        auditor = asyncio.run(run(Path(folder), progress))
    table = Table(title="Bills with tokens of each kind, by served tier", title_justify="left")
    table.add_column("kind")
    for tier in FACTORS:
        table.add_column(tier, justify="right")
    for kind in KINDS:
        table.add_row(kind, *(str(auditor.seen[kind, tier]) for tier in FACTORS))
    console.print(table)
    for mismatch in auditor.mismatches[:20]:
        console.print(mismatch, style="red", soft_wrap=True)
    console.print(
        f"{auditor.combinations} combinations, {len(auditor.answers)} answers, {len(auditor.mismatches)} mismatches"
    )
    sys.exit(bool(auditor.mismatches))


if __name__ == "__main__":
    main()
