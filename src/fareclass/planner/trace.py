"""Traffic to plan from or to replay: requests in order of time, out of a file (CSV or JSON lines) or the ledger."""

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, cast

import msgspec
from sqlalchemy import Connection

from fareclass.core.limits import MODEL_CHARS, TRACE_LINE_BYTES, TRACE_TOKENS
from fareclass.core.tiers import ALIASES, BY_WORD, Tier
from fareclass.store.replayed import demand

_REQUIRED = frozenset({"timestamp", "input_tokens", "output_tokens"})
_IN_MS = "input_length"
"""The column that tells a trace whose times are milliseconds (mooncake)."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LATEST_US = 253_402_300_799_000_000
"""The end of the year 9999."""
_SHOWN_CHARS = 60
_GZIP = b"\x1f\x8b"


class TraceError(ValueError):
    """A trace that can't be used: which file, which line, which column, and what to do."""


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """One request of a trace. `at_us` counts from any one moment; the kinds of tokens never overlap.

    `input` and `cache_read` together are its prompt. `tier` is what it asked for, None where the trace does not say.
    """

    at_us: int
    input: int
    output: int
    cache_read: int = 0
    project: str = "trace"
    model: str = ""
    tier: Tier | None = None
    streamed: bool = True
    max_tokens: int | None = None


class _Line(NamedTuple):
    """One line of the file, numbered from 1."""

    number: int
    text: str


class _Row(NamedTuple):
    """A record: where it ends, and its values by the names that the file gives them."""

    line: int
    values: Mapping[str, Any]


class _Column(NamedTuple):
    """One of our columns: what the file calls it, the field that it fills, how a value is read."""

    ours: str
    name: str
    field: str
    parse: Callable[[Any], Any]


def read_trace(path: Path) -> Iterator[Arrival]:
    """The requests of a file, one after the other: CSV with a heading or JSON lines, plain or gzipped.

    `timestamp` is in seconds or RFC 3339; mooncake's is in milliseconds. Only one line is in memory at a time.

    Raises:
        TraceError: the file can't be read, has no such columns, is not in order of time, or a value is none.
    """
    last_us, keys = 0, None
    columns: list[_Column] = []
    for line, values in _rows(path):
        if values.keys() != keys:
            keys, columns = values.keys(), _columns(f"{path}:{line}", values)
        arrival = _arrival(f"{path}:{line}", columns, values)
        if arrival.at_us < last_us:
            raise TraceError(f"{path}:{line}: {columns[0].name}: earlier than the record before; sort the trace by it")
        last_us = arrival.at_us
        yield arrival
    if keys is None:
        raise TraceError(f"{path}: there is no request in it")


def read_ledger(
    connection: Connection, *, project: str | None = None, model: str | None = None, from_us: int, to_us: int
) -> Iterator[Arrival]:
    """The requests that arrived in `[from_us, to_us)`, by project id; refused and expired ones with their estimates (R35).

    The connection's transaction must stay open until the last one is read.
    """
    for row in demand(connection, project=project, model=model, from_us=from_us, to_us=to_us):
        at_us, sent, made, read, asked_by, name, tier, streamed = row
        yield Arrival(at_us, sent, made, read, asked_by, name, BY_WORD[tier], bool(streamed))


def _rows(path: Path) -> Iterator[_Row]:
    try:
        with path.open("rb") as file:
            packed = file.peek(2).startswith(_GZIP)
            lines = _lines(path, cast("BinaryIO", gzip.GzipFile(fileobj=file)) if packed else file)
            first = next((line for line in lines if line.text.strip()), None)
            if first is not None:
                read = _json_rows if first.text.lstrip().startswith("{") else _csv_rows
                yield from read(path, first, lines)
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None


