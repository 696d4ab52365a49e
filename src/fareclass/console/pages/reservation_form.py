"""The form that makes or changes a reservation. What does not fit comes back with what would, one click away."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from nicegui import ui

from fareclass.console.client import Trouble
from fareclass.console.floors import hours_in_words
from fareclass.console.frame import Desk
from fareclass.console.parts import Form
from fareclass.console.words import count, parse_whole
from fareclass.flow.reservation_rules import DAYS

_OVERFLOWS = ["default", "priority", "flex", "reject"]
_KEEP, _ALL, _SOME = "keep", "all", "some"


class Choices(NamedTuple):
    """Projects by id, and capacities by model."""

    projects: Mapping[str, str]
    capacities: Mapping[str, Mapping[str, Any]]


def open_form(
    desk: Desk, choices: Choices, done: Callable[[], Awaitable[None]], record: dict[str, Any] | None,
    given: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Ask for a reservation: a new one, with these values `given`, or a change of `record`."""
    _ReservationForm(desk, choices, done, record, given or {}).form.open()


class _ReservationForm:
    def __init__(
        self,
        desk: Desk,
        choices: Choices,
        done: Callable[[], Awaitable[None]],
        record: dict[str, Any] | None,
        given: Mapping[str, Any],
    ) -> None:
        self._desk, self._choices, self._done, self._record = desk, choices, done, record
        title = f"Change {record['id']}" if record else "New reservation"
        self.form = Form(title, "Change" if record else "Reserve", self._send, wide=True)
        with self.form.body:
            if record is None:
                self._add_place(given)
            self._add_floor(record or given)
            self._add_time(record or given)
        with self.form.foot:
            self._offer = ui.button(on_click=self._take).props("outline")
        self._offer.set_visibility(False)
        self._available: Mapping[str, int] = {}

    def _add_place(self, given: Mapping[str, Any]) -> None:
        projects, models = dict(self._choices.projects), list(self._choices.capacities)
        if not projects or not models:
            ui.label("There is no project or model yet.").classes("warn")
        with ui.element("div").classes("two"):
            project = given["project"] if given.get("project") in projects else next(iter(projects), None)
            self.form.add("project", ui.select(projects, label="Project", value=project))
            model = given["model"] if given.get("model") in models else next(iter(models), None)
            self.form.add("model", ui.select(models, label="Model", value=model, on_change=self._show_free))
        self._free = ui.label().classes("soft small")
        self._show_free()

    def _show_free(self) -> None:
        view = self._choices.capacities.get(self.form.value("model"))
        peak = view["peak"] if view else None
        if peak is None:
            self._free.set_text("The capacity of this model is not known, so nothing can be reserved.")
            return
        self._free.set_text(
            f"Largest that fits for good, one side alone: {count(peak['free_input_tpm'])} input or "
            f"{count(peak['free_output_tpm'])} output tokens a minute."
        )

    def _add_floor(self, held: Mapping[str, Any]) -> None:
        with ui.element("div").classes("two"):
            for name, label in (("input_tpm", "Input tokens a minute"), ("output_tpm", "Output tokens a minute")):
                value = str(held[name]) if name in held else ""
                self.form.add(name, ui.input(label, value=value).props("inputmode=numeric"))
        overflow = held.get("overflow", "default")
        self.form.add("overflow", ui.select(_OVERFLOWS, label="What goes beyond it is served as", value=overflow))

    def _add_time(self, held: Mapping[str, Any]) -> None:
        with ui.element("div").classes("two"):
            for name, label in (("starts_at", "From (UTC; empty: now)"), ("ends_at", "Until (UTC; empty: open)")):
                field = ui.input(label, value=_local(held.get(name))).props("type=datetime-local stack-label")
                self.form.add(name, field)
        hours = held.get("hours")
        options = {_ALL: "around the clock", _SOME: "some hours of the week"}
        if hours:
            options = {_KEEP: hours_in_words(hours)} | options
        self._when = ui.select(options, label="In force", value=_KEEP if hours else _ALL).props("outlined dense")
        some = ui.element("div").classes("form")
        some.bind_visibility_from(self._when, "value", value=_SOME)
        with some:
            days = list(DAYS[:5])
            self.form.add("hours", ui.select(list(DAYS), label="Days", value=days, multiple=True))
            with ui.element("div").classes("two"):
                self.form.add("from", ui.input("From", value="09:00").props("type=time stack-label"))
                self.form.add("to", ui.input("To", value="17:00").props("type=time stack-label"))
            self.form.add("tz", ui.input("Time zone, such as Europe/Vienna", value="UTC"))

    def _body(self) -> dict[str, Any]:
        form = self.form
        body: dict[str, Any] = {
            "input_tpm": parse_whole(form.value("input_tpm"), "input") or 0,
            "output_tpm": parse_whole(form.value("output_tpm"), "output") or 0,
            "overflow": form.value("overflow"),
        }
        starts, ends = _moment(form.value("starts_at")), _moment(form.value("ends_at"))
        if self._record is None:
            body |= {
                "project": form.value("project"),
                "model": form.value("model"),
                "starts_at": starts,
                "ends_at": ends,
            }
        else:
            if starts is not None and not _same(starts, self._record["starts_at"]):
                body["starts_at"] = starts
            if not _same(ends, self._record["ends_at"]):
                body["ends_at"] = ends
        if self._when.value == _SOME:
            window = {"days": form.value("hours"), "from": form.value("from"), "to": form.value("to")}
            body["hours"] = {"tz": form.value("tz"), "weekly": [window]}
        elif self._when.value == _ALL:
            body["hours"] = None
        return body

    async def _send(self, _form: Form) -> None:
        self._offer.set_visibility(False)
        body = self._body()
        try:
            if self._record is None:
                await self._desk.control.send("POST", "reservations", body=body)
            else:
                await self._desk.control.send("PATCH", "reservations", self._record["id"], body=body)
        except Trouble as trouble:
            if trouble.available:
                self._show_offer(trouble.available)
            raise
        ui.notify("Reserved" if self._record is None else "Changed", type="positive")
        await self._done()

    def _show_offer(self, available: Mapping[str, int]) -> None:
        self._available = available
        sides = f"{count(available['input_tpm'])} input, {count(available['output_tpm'])} output"
        self._offer.set_text(f"Take the largest that fits: {sides}")
        self._offer.set_visibility(bool(available["input_tpm"] or available["output_tpm"]))

    def _take(self) -> None:
        for name in ("input_tpm", "output_tpm"):
            self.form.fields[name].value = str(self._available[name])
        self.form.clear()
        self._offer.set_visibility(False)


def _local(moment: str | None) -> str:
    """As an input of type datetime-local has it, in UTC."""
    return "" if moment is None else f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%dT%H:%M}"


def _moment(text: str | None) -> str | None:
    return None if not text else datetime.fromisoformat(text).replace(tzinfo=UTC).isoformat()


def _same(one: str | None, other: str | None) -> bool:
    """To the minute, which is what the form shows."""
    return _local(one) == _local(other)
