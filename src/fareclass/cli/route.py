"""`fareclass route`: public names that stand for several models, one picked for each request."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from fareclass.cli.control_client import DEFAULT_URL, Json, Url, call, given, pages, parse_pairs
from fareclass.cli.output import show, show_one

_ROUTE = {
    "name": "NAME",
    "models": "MODELS",
    "order_by": "ORDER",
    "limits": "LIMITS",
    "by_tier": "TIERS",
    "by_workload": "WORKLOADS",
    "unknown": "UNKNOWN",
}
_WHOLE = ("ttft_p95_ms_max",)
_DECIMAL = ("usd_per_1m_max",)

Name = Annotated[str, typer.Argument(help="The route's name, as callers write it for a model's.")]
Rules = list[str] | None


def register(program: typer.Typer) -> None:
    """Add the command group to the program."""
    group = typer.Typer(help="Public names that stand for several models.", no_args_is_help=True)
    group.command("set")(put)
    group.command("list")(listing)
    group.command("show")(get)
    group.command()(delete)
    program.add_typer(group, name="route")


def put(
    name: Name,
    model: Annotated[
        list[str], typer.Option(metavar="MODEL[=QUALITY]", help="A model, and how good it is, 0 to 1. Repeatable.")
    ],
    order: Annotated[str, typer.Option(help="Which model goes first, within the limits: by quality, latency or cost.")],
    limit: Annotated[
        Rules,
        typer.Option(
            metavar="NAME=VALUE",
            help="quality_min (0 to 1), usd_per_1m_max, ttft_p95_ms_max or tokens_per_s_min. Repeatable.",
        ),
    ] = None,
    tier: Annotated[
        Rules,
        typer.Option(
            metavar="TIER:RULE",
            help="Another rule for requests of a tier, such as flex:order=cost,quality_min=0.5. Repeatable.",
        ),
    ] = None,
    workload: Annotated[
        Rules,
        typer.Option(
            metavar="NAME:RULE",
            help="Another rule for keys of a workload, such as chat:order=latency. It goes before a tier's. Repeatable.",
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Make a route, or replace it for the next requests.

    Example: fareclass route set smart --model demo-70b=0.8 --order quality
    """
    body = given(
        models=[_model(text) for text in model],
        order_by=order,
        limits=_limits(parse_pairs(limit, "--limit")) if limit else None,
        by_tier=_rules(tier, "--tier"),
        by_workload=_rules(workload, "--workload"),
    )
    show_one(_flat(call(url, "PUT", ["routes", name], body), as_json=as_json), _ROUTE, as_json=as_json)


def listing(url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """List routes.

    Example: fareclass route list
    """
    show([_flat(row, as_json=as_json) for row in pages(url, ["routes"])], _ROUTE, as_json=as_json)


def get(name: Name, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Show a route.

    Example: fareclass route show smart
    """
    show_one(_flat(call(url, "GET", ["routes", name]), as_json=as_json), _ROUTE, as_json=as_json)


def delete(name: Name, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Delete a route: its name is then that of no model.

    Example: fareclass route delete smart
    """
    show_one(_flat(call(url, "DELETE", ["routes", name]), as_json=as_json), _ROUTE, as_json=as_json)


def _model(text: str) -> dict[str, Any]:
    """`NAME=QUALITY`; a name may have a `=` of its own."""
    name, equals, quality = text.rpartition("=")
    try:
        return {"model": name, "quality": float(quality)} if equals else {"model": text}
    except ValueError:
        return {"model": text}


def _rules(texts: Sequence[str] | None, option: str) -> dict[str, Any] | None:
    """`NAME:order=ORDER,LIMIT=VALUE,…` of each."""
    if texts is None:
        return None
    rules: dict[str, Any] = {}
    for text in texts:
        name, _, rule = text.partition(":")
        pairs = parse_pairs([pair.strip() for pair in rule.split(",") if "=" in pair], option)
        if "order" not in pairs or len(pairs) <= rule.count(","):
            raise typer.BadParameter("must be such as NAME:order=cost,quality_min=0.5", param_hint=f"'{option}'")
        rules[name] = {"order_by": pairs.pop("order"), "limits": _limits(pairs)}
    return rules


def _limits(pairs: dict[str, str]) -> dict[str, Any]:
    """As the control plane takes them: what is no number it will say itself."""
    limits: dict[str, Any] = {}
    for name, value in pairs.items():
        try:
            limits[name] = value if name in _DECIMAL else int(value) if name in _WHOLE else float(value)
        except ValueError:
            limits[name] = value
    return limits


def _flat(row: dict[str, Any], *, as_json: bool) -> dict[str, Any]:
    """As a table shows it: models and rules as they are typed."""
    if as_json:
        return row
    models = [f"{each['model']}={each['quality']}" if "quality" in each else each["model"] for each in row["models"]]
    rules = {
        field: [
            f"{name}:"
            + ",".join(f"{each}={value}" for each, value in ({"order": rule["order_by"]} | rule["limits"]).items())
            for name, rule in row[field].items()
        ]
        for field in ("by_tier", "by_workload")
    }
    return row | {"models": models} | rules
