"""The database as a file: who may read it, and what a start says of one that can't be used."""

import pytest

from fareclass.store import StoreError
from fareclass.store.database import Store


def test_r51_a_new_database_file_is_its_owners_alone(tmp_path):
    """Usage and tags are nobody else's on the machine."""
    store = Store(f"sqlite:///{tmp_path / 'new' / 'f.db'}")
    store.upgrade()
    files = list((tmp_path / "new").iterdir())
    assert files
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    store.close()


def test_a_database_that_can_not_be_used_is_one_clear_sentence(tmp_path):
    """It stands in place of a traceback at the start."""
    (tmp_path / "f.db").write_bytes(b"this is no database, and it is long enough to be looked at" * 40)
    with pytest.raises(StoreError, match="can't be used: file is not a database"):
        Store(f"sqlite:///{tmp_path / 'f.db'}").upgrade()


def test_a_folder_that_can_not_be_made_is_one_clear_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"can't be made: (Not a directory|File exists)"):
        Store(f"sqlite:///{tmp_path / 'file' / 'db' / 'f.db'}")
