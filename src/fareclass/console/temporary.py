"""Keys that the playground makes for its calls: each lives as long as its run, and none is left behind."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from fareclass.console.client import ControlPlane, Trouble

PREFIX = "console-playground-"
LEFT_AFTER = timedelta(minutes=15)
"""A key of this age whose run is not known here was left by a console that ended before it."""


class TemporaryKeys:
    """Those of this process's runs, and the end of those that another's left."""

    def __init__(self) -> None:
        self._under_way: set[str] = set()
        self._sweeps: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def made(self, control: ControlPlane, project: str) -> AsyncIterator[str]:
        """The secret of a key of this project, which is revoked at the end though the login has ended meanwhile.

        Raises:
            Trouble: it was not made, or not revoked.
        """
        lasting, name = control.lasting(), PREFIX + secrets.token_hex(4)
        self._under_way.add(name)
        try:
            made = await control.send("POST", "keys", body={"project": project, "name": name})
            try:
                yield made["secret"]
            finally:
                await asyncio.shield(lasting.send("DELETE", "keys", made["id"]))
        finally:
            self._under_way.discard(name)

    def sweep_soon(self, control: ControlPlane) -> None:
        """See `sweep`; nobody waits for it."""
        task = asyncio.get_running_loop().create_task(self.sweep(control.lasting()))
        self._sweeps.add(task)
        task.add_done_callback(self._sweeps.discard)

    async def sweep(self, control: ControlPlane) -> None:
        """Revoke what was left. What can't be done now is done the next time."""
        before = datetime.now(UTC) - LEFT_AFTER
        with suppress(Trouble):
            for key in await control.pages("keys", most=sys.maxsize):
                if self._is_left(key, before):
                    with suppress(Trouble):
                        await control.send("DELETE", "keys", key["id"])

    def _is_left(self, key: Mapping[str, Any], before: datetime) -> bool:
        name = key["name"]
        if not name.startswith(PREFIX) or name in self._under_way or key["revoked_at"] is not None:
            return False
        return datetime.fromisoformat(key["created"]) < before
