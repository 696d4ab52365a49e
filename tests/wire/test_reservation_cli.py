"""`fareclass reservation`, as typed, against a live control plane."""

import json

import pytest
import typer

from tests.wire.test_admin_cli import cells, refusal, run, shown

MODEL = "smollm2"


@pytest.fixture
def acme(program: typer.Typer, url: str) -> str:
    run(program, url, "project", "create", "acme")
    return url


def made(program: typer.Typer, acme: str, *words: str, input_tpm: int = 0, output_tpm: int = 0) -> str:
    sides = ("--input-tpm", str(input_tpm), "--output-tpm", str(output_tpm))
    return shown(run(program, acme, "reservation", "create", "acme", MODEL, *sides, *words))["id"]


def test_r18_a_reservation_from_the_making_to_the_end(program: typer.Typer, acme: str) -> None:
    hours = "mon-fri 09:00-17:00, sat sun 10:00-14:00 Europe/Vienna"
    one = shown(
        run(
            program, acme, "reservation", "create", "acme", MODEL, "--input-tpm", "1000", "--output-tpm", "50",
            "--until", "2029-12-24T18:00:00+01:00", "--hours", hours, "--overflow", "reject",
        )
    )  # fmt: skip
    assert (one["status"], one["input-tpm"], one["output-tpm"], one["overflow"]) == ("active", "1000", "50", "reject")
    assert (one["until"], one["hours"], one["usd/h"]) == ("2029-12-24 17:00", hours, "0")
    words = ("--output-tpm", "60", "--until", "none", "--hours", "none", "--overflow", "flex")
    changed = shown(run(program, acme, "reservation", "update", one["id"], *words))
    assert (changed["output-tpm"], changed["until"], changed["hours"], changed["overflow"]) == (
        "60",
        "-",
        "always",
        "flex",
    )
    assert shown(run(program, acme, "reservation", "cancel", one["id"]))["status"] == "cancelled"
    assert json.loads(run(program, acme, "reservation", "list", "--json"))[0]["status"] == "cancelled"


def test_the_table_fits_80_columns(program: typer.Typer, acme: str) -> None:
    hours = "mon-fri 09:00-17:00, sat sun 10:00-14:00 Europe/Vienna"
    until = ("--until", "2029-12-24T18:00:00+01:00")
    one = made(program, acme, *until, "--hours", hours, input_tpm=12_000, output_tpm=50)
    table = run(program, acme, "reservation", "list", "--project", "acme", "--model", MODEL).splitlines()
    assert [cells(line) for line in table[:3]] == [
        ["PROJECT", "MODEL", "STATUS", "INPUT-TPM", "OUTPUT-TPM", "OVERFLOW", "USD/H"],
        ["FROM", "UNTIL", "ID"],
        ["HOURS"],
    ]
    assert cells(table[3]) == ["acme", MODEL, "active", "12000", "50", "default", "0"]
    assert [cells(table[4])[1:], cells(table[5])] == [["2029-12-24 17:00", one], [hours]]
    assert max(map(len, table)) <= 80


def test_r18_one_is_shown_whole(program: typer.Typer, acme: str) -> None:
    """R23: with its fee until now, and what of its floor stands now: half of it, as many replicas as are up."""
    one = made(program, acme, input_tpm=1_000, output_tpm=51)
    all_of_it = shown(run(program, acme, "reservation", "show", one))
    assert {"id", "hours", "usd/h", "status", "overflow", "from", "until", "created", "cancelled"} <= all_of_it.keys()
    assert all_of_it["accrued-usd"] == "0"
    assert all_of_it["floor-now"] == "500 input and 25 output tokens a minute"
    assert json.loads(run(program, acme, "reservation", "show", one, "--json"))["accrued_usd"] == "0"
    later = made(program, acme, "--from", "2029-01-01", output_tpm=50)
    assert shown(run(program, acme, "reservation", "show", later))["floor-now"] == "none"
    assert refusal(program, acme, "reservation", "show", "rsv_none") == "no reservation 'rsv_none'"


def test_r20_both_sides_must_be_said(program: typer.Typer, acme: str) -> None:
    """A request needs room on both, so that one side alone is worth nothing to most."""
    said = refusal(program, acme, "reservation", "create", "acme", MODEL, "--input-tpm", "1000")
    assert "Missing option '--output-tpm'" in said


def test_r19_the_largest_that_fits_is_said(program: typer.Typer, acme: str) -> None:
    said = refusal(program, acme, "reservation", "create", "acme", MODEL, "--input-tpm", "0", "--output-tpm", "8000")
    assert "the largest that fits all the time, in the proportion asked for, is 0 input and 2924 output" in said


def test_r19_capacity_as_a_table(program: typer.Typer, acme: str) -> None:
    made(program, acme, output_tpm=1_000)
    made(program, acme, "--from", "2029-01-01", output_tpm=500)
    table = [cells(line) for line in run(program, acme, "reservation", "capacity", MODEL).splitlines()]
    assert table[0] == ["WHAT", "INPUT-TPM", "OUTPUT-TPM", "AT"]
    assert [row[:3] for row in table[1:]] == [
        ["whole pool", "80000", "8000"],
        ["sold now", "0", "1000"],
        ["free now", "19246", "1924"],
        ["sold at peak", "0", "1500"],
        ["free at peak", "14246", "1424"],
    ]
    assert table[-1][-1] == "2029-01-01 00:00"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--hours", "09:00-17:00 UTC"), "'--hours': must be days, times and a time zone"),
        (("--hours", "mon-fri UTC"), "'--hours': must be days, times and a time zone"),
        (("--hours", "fri-mon 09:00-17:00 UTC"), "'--hours': must be days, times and a time zone"),
        (("--hours", ""), "'--hours': must be days, times and a time zone"),
        (("--hours", "mon 22:00-06:00 UTC"), "--hours: 06:00 is not later than 22:00"),
        (("--hours", "mon 9:00-17:00 UTC"), "--hours: '9:00' is no time of day"),
        (("--hours", "mon 09:00-17:00"), "must be days"),
        (("--hours", "mon 09:00-17:00 Europe/Wien"), "--hours: 'Europe/Wien' is no time zone of the IANA list"),
        (("--from", "soon"), "'--from': must be such as 2026-11-01"),
        (("--from", "2020-01-01"), "--from: is over, it is"),
        (("--until", "2020-01-01"), "--until: must be later than --from and than now"),
        (("--overflow", "gold"), "--overflow: must be one of default, priority, flex, reject"),
        (("--input-tpm", "0"), "--input-tpm: must not be 0 where --output-tpm is 0 too"),
    ],
)
def test_what_is_wrong_is_said_in_options(program: typer.Typer, acme: str, words: tuple[str, ...], said: str) -> None:
    plain = ("--input-tpm", "1", "--output-tpm", "0")
    assert said in refusal(program, acme, "reservation", "create", "acme", MODEL, *plain, *words)
