"""`fareclass webhook`: where a project's events go, and what became of each."""

import time
from typing import Annotated, Any

import typer

from fareclass.cli.control_client import DEFAULT_URL, Json, Url, call, given, pages
from fareclass.cli.output import show, show_one

_WEBHOOK = {
    "project_name": "PROJECT",
    "url": "ADDRESS",
    "events": "EVENTS",
    "waiting": "WAITING",
    "changed_at": "SET",
    "stopped_at": "STOPPED",
}
_MADE = _WEBHOOK | {"secret": "SECRET"}
_DELIVERY = {
    "id": "ID",
    "type": "EVENT",
    "object": "OF",
    "state": "STATE",
    "attempts": "ATTEMPTS",
    "status": "STATUS",
    "error": "ERROR",
    "next_at": "NEXT",
    "created_at": "CREATED",
    "tried_at": "TRIED",
}
_TEST_S = 15.0
_POLL_S = 0.2

Project = Annotated[str, typer.Argument(help="The project's name or id.")]
Delivery = Annotated[str, typer.Argument(help="The event's id, as `fareclass webhook deliveries` shows it.")]


def register(program: typer.Typer) -> None:
    """Add the command group to the program."""
    group = typer.Typer(
        help="Where a project hears that its batches and background responses have ended.", no_args_is_help=True
    )
    group.command("set")(put)
    group.command("show")(shown)
    group.command("clear")(clear)
    group.command("deliveries")(deliveries)
    group.command("replay")(replay)
    group.command("test")(try_out)
    program.add_typer(group, name="webhook")


def put(
    project: Project,
    address: Annotated[str, typer.Argument(help="Where events are posted to: https://HOST[:PORT]/PATH.")],
    event: Annotated[
        list[str] | None, typer.Option(metavar="EVENT", help="Only this event; repeat. Unless set, all.")
    ] = None,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Sign with a new secret; the old one signs too for a day.")
    ] = False,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Send a project's events to an address, and show the secret that they are signed with if it is a new one.

    Example: fareclass webhook set search-team https://hooks.example.com/fareclass
    """
    body = {"url": address, **given(events=event), "rotate": rotate}
    made = call(url, "PUT", ["projects", project, "webhooks"], body)
    columns = _WEBHOOK if made.get("secret") is None else _MADE
    show_one(_all_events(made, as_json=as_json), columns, as_json=as_json)


def shown(project: Project, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Show where a project's events go, and how many wait.

    Example: fareclass webhook show search-team
    """
    found = call(url, "GET", ["projects", project, "webhooks"])
    show_one(_all_events(found, as_json=as_json), _WEBHOOK, as_json=as_json)


def clear(project: Project, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Send a project's events nowhere, those that wait neither.

    Example: fareclass webhook clear search-team
    """
    cleared = call(url, "DELETE", ["projects", project, "webhooks"])
    show_one(_all_events(cleared, as_json=as_json), _WEBHOOK, as_json=as_json)


def deliveries(project: Project, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Show a project's events of the last 30 days, newest first.

    Example: fareclass webhook deliveries search-team
    """
    show(pages(url, _deliveries(project)), _DELIVERY, as_json=as_json)


def replay(project: Project, delivery: Delivery, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Send an event again, under the same id.

    Example: fareclass webhook replay search-team evt_0qhd4m5tb2s1v8k7c9e3f6g0
    """
    call(url, "POST", [*_deliveries(project), delivery, "replay"])
    _follow(url, project, delivery, as_json=as_json)


def try_out(project: Project, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Send an event of no object, and tell whether it arrives; it is tried again as any other where it does not.

    Example: fareclass webhook test search-team
    """
    made = call(url, "POST", ["projects", project, "webhooks", "test"])
    _follow(url, project, made["id"], as_json=as_json)


def _follow(url: str, project: str, delivery: str, *, as_json: bool) -> None:
    """Show how an event stands after its next attempt; the program fails unless it arrived."""
    until = time.monotonic() + _TEST_S
    while True:
        found = call(url, "GET", [*_deliveries(project), delivery])
        if found["attempts"] or found["state"] != "waiting" or time.monotonic() > until:
            break
        time.sleep(_POLL_S)
    show_one(found, _DELIVERY, as_json=as_json)
    if found["state"] != "delivered":
        raise typer.Exit(1)


def _deliveries(project: str) -> list[str]:
    return ["projects", project, "webhooks", "deliveries"]


def _all_events(webhook: dict[str, Any], *, as_json: bool) -> dict[str, Any]:
    """For people, no list of events is all of them."""
    return webhook if as_json else {**webhook, "events": webhook["events"] or "all"}
