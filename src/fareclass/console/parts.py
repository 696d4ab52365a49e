"""Pieces that pages are made of: cards, tables, facts, meters, and dialogs with a form."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, NamedTuple

from nicegui import ui
from nicegui.elements.mixins.validation_element import ValidationElement

from fareclass.console.charts import Options
from fareclass.console.client import ControlPlane, Trouble

_PER_PAGE = 50
_FEW = 8
"""Columns that a table without buttons still shows side by side on a phone."""
_VALUE = "{{ props.value }}"
CELLS = {
    "text": _VALUE,
    "tier": f'<span class="tier" :data-tier="props.value">{_VALUE}</span>',
    "chip": f'<span class="chip" :class="props.row[props.col.name + \'_tone\']">{_VALUE}</span>',
    "link": f"<a :href=\"props.row[props.col.name + '_href']\">{_VALUE}</a>",
    "meter": (
        '<div class="progress"><div class="meter thin" v-if="props.row[props.col.name + '
        "'_share'] != null\"><i :style=\"{width: props.row[props.col.name + '_share'] + '%', background: 'var(--' + (props.row[props.col.name + '_colour'] || 'default') + ')'}\"></i></div>"
        f"<span>{_VALUE}</span></div>"
    ),
}


class Column(NamedTuple):
    """A column of a table. `cell` is how it is drawn: text, tier, chip (`<name>_tone`), link (`<name>_href`) or meter
    (`<name>_share` in percent, `<name>_colour`). Its values may take more lines than one: long ones if they `wrap`, and
    short ones that break between words if they `fold`.
    """

    name: str
    label: str
    number: bool = False
    cell: str = "text"
    wrap: bool = False
    fold: bool = False


class Action(NamedTuple):
    """A button in each row of a table."""

    name: str
    act: Callable[[dict[str, Any]], Awaitable[None] | None]
    where: str = ""
    """A field of the row that must be true for the button to be there."""


class Table:
    """A table whose rows can be replaced while it is looked at; each row has an `id`. Empty, it says what would be there."""

    def __init__(
        self, columns: Sequence[Column], *, empty: str, actions: Sequence[Action] = (), label: str = ""
    ) -> None:
        named = [
            {
                "name": one.name, "label": one.label, "field": one.name, "sortable": True,
                "align": "right" if one.number else "left", "classes": "wrap" if one.wrap else "fold" if one.fold else "",
            }
            for one in columns
        ]  # fmt: skip
        if actions:
            named.append({"name": "actions", "label": "", "field": "id", "align": "right"})
        self._pages = {"rowsPerPage": _PER_PAGE}
        kind = "grid-table acts blocks" if actions else "grid-table blocks" if len(columns) > _FEW else "grid-table"
        self._table = ui.table(columns=named, rows=[], row_key="id", pagination=self._pages).classes(kind)
        self._table.props(f'flat dense hide-no-data aria-label="{label}"')
        self._empty = ui.label(empty).classes("empty")
        for one in columns:
            # The label is for a narrow screen, where a row is a block of its own and each value has it above.
            cell = f'<q-td :props="props" :data-label="props.col.label">{CELLS[one.cell]}</q-td>'
            self._table.add_slot(f"body-cell-{one.name}", cell)
        if actions:
            self._table.add_slot("body-cell-actions", _buttons(actions))
            for action in actions:
                self._table.on(action.name.lower().replace(" ", "_"), _with_row(action))
        self.show([])

    def show(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put these rows in place of those before."""
        self._table.update_rows([dict(row) for row in rows], clear_selection=False)
        self._table._props["hide-pagination"] = len(rows) <= _PER_PAGE  # noqa: SLF001 - props() takes no booleans
        self._table.set_visibility(bool(rows))
        self._empty.set_visibility(not rows)


def _buttons(actions: Sequence[Action]) -> str:
    made = []
    for action in actions:
        event = action.name.lower().replace(" ", "_")
        shown = f' v-if="props.row.{action.where}"' if action.where else ""
        made.append(
            f'<q-btn flat dense size="sm" color="primary"{shown} label="{action.name}" '
            f":aria-label=\"'{action.name} ' + (props.row.name || props.row.id)\" "
            f"@click=\"() => $parent.$emit('{event}', props.row)\" />"
        )
    return f'<q-td :props="props">{"".join(made)}</q-td>'


def _with_row(action: Action) -> Callable[[Any], Awaitable[None]]:
    async def handle(event: Any) -> None:
        result = action.act(event.args)
        if result is not None:
            await result

    return handle


@contextmanager
def card(title: str = "") -> Iterator[ui.element]:
    """A framed part of a page."""
    with ui.element("section").classes("card") as made:
        if title:
            ui.html(f"<h2>{escape(title)}</h2>", sanitize=False)
        yield made


