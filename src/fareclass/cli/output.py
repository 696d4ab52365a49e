"""Showing what the control plane says: as a table, a field a line, or JSON."""

import json
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.cells import cell_len

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:\d\d)(\.\d+)?Z")
_NUMBER = re.compile(r"\d+(\.\d+)?")
_NOTHING = "-"
_GAP = "  "


def show(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, as_json: bool) -> None:
    """A table of these columns (field: heading), the more important first, or everything as JSON.

    No cell is ever cut or broken. In a terminal, columns that find no room are left out, from
    the right, and named below; into a file or another program all of them are written.
    """
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not rows:
        typer.echo("none")
        return
    headings = list(columns.values())
    lines = [headings, *([_cell(row.get(field)) for field in columns] for row in rows)]
    widths = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)]
    to_right = [all(map(_NUMBER.fullmatch, {*cells} - {_NOTHING} or {""})) for cells in zip(*lines[1:], strict=True)]
    room = shutil.get_terminal_size((0, 0)).columns
    shown = _fitting(widths, room)
    for line in lines:
        cells = zip(line[:shown], widths, to_right, strict=False)
        typer.echo(_GAP.join(_padded(*each) for each in cells).rstrip())
    if shown < len(headings):
        left_out = f"No room for {', '.join(headings[shown:])}: --json has them, or a wider terminal."
        typer.echo(textwrap.fill(left_out, room, break_on_hyphens=False))


def show_one(row: Mapping[str, Any], columns: Mapping[str, str], *, as_json: bool) -> None:
    """One object as its table shows it, a field a line and none left out, or everything as JSON."""
    if as_json:
        typer.echo(json.dumps(row, indent=2, ensure_ascii=False))
        return
    width = max(map(len, columns.values()))
    for field, heading in columns.items():
        typer.echo(f"{heading.lower():<{width}}{_GAP}{_cell(row.get(field))}")


def _fitting(widths: Sequence[int], room: int) -> int:
    """How many of these columns there is room for, at least one; all where there is no terminal, whose room is 0."""
    used, shown = 0, 0
    for width in widths:
        used += width + (len(_GAP) if shown else 0)
        if room and shown and used > room:
            break
        shown += 1
    return shown


def _padded(cell: str, width: int, to_right: bool) -> str:
    space = " " * (width - cell_len(cell))
    return space + cell if to_right else cell + space


def _cell(value: object) -> str:
    """Text of a value; times to the minute, in UTC."""
    if value is None or value == "":
        return _NOTHING
    if isinstance(value, Mapping):
        return ",".join(f"{name}={_cell(item)}" for name, item in value.items()) or _NOTHING
    if isinstance(value, list):
        return ",".join(map(_cell, value)) or _NOTHING
    if time := _TIME.fullmatch(str(value)):
        return f"{time[1]} {time[2]}"
    return str(value)
