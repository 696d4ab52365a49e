"""`fareclass engine`: the built-in engine alone, without the gateway."""

import contextlib
import os
import secrets
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from fareclass.cli.example import example_body
from fareclass.cli.progress import Steps
from fareclass.config import LocalEngine
from fareclass.engine.local_settings import Settings, server_environment, usable_cores
from fareclass.engine.model_file import ModelUnavailableError, chat_template, fetch_default_model

_DEFAULTS = LocalEngine()


def register(program: typer.Typer) -> None:
    @program.command()
    def engine(
        model: Annotated[Path | None, typer.Argument(help="A GGUF file. Without one: the built-in model.")] = None,
        slots: Annotated[int, typer.Option(min=1, help="Sequences at once.")] = _DEFAULTS.slots,
        context_tokens: Annotated[
            int, typer.Option(min=256, help="Of each slot, prompt and answer together.")
        ] = _DEFAULTS.context_tokens,
    ) -> None:
        """Run the built-in engine alone, to try a model or to compare: no tiers, no keys, no ledger. Ctrl-C ends it.

        Example: fareclass engine --slots 2
        """
        try:
            path = _default_model() if model is None else model.resolve(strict=True)
        except (ModelUnavailableError, OSError) as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None
        settings = Settings(
            model_path=str(path),
            model_name=path.stem,
            slots=slots,
            context_tokens=context_tokens,
            threads=usable_cores(),
            api_key=secrets.token_urlsafe(32),
            parent=os.getpid(),
            folder=None,
            chat_template=chat_template(path),
        )
        raise typer.Exit(_run(settings))


def _default_model() -> Path:
    with Steps(Console(stderr=True)) as steps:
        return fetch_default_model(progress=partial(steps, "Fetching the built-in model"))


def _run(settings: Settings) -> int:
    """The engine's process until it ends or a signal ends it; its exit status, 0 after a signal."""
    words = [sys.executable, "-P", "-m", "fareclass.engine.local_server"]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=server_environment()
    ) as process:
        assert process.stdin and process.stdout
        with contextlib.suppress(KeyboardInterrupt):
            process.stdin.write(msgspec.json.encode(settings) + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if line:
                _announce(msgspec.json.decode(line, type=dict[str, str])["url"], settings)
                return process.wait()
            typer.echo(f"llama.cpp can't serve {settings.model_path}: is it a whole GGUF file?", err=True)
            return 2
        process.kill()  # it holds nothing that a kill could spoil
    return 0


def _announce(url: str, settings: Settings) -> None:
    body = example_body(settings.model_name)
    typer.echo(f"llama.cpp serves {settings.model_path} at {url}/v1; it wants this key while it runs. Try it:")
    typer.echo(
        f"curl -sS {url}/v1/chat/completions -H 'Authorization: Bearer {settings.api_key}' "
        f"-H 'Content-Type: application/json' -d {shlex.quote(body)}"
    )
