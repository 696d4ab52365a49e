"""Names that were there before, for as many as there are: in a file of its own, so that memory does not grow."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path


class SeenNames:
    """Which names of a batch's lines came already. A scratch file: a crash means to begin anew."""

    def __init__(self, file: Path) -> None:
        file.unlink(missing_ok=True)
        self._file = file
        self._database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=OFF")
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.execute("PRAGMA cache_size=-4096")
        self._database.execute("CREATE TABLE seen (name TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")

    def add(self, names: Sequence[tuple[str, int]]) -> list[int]:
        """Those of the lines `(name, line)` whose name was there before."""
        add = "INSERT INTO seen VALUES (?, ?) ON CONFLICT DO NOTHING"
        self._database.execute("BEGIN")
        again = [line for name, line in names if not self._database.execute(add, (name, line)).rowcount]
        self._database.execute("COMMIT")
        return again

    def close(self) -> None:
        """It is not needed any more."""
        self._database.close()
        self._file.unlink(missing_ok=True)
