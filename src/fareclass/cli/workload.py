"""`fareclass workload`: named uses that keys take default tier, overflow and escalation from."""

from typing import Annotated, Any

import typer

from fareclass.cli.control_client import DEFAULT_URL, Json, Url, call, given, pages, parse_pairs
from fareclass.cli.output import show, show_one

_NONE = "none"
_WORKLOAD = {
    "name": "NAME",
    "shape": "SHAPE",
    "default_tier": "TIER",
    "overflow": "OVERFLOW",
    "escalation": "ESCALATION",
}
_NUMBERS = ("for_s", "after_throttles", "slower_than_ms", "window_s")

Name = Annotated[str, typer.Argument(help="The workload's name.")]
Escalate = Annotated[
    str | None,
    typer.Option(
        metavar="RULE",
        help="Such as to=priority,for_s=60,after_throttles=2,slower_than_ms=5000,window_s=300,usd_per_day=5. "
        "`none`: no rule.",
    ),
]


def register(program: typer.Typer) -> None:
    """Add the command group to the program."""
    group = typer.Typer(help="Named uses that keys take their terms from.", no_args_is_help=True)
    group.command("set")(put)
    group.command("list")(listing)
    group.command("show")(get)
    group.command()(delete)
    program.add_typer(group, name="workload")


def put(
    name: Name,
    shape: Annotated[
        str,
        typer.Option(help="What it is like: steady, seasonal, spiky-critical, spiky-tolerant, experiment or offline."),
    ],
    tier: Annotated[str, typer.Option(metavar="TIER", help="The tier of requests that name none.")],
    overflow: Annotated[
        str | None,
        typer.Option(
            metavar="TIER",
            help="Where its reserved requests go beyond the floor: default, priority, flex or reject. "
            "Unless set: as the reservation says.",
        ),
    ] = None,
    escalate: Escalate = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Make a workload, or replace it for all keys that use it.

    Example: fareclass workload set chat --shape steady --tier default
    """
    body = given(shape=shape, default_tier=tier, overflow=overflow, escalation=rule(escalate) if escalate else None)
    show_one(call(url, "PUT", ["workloads", name], body), _WORKLOAD, as_json=as_json)


def listing(url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """List workloads.

    Example: fareclass workload list
    """
    show(pages(url, ["workloads"]), _WORKLOAD, as_json=as_json)


def get(name: Name, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Show a workload.

    Example: fareclass workload show chat
    """
    show_one(call(url, "GET", ["workloads", name]), _WORKLOAD, as_json=as_json)


def delete(name: Name, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Delete a workload that no key uses.

    Example: fareclass workload delete chat
    """
    show_one(call(url, "DELETE", ["workloads", name]), _WORKLOAD, as_json=as_json)


def rule(text: str) -> dict[str, Any] | None:
    """An escalation rule as the control plane takes it, of NAME=VALUE pairs with commas between."""
    if text == _NONE:
        return None
    fields: dict[str, Any] = parse_pairs([pair.strip() for pair in text.split(",")], "--escalate")
    for name in _NUMBERS:
        if name in fields and fields[name].isascii() and fields[name].isdigit():
            fields[name] = int(fields[name])
    return fields
