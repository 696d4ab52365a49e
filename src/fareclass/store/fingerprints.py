"""Which master key a database was made with, so that a lost or wrong file is noticed at the start."""

import hmac
from pathlib import Path

from sqlalchemy import Connection, insert, select

from fareclass.store import StoreError
from fareclass.store.database import Store
from fareclass.store.master_key import MasterKey, make_master_key, read_master_key
from fareclass.store.tables import meta

_FINGERPRINT = "master_key."


def open_master_key(path: Path, store: Store) -> MasterKey:
    """Read the master key, or make it at the very first start, and check it against the database.

    Raises:
        StoreError: the file is lost, unreadable, open to others, malformed, or not the database's.
    """
    with store.read() as connection:
        known = _known(connection)
    if not path.exists():
        if known:
            raise StoreError(
                f"the master key file {path} is missing, and this database's keys were made with it: restore the file "
                "from your backup (without it every project key would stop working), or start with a new database"
            )
        make_master_key(path)
    master = read_master_key(path)
    mine = {f"{_FINGERPRINT}{version}": fingerprint for version, fingerprint in master.fingerprints().items()}
    for name, fingerprint in known.items():
        if not hmac.compare_digest(mine.get(name, ""), fingerprint):
            raise StoreError(
                f"the master key file {path} is not the one this database was made with "
                f"(version {name.removeprefix(_FINGERPRINT)} is absent or differs): restore the right file"
            )
    new = [{"name": name, "value": value} for name, value in mine.items() if name not in known]
    if new:
        with store.write() as connection:
            connection.execute(insert(meta), new)
    return master


def _known(connection: Connection) -> dict[str, str]:
    rows = connection.execute(select(meta.c.name, meta.c.value).where(meta.c.name.startswith(_FINGERPRINT)))
    return {row.name: row.value for row in rows}
