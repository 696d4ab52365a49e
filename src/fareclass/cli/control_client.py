"""What every client command shares: speaking to the control plane, and showing what it says."""

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn
from urllib.parse import quote, urlsplit

import httpx
import typer
from rich.console import Console
from rich.table import Column, Table

from fareclass.config import ConfigError, load
from fareclass.store.database import StoreError
from fareclass.store.master_key import read_master_key

Url = Annotated[str, typer.Option(envvar="FARECLASS_URL", help="Where the gateway is.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
DEFAULT_URL = "http://127.0.0.1:8000"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_TIMEOUT_S = 30.0
_TIMES = ("created", "revoked_at", "start")


def call(
    url: str,
    method: str,
    path: Sequence[str],
    body: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
) -> Any:
    """One command of the control plane; fields and parameters that are None are left out. Ends the program on a refusal."""
    address = f"{url.rstrip('/')}/admin/v1/{'/'.join(quote(part, safe='') for part in path)}"
    try:
        response = httpx.request(
            method,
            address,
            json=None if body is None else _given(body),
            params=_given(params or {}),
            headers={"Authorization": f"Bearer {_admin_key(url)}"},
            timeout=_TIMEOUT_S,
        )
        answer = response.json()
        refusal = answer["error"]["message"] if response.is_error else None
    except httpx.HTTPError as error:
        _end(f"can't reach the gateway at {url}: {error}; start it with `fareclass serve`, or name it with --url")
    except (ValueError, KeyError, TypeError):
        _end(f"what answers at {url} is not a Fareclass gateway, or that address or the admin key is malformed")
    if refusal is not None:
        _end(refusal)
    return answer


def pages(url: str, path: Sequence[str], params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """A whole list, page by page."""
    found: list[dict[str, Any]] = []
    after = None
    while True:
        part = call(url, "GET", path, params={**(params or {}), "limit": 1000, "after": after})
        found += part["data"]
        if (after := part["next"]) is None:
            return found


def show(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, as_json: bool) -> None:
    """A table of these columns (field: heading), or all fields as JSON."""
    console = Console()
    if as_json:
        console.print_json(data=rows, highlight=False, indent=2)
        return
    table = Table(*(Column(heading, overflow="fold") for heading in columns.values()), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(_cell(_to_second(row.get(field)) if field in _TIMES else row.get(field)) for field in columns))
    console.print(table if rows else "none")


def show_one(row: Mapping[str, Any], *, as_json: bool) -> None:
    """One object, a field a line, or as JSON."""
    console = Console()
    if as_json:
        console.print_json(data=row, highlight=False, indent=2)
        return
    for field, value in row.items():
        console.print(f"{field:<15} {_cell(value)}", markup=False, highlight=False, soft_wrap=True)


def parse_pairs(pairs: Sequence[str], option: str) -> dict[str, str]:
    """`NAME=VALUE` options as a dict."""
    if any("=" not in pair for pair in pairs):
        raise typer.BadParameter("must be NAME=VALUE", param_hint=option)
    return dict(pair.split("=", 1) for pair in pairs)


def _to_second(time: str | None) -> str | None:
    return None if time is None else f"{time[:19]}Z"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_cell(item)}" for name, item in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value) or "-"
    return str(value)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _admin_key(url: str) -> str:
    """From the environment; else, for a gateway on this machine only, derived from the master key file."""
    if given := os.environ.get("FARECLASS_ADMIN_KEY"):
        return given
    if urlsplit(url).hostname not in _LOOPBACK:
        _end(f"set FARECLASS_ADMIN_KEY to the admin key of {url}")
    try:
        return read_master_key(load().master_key_file).admin_key()
    except (ConfigError, StoreError) as error:
        _end(f"set FARECLASS_ADMIN_KEY, or run this where the master key can be read: {error}")


def _end(message: str) -> NoReturn:
    Console(stderr=True).print(message, style="red", markup=False, highlight=False)
    raise typer.Exit(1)
