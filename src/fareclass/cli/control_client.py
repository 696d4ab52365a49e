"""What every client command shares: speaking to the control plane, and saying what went wrong."""

import os
import re
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated, Any, NoReturn
from urllib.parse import quote, urlsplit

import httpx
import typer

from fareclass.config import ConfigError, load
from fareclass.store import StoreError
from fareclass.store.master_key import read_master_key

DEFAULT_URL = "http://127.0.0.1:8000"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
LOCAL_DIRECT = MappingProxyType(dict.fromkeys(("all://127.0.0.1", "all://[::1]", "all://localhost")))
"""What is on this machine is spoken to directly, whatever HTTP_PROXY says: a proxy would see the admin key."""
_TIMEOUT_S = 30.0
_KEY = re.compile(r"[!-~]+")
_ARGUMENTS = (
    "project",
    "key",
    "name",
    "model",
    "replica",
    "workload",
    "route",
    "reservation",
    "url",
    "delivery",
    "roots",
)
"""Fields that stand without an option; what is said of them names them."""
_OPTIONS = {
    "default_tier": "--tier",
    "allowed_tiers": "--allow",
    "tags": "--tag",
    "tiers": "--tier",
    "escalation": "--escalate",
    "starts_at": "--from",
    "ends_at": "--until",
    "events": "--event",
    "models": "--model",
    "order_by": "--order",
    "limits": "--limit",
    "by_tier": "--tier",
    "by_workload": "--workload",
}
"""Fields whose options have other names."""
_OF_PAIRS = ("tags", "tiers", "escalation", "limits", "by_tier", "by_workload")
"""Fields whose options are of NAME=VALUE pairs; which of them is at fault is said too."""
_SAID = re.compile(
    r"(?<![\w'])(?:default_tier|allowed_tiers|starts_at|ends_at|input_tpm|output_tpm|tpm|priority_share)(?![\w'])"
)
"""Fields that a sentence may name; not what somebody has called so, which stands in quotes."""


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        right = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        right = False
    if not right or not _KEY.fullmatch(url) or parts.username is not None or parts.path.strip("/"):
        raise typer.BadParameter(f"must be http://HOST:PORT or https://HOST:PORT and no more, such as {DEFAULT_URL}")
    return f"{parts.scheme}://{parts.netloc}"


Url = Annotated[str, typer.Option(envvar="FARECLASS_URL", help="Where the gateway is.", callback=_checked)]
Csv = Annotated[bool, typer.Option("--csv", help="Print every field as CSV.")]
Json = Annotated[bool, typer.Option("--json", help="Print every field as JSON, for scripts.")]


