"""One gateway to a database: a second would believe that all slots are its own, so it is refused at its start.

Each lock ends with its holder, however that ends, so the next start never has to clean up.
"""

import fcntl
import os
import socket
from io import FileIO
from pathlib import Path

import sqlalchemy as sa

from fareclass.store import StoreError

_GATEWAY_LOCK = 0x66617266
"""PostgreSQL advisory lock, held by the session that writes the ledger."""
_PATIENCE = "2s"
"""A killed gateway's session ends a moment after its process."""
_KEEPALIVE = ("tcp_keepalives_idle = 10", "tcp_keepalives_interval = 5", "tcp_keepalives_count = 3")
"""Of the server: the session of a gateway whose machine is gone, and with it the lock, ends within half a minute."""
_HOLDER = """
SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = %s AND objsubid = 1
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def lock_beside(database: Path) -> FileIO:
    """SQLite: the lock on `DATABASE.lock`, held until this file is closed.

    Raises:
        StoreError: another gateway has it, or no such file can be made there.
    """
    try:
        file = FileIO(os.open(f"{database}.lock", os.O_RDWR | os.O_CREAT, 0o600), "r+")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate()
        file.write(f"{_own_name()}\n".encode())
    except BlockingIOError:
        with file:
            raise StoreError(_in_use(str(database), file.read(200).decode(errors="replace").strip())) from None
    except OSError as error:
        raise StoreError(f"the database's lock {database}.lock can't be taken: {error.strerror}") from error
    return file


def lock_session(connection: sa.Connection) -> None:
    """PostgreSQL: the lock, held until this session ends; it must be in autocommit.

    Raises:
        StoreError: another gateway has it.
    """
    for setting in (*_KEEPALIVE, f"lock_timeout = '{_PATIENCE}'"):
        connection.exec_driver_sql(f"SET {setting}")
    connection.exec_driver_sql("SELECT set_config('application_name', %s, false)", (_own_name(),))
    try:
        connection.exec_driver_sql("SELECT pg_advisory_lock(%s)", (_GATEWAY_LOCK,))
    except sa.exc.OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != "55P03":  # lock_not_available
            raise
        holder = connection.exec_driver_sql(_HOLDER, (_GATEWAY_LOCK,)).scalar()
        raise StoreError(_in_use(repr(connection.engine.url), holder)) from None
    connection.exec_driver_sql("RESET lock_timeout")


def _own_name() -> str:
    """As the other gateway's operator finds this one; PostgreSQL keeps 63 bytes of it."""
    return f"fareclass process {os.getpid()} on {socket.gethostname()}"


def _in_use(database: str, holder: str | None) -> str:
    return (
        f"the database {database} is in use by {holder or 'another gateway'}: two gateways can't share one, since each "
        "would take all slots for its own; stop that one first, or give this one a `store` of its own"
    )
