"""`fareclass reservation`, as typed, against a live control plane."""

import json

import pytest
import typer

from fareclass.cli import reservation
from tests.wire.test_admin_cli import cells, refusal, run, shown, url  # noqa: F401 - `url` is a fixture

MODEL = "smollm2"


@pytest.fixture
def program() -> typer.Typer:
    from fareclass.cli import admin

    made = typer.Typer()
    for module in (admin, reservation):
        module.register(made)
    return made


@pytest.fixture
def acme(program: typer.Typer, url: str) -> str:  # noqa: F811
    run(program, url, "project", "create", "acme")
    return url


def made(program: typer.Typer, acme: str, *words: str) -> str:
    return shown(run(program, acme, "reservation", "create", "acme", MODEL, *words))["id"]


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
    one = made(program, acme, "--input-tpm", "12000")
    table = run(program, acme, "reservation", "list", "--project", "acme", "--model", MODEL).splitlines()
    assert cells(table[0]) == ["PROJECT", "STATUS", "INPUT-TPM", "OUTPUT-TPM", "ID", "MODEL"]
    assert cells(table[1]) == ["acme", "active", "12000", "0", one, MODEL]
    assert max(map(len, table)) <= 80


def test_r19_the_largest_that_fits_is_said(program: typer.Typer, acme: str) -> None:
    said = refusal(program, acme, "reservation", "create", "acme", MODEL, "--output-tpm", "8000")
    assert "the largest that fits all the time, in the proportion asked for, is 0 input and 2924 output" in said


def test_r19_capacity_as_a_table(program: typer.Typer, acme: str) -> None:
    made(program, acme, "--output-tpm", "1000")
    made(program, acme, "--output-tpm", "500", "--from", "2029-01-01")
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
        (("--hours", "mon 22:00-06:00 UTC", "--input-tpm", "1"), "--hours weekly[0].to: 06:00 is not later than 22:00"),
        (("--hours", "mon 09:00-17:00", "--input-tpm", "1"), "must be days"),
        (("--hours", "mon 09:00-17:00 Europe/Wien", "--input-tpm", "1"), "--hours tz: must be a time zone"),
        (("--from", "soon"), "'--from': must be such as 2026-11-01"),
        (("--until", "2020-01-01", "--input-tpm", "1"), "--until: ends_at must be later"),
        ((), "--input-tpm: input_tpm and output_tpm must not both be 0"),
    ],
)
def test_what_is_wrong_is_said_in_options(program: typer.Typer, acme: str, words: tuple[str, ...], said: str) -> None:
    assert said in refusal(program, acme, "reservation", "create", "acme", MODEL, *words)
