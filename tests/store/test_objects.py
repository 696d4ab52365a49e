"""Batches of all projects, as operators list them."""

import sqlalchemy as sa

from fareclass.store import objects
from fareclass.store.database import Store
from fareclass.store.objects import ENDED, BatchRow
from fareclass.store.tables import projects


def made(project: str, id: str, created_us: int, state: str = "running") -> BatchRow:
    return BatchRow(
        id=id, project=project, key="key_1", api="openai", state=state, input="file_1", terms={}, books={"m": {"large": 1}},
        created_us=created_us, deadline_us=created_us + 1,
    )  # fmt: skip


def test_batches_of_all_projects_are_paged_newest_first(store: Store):
    """Whatever their API calls them: ids of several APIs do not sort by time."""
    rows = [
        made("proj_a", "z", 1, ENDED),
        made("proj_b", "b", 2),
        made("proj_a", "a", 2),
        made("proj_a", "m", 3, ENDED),
    ]
    with store.write() as connection:
        for name in ("proj_a", "proj_b"):
            connection.execute(sa.insert(projects).values(id=name, name=name, weight=1, created_us=1))
        for row in rows:
            objects.add_batch(connection, row)

    def listed(project: str | None = None, ended: bool | None = None, after: tuple[int, str] | None = None) -> str:
        with store.read() as connection:
            found = objects.batches_of_all(connection, project, ended=ended, after=after, limit=3)
        assert all(row.books == {} for row in found)
        return "".join(row.id for row in found)

    assert listed() == "mba"
    assert listed(after=(2, "a")) == "z"
    assert listed(after=(2, "b")) == "az"
    assert (listed(ended=True), listed(ended=False)) == ("mz", "ba")
    assert (listed("proj_b"), listed("proj_a", ended=False)) == ("b", "a")