def call(
    url: str,
    method: str,
    path: Sequence[str],
    body: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> dict[str, Any]:
    """One command of the control plane. Ends the program, with what was wrong, unless it was done."""
    answer = _decoded(url, _exchange(url, method, path, body, params, timeout_s))
    if not isinstance(answer, dict):
        _stranger(url)
    return answer


def _exchange(
    url: str,
    method: str,
    path: Sequence[str],
    body: Mapping[str, Any] | None,
    params: Mapping[str, Any] | None,
    timeout_s: float = _TIMEOUT_S,
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {admin_key(url)}"}
    address = f"{url}/admin/v1/{'/'.join(quote(part, safe='') for part in path)}"
    try:
        with httpx.Client(mounts=LOCAL_DIRECT, timeout=timeout_s) as client:
            return client.request(method, address, json=body, params=params, headers=headers)
    except OSError as error:
        _end(f"the certificates in SSL_CERT_FILE or SSL_CERT_DIR can't be used: {error}")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        _end(unreachable(url, error, timeout_s))


def _decoded(url: str, response: httpx.Response) -> Any:
    """What it says; a refusal ends the program."""
    try:
        answer = response.json()
        refusal = _in_options(**answer["error"]) if response.is_error else None
    except (ValueError, LookupError, TypeError):
        _stranger(url)
    if refusal is not None:
        _end(refusal)
    return answer


def listed(url: str, path: Sequence[str], **params: Any) -> list[dict[str, Any]]:
    """What stands in a list of the control plane; parameters that are None are left out. Ends the program as `call` does."""
    return _page(url, path, given(**params))[0]


def report(url: str, path: Sequence[str], *, as_csv: bool, **params: Any) -> list[dict[str, Any]]:
    """The rows of a report, as `listed`. With `as_csv` it is printed as the gateway makes it, and the program ends."""
    if not as_csv:
        return listed(url, path, **params)
    response = _exchange(url, "GET", path, None, given(**params) | {"format": "csv"})
    if response.is_error or not response.headers.get("content-type", "").startswith("text/csv"):
        _decoded(url, response)
        _stranger(url)
    typer.echo(response.text, nl=False)
    raise typer.Exit


def pages(url: str, path: Sequence[str], **params: Any) -> list[dict[str, Any]]:
    """A whole long list, page by page; like `listed`."""
    found: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None:
        part, after = _page(url, path, given(**params) | {"limit": 1000, "after": after})
        found += part
    return found


def given(**fields: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def parse_pairs(pairs: Sequence[str], option: str) -> dict[str, str]:
    """`NAME=VALUE` options as a dict."""
    if any("=" not in pair for pair in pairs):
        raise typer.BadParameter("must be NAME=VALUE", param_hint=f"'{option}'")
    return dict(pair.split("=", 1) for pair in pairs)


def parse_moment(text: str, option: str) -> str:
    """A day or moment that was typed, of UTC unless it names a zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            "must be such as 2026-11-01 or 2026-11-01T12:00:00", param_hint=f"'{option}'"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def _page(url: str, path: Sequence[str], params: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str | None]:
    answer = call(url, "GET", path, params=params)
    if not isinstance(answer.get("data"), list):
        _stranger(url)
    return answer["data"], answer.get("next")


def _in_options(code: str, message: str, field: str | None, **_more: object) -> str:
    """A refusal in the words of the command line; what it holds for programs is in its sentence too."""
    if code == "unauthenticated":
        return "the gateway does not take this admin key: set FARECLASS_ADMIN_KEY to the gateway's own"
    root, *inner = re.split(r"[.\[]", field or "name", maxsplit=1)
    if root in _ARGUMENTS:
        return message
    place = f" {inner[0]}" if inner and root in _OF_PAIRS and not inner[0].endswith("]") else ""
    message = message.removeprefix(f"{field}: ").removeprefix(f"{root} ")
    return f"{_option(root)}{place}: {_SAID.sub(lambda match: _option(match[0]), message)}"


def _option(field: str) -> str:
    return _OPTIONS.get(field, f"--{field.replace('_', '-')}")


def admin_key(url: str) -> str:
    """From the environment; else, for a gateway on this machine only, derived from the master key file."""
    if found := os.environ.get("FARECLASS_ADMIN_KEY"):
        if not _KEY.fullmatch(found):
            _end(
                "FARECLASS_ADMIN_KEY holds a space, a line break or a letter that no admin key has: set it to the key alone"
            )
        return found
    if urlsplit(url).hostname not in _LOOPBACK:
        _end(f"set FARECLASS_ADMIN_KEY to the admin key of {url}")
    try:
        return read_master_key(load().master_key_file).admin_key()
    except (ConfigError, StoreError) as error:
        _end(f"set FARECLASS_ADMIN_KEY, or FARECLASS_MASTER_KEY_FILE to the file that the gateway uses: {error}")


def unreachable(url: str, error: Exception, timeout_s: float = _TIMEOUT_S) -> str:
    causes = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)  # type: ignore[arg-type]
    for each in causes:
        if isinstance(each, ssl.SSLCertVerificationError):
            return (
                f"this machine does not trust the certificate of {url} ({each.verify_message}): "
                "if it is the right one, name its file, or its authority's, in SSL_CERT_FILE"
            )
        if isinstance(each, ssl.SSLError):
            return f"what answers at {url} speaks no TLS that this machine understands: is it http instead of https?"
    if isinstance(error, httpx.ProtocolError | httpx.ReadError):
        return f"the connection to {url} broke off: is it the gateway's address, with the right one of http and https?"
    if isinstance(error, httpx.ReadTimeout):
        return f"no answer from {url} within {timeout_s:.0f} s: it may be busy; try again, or ask for less at once"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer from {url} within {timeout_s:.0f} s: is it the gateway's address?"
    return f"can't reach the gateway at {url} ({error}): start it with `fareclass serve`, or name it with --url"


def _stranger(url: str) -> NoReturn:
    _end(f"what answers at {url} is not a Fareclass gateway")


def _end(message: str) -> NoReturn:
    typer.secho(message, err=True, fg="red")
    raise typer.Exit(1)
