"""Showing what the control plane says: as a table, a field a line, or JSON."""

import json
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import typer
from rich.cells import cell_len

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:\d\d)(\.\d+)?Z")
_NUMBER = re.compile(r"\d+(\.\d+)?")
_NOTHING = "-"
_GAP = "  "


def show(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, as_json: bool) -> None:
    """A table of these columns (field: heading), the more important first, or everything as JSON.

    In a terminal a row whose columns find no room beside each other goes on in lines below, set in; only a cell wider
    than the terminal is broken, between words. Into a file or another program each row is one line.
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
    parts = _parts(widths, room)
    for line in lines:
        padded = [_padded(*each) for each in zip(line, widths, to_right, strict=True)]
        for part in parts:
            typer.echo(_line(_GAP.join(padded[part]).rstrip(), room, "" if part.start == 0 else _GAP))


def show_one(row: Mapping[str, Any], columns: Mapping[str, str], *, as_json: bool) -> None:
    """One object as its table shows it, a field a line and none left out, or everything as JSON."""
    if as_json:
        typer.echo(json.dumps(row, indent=2, ensure_ascii=False))
        return
    width = max(map(len, columns.values()))
    for field, heading in columns.items():
        typer.echo(f"{heading.lower():<{width}}{_GAP}{_cell(row.get(field))}")


def _parts(widths: Sequence[int], room: int) -> list[slice]:
    """Which columns go into each line of a row; all into one where there is no terminal, whose room is 0."""
    starts, used = [0], -len(_GAP)
    for place, width in enumerate(widths):
        used += len(_GAP) + width
        if room and used > room and place:
            starts.append(place)
            used = len(_GAP) + width
    return [slice(*ends) for ends in pairwise([*starts, len(widths)])]


def _line(text: str, room: int, indent: str) -> str:
    """Set in, and broken only where it is a single cell that is too wide."""
    if not room:
        return text
    return textwrap.fill(
        text, room, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _padded(cell: str, width: int, to_right: bool) -> str:
    space = " " * (width - cell_len(cell))
    return space + cell if to_right else cell + space


def _cell(value: object) -> str:
    """Text of a value; times to the minute, in UTC."""
    if value is None or value == "":
        return _NOTHING
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_cell(item)}" for name, item in value.items() if item is not None) or _NOTHING
    if isinstance(value, list):
        return ", ".join(map(_cell, value)) or _NOTHING
    if time := _TIME.fullmatch(str(value)):
        return f"{time[1]} {time[2]}"
    return str(value)
