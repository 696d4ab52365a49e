"""R51: secrets are derived from a master key that is kept outside the database."""

from pathlib import Path

import pytest

from fareclass.core.tokens import key_id
from fareclass.store import StoreError
from fareclass.store.database import Store
from fareclass.store.fingerprints import open_master_key
from fareclass.store.master_key import read_master_key


def test_first_start_makes_a_file_for_its_owner_only(store: Store, tmp_path: Path) -> None:
    """R51: 0600, and the same secrets at the next start."""
    path = tmp_path / "keys" / "master.key"
    first = open_master_key(path, store)
    assert path.stat().st_mode & 0o777 == 0o600
    assert open_master_key(path, store).bearer("key_1", 1) == first.bearer("key_1", 1)
    assert read_master_key(path).admin_key() == first.admin_key()


def test_secrets_differ_and_name_their_key(store: Store, tmp_path: Path) -> None:
    master = open_master_key(tmp_path / "master.key", store)
    one, other = master.bearer("key_1", 1), master.bearer("key_2", 1)
    assert one.rpartition("_")[2] != other.rpartition("_")[2]
    assert key_id(one.encode()) == "key_1"
    assert one.replace("_", "").isalnum(), "one word, so that a double click selects it whole"


@pytest.mark.parametrize("bearer", [b"", b"fc_", b"fc_key", b"sk-abc", b"fc_key_1_", b"fc_\xff_a", b"x_fc_key_1_a"])
def test_what_is_no_token_names_no_key(bearer: bytes) -> None:
    assert key_id(bearer) is None


def test_a_lost_master_key_refuses_to_start(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    open_master_key(path, store)
    path.unlink()
    with pytest.raises(StoreError, match=r"is missing.*restore the file"):
        open_master_key(path, store)
    assert not path.exists(), "no new key may hide the loss"


def test_another_master_key_refuses_to_start(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    open_master_key(path, store)
    path.write_text(f"1 {'ab' * 32}\n")
    with pytest.raises(StoreError, match="not the one this database was made with"):
        open_master_key(path, store)


def test_a_master_key_that_others_can_read_refuses_to_start(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    open_master_key(path, store)
    path.chmod(0o640)
    with pytest.raises(StoreError, match="chmod 600"):
        open_master_key(path, store)


@pytest.mark.parametrize("content", ["", "1\n", "1 zz\n", "x " + "ab" * 32, "1 " + "ab" * 31, "\xe4"])
def test_a_damaged_master_key_is_told(content: str, tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(StoreError, match=r"damaged|can't be read"):
        read_master_key(path)


def test_a_new_version_leaves_old_keys_as_they_were(store: Store, tmp_path: Path) -> None:
    """R51: versioned; new keys use the newest, and a version that is still needed may not go."""
    path = tmp_path / "master.key"
    old = open_master_key(path, store)
    path.write_text(f"{path.read_text()}2 {'cd' * 32}\n")
    both = open_master_key(path, store)
    assert both.version == 2
    assert both.bearer("key_1", 1) == old.bearer("key_1", 1) != both.bearer("key_1", 2)
    path.write_text(f"2 {'cd' * 32}\n")
    with pytest.raises(StoreError, match=r"version 1 is absent"):
        open_master_key(path, store)
