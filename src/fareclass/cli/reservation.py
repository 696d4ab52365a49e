"""`fareclass reservation`: floors of tokens a minute that are kept for a project."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

import typer

from fareclass.cli.control_client import DEFAULT_URL, Json, Url, call, given, listed, pages, parse_moment
from fareclass.cli.output import show, show_one

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_NONE = "none"
_LISTED = {
    "project_name": "PROJECT",
    "model": "MODEL",
    "status": "STATUS",
    "input_tpm": "INPUT-TPM",
    "output_tpm": "OUTPUT-TPM",
    "overflow": "OVERFLOW",
    "hourly_usd": "USD/H",
    "starts_at": "FROM",
    "ends_at": "UNTIL",
    "id": "ID",
    "hours": "HOURS",
}
_ONE = _LISTED | {"accrued_usd": "ACCRUED-USD", "created": "CREATED", "cancelled_at": "CANCELLED"}
_NOW = {"floor_now": "FLOOR-NOW"}
_CAPACITY = {"what": "WHAT", "input_tpm": "INPUT-TPM", "output_tpm": "OUTPUT-TPM", "at": "AT"}

Ref = Annotated[str, typer.Argument(help="The reservation's id.")]
Model = Annotated[str, typer.Argument(help="The model's public name.")]
InputTpm = Annotated[int | None, typer.Option(help="Input tokens a minute.")]
OutputTpm = Annotated[int | None, typer.Option(help="Output tokens a minute.")]
Overflow = Annotated[
    str | None,
    typer.Option(metavar="TIER", help="What requests beyond the floor are: default, priority, flex or reject."),
]
Hours = Annotated[
    str | None,
    typer.Option(help='Weekly hours, such as "mon-fri 09:00-17:00, sat 10:00-14:00 Europe/Vienna".'),
]
From = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="First day or moment; UTC, unless it has a zone.")
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="First day or moment after it.")]


def register(program: typer.Typer) -> None:
    """Add the command group to the program."""
    group = typer.Typer(help="Floors of tokens a minute that are kept for a project.", no_args_is_help=True)
    group.command()(create)
    group.command("list")(listing)
    group.command("show")(get)
    group.command()(update)
    group.command()(cancel)
    group.command()(capacity)
    program.add_typer(group, name="reservation")


def create(
    project: Annotated[str, typer.Argument(help="The project's name or id.")],
    model: Model,
    input_tpm: Annotated[int, typer.Option(help="Input tokens a minute.")],
    output_tpm: Annotated[int, typer.Option(help="Output tokens a minute; 0 is for embeddings.")],
    overflow: Overflow = None,
    since: From = None,
    until: Until = None,
    hours: Hours = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    r"""Reserve tokens a minute; from now on, without an end and around the clock unless you say otherwise.

    A request needs room on both sides. Refused if the pool could not keep it all the time; then the most that it could
    is said.

    Example: fareclass reservation create search-team demo-70b \
      --input-tpm 20000 --output-tpm 500
    """
    terms = _terms(input_tpm, output_tpm, overflow, since, until, hours)
    made = call(url, "POST", ["reservations"], {"project": project, "model": model, **terms})
    show_one(made if as_json else _shown(made), _ONE, as_json=as_json)


def get(reservation: Ref, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Show all of a reservation: what its fee has come to, and what of its floor stands at this moment.

    Example: fareclass reservation show rsv_0123
    """
    found = call(url, "GET", ["reservations", reservation])
    if as_json:
        show_one(found, {}, as_json=True)
    else:
        pools = {pool["model"]: pool for pool in listed(url, ["pools"])}
        show_one(
            _shown(found) | {"floor_now": _floor_now(found, pools.get(found["model"]))}, _ONE | _NOW, as_json=False
        )


