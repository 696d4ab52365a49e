"""The master key, from which every other secret is derived (R51).

It lives in a file of its own (0600, outside the database's folder), one version per line:
`<version> <hex>`. The newest is used for new keys, older ones still prove theirs. The
database keeps a fingerprint of each version, so that a lost or wrong file is noticed at
start rather than by every caller's key failing.
"""

import hmac
import os
import secrets
from base64 import b32encode
from collections.abc import Mapping
from pathlib import Path

from fareclass.core.tokens import token
from fareclass.store import StoreError

KEY_BYTES = 32


class MasterKey:
    """What can be derived: nothing here gives the key itself away, nor can it be printed."""

    def __init__(self, versions: Mapping[int, bytes]) -> None:
        self._versions = dict(versions)
        self.version = max(versions)

    def bearer(self, key_id: str, version: int) -> str:
        """The whole secret of a project's key.

        Raises:
            StoreError: the master key file lost that version.
        """
        if version not in self._versions:
            raise StoreError(f"key {key_id} needs version {version} of the master key: put its line back into the file")
        return token(key_id, self._derive(version, f"key:{key_id}"))

    def admin_key(self) -> str:
        """The control plane's own key, where none was set."""
        return token("admin", self._derive(min(self._versions), "admin"))

    def read_only_key(self) -> str:
        """The key that the control plane takes for looking alone, where none was set."""
        return token("reader", self._derive(min(self._versions), "read-only"))

    def webhook_secret(self, project: str, salt: str, version: int) -> bytes:
        """What a project's webhooks are signed with; each `salt` makes another one.

        Raises:
            StoreError: the master key file lost that version.
        """
        if version not in self._versions:
            raise StoreError(
                f"webhooks of {project} need version {version} of the master key: put its line back into the file"
            )
        return hmac.digest(self._versions[version], f"fareclass:webhook:{project}:{salt}".encode(), "sha256")

    def cache_key(self) -> bytes:
        """What digests of prompts and the engines' cache salts are made with (R29, R31)."""
        return self._derive(min(self._versions), "cache").encode()

    def fingerprints(self) -> dict[int, str]:
        """By version: what proves that one has it and gives nothing away."""
        return {version: self._derive(version, "fingerprint") for version in self._versions}

    def _derive(self, version: int, purpose: str) -> str:
        digest = hmac.digest(self._versions[version], f"fareclass:{purpose}".encode(), "sha256")
        return b32encode(digest).decode("ascii").rstrip("=").lower()


def read_master_key(path: Path) -> MasterKey:
    """The master key of a file.

    Raises:
        StoreError: it can't be read, is open to others, or malformed.
    """
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"the master key file {path} can't be read: {error}") from None
    if os.name == "posix" and mode & 0o077:
        raise StoreError(f"the master key file {path} is open to others (mode {mode:04o}): chmod 600 {path}")
    try:
        return MasterKey(dict(_parse(line) for line in text.splitlines() if line.strip()))
    except ValueError:
        raise StoreError(
            f"the master key file {path} is damaged: each line must be a version number and "
            f"{2 * KEY_BYTES} hexadecimal digits; restore it from your backup"
        ) from None


def _parse(line: str) -> tuple[int, bytes]:
    version, key = line.split()
    if len(raw := bytes.fromhex(key)) != KEY_BYTES:
        raise ValueError
    return int(version), raw


def make_master_key(path: Path) -> None:
    """Write a fresh key so that it is either whole on disk or not there."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"1 {secrets.token_hex(KEY_BYTES)}\n")
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
