"""`fareclass usage`: what was used and what it cost."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from fareclass.cli.control_client import DEFAULT_URL, Json, Url, listed, parse_moment, parse_pairs
from fareclass.cli.output import show

_BY = {
    "project": ("project_name", "PROJECT"),
    "key": ("key_name", "KEY"),
    "model": ("model", "MODEL"),
    "workload": ("workload", "WORKLOAD"),
    "tag": ("tag", "TAG"),
    "outcome": ("outcome", "OUTCOME"),
}
_SUMS = {
    "tier": "TIER",
    "requests": "REQUESTS",
    "cost": "USD",
    "input": "INPUT",
    "output": "OUTPUT",
}
_CACHED = {
    "cache_read": "READ",
    "cache_write_5m": "WRITE-5M",
    "cache_write_1h": "WRITE-1H",
}


def register(program: typer.Typer) -> None:
    """Add the command to the program."""
    program.command()(usage)


def usage(
    by: Annotated[
        str,
        typer.Option(
            help="Comma-separated: project, key, model, workload, outcome, tag:NAME. "
            "requested_tier and served_tier are always there."
        ),
    ] = "project,model",
    project: Annotated[str | None, typer.Option(help="Only this project, by name or id.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    key: Annotated[str | None, typer.Option(help="Only this key, by name or id.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="NAME=VALUE", help="Only requests with this tag.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="First day or moment; UTC, unless it has a zone.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="First day or moment after it.")] = None,
    step: Annotated[int | None, typer.Option(help="Seconds of one time step; 86400 is a day.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Tokens and cost by tier, and by what you ask.

    A request counts at the time of its end. TIER is the served one, or requested>served where they differ.

    `-` stands for what was not known yet of a request that was refused.

    Example: fareclass usage --by project,outcome --from 2026-11-01 --step 86400
    """
    rows = listed(
        url,
        ["usage"],
        **{"from": since and parse_moment(since, "--from"), "to": until and parse_moment(until, "--to")},
        by=by,
        project=project,
        model=model,
        key=key,
        tag=":".join(*parse_pairs([tag], "--tag").items()) if tag else None,
        step=step,
    )
    asked = [word.strip().partition(":")[0] for word in by.split(",")]
    columns = {"start": "FROM"} if step else {}
    columns |= dict(_BY[word] for word in _BY if word in asked) | _SUMS
    columns |= {kind: heading for kind, heading in _CACHED.items() if any(row[kind] for row in rows)}
    show(rows if as_json else [_row(row, step) for row in rows], columns, as_json=as_json)


def _row(row: Mapping[str, Any], step: int | None) -> dict[str, Any]:
    requested, served = row["requested_tier"], row["served_tier"]
    shown = {
        **row,
        "tier": served if requested == served else f"{requested}>{served}",
        "outcome": next(iter(row["outcomes"])),
    }
    if step:
        length = 10 if not step % 86_400 else 16 if not step % 60 else 19
        shown["start"] = row["start"][:length].replace("T", " ")
    return shown
