"""`fareclass plan`: what to reserve, and which tier for which workload."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from fareclass.cli.control_client import DEFAULT_URL, Json, Url, call, given, parse_moment, parse_pairs
from fareclass.cli.output import show
from fareclass.core.limits import PLAN_S

_WAYS = {
    "name": "WAY",
    "month_usd": "USD/MONTH",
    "year_usd": "USD/YEAR",
    "saves": "SAVES",
    "input_tpm": "INPUT-TPM",
    "output_tpm": "OUTPUT-TPM",
    "spills": "SPILLS",
    "used": "USED",
    "ttft": "TTFT-S 50/99",
    "refused": "REFUSED",
}
_WORKLOADS = {"workload": "WORKLOAD", "share": "SHARE", "shape": "SHAPE", "tier": "TIER", "reason": "WHY"}
_WEEKS = {"start": "WEEK", "level": "LEVEL", "low": "LOW", "high": "HIGH"}
_BAR = 30
_WIDTH = 100


def register(program: typer.Typer) -> None:
    """Add the command to the program."""
    program.command()(plan)


def plan(
    project: Annotated[str | None, typer.Option(help="Only this project, by name or id.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Only this model. With --trace: the model whose prices count.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TIME",
            help="First day or moment; UTC, unless it has a zone. Else the first request of the last 30 days.",
        ),
    ] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="First day or moment after it.")] = None,
    season: Annotated[
        bool, typer.Option("--season", help="Show the coming year week by week, where a year is known.")
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(help="Plan for a trace file, here and without a gateway: CSV or JSON lines, as `replay` reads."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="With --trace: the configuration file with the prices, and the pool to replay on."),
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=USD",
            help="With --trace: input and output (per 1M tokens), reserved_input and reserved_output (an hour for 1,000 "
            "tokens a minute); cache_read, cache_write_5m and cache_write_1h where they differ.",
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Advise what to reserve at the least expected cost, and which tier fits which workload.

    What was asked counts, served or not; batches aside. Costs are expected ones: the past at a level that may move as far
    as it has moved before, along its trend.

    SPILLS is the share of tokens that overflow, USED how much of the floor is used. Waits are those of the busiest time,
    replayed through the scheduler, where the pool's speed is known.

    Example: fareclass plan --project search-team --model demo-70b
    """
    if trace is not None:
        from fareclass.cli.plan_local import plan_trace  # noqa: PLC0415 - numpy is slow to load, and only needed here

        rows = plan_trace(trace, project, model, config, parse_pairs(price or (), "--price"))
    else:
        if config is not None or price:
            raise typer.BadParameter(
                "is for --trace; the gateway has prices of its own", param_hint="'--config'/'--price'"
            )
        times = {"from": since and parse_moment(since, "--from"), "to": until and parse_moment(until, "--to")}
        body = given(project=project, model=model, **times)
        with Console(stderr=True).status("Planning…"):
            rows = call(url, "POST", ["plan"], body, timeout_s=PLAN_S + 30)["data"]
    if as_json:
        show(rows, {}, as_json=True)
        return
    if not rows:
        typer.echo("Nobody asked for anything in this time.")
    for row in rows:
        _show(row, season=season)


def _show(row: Mapping[str, Any], *, season: bool) -> None:
    console = Console(highlight=False, width=_WIDTH)
    console.print(Text(f"{row['project_name']} on {row['model']}", style="bold"))
    if row["failed"]:
        console.print(Text(row["advice"]))
        console.print()
        return
    console.print(Text(_span(row)))
    console.print()
    show([_way(one) for one in row["alternatives"]], _columns(row["alternatives"]), as_json=False)
    console.print()
    console.print(Text(row["advice"]))
    for one in row["alternatives"]:
        if one["name"] == "best" and one["reserve"] and one["reserve"]["hours"]:
            console.print(Text(f"Its hours: {_hours(one['reserve']['hours'])}."))
    if row["curve"]:
        console.print()
        _curve(console, row["curve"])
    if row["workloads"]:
        console.print()
        show([_workload(one) for one in row["workloads"]], _WORKLOADS, as_json=False)
    if row["season"]:
        console.print()
        console.print(Text(_season(row["season"])))
        if season:
            show([one | {"start": one["start"][:10]} for one in row["season"]["weeks"]], _WEEKS, as_json=False)
    elif season:
        console.print()
        typer.echo("There is no whole year of this traffic yet, so no season can be forecast.")
    console.print()


