"""Sending the events of the outbox: at least once each, over a restart too, and no project waits for another's receiver.

Where the gateway ends between an answer and its being noted, the event is sent again, under the same id.
"""

import asyncio
import logging
import random
from collections import Counter
from contextlib import suppress
from typing import Protocol

from msgspec.structs import replace
from sqlalchemy.exc import SQLAlchemyError

from fareclass.core.limits import (
    WEBHOOK_DAYS,
    WEBHOOK_KEPT,
    WEBHOOK_POLL_S,
    WEBHOOK_PROJECT_SENDS,
    WEBHOOK_SENDS,
    WEBHOOK_SWEEP_S,
)
from fareclass.core.times import DAY_US
from fareclass.engine.outbound import Answered, OutboundError
from fareclass.flow.clock import now_us
from fareclass.flow.webhooks import webhook_secrets
from fareclass.policy.webhooks import GONE, arrived, body, headers, retry_after_s, wait_us
from fareclass.store import StoreError
from fareclass.store.database import Store
from fareclass.store.master_key import MasterKey
from fareclass.store.webhooks import (
    DELIVERED,
    FAILED,
    EventRow,
    WebhookRow,
    change_event,
    count_all_waiting,
    list_due_events,
    list_due_webhooks,
    stop_webhook,
    sweep_events,
)

_log = logging.getLogger(__name__)
_RETRY_S = 2.0


class Post(Protocol):
    """One attempt, as `engine.outbound.Outbound.post` makes it."""

    async def __call__(self, url: str, headers: dict[str, str], body: bytes) -> Answered: ...


class WebhookSender:
    """Looks for events that are due, and sends each in a task of its own. `waiting`: how many there were at the last look."""

    def __init__(self, store: Store, master: MasterKey, post: Post) -> None:
        self.waiting = 0
        self._store = store
        self._master = master
        self._post = post
        self._sending: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._failing: set[str] = set()
        self._ended = asyncio.Event()
        self._runs: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Begin to send, with what the last end of the gateway left."""
        loop = asyncio.get_running_loop()
        self._runs = [loop.create_task(self._run()), loop.create_task(self._sweep())]

    async def close(self) -> None:
        """Send no more; what was under way is sent again after the next start."""
        tasks = [*self._runs, *(task for _, task in self._sending.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._ended.clear()
            try:
                await self._start_due()
            except SQLAlchemyError as error:
                _log.error("webhooks wait for the database", extra={"cause": str(error)})
                await asyncio.sleep(_RETRY_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(WEBHOOK_POLL_S):
                    await self._ended.wait()

    async def _start_due(self) -> None:
        room = WEBHOOK_SENDS - len(self._sending)
        if room <= 0:
            return
        under_way = Counter(project for project, _ in self._sending.values())
        for webhook, event in await asyncio.to_thread(self._due, under_way, set(self._sending), room):
            task = asyncio.get_running_loop().create_task(self._send(webhook, event))
            self._sending[event.id] = event.project, task

    def _due(self, under_way: Counter[str], besides: set[str], room: int) -> list[tuple[WebhookRow, EventRow]]:
        """What to send now; projects of which less is under way come first."""
        found: list[tuple[WebhookRow, EventRow]] = []
        now = now_us()
        with self._store.read() as connection:
            self.waiting = count_all_waiting(connection)
            webhooks = list_due_webhooks(connection, now)
            for webhook in sorted(webhooks, key=lambda webhook: under_way[webhook.project]):
                bound = 1 if webhook.project in self._failing else WEBHOOK_PROJECT_SENDS
                free = min(bound - under_way[webhook.project], room - len(found))
                if free > 0:
                    events = list_due_events(connection, webhook.project, now, besides, free)
                    found += ((webhook, event) for event in events)
        return found

    async def _send(self, webhook: WebhookRow, event: EventRow) -> None:
        try:
            after = await self._attempt(webhook, event)
            await self._note(webhook, after)
        finally:
            del self._sending[event.id]
            self._ended.set()

    async def _attempt(self, webhook: WebhookRow, event: EventRow) -> EventRow:
        """Send once; how the event stands after it."""
        now = now_us()
        status, asked_s, error = None, 0, None
        try:
            said = body(event.id, event.type, event.created_us // 1_000_000, event.object)
            signed = headers(event.id, now // 1_000_000, said, webhook_secrets(self._master, webhook, now))
            status, retry_after = await self._post(webhook.url, signed, said)
            asked_s = retry_after_s(retry_after, now_us() // 1_000_000)
        except (OutboundError, StoreError) as caught:
            error = str(caught)
        except Exception:  # noqa: BLE001 - the event waits like after any failure, the others go on
            _log.exception("a webhook could not be sent", extra={"event": event.id})
            error = "the gateway failed; its log has more"
        if status is not None and arrived(status):
            self._failing.discard(event.project)
            return self._tried(event, now, DELIVERED, None, status=status)
        self._failing.add(event.project)
        ended = now_us()
        wait = wait_us(event.attempts + 1, ended - event.began_us, asked_s, random.random())  # noqa: S311
        if wait is None or status == GONE:
            return self._tried(event, now, FAILED, None, status=status, error=error)
        return self._tried(event, now, event.state, ended + wait, status=status, error=error)

    @staticmethod
    def _tried(
        event: EventRow, at_us: int, state: str, due_us: int | None, *, status: int | None, error: str | None = None
    ) -> EventRow:
        return replace(
            event,
            state=state,
            due_us=due_us,
            attempts=event.attempts + 1,
            tried_us=at_us,
            status=status,
            error=error if status is None else _said(status),
        )

    async def _note(self, webhook: WebhookRow, event: EventRow) -> None:
        """Write down how it went, however long the database takes; until then it is not sent again."""

        def write() -> None:
            with self._store.write() as connection:
                change_event(connection, event)
                if event.status == GONE:
                    stop_webhook(connection, webhook, now_us())

        while True:
            try:
                return await asyncio.to_thread(write)
            except SQLAlchemyError as error:
                _log.error("a webhook's outcome waits for the database", extra={"cause": str(error)})
                await asyncio.sleep(_RETRY_S)

    async def _sweep(self) -> None:
        def write() -> None:
            with self._store.write() as connection:
                sweep_events(connection, now_us() - WEBHOOK_DAYS * DAY_US, count=WEBHOOK_KEPT)

        while True:
            try:
                await asyncio.to_thread(write)
            except SQLAlchemyError as error:
                _log.error("old webhook events could not be deleted", extra={"cause": str(error)})
            await asyncio.sleep(WEBHOOK_SWEEP_S)


def _said(status: int) -> str | None:
    """An answer that is none of success, in words."""
    if arrived(status):
        return None
    return "a redirect, which is not followed" if 300 <= status < 400 else f"the receiver answered {status}"