def _lines(path: Path, file: BinaryIO) -> Iterator[_Line]:
    number = 0
    while data := file.readline(TRACE_LINE_BYTES + 1):
        number += 1
        if len(data) > TRACE_LINE_BYTES:
            raise TraceError(f"{path}:{number}: the line is longer than {TRACE_LINE_BYTES:,} bytes")
        try:
            yield _Line(number, data.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError:
            raise TraceError(f"{path}:{number}: not UTF-8 text; a trace is CSV or JSON lines") from None


def _csv_rows(path: Path, first: _Line, lines: Iterator[_Line]) -> Iterator[_Row]:
    line = first.number

    def texts() -> Iterator[str]:
        nonlocal line
        for line, text in chain((first,), lines):  # noqa: B007  the number is read outside
            yield text

    reader = csv.reader(texts(), strict=True)
    try:
        heading = [name.strip() for name in next(reader)]
        _columns(f"{path}:{line}", dict.fromkeys(heading))
        for cells in reader:
            if len(cells) == len(heading):
                yield _Row(line, dict(zip(heading, cells, strict=True)))
            elif cells:
                raise TraceError(f"{path}:{line}: {len(cells)} cells, but the heading has {len(heading)}")
    except csv.Error as error:
        raise TraceError(f"{path}:{line}: not CSV: {error}") from None


def _json_rows(path: Path, first: _Line, lines: Iterator[_Line]) -> Iterator[_Row]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for line, text in chain((first,), lines):
        if text.strip():
            try:
                yield _Row(line, decode(text))
            except (msgspec.DecodeError, RecursionError) as error:
                raise TraceError(f"{path}:{line}: not a JSON object: {error}") from None


def _columns(where: str, values: Mapping[str, Any]) -> list[_Column]:
    """What the file calls each of our columns, the time first; others are left alone."""
    given = {name.strip().lower().replace(" ", "_"): name for name in values}
    found = []
    for ours, (field, parse, others) in _COLUMNS.items():
        name = next((each for each in (ours, *others) if each in given), None)
        if name is not None:
            parse = _time_ms if ours == "timestamp" and _IN_MS in given else parse
            found.append(_Column(ours, given[name], field, parse))
    missing = sorted(_REQUIRED - {column.ours for column in found})
    if missing:
        raise TraceError(
            f"{where}: no column {' and no '.join(missing)}. A trace has timestamp, input_tokens and output_tokens, "
            f"in a CSV heading or as keys of JSON lines; found: {', '.join(values) or 'none'}"
        )
    return found


def _arrival(where: str, columns: Sequence[_Column], values: Mapping[str, Any]) -> Arrival:
    fields = {}
    for column in columns:
        value = values[column.name]
        if (value is None or value == "") and column.ours not in _REQUIRED:
            continue
        try:
            fields[column.field] = column.parse(value)
        except (ValueError, OverflowError) as error:
            raise TraceError(f"{where}: {column.name}: {error}") from None
    return Arrival(**fields)


def _time(value: object) -> int:
    """Seconds, or a date and time (UTC where it has no zone), in microseconds."""
    try:
        return _micros(value, 1e6)
    except ValueError:
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            raise ValueError(f"must be seconds or a time such as 2026-01-31T09:00:00Z, not {_shown(value)}") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment < _EPOCH:
        raise ValueError(f"must be a time after 1970, not {_shown(value)}")
    return (moment - _EPOCH) // _MICROSECOND


def _time_ms(value: object) -> int:
    try:
        return _micros(value, 1e3)
    except ValueError:
        raise ValueError(f"must be milliseconds, not {_shown(value)}") from None


def _micros(value: object, unit: float) -> int:
    count = float(value) * unit if type(value) in {int, float, str} else -1.0  # type: ignore[arg-type]
    if not 0 <= count <= _LATEST_US:
        raise ValueError
    return round(count)


def _tokens(value: object) -> int:
    try:
        count = int(value) if type(value) in {int, str} else -1  # type: ignore[call-overload]
    except ValueError:
        count = -1
    if not 0 <= count <= TRACE_TOKENS:
        raise ValueError(f"must be a number of tokens from 0 to {TRACE_TOKENS:,}, not {_shown(value)}")
    return count


def _name(value: object) -> str:
    if not isinstance(value, str) or len(value) > MODEL_CHARS:
        raise ValueError(f"must be text of at most {MODEL_CHARS} characters, not {_shown(value)}")
    return value


def _tier(value: object) -> Tier:
    word = str(value).strip().lower()
    tier = BY_WORD.get(word, ALIASES.get(word))
    if tier is None:
        raise ValueError(f"must be one of {', '.join(BY_WORD)}, not {_shown(value)}")
    return tier


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN_CHARS]


_COLUMNS: Mapping[str, tuple[str, Callable[[Any], Any], tuple[str, ...]]] = MappingProxyType(
    {
        "timestamp": ("at_us", _time, ()),
        "input_tokens": ("input", _tokens, ("contexttokens", "request_tokens", "input_length")),
        "output_tokens": ("output", _tokens, ("generatedtokens", "response_tokens", "output_length")),
        "cache_read_tokens": ("cache_read", _tokens, ()),
        "project": ("project", _name, ()),
        "model": ("model", _name, ()),
        "tier": ("tier", _tier, ()),
    }
)
"""Our columns: the field that each fills, how a value is read, and its names in the traces azure, burstgpt, mooncake."""
