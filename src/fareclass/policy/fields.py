"""What of a request may go upstream (R47, R50)."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fareclass.core.field_names import OWNED, WITHHELD
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Model

_NUMERIC_HOST = re.compile(r"(?:.*\.)?(?:0x[0-9a-f]*|[0-9]+)")


class Upstream(NamedTuple):
    """The body for an engine, and the names of what was left out of it."""

    body: Mapping[str, Any]
    dropped: tuple[str, ...]


def upstream_fields(request: Request, model: Model) -> Upstream:
    """The API's own fields and the model's `pass_fields`; never what the gateway owns (R50)."""
    own, extra = request.body, request.extra
    if not extra and WITHHELD.isdisjoint(own):
        return Upstream(own, ())
    body = {name: value for name, value in own.items() if name not in WITHHELD}
    passed = {name: value for name, value in extra.items() if name in model.pass_fields and name not in OWNED}
    dropped = [name for name in own if name in WITHHELD] + [name for name in extra if name not in passed]
    return Upstream(body | passed, tuple(dropped))


def check_media(hosts: Iterable[str], model: Model) -> None:
    """Refuse remote media, unless the model lists their host or a domain above it (R47).

    The engine fetches them, not the gateway: an operator lists only domains that he trusts
    to name no address of his own network. Addresses in numbers are never below a domain.

    Raises:
        Refusal: `invalid`, naming the host.
    """
    for host in hosts:
        if not _listed(host, model.media_domains):
            raise Refusal(
                Outcome.INVALID,
                f"Remote media from `{host[:253]}` are not allowed for the model `{model.name}`; "
                "send the data itself as a `data:` URL.",
                param="messages",
            )


def _listed(host: str, domains: frozenset[str]) -> bool:
    if host in domains:
        return True
    if _NUMERIC_HOST.fullmatch(host):
        return False
    return any(host.endswith("." + domain) for domain in domains)
