"""`fareclass budget`: what projects and keys may spend on demand."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from fareclass.cli.control_client import DEFAULT_URL, Json, Url, call, pages
from fareclass.cli.output import show, show_one

_BUDGET = {
    "project_name": "PROJECT",
    "key_name": "KEY",
    "usd": "USD",
    "per": "PER",
    "spent": "SPENT",
    "left": "LEFT",
    "held": "HELD",
    "renews_at": "RENEWS",
}

Project = Annotated[str, typer.Argument(help="The project's name or id.")]
Key = Annotated[
    str | None, typer.Option("--key", help="Of this key of it, by name or id; unless set, of the whole project.")
]


def register(program: typer.Typer) -> None:
    """Add the command group to the program."""
    group = typer.Typer(help="What projects and keys may spend in a day or month.", no_args_is_help=True)
    group.command("set")(put)
    group.command("show")(listing)
    group.command("clear")(clear)
    program.add_typer(group, name="budget")


def put(
    project: Project,
    usd: Annotated[str, typer.Option(help="USD that may be spent.")],
    per: Annotated[str, typer.Option(help="`day` or `month`, of UTC.")] = "month",
    key: Key = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Give a project, or a key of it, a budget; what it has spent in this day or month counts.

    Example: fareclass budget set search-team --usd 12.50 --per day
    """
    made = call(url, "PUT", _path(project, key), {"usd": usd, "per": per})
    show_one(_shown(made, as_json=as_json), _BUDGET, as_json=as_json)


def listing(
    project: Annotated[str | None, typer.Option("--project", help="Only this project's, by name or id.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Show budgets in USD, what was spent, and what is left beside what is held for requests under way.

    Example: fareclass budget show
    """
    found = pages(url, ["budgets"], project=project)
    show([_shown(budget, as_json=as_json) for budget in found], _BUDGET, as_json=as_json)


def clear(project: Project, key: Key = None, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Lift a budget.

    Example: fareclass budget clear search-team
    """
    cleared = call(url, "DELETE", _path(project, key))
    show_one(_shown(cleared, as_json=as_json), _BUDGET, as_json=as_json)


def _path(project: str, key: str | None) -> list[str]:
    return ["budgets", project] if key is None else ["budgets", project, key]


def _shown(budget: Mapping[str, Any], *, as_json: bool) -> Mapping[str, Any]:
    """For people, a project's own budget is of all its keys."""
    return budget if as_json else {**budget, "key_name": budget["key_name"] or "all"}
