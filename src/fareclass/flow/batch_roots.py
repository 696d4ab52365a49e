"""Operator commands on the places where a project's batches may read and write (R47)."""

from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from fareclass.core.limits import BATCH_ROOTS
from fareclass.flow.audit import note
from fareclass.flow.control import Control
from fareclass.flow.lookups import find_project
from fareclass.flow.operator_rules import ControlError
from fareclass.policy.batch_places import PlaceError, Root, parse_uri
from fareclass.store.batch_roots import RootRow, list_roots, put_roots


class BatchRootsView(msgspec.Struct, frozen=True, kw_only=True):
    """A project's places: names that begin with a `uri` are below its `folder`, or in its object `store`."""

    project: str
    project_name: str
    roots: tuple[RootRow, ...]


class BatchRoots:
    """Commands beside those of `Control`, audited too.

    `folders` are those of the configuration that a place's folder must be or be below, `stores` the names of its object
    stores.
    """

    def __init__(self, control: Control, folders: Sequence[Path], stores: Collection[str]) -> None:
        self._control = control
        self._folders = folders
        self._stores = stores

    def set(self, actor: str, project: str, roots: Sequence[RootRow]) -> BatchRootsView:
        """These are a project's places from now on, and no others."""
        if len(roots) > BATCH_ROOTS:
            raise ControlError("invalid", f"at most {BATCH_ROOTS} places", "roots")
        checked = [self._checked(root, f"roots[{number}]") for number, root in enumerate(roots)]
        if len({root.uri for root in checked}) != len(checked):
            raise ControlError("invalid", "names one uri twice", "roots")
        with self._control.change() as connection:
            owner = find_project(connection, project)
            before = BatchRootsView(
                project=owner.id, project_name=owner.name, roots=tuple(list_roots(connection, owner.id))
            )
            put_roots(connection, owner.id, checked)
            after = msgspec.structs.replace(before, roots=tuple(list_roots(connection, owner.id)))
            note(connection, actor, "batch_roots.set", owner.id, before, after)
            return after

    def get(self, project: str) -> BatchRootsView:
        with self._control.store.read() as connection:
            owner = find_project(connection, project)
            return BatchRootsView(
                project=owner.id, project_name=owner.name, roots=tuple(list_roots(connection, owner.id))
            )

    def of_project(self, project: str) -> list[Root]:
        """Those in force, of the project with this id: what the configuration no longer allows is not."""
        with self._control.store.read() as connection:
            rows = list_roots(connection, project)
        return [Root(row.uri, row.folder, row.store) for row in rows if self._why_not(row) is None]

    def _checked(self, root: RootRow, field: str) -> RootRow:
        try:
            uri = parse_uri(root.uri if root.uri.endswith("/") else f"{root.uri}/")
        except PlaceError as error:
            raise ControlError("invalid", f"{root.uri[:200]}: {error}", f"{field}.uri") from None
        if (root.folder is None) == (root.store is None):
            raise ControlError("invalid", f"{root.uri}: must have exactly one of folder and store", field)
        name = "store" if root.folder is None else "folder"
        if why := self._why_not(root):
            raise ControlError("invalid", f"{root.uri}: {name} {why}", f"{field}.{name}")
        return RootRow(uri=uri.text, folder=root.folder, store=root.store)

    def _why_not(self, root: RootRow) -> str | None:
        if root.store is not None:
            known = ", ".join(sorted(self._stores)) or "none"
            return (
                None
                if root.store in self._stores
                else f"must be an object store of the configuration; there are: {known}"
            )
        folder = Path(root.folder or "")
        if not folder.is_absolute() or ".." in folder.parts:
            return "must be an absolute path without .."
        if not any(folder.is_relative_to(allowed) for allowed in self._folders):
            known = ", ".join(map(str, self._folders)) or "there is none"
            return f"must be a folder of batch_folders in the configuration, or below one ({known})"
        return None
