"""The steps from each schema to the next. Their numbers begin their files' names."""

from importlib.resources import files

import sqlalchemy as sa

_VERSION = sa.table("alembic_version", sa.column("version_num", sa.Text))


def known() -> list[str]:
    """The revisions that this program knows, oldest first."""
    names = (file.name for file in (files(__name__) / "versions").iterdir())
    return sorted(name.partition("_")[0] for name in names if name[:1].isdigit())


def newest() -> str:
    """The last of them, which `upgrade` leads to."""
    return known()[-1]


def revision(connection: sa.Connection) -> str | None:
    """The database's revision; None where there is none yet."""
    if not sa.inspect(connection).has_table(_VERSION.name):
        return None
    found: str | None = connection.scalar(sa.select(_VERSION.c.version_num))
    return found