@contextmanager
def panel(title: str, *, wide: bool = False) -> Iterator[None]:
    """What a dialog shows. A `div`: nothing else in a dialog of Quasar's takes clicks."""
    with ui.element("div").classes("card wide" if wide else "card"):
        ui.html(f"<h2>{escape(title)}</h2>", sanitize=False)
        yield


def facts(values: Mapping[str, str]) -> str:
    """Numbers with their names beneath, as HTML."""
    shown = "".join(
        f'<div class="fact"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in values.items()
    )
    return f'<div class="facts">{shown}</div>'


def meter(parts: Mapping[str, float], whole: float, *, thin: bool = False) -> str:
    """A bar of parts in the colours of the tiers they are named as, as HTML."""
    if whole <= 0:
        return f'<div class="meter{" thin" if thin else ""}"></div>'
    shown = "".join(
        f'<i style="width:{min(100, 100 * value / whole):.2f}%;background:var(--{escape(name)})" title="{escape(name)} {value:g}"></i>'
        for name, value in parts.items()
        if value > 0
    )
    return f'<div class="meter{" thin" if thin else ""}">{shown}</div>'


def markup(content: str = "") -> ui.html:
    """HTML that was made here, with every name in it escaped."""
    return ui.html(content, sanitize=False)


def chart(options: Options, *, height_px: int = 220, label: str) -> ui.echart:
    """A chart; `show_chart` replaces what it shows."""
    return ui.echart(options).style(f"height:{height_px}px").props(f'role=img aria-label="{label}"')


def show_chart(chart: ui.echart, options: Options) -> None:
    """Put this in place of what the chart shows."""
    chart.options.clear()
    chart.options.update(options)
    chart.update()


class Form:
    """A dialog with fields. Enter does it, Esc closes it; a refusal stands at its field, else beneath the fields.

    `act` is given the form and raises `Trouble` or `ValueError` where it is not done.
    """

    def __init__(self, title: str, verb: str, act: Callable[["Form"], Awaitable[None]], *, wide: bool = False) -> None:
        self._act = act
        self.fields: dict[str, ValidationElement[Any]] = {}
        self.dialog = ui.dialog().props("no-route-dismiss")
        with self.dialog, panel(title, wide=wide):
            with ui.element("form").classes("form").props("novalidate") as form:
                self.body = ui.element("div").classes("form")
                self._error = ui.label().classes("bad").props("role=alert")
                self._error.set_visibility(False)
                self.foot = ui.element("div").classes("form")
                with ui.element("div").classes("buttons"):
                    ui.button("Cancel", on_click=self.close).props("flat color=inherit")
                    self._submit = ui.button(verb).props("type=submit unelevated")
            form.on("submit.prevent", self._submitted)
        self.dialog.on("hide", self.dialog.delete)

    def add(self, name: str, field: ValidationElement[Any]) -> ValidationElement[Any]:
        """A field that refusals of `name` stand at."""
        self.fields[name] = field
        field.props("outlined dense hide-bottom-space")
        return field

    def value(self, name: str) -> Any:
        """What a field holds; text without the spaces around it."""
        value = self.fields[name].value
        return value.strip() if isinstance(value, str) else value

    def open(self) -> None:
        self.dialog.open()

    def close(self) -> None:
        self.dialog.close()

    def fail(self, trouble: Trouble) -> None:
        """Say what was wrong, at its field if it has one here."""
        root = (trouble.field or "").partition(".")[0].partition("[")[0]
        field = self.fields.get(root)
        if field is not None:
            field.error = trouble.message.removeprefix(f"{trouble.field}: ").removeprefix(f"{root} ")
        else:
            self._error.set_text(trouble.message)
            self._error.set_visibility(True)

    def clear(self) -> None:
        """Take back what was said to be wrong."""
        self._error.set_visibility(False)
        for field in self.fields.values():
            field.error = None

    async def _submitted(self) -> None:
        self.clear()
        self._submit.disable()
        try:
            await self._act(self)
        except Trouble as trouble:
            self.fail(trouble)
        except ValueError as error:
            self.fail(Trouble(str(error)))
        else:
            self.close()
        finally:
            if not self._submit.is_deleted:
                self._submit.enable()


async def refuse_taken(form: Form, control: ControlPlane, place: str) -> None:
    """Raises:
    Trouble: the form's name is that of something that stands in this place, and would overwrite it.
    """
    name = form.value("name")
    if name and await control.has(place, name):
        raise Trouble(f"{name} exists already: change it in the list", field="name")


def confirm(question: str, verb: str, act: Callable[[], Awaitable[None]]) -> None:
    """Ask before something that can't be taken back."""

    async def go(_form: Form) -> None:
        await act()

    form = Form(question, verb, go)
    form.open()
