"""`fareclass db`: the database's schema. Works on the database itself, not through the gateway."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from sqlalchemy.exc import SQLAlchemyError

from fareclass.config import ConfigError, load
from fareclass.store.database import Store, StoreError

File = Annotated[Path | None, typer.Option("--config", help="The configuration file, where there is one.")]


def register(program: typer.Typer) -> None:
    """Add the command group to the program."""
    group = typer.Typer(help="The database's schema.", no_args_is_help=True)
    group.command()(upgrade)
    group.command()(current)
    program.add_typer(group, name="db")


def upgrade(config: File = None) -> None:
    """Bring the database up to this version; `serve` does so too.

    Example: fareclass db upgrade --config fareclass.yaml
    """
    store = _open(config)
    try:
        store.upgrade()
    except (StoreError, SQLAlchemyError) as error:
        _end(error)
    current(config)


def current(config: File = None) -> None:
    """Show the database's schema and the one this version needs.

    Example: fareclass db current
    """
    try:
        found, needed = _open(config).current()
    except SQLAlchemyError as error:
        _end(error)
    typer.echo(f"database: {found or 'empty'}, this version: {needed}")


def _open(file: Path | None) -> Store:
    try:
        config = load(file)
    except ConfigError as error:
        _end(error)
    return Store(config.store, config.store_password.value if config.store_password else None)


def _end(error: Exception) -> NoReturn:
    typer.echo(str(getattr(error, "orig", error)), err=True)
    raise typer.Exit(1)
