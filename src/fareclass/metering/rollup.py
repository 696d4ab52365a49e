"""The roll-up: sums the ledger by minute and day behind the work that goes on (R42).

It runs in a thread of its own, is never asked by a request, and goes on where the database says that it was. Where
the database can't be used it tries again, and reports read the ledger meanwhile.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping

from sqlalchemy.exc import SQLAlchemyError

from fareclass.core.limits import FOLD_GRACE_S, FOLD_POLL_S
from fareclass.core.snapshot import Burndown
from fareclass.store import StoreError
from fareclass.store.database import Store
from fareclass.store.folding import Folder
from fareclass.store.rollups import Horizon

_CLOSE_S = 5.0
_log = logging.getLogger(__name__)


class Rollup:
    """Sums what is over, and then looks every `FOLD_POLL_S` for more. `horizon` is the ledger's."""

    def __init__(self, store: Store, horizon: Horizon, burndowns: Mapping[str, Burndown]) -> None:
        self._folder = Folder(store, horizon, burndowns)
        self._done_s = time.monotonic()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rollup", daemon=True)

    @property
    def lag_s(self) -> float:
        """How long ago there was last nothing left to sum."""
        return time.monotonic() - self._done_s

    def open(self) -> None:
        self._thread.start()

    async def close(self) -> None:
        """End after the piece that is under way, which may be left behind: it is done again at the next start."""
        self._closing.set()
        await asyncio.to_thread(self._thread.join, _CLOSE_S)

    def _run(self) -> None:
        """While there is more to sum it works half of the time."""
        told = False
        while not self._closing.is_set():
            began = time.monotonic()
            try:
                more = self._folder.step(time.time_ns() // 1000 - int(FOLD_GRACE_S * 1e6))
            except Exception as error:  # noqa: BLE001 - reports would be slower and slower
                if not told:
                    trace = not isinstance(error, SQLAlchemyError | StoreError | OSError)
                    _log.error("the ledger can't be summed, will retry", extra={"cause": str(error)}, exc_info=trace)
                more, told = False, True
            else:
                told = False
                if not more:
                    self._done_s = time.monotonic()
            self._closing.wait(time.monotonic() - began if more else FOLD_POLL_S)
