"""The first keys of a new gateway: shown on a terminal once, or kept in files that only their owner can read (R51)."""

import itertools
import os
from pathlib import Path

from rich.console import Console

from fareclass.app import FirstKeys


def project_key_file(master_key_file: Path) -> Path:
    """Where the first project's key is kept, beside the master key it is derived from."""
    return master_key_file.with_name("first.key")


def hand_over(keys: FirstKeys, master_key_file: Path, console: Console) -> None:
    """Give the operator what the first start made. The project key is always kept too, for the curl line.

    A key of another database that lies where this one's goes is put aside, never destroyed: that
    database may come back out of a backup, and nothing else holds the secret.
    """
    kept = _keep(project_key_file(master_key_file), keys.project, console)
    if console.file.isatty():
        shown_admin, shown_project = f"{keys.admin}   (shown this once)", f"{keys.project}   (kept in {kept})"
    else:
        admin_file = _keep(master_key_file.with_name("admin.key"), keys.admin, console)
        shown_admin, shown_project = f"in {admin_file}", f"in {kept}"
    if keys.admin:
        console.print(f"  Admin key    {shown_admin}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"  Project key  {shown_project}", markup=False, highlight=False, soft_wrap=True)


def keep_read_only(secret: str | None, master_key_file: Path, console: Console, *, first: bool) -> None:
    """Keep the read-only key at the `first` start, and later where the first keys are kept and it is not: it may be
    younger than they are.
    """
    file = master_key_file.with_name("read-only.key")
    if secret is None or not (first or (project_key_file(master_key_file).exists() and not file.exists())):
        return
    try:
        _keep(file, secret, console)
    except OSError as error:
        console.print(f"  Read-only    could not be kept in {file}: {error.strerror}", markup=False, soft_wrap=True)
    else:
        console.print(f"  Read-only    in {file}", markup=False, highlight=False, soft_wrap=True)


def _keep(file: Path, secret: str | None, console: Console) -> Path:
    """Write a secret so that nobody else can read it, at any moment."""
    if secret:
        line = f"{secret}\n".encode("ascii")
        if file.exists() and file.read_bytes() != line:
            aside = _free_name(file)
            file.rename(aside)
            note = f"  Put aside    {aside}: the {file.name} of another database, which this one does not know"
            console.print(note, markup=False, highlight=False, soft_wrap=True)
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        draft.unlink(missing_ok=True)  # of a start that was killed
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(line)
        draft.replace(file)
    return file


def _free_name(file: Path) -> Path:
    """Beside the file, and not there yet."""
    names = (file.with_name(f"{file.stem}-old-{number}{file.suffix}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())
