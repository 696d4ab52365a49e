"""`fareclass usage`, `tiers`, `percentiles`: what was used and what it cost, what each tier got, how much is asked in a minute."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from fareclass.cli.control_client import DEFAULT_URL, Csv, Json, Url, given, parse_moment, parse_pairs, report
from fareclass.cli.output import show

_BY = {
    "project": ("project_name", "PROJECT"),
    "key": ("key_name", "KEY"),
    "model": ("model", "MODEL"),
    "route": ("route", "ROUTE"),
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
_BOARD = {
    "tier": "TIER",
    "requests": "REQUESTS",
    "throttled": "THROTTLED",
    "shed": "SHED",
    "expired": "EXPIRED",
    "ttft_p50": "TTFT-P50",
    "ttft_p99": "TTFT-P99",
    "token_p50": "TOKEN-P50",
    "queue_p99": "QUEUE-P99",
    "speed": "TOKENS/S",
    "pauses": "PAUSES",
    "cost": "USD",
}
_PERCENTILES = {
    "project_name": "PROJECT",
    "model": "MODEL",
    "side": "SIDE",
    "p25": "P25",
    "p50": "P50",
    "p90": "P90",
    "p99": "P99",
    "max": "MAX",
    "busy_p50": "BUSY-P50",
    "busy_p90": "BUSY-P90",
    "busy_share": "BUSY",
}
Project = Annotated[str | None, typer.Option(help="Only this project, by name or id.")]
Model = Annotated[str | None, typer.Option(help="Only this model.")]
Since = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="First day or moment; UTC, unless it has a zone.")
]
Until = Annotated[str | None, typer.Option("--to", metavar="TIME", help="First day or moment after it.")]
Step = Annotated[int | None, typer.Option(help="Seconds of one time step; 86400 is a day.")]


def register(program: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (usage, tiers, percentiles):
        program.command()(command)


def usage(
    by: Annotated[
        str,
        typer.Option(
            help="Comma-separated: project, key, model, route, workload, outcome, "
            "tag:NAME. "
            "requested_tier and served_tier are always there."
        ),
    ] = "project,model",
    project: Project = None,
    model: Model = None,
    key: Annotated[str | None, typer.Option(help="Only this key, by name or id.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="NAME=VALUE", help="Only requests with this tag.")] = None,
    since: Since = None,
    until: Until = None,
    step: Step = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Tokens and cost by tier, and by what you ask.

    A request counts at the time of its end. TIER is the served one, or requested>served where they differ.

    `-` stands for what was not known yet of a request that was refused.

    Example: fareclass usage --by project,outcome --from 2026-11-01 --step 86400
    """
    pair = ":".join(*parse_pairs([tag], "--tag").items()) if tag else None
    wanted = _wanted(project, model, since, until) | given(by=by, key=key, tag=pair, step=step)
    rows = report(url, ["usage"], as_csv=as_csv, **wanted)
    asked = [word.strip().partition(":")[0] for word in by.split(",")]
    columns = {"start": "FROM"} if step else {}
    columns |= dict(_BY[word] for word in _BY if word in asked) | _SUMS
    columns |= {kind: heading for kind, heading in _CACHED.items() if any(row[kind] for row in rows)}
    show(rows if as_json else [_row(row, step) for row in rows], columns, as_json=as_json)


def tiers(
    project: Project = None,
    model: Model = None,
    since: Since = None,
    until: Until = None,
    step: Step = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """What each tier got, side by side: waits and speeds, refusals and pauses.

    TTFT is from arrival to the first token, TOKEN the mean time between two tokens of an answer, QUEUE the time in
    line, all in ms and less than 1 % off.

    Example: fareclass tiers --from 2026-11-01 --step 86400
    """
    wanted = _wanted(project, model, since, until) | given(step=step)
    rows = report(url, ["tiers"], as_csv=as_csv, **wanted)
    columns = ({"start": "FROM"} if step else {}) | _BOARD
    show(rows if as_json else [_board_row(row, step) for row in rows], columns, as_json=as_json)


def percentiles(
    project: Project = None,
    model: Model = None,
    since: Since = None,
    until: Until = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """How many tokens are asked for in a minute, in burn-down units: what to size a reservation by.

    P50 is what half of all minutes do not go beyond, idle ones included; BUSY-P50 the same of minutes with a request,
    and BUSY their share. Without --from it is of the last 30 days.

    Example: fareclass percentiles --from 2026-11-01
    """
    wanted = _wanted(project, model, since, until)
    rows = report(url, ["percentiles"], as_csv=as_csv, **wanted)
    shown = [_percentile_row(row, side) for row in rows for side in ("input", "output")]
    show(rows if as_json else shown, _PERCENTILES, as_json=as_json)


def _wanted(project: str | None, model: str | None, since: str | None, until: str | None) -> dict[str, Any]:
    return given(
        **{"from": since and parse_moment(since, "--from"), "to": until and parse_moment(until, "--to")},
        project=project,
        model=model,
    )


def _board_row(row: Mapping[str, Any], step: int | None) -> dict[str, Any]:
    ttft, token, queue, speed = (
        row[name] or {} for name in ("ttft_ms", "inter_token_ms", "queue_ms", "output_tokens_per_s")
    )
    return _row(row, step) | {
        "expired": row["outcomes"].get("expired", 0),
        "ttft_p50": ttft.get("p50"),
        "ttft_p99": ttft.get("p99"),
        "token_p50": token.get("p50"),
        "queue_p99": queue.get("p99"),
        "speed": speed.get("p50"),
    }


def _percentile_row(row: Mapping[str, Any], side: str) -> dict[str, Any]:
    busy = {f"busy_{name}": value for name, value in row[f"busy_{side}"].items()}
    share = f"{100 * row['busy_minutes'] / row['minutes']:.1f} %"
    return {**row, **row[side], **busy, "side": side, "busy_share": share}


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
