"""`fareclass serve`, `fareclass bench` and `fareclass db`: commands that work on the gateway's own machine.

What they need is imported when one of them runs, so that no client waits for a server to load.
"""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path | None, typer.Option(help="The configuration file. Without one: the built-in settings.")]


def register(program: typer.Typer) -> None:
    """Add the commands to the program."""
    program.command()(serve)
    group = typer.Typer(help="The database's schema.", no_args_is_help=True)
    group.command()(upgrade)
    group.command()(current)
    program.add_typer(group, name="db")
    bench = typer.Typer(help="Measure what an engine can do. Needs no running gateway.", no_args_is_help=True)
    bench.command()(capacity)
    bench.callback()(_bench)  # a group of one command would be that command
    program.add_typer(bench, name="bench")


def serve(config: Config = None) -> None:
    """Start the gateway, and the built-in engine where a model uses it.

    Without a configuration file it serves a small built-in model. The first start makes the keys and shows them.

    SIGTERM or Ctrl-C lets running work finish; a second one ends it at once.

    Example: fareclass serve --config fareclass.yaml
    """
    from fareclass.cli.serve import run

    run(config)


def upgrade(config: Config = None) -> None:
    """Bring the database up to this version; `serve` does so too.

    Example: fareclass db upgrade --config fareclass.yaml
    """
    from fareclass.cli import db

    db.upgrade(config)


def current(config: Config = None) -> None:
    """Show the database's schema and the one this version needs.

    Example: fareclass db current --config fareclass.yaml
    """
    from fareclass.cli import db

    db.current(config)


def _bench() -> None:
    """Measure what an engine can do. Needs no running gateway."""


def capacity(
    model: Annotated[str, typer.Argument(help="The model, as the configuration names it.")], config: Config = None
) -> None:
    """Measure what the model's pool does of each kind alone: that is what can be reserved.

    The model stands in the file that --config names; without that there is only the built-in one.

    It starts the model's engine, or uses the replicas that the configuration names, and loads them for up to a minute:
    prompts of growing length, then answers in growing numbers. Do it while nobody else uses them. The last lines
    belong into the configuration file; they alone go to standard output.

    Example: fareclass bench capacity smollm2-135m --config fareclass.yaml
    """
    from fareclass.cli.bench import measure

    measure(model, config)
