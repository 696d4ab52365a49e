"""R47: below a folder that others write to, nothing leads out of it, whatever they put there."""

import os
import threading
from pathlib import Path

import pytest

from fareclass.flow.shared_folder import NotThere, SharedFolder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "in.jsonl").write_text("text")
    return folder


def read(root: Path, *parts: str) -> bytes:
    return b"".join(SharedFolder(root).blocks(parts))


def test_files_are_read_listed_and_written(root, tmp_path):
    shared = SharedFolder(root)
    assert read(root, "a", "b", "in.jsonl") == b"text"
    assert shared.is_folder(("a",)) and not shared.is_folder(("a", "b", "in.jsonl")) and not shared.is_folder(("c",))
    assert list(shared.names(("a",))) == [("b", "in.jsonl")]
    source = tmp_path / "source"
    source.write_bytes(b"x" * 3_000_000)
    for _ in ("made", "written over"):
        shared.write(("out", "job", "in.jsonl.out"), source)
        assert (root / "out" / "job" / "in.jsonl.out").read_bytes() == source.read_bytes()
    assert sorted(path.name for path in (root / "out" / "job").iterdir()) == ["in.jsonl.out"], "no part is left"


@pytest.mark.parametrize("parts", [("file",), ("folder", "secret"), ("a", "up", "secret"), ("a", "b", "hole")])
def test_links_are_not_followed(root, outside, parts):
    (root / "file").symlink_to(outside / "secret")
    (root / "folder").symlink_to(outside)
    (root / "a" / "up").symlink_to(outside, target_is_directory=True)
    os.mkfifo(root / "a" / "b" / "hole")
    with pytest.raises(NotThere):
        read(root, *parts)
    assert list(SharedFolder(root).names(())) == [("a", "b", "in.jsonl")]


@pytest.mark.parametrize("parts", [("folder", "out"), ("a", "up", "out")])
def test_nothing_is_written_through_a_link(root, outside, tmp_path, parts):
    (root / "folder").symlink_to(outside)
    (root / "a" / "up").symlink_to(outside, target_is_directory=True)
    source = tmp_path / "source"
    source.write_text("x")
    with pytest.raises(NotThere):
        SharedFolder(root).write(parts, source)
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_a_link_in_the_place_of_a_result_is_replaced_and_what_it_points_to_stays(root, outside, tmp_path):
    (root / "out").symlink_to(outside / "secret")
    source = tmp_path / "source"
    source.write_text("x")
    SharedFolder(root).write(("out",), source)
    assert (outside / "secret").read_text() == "secret"
    assert not (root / "out").is_symlink() and (root / "out").read_text() == "x"


def test_a_folder_in_the_place_of_a_result_is_told(root, tmp_path):
    source = tmp_path / "source"
    source.write_text("x")
    with pytest.raises(NotThere, match="a/b: is a directory"):
        SharedFolder(root).write(("a", "b"), source)
    assert sorted(path.name for path in (root / "a").iterdir()) == ["b"]


def test_a_result_whose_name_is_too_long_is_told(root, tmp_path):
    """As one may become that a suffix is put behind: no other try makes it shorter."""
    source = tmp_path / "source"
    source.write_text("x")
    with pytest.raises(NotThere, match="too long"):
        SharedFolder(root).write(("a", "x" * 256), source)
    assert sorted(path.name for path in (root / "a").iterdir()) == ["b"]


@pytest.mark.parametrize("parts", [("missing",), ("a", "missing", "x"), ("a", "b", "in.jsonl", "x"), ("a",)])
def test_what_is_not_there_is_told(root, parts):
    with pytest.raises(NotThere, match="/".join(parts[:1])):
        read(root, *parts)


def test_a_root_that_is_gone_is_told(tmp_path):
    with pytest.raises(NotThere, match="gone"):
        read(tmp_path / "gone", "a")


def test_a_folder_that_is_swapped_for_a_link_all_the_time_never_leads_out(root, outside):
    """Somebody exchanges a folder and a link to elsewhere as fast as he can: a read gives what is inside, or nothing."""
    inside, link, parked = root / "a" / "b", root / "a" / "link", root / "a" / "parked"
    (inside / "secret").write_text("inside")
    link.symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            inside.rename(parked)
            link.rename(inside)
            inside.rename(link)
            parked.rename(inside)

    thread = threading.Thread(target=swap)
    thread.start()
    found: set[bytes | None] = set()
    try:
        for _ in range(3_000):
            try:
                found.add(read(root, "a", "b", "secret"))
            except NotThere:
                found.add(None)
    finally:
        stop.set()
        thread.join()
    assert b"secret" not in found and b"inside" in found
