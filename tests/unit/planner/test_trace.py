"""Traces: what is read out of a file, and what is said of one that can't be used."""

import gzip
import json
from pathlib import Path

import pytest

from fareclass.core.limits import TRACE_LINE_BYTES
from fareclass.core.tiers import Tier
from fareclass.planner.trace import Arrival, TraceError, read_trace

CSV = "timestamp,input_tokens,output_tokens\n"


def read(path: Path, content: str | bytes) -> list[Arrival]:
    file = path / "trace"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_trace(file))


def test_our_own_columns_are_read_from_csv_and_json_lines_plain_and_gzipped(tmp_path: Path) -> None:
    rows = [
        Arrival(1_500_000, 10, 5, 90, "tax", "llama", Tier.FLEX),
        Arrival(2_000_000, 7, 1),
    ]
    table = (
        "model,timestamp,input_tokens,output_tokens,cache_read_tokens,project,tier,note\n"
        "llama,1.5,10,5,90,tax,flex,x\n"
        "\n"
        ",2,7,1,,,,y\n"
    )
    lines = [
        {"timestamp": 1.5, "input_tokens": 10, "output_tokens": 5, "cache_read_tokens": 90}
        | {"project": "tax", "model": "llama", "tier": "flex"},
        {"timestamp": 2, "input_tokens": 7, "output_tokens": 1, "project": None},
    ]
    as_json = "\n".join(json.dumps(line) for line in lines)
    rows[1] = Arrival(2_000_000, 7, 1)
    for content in (table, as_json, "\ufeff" + table, as_json + "\n\n"):
        assert read(tmp_path, content) == rows
        assert read(tmp_path, gzip.compress(content.encode(), mtime=0)) == rows


def test_times_may_be_dates_with_or_without_a_zone(tmp_path: Path) -> None:
    times = ["1970-01-01T00:00:01Z", "1970-01-01 00:00:02.5000000", "1970-01-01T02:00:03+02:00"]
    arrivals = read(tmp_path, CSV + "".join(f"{time},1,1\n" for time in times))
    assert [arrival.at_us for arrival in arrivals] == [1_000_000, 2_500_000, 3_000_000]


@pytest.mark.parametrize(
    "content",
    [
        "TIMESTAMP,ContextTokens,GeneratedTokens\n1970-01-01 00:00:05.0000000,480,10\n",
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,,480,10,490,Conversation log\n",
        '{"timestamp": 5000, "input_length": 480, "output_length": 10, "hash_ids": [0, 1]}\n',
    ],
    ids=["azure", "burstgpt", "mooncake"],
)
def test_public_traces_are_known_by_their_columns(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, content) == [Arrival(5_000_000, 480, 10)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "there is no request in it"),
        (CSV, "there is no request in it"),
        ("timestamp,input_tokens\n1,2\n", ":1: no column output_tokens. A trace has timestamp, input_tokens and"),
        (CSV + "1,2,3\n0.5,2,3\n", ":3: timestamp: earlier than the record before; sort the trace by it"),
        (CSV + "soon,2,3\n", ":2: timestamp: must be seconds or a time such as 2026-01-31T09:00:00Z, not 'soon'"),
        (CSV + "nan,2,3\n", ":2: timestamp: must be seconds or a time such as"),
        (CSV + "1960-01-01,2,3\n", ":2: timestamp: must be a time after 1970, not '1960-01-01'"),
        (CSV + "1,-2,3\n", ":2: input_tokens: must be a number of tokens from 0 to 100,000,000, not '-2'"),
        (CSV + "1,2,\n", ":2: output_tokens: must be a number of tokens from 0 to 100,000,000, not ''"),
        (CSV + "1,2\n", ":2: 2 cells, but the heading has 3"),
        (CSV + '1,2,"3\n', ":2: not CSV: unexpected end of data"),
        ("timestamp,input_tokens,output_tokens,tier\n1,2,3,gold\n", ":2: tier: must be one of reserved, priority,"),
        ('{"timestamp": 1}\n', ":1: no column input_tokens and no output_tokens"),
        ('{"timestamp": 1, "input_tokens": 2, "output_tokens": 3}\n{"times', ":2: not a JSON object: "),
        ('{"timestamp": 1, "input_tokens": 2.5, "output_tokens": 3}\n', ":1: input_tokens: must be a number"),
        ('{"timestamp": [], "input_tokens": 2, "output_tokens": 3}\n', ":1: timestamp: must be seconds"),
        ('{"timestamp": 1, "input_tokens": 2, "output_tokens": 3, "project": 4}\n', ":1: project: must be text"),
        ('{"timestamp": 1e999, "input_tokens": 2, "output_tokens": 3}\n', ":1: "),
        ('{"timestamp": ' + "9" * 400 + ', "input_tokens": 2, "output_tokens": 3}\n', ":1: timestamp: "),
        ('{"timestamp": "later", "input_length": 2, "output_length": 3}\n', ":1: timestamp: must be milliseconds"),
        ('{"x": ' + "[" * 100_000, ":1: not a JSON object: "),
        (b"\xff\xfe", ":1: not UTF-8 text; a trace is CSV or JSON lines"),
        (b"\x1f\x8bnot gzip", ": can't be read: "),
        (gzip.compress(CSV.encode() * 9, mtime=0)[:-12], ": can't be read: "),
        ("x" * (TRACE_LINE_BYTES + 1), ":1: the line is longer than 1,048,576 bytes"),
    ],
)
def test_a_trace_that_cant_be_used_is_told_where_and_why(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(TraceError) as raised:
        read(tmp_path, content)
    assert str(raised.value).startswith(str(tmp_path / "trace"))
    assert said in str(raised.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="can't be read: No such file"):
        list(read_trace(tmp_path / "none"))
