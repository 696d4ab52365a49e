"""`fareclass project`, `key`, `quota`, `price`, `pool`: clients of the control plane."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from fareclass.cli.control_client import DEFAULT_URL, Json, Url, call, given, listed, pages, parse_pairs
from fareclass.cli.output import show, show_one
from fareclass.cli.workload import Escalate, rule
from fareclass.core.tiers import TIERS

_ALL = "all"
_NONE = "none"
_PROJECT = {"name": "NAME", "weight": "WEIGHT", "created": "CREATED", "id": "ID"}
_KEY = {
    "name": "NAME",
    "project_name": "PROJECT",
    "default_tier": "TIER",
    "allowed_tiers": "ALLOWED",
    "workload": "WORKLOAD",
    "id": "ID",
    "created": "CREATED",
    "revoked_at": "REVOKED",
    "tags": "TAGS",
    "escalation": "ESCALATION",
}
_QUOTA = {
    "project_name": "PROJECT",
    "model": "MODEL",
    "tpm": "TPM",
    "rpm": "RPM",
    "concurrency": "CONCURRENT",
    "priority_share": "FOR-PRIORITY",
}
_PRICE = {
    "model": "MODEL",
    "version": "VERSION",
    "input": "INPUT",
    "output": "OUTPUT",
    "cache_read": "READ",
    "priority": "xPRIORITY",
    "default": "xDEFAULT",
    "flex": "xFLEX",
    "created": "SINCE",
    "source": "SET-BY",
    "cache_write_5m": "WRITE-5M",
    "cache_write_1h": "WRITE-1H",
    "reserved_input": "RESERVED-IN",
    "reserved_output": "RESERVED-OUT",
}
_REPLICA = {"id": "REPLICA", "state": "STATE", "slots": "SLOTS", "running": "RUNNING", "tiers": "TIERS"}

Project = Annotated[str, typer.Argument(help="The project's name or id.")]
KeyRef = Annotated[str, typer.Argument(help="The key's name or id.")]
ModelName = Annotated[str, typer.Argument(help="The model's public name.")]
ReplicaName = Annotated[str, typer.Argument(help="The replica, as `fareclass pool list` names it.")]
OfProject = Annotated[str | None, typer.Option("--project", help="Only this project's, by name or id.")]
Tier = Annotated[
    str | None,
    typer.Option(metavar="TIER", help="The tier of requests that name none: priority, default or flex."),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(metavar="TIER", help="A tier that it may use: priority, default or flex; repeat. `all`: every tier."),
]
Tag = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="A tag, kept with every request; repeat. `none`: no tag."),
]


Workload = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The workload that it is for: what the key has not of its own. `none`: none."),
]


def register(program: typer.Typer) -> None:
    """Add the command groups to the program."""
    groups = {
        "project": ("Tenants: they own keys, quotas and usage.", (project_create, project_list, project_update)),
        "key": ("What callers authenticate with.", (key_create, key_list, key_update, key_revoke)),
        "quota": ("Limits of a project on a model.", (quota_set, quota_show)),
        "price": ("Prices per model, tier and kind of token.", (price_set, price_show)),
        "pool": ("Replicas behind a model.", (pool_list, pool_drain, pool_resume, pool_set)),
    }
    for name, (text, commands) in groups.items():
        group = typer.Typer(help=text, no_args_is_help=True)
        for command in commands:
            group.command(command.__name__.removeprefix(f"{name}_"))(command)
        program.add_typer(group, name=name)


def project_create(
    name: Annotated[str, typer.Argument(help="A name for the project.")],
    weight: Annotated[int | None, typer.Option(help="Its share inside a tier, beside others'; 1 unless set.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Make a project.

    Example: fareclass project create search-team
    """
    show_one(call(url, "POST", ["projects"], given(name=name, weight=weight)), _PROJECT, as_json=as_json)


