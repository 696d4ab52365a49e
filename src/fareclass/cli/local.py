"""`fareclass serve` and `fareclass db`: commands that work on the gateway's own machine.

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
