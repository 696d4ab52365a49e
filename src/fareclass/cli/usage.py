"""`fareclass usage`: what was used and what it cost."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from fareclass.cli.control_client import DEFAULT_URL, Json, Url, call, show

_FIXED = {
    "requested_tier": "ASKED",
    "served_tier": "SERVED",
    "requests": "REQUESTS",
    "input": "INPUT",
    "cache_read": "READ",
    "output": "OUTPUT",
    "cost": "USD",
}
_ASKED = {
    "start": "FROM",
    "project_name": "PROJECT",
    "key_name": "KEY",
    "model": "MODEL",
    "tag": "TAG",
    "outcomes": "OUTCOMES",
}


def register(program: typer.Typer) -> None:
    """Add the command to the program."""
    program.command()(usage)


def usage(
    by: Annotated[str, typer.Option(help="Comma-separated: project, key, model, outcome, tag:NAME.")] = "project,model",
    project: Annotated[str | None, typer.Option(help="Only this project, by name or id.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    key: Annotated[str | None, typer.Option(help="Only this key, by name or id.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only requests with this NAME:VALUE.")] = None,
    since: Annotated[datetime | None, typer.Option("--from", help="First moment, UTC.")] = None,
    until: Annotated[datetime | None, typer.Option("--to", help="First moment after it.")] = None,
    step: Annotated[int | None, typer.Option(help="Seconds of one time step.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Tokens and cost by tier, and by what you ask.

    Example: fareclass usage --by project --from 2026-11-01 --step 86400
    """
    params = {
        "by": by,
        "project": project,
        "model": model,
        "key": key,
        "tag": tag,
        "from": _moment(since),
        "to": _moment(until),
        "step": step,
    }
    rows = call(url, "GET", ["usage"], params=params)["data"]
    asked = {field: heading for field, heading in _ASKED.items() if any(row.get(field) for row in rows)}
    if "outcome" not in by:
        asked.pop("outcomes", None)
    show(rows, asked | _FIXED, as_json=as_json)


def _moment(given: datetime | None) -> str | None:
    return None if given is None else given.replace(tzinfo=UTC).isoformat()