def project_list(url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """List projects.

    Example: fareclass project list
    """
    show(pages(url, ["projects"]), _PROJECT, as_json=as_json)


def project_update(
    project: Project,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    weight: Annotated[int | None, typer.Option(help="A new share inside a tier, beside others'.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Rename a project or change its weight.

    Example: fareclass project update search-team --weight 3
    """
    body = given(name=name, weight=weight)
    show_one(call(url, "PATCH", ["projects", project], body), _PROJECT, as_json=as_json)


def key_create(
    project: Project,
    name: Annotated[str, typer.Argument(help="A name for the key.")],
    tier: Tier = None,
    allow: Allow = None,
    tag: Tag = None,
    workload: Workload = None,
    escalate: Escalate = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Make a key; its secret is shown this once.

    Without options it may use every tier, and requests that name none are `default`.

    If it may use only one tier, then that is the tier of requests that name none.

    Example: fareclass key create search-team nightly --allow flex
    """
    body = {"project": project, "name": name, **_terms(tier, allow, tag, workload, escalate)}
    made = call(url, "POST", ["keys"], body)
    show_one(made if as_json else _key(made), _KEY | {"secret": "SECRET"}, as_json=as_json)


def key_list(project: OfProject = None, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """List keys, revoked ones too, without their secrets.

    Example: fareclass key list --project search-team
    """
    keys = pages(url, ["keys"], project=project)
    show(keys if as_json else [_key(key) for key in keys], _KEY, as_json=as_json)


def key_update(
    key: KeyRef,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    tier: Tier = None,
    allow: Allow = None,
    tag: Tag = None,
    workload: Workload = None,
    escalate: Escalate = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Change a key. Allowed tiers or tags replace all that it had; what is not given stays.

    Example: fareclass key update nightly --allow all --tag none
    """
    changed = call(url, "PATCH", ["keys", key], given(name=name) | _terms(tier, allow, tag, workload, escalate))
    show_one(changed if as_json else _key(changed), _KEY, as_json=as_json)


def key_revoke(key: KeyRef, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Revoke a key at once and for good.

    Example: fareclass key revoke nightly
    """
    revoked = call(url, "DELETE", ["keys", key])
    show_one(revoked if as_json else _key(revoked), _KEY, as_json=as_json)


def quota_set(
    project: Project,
    model: ModelName,
    tpm: Annotated[int | None, typer.Option(help="Tokens a minute.")] = None,
    rpm: Annotated[int | None, typer.Option(help="Requests a minute.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests at once.")] = None,
    priority_share: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Of the TPM, kept for priority: such as 0.25.")
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Set a project's limits on a model; one that is not given is lifted.

    Example: fareclass quota set search-team demo-70b --tpm 100000
    """
    body = given(tpm=tpm, rpm=rpm, concurrency=concurrency, priority_share=priority_share)
    show_one(call(url, "PUT", ["quotas", project, model], body), _QUOTA, as_json=as_json)


def quota_show(project: OfProject = None, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Show limits; `-` is no limit.

    Example: fareclass quota show --project search-team
    """
    show(pages(url, ["quotas"], project=project), _QUOTA, as_json=as_json)


def price_set(
    model: ModelName,
    input: Annotated[str, typer.Option(help="USD per 1M input tokens at tier default.")],
    output: Annotated[str, typer.Option(help="USD per 1M output tokens.")],
    cache_read: Annotated[str | None, typer.Option(help="USD; 0.1 x input unless set.")] = None,
    cache_write_5m: Annotated[str | None, typer.Option(help="USD; 1.25 x input unless set.")] = None,
    cache_write_1h: Annotated[str | None, typer.Option(help="USD; 2 x input unless set.")] = None,
    reserved_input: Annotated[
        str | None, typer.Option(help="USD an hour for 1,000 reserved input tokens a minute; stays unless set.")
    ] = None,
    reserved_output: Annotated[
        str | None, typer.Option(help="USD an hour for 1,000 reserved output tokens a minute.")
    ] = None,
    tier: Annotated[
        list[str] | None,
        typer.Option(metavar="TIER=FACTOR", help="Such as priority=2; repeat. Unless set: as the configuration says."),
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Set a model's prices, for requests that come from now on.

    Example: fareclass price set demo-70b --input 0.60 --output 2.40
    """
    body = given(
        input=input,
        output=output,
        cache_read=cache_read,
        cache_write_5m=cache_write_5m,
        cache_write_1h=cache_write_1h,
        reserved_input=reserved_input,
        reserved_output=reserved_output,
        tiers=parse_pairs(tier or [], "--tier"),
    )
    made = call(url, "PUT", ["prices", model], body)
    show_one(made if as_json else _book(made), _PRICE, as_json=as_json)


def price_show(
    model: Annotated[str | None, typer.Argument(help="Every version of one model's prices, the newest first.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Show prices in USD per 1M tokens at tier default, and each tier's factor.

    Example: fareclass price show
    """
    books = pages(url, ["prices", model]) if model else listed(url, ["prices"])
    show(books if as_json else [_book(book) for book in books], _PRICE, as_json=as_json)


def pool_list(
    model: Annotated[str | None, typer.Argument(help="Only this model's.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """List replicas and what runs on them, by tier; --json shows the queues too.

    Example: fareclass pool list demo-70b
    """
    pools = listed(url, ["pools"], model=model)
    rows = [{"model": pool["model"], **_replica(replica)} for pool in pools for replica in pool["replicas"]]
    show(pools if as_json else rows, {"model": "MODEL"} | _REPLICA, as_json=as_json)


def pool_drain(model: ModelName, replica: ReplicaName, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Send a replica no new work; once nothing runs on it, it is drained.

    Example: fareclass pool drain demo-70b sim-3
    """
    _change(model, replica, {"drain": True}, url, as_json=as_json)


def pool_resume(model: ModelName, replica: ReplicaName, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """End a drain.

    Example: fareclass pool resume demo-70b sim-3
    """
    _change(model, replica, {"drain": False}, url, as_json=as_json)


def pool_set(
    model: ModelName,
    replica: ReplicaName,
    slots: Annotated[int | None, typer.Option(help="Sequences it may run at once.")] = None,
    tier: Annotated[
        list[str] | None,
        typer.Option(metavar="TIER", help="A tier that it serves, and no other; repeat. `all`: every tier."),
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Change a running replica until the gateway's next start; what is not given stays.

    Example: fareclass pool set demo-70b sim-3 --tier priority --tier default
    """
    tiers = [each.word for each in TIERS] if tier == [_ALL] else tier
    _change(model, replica, given(slots=slots, tiers=tiers or None), url, as_json=as_json)


def _terms(
    tier: str | None, allow: list[str] | None, tag: list[str] | None, workload: str | None, escalate: str | None
) -> dict[str, Any]:
    """Fields of a key as its options say; those of options that were not given are absent."""
    fields: dict[str, Any] = given(default_tier=tier)
    if allow:
        fields["allowed_tiers"] = None if allow == [_ALL] else allow
    if tag:
        fields["tags"] = {} if tag == [_NONE] else parse_pairs(tag, "--tag")
    if workload:
        fields["workload"] = None if workload == _NONE else workload
    if escalate:
        fields["escalation"] = rule(escalate)
    return fields


def _change(model: str, replica: str, body: Mapping[str, Any], url: str, *, as_json: bool) -> None:
    changed = call(url, "PATCH", ["pools", model, "replicas", replica], body)
    show_one(changed if as_json else _replica(changed), _REPLICA, as_json=as_json)


def _key(key: Mapping[str, Any]) -> dict[str, Any]:
    tier = key["default_tier"] or f"({key['workload']})"
    return {**key, "default_tier": tier, "allowed_tiers": key["allowed_tiers"] or _ALL}


def _book(book: Mapping[str, Any]) -> dict[str, Any]:
    return {**book, **book["tiers"]}


def _replica(replica: Mapping[str, Any]) -> dict[str, Any]:
    """A replica with its state in one word."""
    draining = "draining" if replica["running"] else "drained"
    state = "down" if not replica["up"] else draining if replica["drain"] else "up"
    return {**replica, "state": state, "tiers": replica["tiers"] or _ALL}
