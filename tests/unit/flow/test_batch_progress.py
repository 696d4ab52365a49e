"""R38: whatever moment a batch's files are cut off at, no finished line is lost and none is there twice."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fareclass.flow import batch_progress
from fareclass.flow.batch_progress import CANCELLED, EXPIRED, FAILED, SUCCEEDED, Finished, Progress

FILES = ("output", "errors", "journal")


def finished(number: int, kind: int = SUCCEEDED) -> Finished:
    return Finished(number, kind, b"line %d\n" % number, (3, 1, 2, 0))


class Crashes(RuleBasedStateMachine):
    """Groups are committed; crashes leave any part of a later group behind, in any of the files."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.kinds: dict[int, int] = {}
        self.progress = Progress(self.folder)
        self.progress.open()
        self.progress.commit((), total=10_000)

    @rule(kinds=st.lists(st.sampled_from((SUCCEEDED, FAILED, EXPIRED, CANCELLED)), max_size=20), gap=st.integers(1, 40))
    def commit(self, kinds: list[int], gap: int) -> None:
        first = max(self.kinds, default=0) + gap
        group = [finished(first + place, kind) for place, kind in enumerate(kinds)]
        self.progress.commit(group)
        self.kinds |= {one.number: one.kind for one in group}

    @rule(kept=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.999)), garbage=st.binary(max_size=20))
    def crash_while_committing(self, kept: tuple[float, float, float], garbage: bytes) -> None:
        before = [(self.folder / name).read_bytes() for name in FILES]
        number = max(self.kinds, default=0) + 1
        self.progress.commit([finished(number), finished(number + 1, FAILED)])
        self.progress.close()
        for name, old, share in zip(FILES, before, kept, strict=True):
            whole = (self.folder / name).read_bytes()
            cut = len(old) + int((len(whole) - len(old)) * share)
            (self.folder / name).write_bytes(whole[:cut] + (garbage if name != "journal" else b""))
        self.reopen()

    @rule()
    def restart(self) -> None:
        self.progress.close()
        self.reopen()

    def reopen(self) -> None:
        self.progress = Progress(self.folder)
        self.progress.open()

    @invariant()
    def files_hold_what_counts(self) -> None:
        for name, wanted in (("output", True), ("errors", False)):
            numbers = [number for number, kind in self.kinds.items() if (kind == SUCCEEDED) is wanted]
            assert (self.folder / name).read_bytes() == b"".join(b"line %d\n" % number for number in numbers)
        assert self.progress.total == 10_000
        assert self.progress.finished == len(self.kinds)
        kinds = (SUCCEEDED, FAILED, EXPIRED, CANCELLED)
        assert self.progress.counts == [list(self.kinds.values()).count(kind) for kind in kinds]
        assert self.progress.tokens == tuple(each * len(self.kinds) for each in (3, 1, 2, 0))
        beyond = max(self.kinds, default=0) + 2
        assert {number for number in range(beyond) if self.progress.is_done(number)} == set(self.kinds)

    def teardown(self) -> None:
        self.progress.close()
        shutil.rmtree(self.folder)


Crashes.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestCrashes = Crashes.TestCase


def test_a_batch_that_was_not_looked_at_whole_begins_anew(tmp_path: Path):
    progress = Progress(tmp_path)
    progress.open()
    progress.commit([finished(2, FAILED)])
    progress.close()
    progress = Progress(tmp_path)
    progress.open()
    assert progress.finished == 0 and not progress.is_done(2) and (tmp_path / "errors").read_bytes() == b""
    progress.close()


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The group that did not fit may be tried again."""
    progress = Progress(tmp_path)
    progress.open()
    progress.commit([finished(1)], total=5)

    def full(fd: int, data: memoryview, at: int) -> int:
        os.lseek(fd, at, os.SEEK_SET)
        os.write(fd, data[:3])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(batch_progress.os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            progress.commit([finished(2)])
    assert (tmp_path / "output").read_bytes() == b"line 1\n"
    progress.commit([finished(2)])
    assert (tmp_path / "output").read_bytes() == b"line 1\nline 2\n" and progress.finished == 2
    progress.close()
