"""Stored responses in both databases: found by project and id, replaced, and swept to their bounds (R51, R14)."""

from fareclass.store.database import Store
from fareclass.store.responses import (
    ResponseRow,
    delete_response,
    find_responses,
    list_unfinished,
    put_responses,
    sweep_responses,
)
from fareclass.store.tables import projects


def row(number: int, project: str = "proj_a", status: str = "completed", size: int = 10) -> ResponseRow:
    return ResponseRow(
        id=f"resp_{number}",
        project=project,
        key="key_a",
        status=status,
        background=status == "queued",
        created_us=number,
        body=b"\x00\xff" + b"x" * (size - 2),
        input=b"",
    )


def put(store: Store, *rows: ResponseRow) -> None:
    with store.write() as connection:
        put_responses(connection, rows)


def ids(store: Store, project: str = "proj_a") -> set[str]:
    with store.read() as connection:
        return {found.id for found in find_responses(connection, project, [f"resp_{number}" for number in range(20)])}


def make_projects(store: Store) -> None:
    with store.write() as connection:
        made = [{"id": name, "name": name, "weight": 1, "created_us": 1} for name in ("proj_a", "proj_b")]
        connection.execute(projects.insert(), made)


def test_r51_a_response_is_found_as_it_was_by_its_own_project_alone(store: Store) -> None:
    make_projects(store)
    given = row(1)
    put(store, row(1, status="queued"), row(2, "proj_b"))
    put(store, given)
    with store.read() as connection:
        assert find_responses(connection, "proj_a", ["resp_1", "resp_2"]) == [given]
        assert list_unfinished(connection) == []
    with store.write() as connection:
        assert not delete_response(connection, "proj_a", "resp_2")
        assert delete_response(connection, "proj_b", "resp_2")
    assert ids(store, "proj_b") == set()


def test_r14_the_oldest_go_first_beyond_age_count_and_bytes(store: Store) -> None:
    make_projects(store)
    put(store, *(row(number) for number in range(1, 7)), row(7, "proj_b"), row(0, status="queued"))
    with store.write() as connection:
        sweep_responses(connection, 2, count=100, size_bytes=100)
    assert ids(store) == {f"resp_{number}" for number in (0, 2, 3, 4, 5, 6)}
    with store.write() as connection:
        sweep_responses(connection, 0, count=4, size_bytes=100)
    assert ids(store) == {f"resp_{number}" for number in (0, 3, 4, 5, 6)}
    with store.write() as connection:
        sweep_responses(connection, 0, count=100, size_bytes=35)
    assert ids(store) == {f"resp_{number}" for number in (0, 4, 5, 6)}
    assert ids(store, "proj_b") == {"resp_7"}