def _span(row: Mapping[str, Any]) -> str:
    sides = [
        f"{row[f'break_even_{side}']:.0%} use of its {side}"
        for side in ("input", "output")
        if row[f"break_even_{side}"] is not None
    ]
    paid = f" A reservation pays above {' and '.join(sides)}." if sides else ""
    when = f"{row['start'][:16].replace('T', ' ')} to {row['end'][:16].replace('T', ' ')}"
    return f"{when}, {row['minutes']:,} minutes.{paid}"


def _columns(ways: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    waited = any(one["waits"] for one in ways)
    return {name: heading for name, heading in _WAYS.items() if waited or name not in ("ttft", "refused")}


def _way(one: Mapping[str, Any]) -> dict[str, Any]:
    reserve, waits = one["reserve"], one["waits"] or {}
    times = [waits[name] for name in ("ttft_p50_ms", "ttft_p99_ms") if waits.get(name) is not None]
    return {
        "name": one["name"],
        "input_tpm": reserve and reserve["input_tpm"],
        "output_tpm": reserve and reserve["output_tpm"],
        "month_usd": _money(one["month_usd"]),
        "year_usd": _money(one["year_usd"]),
        "saves": f"{one['saving_share']:.0%}",
        "spills": f"{one['spill_share']:.0%}" if reserve else "",
        "used": f"{one['used_share']:.0%}" if reserve else "",
        "ttft": "/".join(f"{time / 1000:.2f}" for time in times),
        "refused": f"{waits['refused_share']:.1%}" if waits else "",
    }


def _money(text: str) -> str:
    """To the cent, for people."""
    return f"{float(text):.2f}"


def _curve(console: Console, curve: Sequence[Mapping[str, Any]]) -> None:
    """The month's cost at each level as a bar; the least, or the first of them, is marked."""
    costs = [float(one["month_usd"]) for one in curve]
    most, least = max(costs, default=0.0) or 1.0, min(costs, default=0.0)
    console.print("If it were reserved at a percentile of its minutes (USD a month, what spills, TTFT p99):")
    for place, (one, cost) in enumerate(zip(curve, costs, strict=True)):
        waits = one["waits"] or {}
        bar = "█" * max(1, round(cost / most * _BAR))
        ttft = f"  {waits['ttft_p99_ms'] / 1000:.2f} s" if waits.get("ttft_p99_ms") is not None else ""
        spills = f"{one['spill_share']:.0%}" if one["reserve"] else "all"
        mark = "  least" if place == costs.index(least) else ""
        line = f"  {one['name'].upper():>4} {bar:<{_BAR}} {cost:>12,.2f}  {spills:>4}{ttft}{mark}"
        console.print(Text(line, style="green" if mark else ""))


def _hours(hours: Mapping[str, Any]) -> str:
    spans = [f"{' '.join(one['days'])} {one['from']}-{one['to']}" for one in hours["weekly"]]
    return f"{', '.join(spans)} {hours['tz']}"


def _workload(one: Mapping[str, Any]) -> dict[str, Any]:
    proposal = one["proposal"]
    return {
        "workload": one["workload"] or "(none)",
        "share": f"{one['share']:.0%}",
        **{name: proposal[name] for name in ("shape", "tier", "reason")},
    }


def _season(season: Mapping[str, Any]) -> str:
    if not season["reserves"]:
        return str(season["reason"])
    parts = []
    for one in season["reserves"]:
        when = "" if one["starts_at"] is None else f" from {one['starts_at'][:10]} to {one['ends_at'][:10]}"
        parts.append(f"{one['input_tpm']:,} input and {one['output_tpm']:,} output tokens a minute{when}")
    return (
        f"{season['reason']} Reserve {', then '.join(parts)}: the year then costs {_money(season['year_usd'])} USD, "
        f"{season['saving_share']:.0%} less than default alone."
    )
