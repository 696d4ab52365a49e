"""The files of the first keys (R51)."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from fareclass.cli.first_keys import keep_read_only


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO())


def kept(folder: Path, console: Console, secret: str | None = "fc_reader", *, first: bool = False) -> str | None:
    """What lies in the file after a start."""
    keep_read_only(secret, folder / "master.key", console, first=first)
    file = folder / "read-only.key"
    return file.read_text().strip() if file.exists() else None


def test_r51_the_read_only_key_comes_to_the_first_keys_where_it_is_not_there_yet(tmp_path: Path, console: Console):
    assert kept(tmp_path, console) is None, "the first keys are not kept here"
    (tmp_path / "first.key").write_text("fc_key\n")
    assert kept(tmp_path, console, None) is None, "the operator set it"
    assert kept(tmp_path, console) == "fc_reader"
    assert (tmp_path / "read-only.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "read-only.key").write_text("the operator's\n")
    assert kept(tmp_path, console) == "the operator's"


def test_r51_a_first_start_keeps_it_and_puts_another_gateways_aside(tmp_path: Path, console: Console):
    (tmp_path / "read-only.key").write_text("another's\n")
    assert kept(tmp_path, console, first=True) == "fc_reader"
    assert (tmp_path / "read-only-old-1.key").read_text() == "another's\n"


def test_a_folder_that_can_t_be_written_stops_no_start(tmp_path: Path, console: Console, monkeypatch):
    (tmp_path / "first.key").write_text("fc_key\n")

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fareclass.cli.first_keys.os.open", refuse)
    assert kept(tmp_path, console) is None
    assert "could not be kept" in console.file.getvalue()  # type: ignore[attr-defined]
