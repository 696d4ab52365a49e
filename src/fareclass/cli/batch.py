"""`fareclass batch …`: batches of a project, with one of its keys, as any client of the OpenAI API makes them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fareclass.cli.control_client import DEFAULT_URL, LOCAL_DIRECT, Url
from fareclass.cli.output import show, show_one

ApiKey = Annotated[
    str, typer.Option("--key", envvar="FARECLASS_API_KEY", help="A key of the project.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print every field as JSON, for scripts.")]
_ENDED = ("completed", "failed", "expired", "cancelled")
_LOOK_S = 0.5
_LONGEST_PAUSE_S = 10.0
_AWAY = (429, 502, 503, 504)
"""What a gateway that has no time, or a proxy that has no gateway, says for the moment."""
_TIMEOUT_S = 60.0
_T = TypeVar("_T")
_COLUMNS = {
    "id": "ID",
    "status": "STATUS",
    "completed": "DONE",
    "failed": "FAILED",
    "total": "LINES",
    "created": "CREATED",
    "endpoint": "ENDPOINT",
}
_FIELDS = _COLUMNS | {
    "expires": "WINDOW ENDS",
    "input_file_id": "INPUT",
    "output_file_id": "OUTPUT",
    "error_file_id": "ERRORS",
}


def register(program: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Many requests from a file, at half price.")
    group.command("run")(run)
    group.command("list")(list_batches)
    group.command("show")(show_batch)
    group.command("cancel")(cancel)
    program.add_typer(group, name="batch")


def run(
    file: Annotated[Path, typer.Argument(help="One request a line, as JSON.", exists=True, dir_okay=False)],
    key: ApiKey = "",
    endpoint: Annotated[str, typer.Option(help="What each line calls.")] = "/v1/chat/completions",
    output: Annotated[Path | None, typer.Option(help="Where results go; FILE.out.jsonl if not said.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Upload a file, wait until it is done, and write results and errors.

    Ctrl-C leaves the batch running: `fareclass batch show` tells how it goes on. A gateway that restarts is waited for.
    """
    results = output or file.with_suffix(".out.jsonl")
    with _client(url, key) as client:
        with file.open("rb") as content:
            uploaded = _call(client, "POST", "/files", files={"file": (file.name, content)}, data={"purpose": "batch"})
        made = {"input_file_id": uploaded["id"], "endpoint": endpoint, "completion_window": "24h"}
        batch = _wait(client, _call(client, "POST", "/batches", json=made))
        if batch["output_file_id"]:
            _fetch(client, batch["output_file_id"], results)
            typer.echo(f"results  {results}")
        if batch["error_file_id"]:
            errors = results.with_suffix(".errors.jsonl")
            _fetch(client, batch["error_file_id"], errors)
            typer.echo(f"errors   {errors}")
    _tell_end(batch)


def list_batches(key: ApiKey = "", url: Url = DEFAULT_URL, *, as_json: Json = False) -> None:
    """The project's batches, newest first."""
    with _client(url, key) as client:
        found = _call(client, "GET", "/batches", params={"limit": 100})["data"]
    show(found if as_json else [_row(batch) for batch in found], _COLUMNS, as_json=as_json)


def show_batch(batch: str, key: ApiKey = "", url: Url = DEFAULT_URL, *, as_json: Json = False) -> None:
    """One batch."""
    with _client(url, key) as client:
        found = _call(client, "GET", f"/batches/{batch}")
    show_one(found if as_json else _row(found), _FIELDS, as_json=as_json)


def cancel(batch: str, key: ApiKey = "", url: Url = DEFAULT_URL) -> None:
    """End a batch; what is done of it is kept, and billed."""
    with _client(url, key) as client:
        typer.echo(_call(client, "POST", f"/batches/{batch}/cancel")["status"])


def _client(url: str, key: str) -> httpx.Client:
    if not key:
        _end("set FARECLASS_API_KEY to a key of the project, or name it with --key")
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=f"{url}/v1", headers=headers, timeout=_TIMEOUT_S, mounts=LOCAL_DIRECT)


