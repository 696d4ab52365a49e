"""The first keys of a new gateway: shown on a terminal once, or kept in files that only their owner can read (R51)."""

import os
from pathlib import Path

from rich.console import Console

from fareclass.app import FirstKeys


def project_key_file(master_key_file: Path) -> Path:
    """Where the first project's key is kept, beside the master key it is derived from."""
    return master_key_file.with_name("first.key")


def hand_over(keys: FirstKeys, master_key_file: Path, console: Console) -> None:
    """Give the operator what the first start made. The project key is always kept too, for the curl line."""
    kept = _keep(project_key_file(master_key_file), keys.project)
    if console.file.isatty():
        shown_admin, shown_project = f"{keys.admin}   (shown this once)", f"{keys.project}   (kept in {kept})"
    else:
        shown_admin, shown_project = f"in {_keep(master_key_file.with_name('admin.key'), keys.admin)}", f"in {kept}"
    if keys.admin:
        console.print(f"  Admin key    {shown_admin}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"  Project key  {shown_project}", markup=False, highlight=False, soft_wrap=True)


def _keep(file: Path, secret: str | None) -> Path:
    """Write a secret so that nobody else can read it, at any moment."""
    if secret:
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(f"{secret}\n")
        draft.replace(file)
    return file
