"""`fareclass batch …`: batches of a project, with one of its keys, as any client of the OpenAI API makes them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar
from urllib.parse import quote

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
_WRONG_USE = 2
_STATUSES = (
    "Exit status: 0 if all lines are answered; 1 if lines failed, or the batch ended otherwise or was not made; "
    "2 for wrong use, when nothing is sent; 130 for Ctrl-C."
)
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
    "fetch": "FETCH",
}


def register(program: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Many requests from a file, at half price.")
    group.command("run", epilog=_STATUSES)(run)
    group.command("list")(list_batches)
    group.command("show")(show_batch)
    group.command("results", epilog=_STATUSES)(results)
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

    Errors go beside the results, to FILE.out.errors.jsonl. What an earlier run left there is replaced, or removed.

    Ctrl-C leaves the batch running: `fareclass batch results` writes what it has once
    it has ended. A gateway that restarts is waited for.

    Example: fareclass batch run requests.jsonl --output answers.jsonl
    """
    batch: dict[str, Any] | None = None
    with _client(url, key) as client:
        places = _places(output or file.with_suffix(".out.jsonl"))
        if file.resolve() in {place.resolve() for place in places}:
            _end(f"{file} would be written over: name another place with --output", _WRONG_USE)
        try:
            batch = _make(client, file, endpoint)
            typer.echo(f"batch    {batch['id']}")
            batch = _wait(client, batch)
            _finish(client, batch, *places)
        except KeyboardInterrupt:
            typer.echo(_left(batch), err=True)
            raise


def list_batches(key: ApiKey = "", url: Url = DEFAULT_URL, *, as_json: Json = False) -> None:
    """The project's batches, newest first."""
    with _client(url, key) as client:
        found = _call(client, "GET", "/batches", params={"limit": 100})["data"]
    show(found if as_json else [_row(batch) for batch in found], _COLUMNS, as_json=as_json)


def show_batch(batch: str, key: ApiKey = "", url: Url = DEFAULT_URL, *, as_json: Json = False) -> None:
    """One batch."""
    with _client(url, key) as client:
        found = _find(client, batch)
    fetch = f"fareclass batch results {found['id']}" if found["status"] in _ENDED else None
    show_one(found if as_json else _row(found) | {"fetch": fetch}, _FIELDS, as_json=as_json)


def results(
    batch: Annotated[str, typer.Argument(help="Its id, as `list` shows it.")],
    key: ApiKey = "",
    output: Annotated[Path | None, typer.Option(help="Where results go; the id and .out.jsonl if not said.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Write results and errors of a batch that has ended, as `run` does.

    Example: fareclass batch results batch_... --output answers.jsonl
    """
    with _client(url, key) as client:
        found = _find(client, batch)
        name, counts = found["id"], found["request_counts"]
        if found["status"] not in _ENDED:
            so_far = f"{found['status']}, {counts['completed'] + counts['failed']} of {counts['total']} lines over"
            _end(f"{name} has not ended ({so_far}): come back once `fareclass batch show {name}` says it has")
        _finish(client, found, *_places(output or Path(f"{name}.out.jsonl")))


def cancel(batch: str, key: ApiKey = "", url: Url = DEFAULT_URL) -> None:
    """End a batch; what is done of it is kept, and billed."""
    with _client(url, key) as client:
        typer.echo(_call(client, "POST", f"/batches/{batch}/cancel")["status"])


def _client(url: str, key: str) -> httpx.Client:
    if not key:
        _end("set FARECLASS_API_KEY to a key of the project, or name it with --key")
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=f"{url}/v1", headers=headers, timeout=_TIMEOUT_S, mounts=LOCAL_DIRECT)


def _find(client: httpx.Client, batch: str) -> dict[str, Any]:
    return _call(client, "GET", f"/batches/{quote(batch, safe='')}")


def _make(client: httpx.Client, file: Path, endpoint: str) -> dict[str, Any]:
    with file.open("rb") as content:
        uploaded = _call(client, "POST", "/files", files={"file": (file.name, content)}, data={"purpose": "batch"})
    made = {"input_file_id": uploaded["id"], "endpoint": endpoint, "completion_window": "24h"}
    return _call(client, "POST", "/batches", json=made)


def _left(batch: dict[str, Any] | None) -> str:
    """What Ctrl-C leaves of a run."""
    if batch is None:
        return "stopped before a batch is known to be made: `fareclass batch list` shows it if it was"
    state, fetch = (f"`fareclass batch {command} {batch['id']}`" for command in ("show", "results"))
    if batch["status"] in _ENDED:
        return f"the batch has ended: {fetch} writes what it has"
    return f"the batch goes on: {state} tells how, {fetch} writes what it has once it has ended"


def _places(results: Path) -> tuple[Path, Path]:
    """Where results and errors go, known to be writable: what can't be written is found before it is paid for."""
    _check_writable(results)
    errors = results.with_suffix(".errors.jsonl")
    _check_writable(errors)
    return results, errors


def _check_writable(place: Path) -> None:
    """Changes nothing: an earlier run's results may be there, and this one may come to nothing."""
    try:
        if place.exists() or place.is_symlink():
            place.open("ab").close()
        else:
            place.open("xb").close()
            place.unlink()
    except OSError as error:
        _end(f"{place} can't be written ({error.strerror}): name another place with --output", _WRONG_USE)


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
            _end(f"{path} can't be written: {error.strerror}; what it holds stays in the file {file} of the project")

    _patiently(client, save, f"/files/{file}/content")


def _finish(client: httpx.Client, batch: dict[str, Any], results: Path, errors: Path) -> None:
    """Write what an ended batch has, and tell how it ended."""
    for what, file, place in (
        ("results", batch["output_file_id"], results),
        ("errors", batch["error_file_id"], errors),
    ):
        if file:
            _fetch(client, file, place)
            typer.echo(f"{what:<8} {place}")
        elif batch["status"] != "failed":  # that never ran, and replaces nothing
            _remove(place)
    if batch["status"] == "failed":
        _end("failed: " + "; ".join(error["message"] for error in batch["errors"]["data"]))
    counts = batch["request_counts"]
    end = f"{batch['status']}: {counts['completed']} of {counts['total']} done, {counts['failed']} failed"
    if batch["status"] != "completed" or counts["failed"]:
        _end(end)
    typer.echo(end)


def _remove(place: Path) -> None:
    """What an earlier run left, which would pass for this one's; but no device."""
    try:
        if place.is_file():
            place.unlink()
    except OSError as error:
        _end(f"{place} is of an earlier run and can't be removed ({error.strerror}): remove it yourself")


def _row(batch: dict[str, Any]) -> dict[str, Any]:
    counts: dict[str, Any] = batch["request_counts"]
    return batch | counts | {"created": _time(batch["created_at"]), "expires": _time(batch["expires_at"])}


def _time(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def _end(message: str, status: int = 1) -> NoReturn:
    typer.secho(message, err=True, fg="red")
    raise typer.Exit(status)
