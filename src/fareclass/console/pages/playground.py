"""Playground: one prompt on every tier at once, to see what a tier buys: waits, speed and price beside each other.

The calls are made with a key that lives as long as they do, and never leaves this process.
"""

import asyncio
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from nicegui import ui

from fareclass.console.client import ControlPlane, Trouble
from fareclass.console.frame import READ_ONLY, Desk, heading
from fareclass.console.parts import card, facts, markup
from fareclass.console.pricing import price_of
from fareclass.console.words import count, ms, parse_whole, usd
from fareclass.core.limits import CONSOLE_PROMPT_CHARS

_TIERS = ("reserved", "priority", "default", "flex")
"""Those that a request may ask for."""
_REDRAW_S = 0.1
_MOST_TOKENS = 2_048
_PROMPT = "Explain in three sentences what a service tier is, and when one pays for priority."


async def build(desk: Desk) -> None:
    """Draw the page."""
    heading("Playground", "One prompt on each tier at once. It is charged to the project, like any request of its own.")
    if desk.admin:
        desk.temporary.sweep_soon(desk.control)
    async with desk.looking():
        projects = {one["id"]: one["name"] for one in await desk.control.pages("projects")}
        models = [pool["model"] for pool in await desk.control.rows("pools")]
        _Playground(desk, projects, models)


class _Playground:
    def __init__(self, desk: Desk, projects: dict[str, str], models: Sequence[str]) -> None:
        self._desk = desk
        with card():
            with ui.element("div").classes("filters"):
                self._project = _select(projects, "Project", next(iter(projects), None))
                self._model = _select(list(models), "Model", next(iter(models), None))
                self._tokens = ui.input("Most tokens", value="160").props("outlined dense inputmode=numeric")
            self._prompt = ui.textarea("Prompt", value=_PROMPT).props(
                f"outlined autogrow maxlength={CONSOLE_PROMPT_CHARS}"
            )
            self._prompt.style("width:100%").on("keydown.ctrl.enter", self._send)
            with ui.element("div").classes("buttons"):
                self._send_button = ui.button("Send on each tier", icon="send", on_click=self._send).props("unelevated")
            if not desk.admin:
                self._send_button.disable()
                ui.label(f"{READ_ONLY} The playground makes a key for its calls.").classes("soft")
        with ui.element("div").classes("lanes"):
            self._lanes = [_Lane(tier) for tier in _TIERS]

    async def _send(self) -> None:
        if not self._send_button.enabled:
            return
        self._send_button.disable()
        try:
            await self._send_all()
        except Trouble as trouble:
            self._say(trouble.message)
        except ValueError as error:
            self._say(str(error))
        finally:
            self._send_button.enable()

    def _say(self, message: str) -> None:
        if not self._send_button.is_deleted:  # a run may end long after its page, where nothing can be shown any more
            ui.notify(message, type="negative", timeout=8000, close_button="Close", multi_line=True)

    async def _send_all(self) -> None:
        control, project, model = self._desk.control, self._project.value, self._model.value
        tokens = min(parse_whole(self._tokens.value, "the number of tokens") or 160, _MOST_TOKENS)
        if not (self._prompt.value or "").strip() or project is None or model is None:
            raise ValueError("Choose a project and a model, and write a prompt.")
        books = {book["model"]: book for book in await control.rows("prices")}
        body = {
            "model": model, "max_tokens": tokens, "stream": True, "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": self._prompt.value}],
        }  # fmt: skip
        async with self._desk.temporary.made(control, project) as key:
            await asyncio.gather(*(lane.run(control, key, body, books.get(model)) for lane in self._lanes))


def _select(options: Any, label: str, value: object) -> ui.select:
    made = ui.select(options, label=label, value=value)
    made.props("outlined dense")
    return made


class _Lane:
    """One tier: its state, figures and text."""

    def __init__(self, tier: str) -> None:
        self._tier = tier
        with card() as made:
            made.classes("lane").props(f'data-tier={tier} aria-label="{tier}"')
            with ui.element("div").classes("row-head"):
                markup(f'<span class="tier" data-tier="{tier}"><b>{tier}</b></span>').classes("grow")
                self._state = ui.label("not sent").classes("chip")
            self._facts = markup(facts(_figures()))
            self._text = ui.label().classes("answer")

    async def run(
        self, control: ControlPlane, key: str, body: Mapping[str, Any], book: Mapping[str, Any] | None
    ) -> None:
        """Send the prompt on this tier, and show what comes. A refusal is shown, not raised."""
        self._text.set_text("")
        self._facts.content = facts(_figures())
        self._tell("waiting", "warn")
        answer = _Answer()
        try:
            async for headers, event in control.chat(key, {**body, "service_tier": self._tier}):
                answer.take(headers, event)
                if answer.due():
                    self._show(answer, book)
        except Trouble as trouble:
            self._text.set_text(trouble.message)
            self._tell("refused" if trouble.reached else "failed", "bad")
            return
        self._show(answer, book)
        self._tell("done", "good")

    def _show(self, answer: "_Answer", book: Mapping[str, Any] | None) -> None:
        self._tell("answering", "good")
        self._text.set_text(answer.text)
        price = price_of(book, answer.served, answer.usage) if answer.usage else None
        self._facts.content = facts(_figures(answer, price))

    def _tell(self, word: str, tone: str) -> None:
        self._state.set_text(word)
        self._state.classes(replace=f"chip {tone}")


class _Answer:
    """What has come of one answer."""

    def __init__(self) -> None:
        self.text = ""
        self.served = ""
        self.queue_ms: float | None = None
        self.ttft_ms: float | None = None
        self.usage: Mapping[str, Any] = {}
        self._began = perf_counter()
        self._first = self._last = 0.0
        self._drawn = 0.0
        self._pieces = 0

    def take(self, headers: Mapping[str, str], event: Mapping[str, Any]) -> None:
        """One event of the stream."""
        now = perf_counter()
        if not self.served:
            self.served = headers.get("x-fareclass-served-tier", "")
            waited = headers.get("x-fareclass-queue-ms", "")
            self.queue_ms = float(waited) if waited.replace(".", "", 1).isdigit() else None
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices", ()):
            piece = choice.get("delta", {}).get("content") or ""
            if piece:
                self._first, self._last = self._first or now, now
                self.ttft_ms = (self._first - self._began) * 1000
                self.text += piece
                self._pieces += 1

    def due(self) -> bool:
        """Whether it is time to draw it again."""
        now = perf_counter()
        if now - self._drawn < _REDRAW_S or not self.text:
            return False
        self._drawn = now
        return True

    @property
    def tokens(self) -> int:
        return int(self.usage.get("completion_tokens", self._pieces))

    @property
    def tokens_per_s(self) -> float | None:
        span_s = self._last - self._first
        return (self.tokens - 1) / span_s if span_s > 0 and self.tokens > 1 else None


def _figures(answer: _Answer | None = None, price: str | None = None) -> dict[str, str]:
    if answer is None:
        return dict.fromkeys(("queue wait", "first token", "tokens / s", "tokens", "price", "served as"), "–")
    return {
        "queue wait": ms(answer.queue_ms),
        "first token": ms(answer.ttft_ms),
        "tokens / s": "–" if answer.tokens_per_s is None else f"{answer.tokens_per_s:.1f}",
        "tokens": count(answer.tokens),
        "price": "in the fee" if answer.served == "reserved" else usd(price),
        "served as": answer.served or "–",
    }
