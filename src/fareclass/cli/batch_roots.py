"""`fareclass batch-roots`: where a project's batches may read and write."""

from typing import Annotated, Any

import typer

from fareclass.cli.control_client import DEFAULT_URL, Json, Url, call, parse_pairs
from fareclass.cli.output import show

_COLUMNS = {"uri": "NAMES BELOW", "place": "ARE IN"}
_STORE = "store:"

Project = Annotated[str, typer.Argument(help="The project's name or id.")]


def register(program: typer.Typer) -> None:
    """Add the command group to the program."""
    group = typer.Typer(
        help="Where Bedrock's jobs of a project may read and write: folders and object stores.", no_args_is_help=True
    )
    group.command("set")(put)
    group.command("show")(shown)
    group.command("clear")(clear)
    program.add_typer(group, name="batch-roots")


def put(
    project: Project,
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="URI=PLACE…",
            help="What begins with URI is below PLACE: a folder of the gateway's machine, or store:NAME, an object "
            "store of its configuration.",
        ),
    ],
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    r"""Set all places of a project, in place of those before.

    Example: fareclass batch-roots set search-team \
      s3://nightly/=/srv/batches/search s3://archive/=store:minio
    """
    roots = [{"uri": uri, **_place(place)} for uri, place in parse_pairs(places, "URI=PLACE").items()]
    _show(call(url, "PUT", _path(project), {"roots": roots}), as_json=as_json)


def shown(project: Project, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Show a project's places.

    Example: fareclass batch-roots show search-team
    """
    _show(call(url, "GET", _path(project)), as_json=as_json)


def clear(project: Project, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Take all places from a project; jobs that still need one fail.

    Example: fareclass batch-roots clear search-team
    """
    _show(call(url, "PUT", _path(project), {"roots": []}), as_json=as_json)


def _path(project: str) -> list[str]:
    return ["projects", project, "batch_roots"]


def _place(text: str) -> dict[str, str]:
    return {"store": text.removeprefix(_STORE)} if text.startswith(_STORE) else {"folder": text}


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    rows: list[dict[str, Any]] = found["roots"]
    places = [row if as_json else {**row, "place": row["folder"] or f"{_STORE}{row['store']}"} for row in rows]
    show(places, _COLUMNS, as_json=as_json)
