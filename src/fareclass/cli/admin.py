"""`fareclass project`, `key`, `quota`, `price`, `pool`: clients of the control plane."""

from typing import Annotated

import typer

from fareclass.cli.control_client import DEFAULT_URL, Json, Url, call, pages, parse_pairs, show, show_one

_PROJECT = {"name": "NAME", "id": "ID", "weight": "WEIGHT", "created": "CREATED"}
_KEY = {"name": "NAME", "project_name": "PROJECT", "id": "ID", "default_tier": "TIER", "revoked_at": "REVOKED"}
_QUOTA = {"project_name": "PROJECT", "model": "MODEL", "tpm": "TPM", "rpm": "RPM", "concurrency": "CONCURRENT"}
_PRICE = {
    "model": "MODEL",
    "version": "VERSION",
    "input": "INPUT",
    "cache_read": "READ",
    "output": "OUTPUT",
    "tiers": "TIERS",
}
_REPLICA = {"model": "MODEL", "id": "REPLICA", "slots": "SLOTS", "tiers": "TIERS", "drain": "DRAIN"}

Ref = Annotated[str, typer.Argument(help="Its name or id.")]
Project = Annotated[str, typer.Argument(help="The project's name or id.")]
ModelName = Annotated[str, typer.Argument(help="The model's public name.")]
OfProject = Annotated[str | None, typer.Option("--project", help="Only this project's.")]
Tier = Annotated[str | None, typer.Option("--tier", help="Tier of requests that name none: priority, default, flex.")]
Allow = Annotated[list[str] | None, typer.Option("--allow", help="A tier this key may use; repeat. Without: all.")]
Tag = Annotated[list[str] | None, typer.Option("--tag", help="NAME=VALUE, kept with every request; repeat.")]


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
    name: str,
    weight: Annotated[int | None, typer.Option(help="Its share inside a tier, 1 unless set.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Make a project.

    Example: fareclass project create search-team
    """
    show_one(call(url, "POST", ["projects"], {"name": name, "weight": weight}), as_json=as_json)


def project_list(url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """List projects.

    Example: fareclass project list
    """
    show(pages(url, ["projects"]), _PROJECT, as_json=as_json)


def project_update(
    project: Ref,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    weight: Annotated[int | None, typer.Option(help="A new share inside a tier.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Rename a project or change its weight.

    Example: fareclass project update search-team --weight 3
    """
    show_one(call(url, "PATCH", ["projects", project], {"name": name, "weight": weight}), as_json=as_json)


def key_create(
    project: Project,
    name: Annotated[str, typer.Argument(help="A name for the key.")],
    tier: Tier = None,
    allow: Allow = None,
    tag: Tag = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Make a key; its secret is shown this once.

    Example: fareclass key create search-team nightly --tier flex
    """
    body = {
        "project": project,
        "name": name,
        "default_tier": tier,
        "allowed_tiers": allow or None,
        "tags": parse_pairs(tag, "--tag") if tag else None,
    }
    show_one(call(url, "POST", ["keys"], body), as_json=as_json)


def key_list(project: OfProject = None, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """List keys, without their secrets.

    Example: fareclass key list --project search-team
    """
    show(pages(url, ["keys"], {"project": project}), _KEY, as_json=as_json)


def key_update(
    key: Ref,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    tier: Tier = None,
    allow: Allow = None,
    tag: Tag = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Change a key.

    Example: fareclass key update nightly --allow flex --allow default --tier flex
    """
    body = {
        "name": name,
        "default_tier": tier,
        "allowed_tiers": allow or None,
        "tags": parse_pairs(tag, "--tag") if tag else None,
    }
    show_one(call(url, "PATCH", ["keys", key], body), as_json=as_json)


def key_revoke(key: Ref, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Revoke a key at once and for good.

    Example: fareclass key revoke nightly
    """
    show_one(call(url, "DELETE", ["keys", key]), as_json=as_json)


def quota_set(
    project: Project,
    model: ModelName,
    tpm: Annotated[int | None, typer.Option(help="Tokens a minute.")] = None,
    rpm: Annotated[int | None, typer.Option(help="Requests a minute.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests at once.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Set a project's limits; one not given is lifted.

    Example: fareclass quota set search-team llama-70b --tpm 100000
    """
    body = {"tpm": tpm, "rpm": rpm, "concurrency": concurrency}
    show_one(call(url, "PUT", ["quotas", project, model], body), as_json=as_json)


def quota_show(project: OfProject = None, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Show limits.

    Example: fareclass quota show --project search-team
    """
    show(pages(url, ["quotas"], {"project": project}), _QUOTA, as_json=as_json)


def price_set(
    model: ModelName,
    input: Annotated[str, typer.Option(help="USD per 1M input tokens at tier default.")],
    output: Annotated[str, typer.Option(help="USD per 1M output tokens.")],
    cache_read: Annotated[str | None, typer.Option(help="Per 1M tokens; 0.1 x input unless set.")] = None,
    cache_write_5m: Annotated[str | None, typer.Option(help="1.25 x input unless set.")] = None,
    cache_write_1h: Annotated[str | None, typer.Option(help="2 x input unless set.")] = None,
    tier: Annotated[list[str] | None, typer.Option(help="TIER=FACTOR, such as priority=2; repeat.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Set a model's prices from now on.

    Example: fareclass price set llama-70b --input 0.60 --output 2.40
    """
    body = {
        "input": input,
        "output": output,
        "cache_read": cache_read,
        "cache_write_5m": cache_write_5m,
        "cache_write_1h": cache_write_1h,
        "tiers": parse_pairs(tier or [], "--tier"),
    }
    show_one(call(url, "PUT", ["prices", model], body), as_json=as_json)


def price_show(
    model: Annotated[str | None, typer.Argument(help="Every version of one model's prices.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Show prices in USD per 1M tokens, and each tier's factor.

    Example: fareclass price show
    """
    rows = pages(url, ["prices", model]) if model else call(url, "GET", ["prices"])["data"]
    show(rows, _PRICE, as_json=as_json)


def pool_list(
    model: Annotated[str | None, typer.Argument(help="Only this model's.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """List replicas; --json shows their queues too.

    Example: fareclass pool list llama-70b
    """
    pools = call(url, "GET", ["pools"], params={"model": model})["data"]
    rows = [{"model": pool["model"], **replica} for pool in pools for replica in pool["replicas"]]
    show(pools if as_json else rows, _REPLICA, as_json=as_json)


def pool_drain(model: ModelName, replica: Ref, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Send a replica no new work.

    Example: fareclass pool drain llama-70b r1
    """
    show_one(call(url, "PATCH", ["pools", model, "replicas", replica], {"drain": True}), as_json=as_json)


def pool_resume(model: ModelName, replica: Ref, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """End a drain.

    Example: fareclass pool resume llama-70b r1
    """
    show_one(call(url, "PATCH", ["pools", model, "replicas", replica], {"drain": False}), as_json=as_json)


def pool_set(
    model: ModelName,
    replica: Ref,
    slots: Annotated[int | None, typer.Option(help="Sequences it may run at once.")] = None,
    tier: Annotated[list[str] | None, typer.Option(help="A tier it serves; repeat. Others it will not.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Change a running replica.

    Example: fareclass pool set llama-70b r1 --tier reserved --tier priority
    """
    body = {"slots": slots, "tiers": tier or None}
    show_one(call(url, "PATCH", ["pools", model, "replicas", replica], body), as_json=as_json)
