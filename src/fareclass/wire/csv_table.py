"""Reports as CSV (RFC 4180): numbers as exact as in JSON, and nothing that a spreadsheet would run."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from starlette.responses import Response

_FORMULA = re.compile(r"[=+\-@\t\r]")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def csv_answer(rows: Sequence[Mapping[str, Any]], fields: Iterable[str]) -> Response:
    """A line for each row, in the order of these fields; an object becomes a column for each of its own (`outcomes.shed`).

    A field that no row has is left out.
    """
    flat = [dict(_flat(row)) for row in rows]
    columns: list[str] = []
    for field in fields:
        found = dict.fromkeys(name for row in flat for name in row if name.partition(".")[0] == field)
        columns += found if rows else [field]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([[_cell(row.get(name)) for name in columns] for row in flat])
    return Response(text.getvalue(), media_type="text/csv")


def _flat(row: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", each) for inner, each in value.items())
        else:
            yield name, value


def _cell(value: Any) -> Any:
    """What a caller or operator wrote and a spreadsheet would take for a formula gets an apostrophe in front."""
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
