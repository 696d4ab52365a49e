"""Reports as CSV (RFC 4180): numbers as exact as in JSON, and nothing that a spreadsheet would run."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect
from starlette.responses import Response

_FORMULA = re.compile(r"[=+\-@\t\r]")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def columns_of(kind: type[msgspec.Struct]) -> list[str]:
    """A column for each field; of an object one for each that it may have itself (`outcomes.shed`)."""
    found = []
    for field in msgspec.structs.fields(kind):
        inner = _inner(inspect.type_info(field.type))
        found += [f"{field.encode_name}.{name}" for name in inner] or [field.encode_name]
    return found


def csv_answer(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Response:
    """A line for each row, always of these columns; what a row does not have is empty."""
    places = [column.partition(".")[::2] for column in columns]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_cell(_value(row, field, inner)) for field, inner in places] for row in rows)
    return Response(text.getvalue(), media_type="text/csv")


def _inner(kind: inspect.Type) -> list[str]:
    """What an object of this type may have, none if it is no object."""
    match kind:
        case inspect.UnionType(types=kinds):
            return [name for each in kinds for name in _inner(each)]
        case inspect.StructType(fields=fields):
            return [field.encode_name for field in fields]
        case inspect.DictType(key_type=inspect.EnumType(cls=names)):
            return [name.value for name in names]
        case _:
            return []


def _value(row: Mapping[str, Any], field: str, inner: str) -> Any:
    value = row.get(field)
    return value.get(inner) if inner and value is not None else value


def _cell(value: Any) -> Any:
    """What a caller or operator wrote and a spreadsheet would take for a formula gets an apostrophe in front."""
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
