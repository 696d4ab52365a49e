"""How commands show what there is: tables that fit the terminal, one object a field a line."""

import json

import typer

from tests.wire.test_admin_cli import WIDE, answering, cells, run


def test_a_table_fits_the_terminal_and_leaves_nothing_out(program: typer.Typer, url: str) -> None:
    """A row that finds no room goes on below, each cell under its heading; only one that is too wide alone is broken."""
    run(program, url, "project", "create", "a-team-with-a-rather-long-name")
    rule = "to=priority,for_s=60,after_throttles=2,slower_than_ms=5000,window_s=300,usd_per_day=5.5"
    for name, more in (("nightly", ("--tag", "product=indexing")), ("a-key-of-a-long-name", ("--escalate", rule))):
        run(program, url, "key", "create", "a-team-with-a-rather-long-name", name, *more)
    keys = json.loads(run(program, url, "key", "list", "--json"))
    narrow = run(program, url, "key", "list").splitlines()
    assert all(len(line) <= 80 for line in narrow)
    headings, first, second = narrow[:3], narrow[3:6], narrow[6:]
    assert [cells(line) for line in headings] == [
        ["NAME", "PROJECT", "TIER", "ALLOWED", "WORKLOAD"],
        ["ID", "CREATED", "REVOKED", "TAGS"],
        ["ESCALATION"],
    ]
    assert [cells(first[1])[3], cells(first[2])] == ["product=indexing", ["-"]]
    assert all(first[1][headings[1].index(name) - 1] == " " for name in ("CREATED", "REVOKED", "TAGS"))
    assert [first[1].split()[0], second[1].split()[0]] == [key["id"] for key in keys]
    assert rule.split(",") == " ".join(second[2:]).replace(",", "").split()
    whole = run(program, url, "key", "list", env={"COLUMNS": None}).splitlines()
    assert [len(cells(line)) for line in whole] == [10] * 3, "a line each in a file"


def test_one_object_is_aligned(program: typer.Typer, url: str) -> None:
    run(program, url, "price", "set", "smollm2", "--input", "0.6", "--output", "2.4")
    lines = run(program, url, "price", "show", "smollm2", env=WIDE).splitlines()
    assert cells(lines[0])[-2:] == ["RESERVED-IN", "RESERVED-OUT"]
    one = run(program, url, "price", "set", "smollm2", "--input", "1", "--output", "2").splitlines()
    assert len({len(line) - len(line.split(None, 1)[1]) for line in one}) == 1


def test_usage_shows_a_refused_request(program: typer.Typer) -> None:
    """R36, R5: what it did not say is `-`, one outcome is one word, tiers that differ are both there."""
    row = {"requested_tier": "default", "served_tier": "flex", "requests": 3, "outcomes": {"invalid": 3}, "model": ""}
    row |= {"input": 0, "cache_write_5m": 0, "cache_write_1h": 0, "cache_read": 0, "output": 0, "cost": "0"}
    row |= {"start": "2026-11-01T00:00:00Z"}
    with answering(json.dumps({"data": [row], "next": None}).encode()) as url:
        lines = run(program, url, "usage", "--by", "model,outcome", "--step", "86400").splitlines()
    assert cells(lines[0]) == ["FROM", "MODEL", "OUTCOME", "TIER", "REQUESTS", "USD", "INPUT", "OUTPUT"]
    assert cells(lines[1]) == ["2026-11-01", "-", "invalid", "default>flex", "3", "0", "0", "0"]
