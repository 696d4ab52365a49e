"""A new SQLite database with all tables, copied: migrations take longer than most tests that need one."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from fareclass.store.database import Store


@functools.cache
def _original() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fcdb"))
    atexit.register(shutil.rmtree, folder)
    store = Store(f"sqlite:///{folder / 'fareclass.db'}")
    store.upgrade()
    store.close()
    return folder / "fareclass.db"


def migrated(file: Path) -> Store:
    """Open a new database at this path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(_original(), file)
    return Store(f"sqlite:///{file}")
