"""Finding what an operator names, by id or name, and names that are still free."""

from sqlalchemy import Connection

from fareclass.core.limits import MODEL_CHARS
from fareclass.flow.operator_rules import ControlError, check_name
from fareclass.store import catalog, workloads
from fareclass.store.records import KeyRecord, ProjectRecord, WorkloadRecord


def find_project(connection: Connection, ref: str) -> ProjectRecord:
    """Raises `ControlError`."""
    project = catalog.find_project(connection, ref)
    if project is None:
        raise ControlError("not_found", f"no project {ref[:MODEL_CHARS]!r}", "project")
    return project


def find_key(connection: Connection, ref: str) -> KeyRecord:
    """By id, or by the name of a key that is in force and the only one of that name."""
    found = catalog.find_keys(connection, ref)
    matches = [key for key in found if key.id == ref or key.revoked_at is None]
    if not matches:
        raise ControlError("not_found", f"no key {ref[:MODEL_CHARS]!r}", "key")
    if len(matches) > 1:
        shown = ", ".join(f"{key.id} of {key.project_name}" for key in matches[:5])
        raise ControlError("ambiguous", f"several keys are named {ref!r}: {shown}; use the id", "key")
    return matches[0]


def find_workload(connection: Connection, name: str) -> WorkloadRecord:
    workload = workloads.find_workload(connection, name)
    if workload is None:
        raise ControlError("not_found", f"no workload {name[:MODEL_CHARS]!r}", "workload")
    return workload


def find_key_of(connection: Connection, project: str, ref: str) -> KeyRecord:
    """A project's key, by id, or by the name of one in force."""
    for key in catalog.find_keys(connection, ref, project=project):
        if key.id == ref or key.revoked_at is None:
            return key
    raise ControlError("not_found", f"the project has no key {ref[:MODEL_CHARS]!r}", "key")


def find_key_ids(connection: Connection, ref: str, project: str | None) -> list[str]:
    """All keys of that id or name, revoked ones too: a report is also of what was."""
    found = [key.id for key in catalog.find_keys(connection, ref, project=project)]
    if not found:
        raise ControlError("not_found", f"no key {ref[:MODEL_CHARS]!r}", "key")
    return found


def free_key_name(connection: Connection, project: str, name: str) -> str:
    if any(key.revoked_at is None for key in catalog.find_keys(connection, check_name(name), project=project)):
        raise ControlError("already_exists", f"the project has a key named {name!r} already", "name")
    return name


def free_project_name(connection: Connection, name: str) -> str:
    if catalog.find_project(connection, check_name(name)) is not None:
        raise ControlError("already_exists", f"a project named {name!r} exists already", "name")
    return name
