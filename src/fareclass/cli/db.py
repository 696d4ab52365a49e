"""`fareclass db`: the database's schema. Works on the database itself, not through the gateway."""

from pathlib import Path
from typing import NoReturn

import typer
from sqlalchemy.exc import SQLAlchemyError

from fareclass.config import ConfigError, load
from fareclass.store import StoreError
from fareclass.store.database import Store


def upgrade(file: Path | None) -> None:
    """Bring the database of this configuration file, or of the built-in settings, up to this version."""
    store = _open(file)
    try:
        store.upgrade()
    except (StoreError, SQLAlchemyError) as error:
        _end(error)
    current(file)


def current(file: Path | None) -> None:
    """Print the database's schema and the one that this version needs."""
    try:
        found, needed = _open(file).current()
    except (StoreError, SQLAlchemyError) as error:
        _end(error)
    typer.echo(f"database: {found or 'empty'}, this version: {needed}")


def _open(file: Path | None) -> Store:
    try:
        config = load(file)
        return Store(config.store, config.store_password.value if config.store_password else None)
    except (ConfigError, StoreError) as error:
        _end(error)


def _end(error: Exception) -> NoReturn:
    typer.echo(str(getattr(error, "orig", error)), err=True)
    raise typer.Exit(1)