def _call(client: httpx.Client, method: str, path: str, **more: Any) -> dict[str, Any]:
    """One call; ends the program, with what was wrong, unless it was done."""
    try:
        return _answer(client, client.request(method, path, **more))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        _end(f"can't reach the gateway at {client.base_url.host} ({error}): is it running?")


def _answer(client: httpx.Client, response: httpx.Response) -> dict[str, Any]:
    """What it says; ends the program if that is no."""
    try:
        answer: dict[str, Any] = response.json()
        if not response.is_success:
            _end(str(answer["error"]["message"]))
    except (ValueError, LookupError, TypeError):
        _end(f"what answers at {client.base_url.host} is not a Fareclass gateway")
    return answer


class _Away(Exception):
    """The gateway is there, but not for us at the moment; says what it answers."""


def _patiently(client: httpx.Client, call: Callable[[httpx.Response], _T], path: str) -> _T:
    """What `call` makes of a GET; a gateway that is away meanwhile is waited for, since the batch goes on once it is back."""
    pause_s, away = _LOOK_S, False
    while True:
        try:
            with client.stream("GET", path) as response:
                if response.status_code in _AWAY:
                    raise _Away(f"status {response.status_code}")
                found = call(response)
        except (httpx.TransportError, _Away) as error:
            if not away:
                why = f"can't reach the gateway at {client.base_url.host} ({error or type(error).__name__})"
                typer.echo(f"{why}: it is waited for; Ctrl-C ends no batch", err=True)
            away = True
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        except httpx.HTTPError:
            _end(f"what answers at {client.base_url.host} is not a Fareclass gateway")
        else:
            if away:
                typer.echo("the gateway is back", err=True)
            return found


def _wait(client: httpx.Client, batch: dict[str, Any]) -> dict[str, Any]:
    """Until it has ended, with a bar of its lines; plain text where there is no terminal."""

    def look(response: httpx.Response) -> dict[str, Any]:
        response.read()
        return _answer(client, response)

    console = Console(stderr=True)
    typer.echo(f"batch    {batch['id']}")
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, disable=not console.is_terminal,
    )  # fmt: skip
    with bars:
        bar = bars.add_task(batch["status"], total=None)
        while batch["status"] not in _ENDED:
            time.sleep(_LOOK_S)
            batch = _patiently(client, look, f"/batches/{batch['id']}")
            counts = batch["request_counts"]
            done = counts["completed"] + counts["failed"]
            bars.update(bar, description=batch["status"], completed=done, total=counts["total"] or None)
    return batch


def _fetch(client: httpx.Client, file: str, path: Path) -> None:
    """What is in a file of the project, from its beginning again where the connection breaks off."""

    def save(response: httpx.Response) -> None:
        if not response.is_success:
            response.read()
            _answer(client, response)
        try:
            with path.open("wb") as out:
                for part in response.iter_bytes():
                    out.write(part)
        except OSError as error:
            _end(f"{path} can't be written: {error.strerror}; the results stay in the file {file} of the project")

    _patiently(client, save, f"/files/{file}/content")


def _tell_end(batch: dict[str, Any]) -> None:
    counts = batch["request_counts"]
    typer.echo(f"{batch['status']}: {counts['completed']} of {counts['total']} done, {counts['failed']} failed")
    if batch["status"] == "failed":
        _end("; ".join(error["message"] for error in batch["errors"]["data"]))
    if batch["status"] != "completed":
        raise typer.Exit(1)


def _row(batch: dict[str, Any]) -> dict[str, Any]:
    counts: dict[str, Any] = batch["request_counts"]
    return batch | counts | {"created": _time(batch["created_at"]), "expires": _time(batch["expires_at"])}


def _time(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def _end(message: str) -> NoReturn:
    typer.secho(message, err=True, fg="red")
    raise typer.Exit(1)
