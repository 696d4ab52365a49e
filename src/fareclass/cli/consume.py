"""`fareclass consume`: answer the requests of a queue. What it needs is imported when it runs: redis and asyncio take longer
to load than all other clients together.
"""

import os
import re
import socket
from typing import Annotated, Final
from urllib.parse import parse_qsl, urlsplit

import typer

from fareclass.cli.batch import ApiKey
from fareclass.cli.control_client import DEFAULT_URL, Url
from fareclass.core.limits import CONSUME_PLACES
from fareclass.core.tiers import ALIASES, BY_WORD

_VALKEY: Final = "redis://127.0.0.1:6379"
_NAME: Final = "HOST-PID"
_KEY: Final = re.compile(r"[!-~]+")
_TIERS: Final = ({*BY_WORD, *ALIASES, "auto"}) - {"batch"}


def register(program: typer.Typer) -> None:
    """Add the command to the program."""
    program.command()(consume)


def _checked(context: typer.Context, param: typer.CallbackParam, url: str) -> str:
    """Refuse what is no address, without repeating it: it may hold a password."""
    try:
        parts = urlsplit(url)
        right = parts.scheme in {"redis", "rediss"} and parts.hostname and parts.port != 0
        right = right and (parts.path.strip("/") or "0").isdecimal() and not parts.fragment
        right = right and all(name.startswith("ssl_") for name, _ in parse_qsl(parts.query, keep_blank_values=True))
    except ValueError:
        right = False
    if not right:
        raise typer.BadParameter("must be redis://HOST:PORT or rediss://HOST:PORT, and /NUMBER for a database")
    source = context.get_parameter_source(param.name or "")
    if parts.password is not None and source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter("others can read a command line: put an address with a password into FARECLASS_VALKEY")
    return url


def _named(tier: str) -> str:
    if tier not in _TIERS:
        raise typer.BadParameter(f"must be one of {', '.join(sorted(_TIERS))}")
    return tier


def consume(
    requests: Annotated[str, typer.Argument(help="The stream that requests are taken from.")],
    answers: Annotated[str, typer.Argument(help="The stream that answers are put on.")],
    key: ApiKey = "",
    tier: Annotated[str, typer.Option(help="For messages that name no tier.", callback=_named)] = "flex",
    concurrency: Annotated[int, typer.Option(min=1, max=CONSUME_PLACES, help="Messages worked on at once.")] = 8,
    group: Annotated[str, typer.Option(help="The consumer group, which workers share; made if it is not there.")] = (
        "fareclass"
    ),
    name: Annotated[
        str, typer.Option(help="This worker's own name in the group. One that stays takes up its work after a restart.")
    ] = _NAME,
    valkey: Annotated[
        str,
        typer.Option(
            envvar="FARECLASS_VALKEY", help="Where Valkey or Redis is.", callback=_checked, show_default=_VALKEY
        ),
    ] = _VALKEY,
    url: Url = DEFAULT_URL,
) -> None:
    """Answer the requests of a Valkey or Redis stream on another stream.

    A request is a message with a field `body`, the JSON of a chat completion.

    `path` names another call, such as /v1/messages, and `tier` another tier.

    The answer has `request` (the message's id), `status`, `body`, `tier`,
    `request_id`, and all other fields of the request as they were.

    Every request is answered, even if workers die, and billed once. What the
    gateway has no room for waits. Any number of workers share a group.

    Ctrl-C: what runs may end within 30 s; a second one leaves it to others.

    Example: fareclass consume requests answers --concurrency 16
    """
    if requests == answers:
        raise typer.BadParameter("must be another stream than that of the requests", param_hint="'ANSWERS'")
    if not _KEY.fullmatch(key):
        typer.secho(
            "set FARECLASS_API_KEY to a key of the project, and no more, or name it with --key", err=True, fg="red"
        )
        raise typer.Exit(1)
    from fareclass.cli.consumer.run import run  # noqa: PLC0415 - the module's docstring says why

    if name == _NAME:
        name = f"{socket.gethostname()}-{os.getpid()}"
    run(valkey, requests, answers, group, name, url=url, key=key, tier=tier, places=concurrency)