def listing(
    project: Annotated[str | None, typer.Option(help="Only this project's, by name or id.")] = None,
    model: Annotated[str | None, typer.Option(help="Only those on this model.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """List reservations, past and cancelled ones too.

    Example: fareclass reservation list --project search-team
    """
    found = pages(url, ["reservations"], project=project, model=model)
    show(found if as_json else [_shown(one) for one in found], _LISTED, as_json=as_json)


def update(
    reservation: Ref,
    input_tpm: InputTpm = None,
    output_tpm: OutputTpm = None,
    overflow: Overflow = None,
    since: From = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="First day or moment after it. `none`: no end.")
    ] = None,
    hours: Annotated[
        str | None, typer.Option(help='Such as "mon-fri 09:00-17:00 Europe/Vienna". `none`: around the clock.')
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Change a reservation that is not over; what is not given stays.

    Its fee stays too, unless its tokens change: then it is by the prices of now.

    Example: fareclass reservation update rsv_0123 --output-tpm 4000
    """
    terms = _terms(input_tpm, output_tpm, overflow, since, until, hours)
    changed = call(url, "PATCH", ["reservations", reservation], terms)
    show_one(changed if as_json else _shown(changed), _ONE, as_json=as_json)


def cancel(reservation: Ref, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """End a reservation now, or before it began.

    Example: fareclass reservation cancel rsv_0123
    """
    over = call(url, "DELETE", ["reservations", reservation])
    show_one(over if as_json else _shown(over), _ONE, as_json=as_json)


def capacity(model: Model, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """What a pool can do, what of it is sold, and what is free: now, and when the calendar is fullest.

    FREE is either that much input or that much output, not both at once.

    Example: fareclass reservation capacity demo-70b
    """
    found = listed(url, ["capacity"], model=model)
    if as_json:
        show(found, {}, as_json=True)
    elif found[0]["now"] is None:
        typer.echo(
            f"Not known: set models.{model}.capacity in the configuration. "
            f"`fareclass bench capacity {model} --config FILE` measures it."
        )
    else:
        show(_capacity_rows(found[0]), _CAPACITY, as_json=False)


def _capacity_rows(pool: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [{"what": "whole pool", "input_tpm": pool["input_tpm"], "output_tpm": pool["output_tpm"]}]
    for name, moment in (("now", pool["now"]), ("at peak", pool["peak"])):
        rows += [
            {
                "what": f"{what} {name}",
                "input_tpm": moment[f"{what}_input_tpm"],
                "output_tpm": moment[f"{what}_output_tpm"],
                "at": moment["at"],
            }
            for what in ("sold", "free")
        ]
    return rows


def _terms(
    input_tpm: int | None,
    output_tpm: int | None,
    overflow: str | None,
    since: str | None,
    until: str | None,
    hours: str | None,
) -> dict[str, Any]:
    """Fields of a reservation as its options say; those of options that were not given are absent."""
    fields = given(input_tpm=input_tpm, output_tpm=output_tpm, overflow=overflow)
    if since is not None:
        fields["starts_at"] = parse_moment(since, "--from")
    if until is not None:
        fields["ends_at"] = None if until == _NONE else parse_moment(until, "--until")
    if hours is not None:
        fields["hours"] = None if hours == _NONE else _hours(hours)
    return fields


def _hours(text: str) -> dict[str, Any]:
    """Windows, each of days and a time span, and a time zone behind them."""
    *words, zone = re.split(r"[,\s]+", text.strip())
    weekly: list[dict[str, Any]] = []
    days: list[str] = []
    for word in words:
        begin, dash, end = word.lower().partition("-")
        if ":" in word and dash and days:
            weekly.append({"days": days, "from": begin, "to": end})
            days = []
        elif begin in _DAYS and (not dash or end in _DAYS[_DAYS.index(begin) :]):
            days += _DAYS[_DAYS.index(begin) : _DAYS.index(end or begin) + 1]
        else:
            weekly = []
            break
    if not weekly or days:
        raise typer.BadParameter(
            'must be days, times and a time zone, such as "mon-fri 09:00-17:00, sat 10:00-14:00 Europe/Vienna"',
            param_hint="'--hours'",
        )
    return {"tz": zone, "weekly": weekly}


def _floor_now(reservation: Mapping[str, Any], pool: Mapping[str, Any] | None) -> str:
    """Both sides, less than reserved where too few replicas are up (R23)."""
    if not reservation["in_force"] or pool is None:
        return "none"
    share = Decimal(str(pool["kept_share"]))
    sides = (f"{int(reservation[f'{side}_tpm'] * share)} {side}" for side in ("input", "output"))
    return " and ".join(sides) + " tokens a minute"


def _shown(reservation: Mapping[str, Any]) -> dict[str, Any]:
    """With its hours as `--hours` takes them."""
    hours = reservation["hours"]
    if hours is None:
        return {**reservation, "hours": "always"}
    spans = [f"{_day_words(window['days'])} {window['from']}-{window['to']}" for window in hours["weekly"]]
    return {**reservation, "hours": f"{', '.join(spans)} {hours['tz']}"}


def _day_words(days: list[str]) -> str:
    places = [_DAYS.index(day) for day in days]
    if len(days) > 2 and places == list(range(places[0], places[-1] + 1)):
        return f"{days[0]}-{days[-1]}"
    return " ".join(days)
