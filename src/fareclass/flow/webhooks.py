"""Webhooks of projects: where they go, which an operator sets (R47), and the outbox that they go out of."""

import secrets
from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from fareclass.core.limits import URL_CHARS, WEBHOOK_OVERLAP_S, WEBHOOK_WAITING
from fareclass.flow.audit import note
from fareclass.flow.clock import now_us
from fareclass.flow.control import Control
from fareclass.flow.lookups import find_project
from fareclass.flow.operator_rules import ControlError
from fareclass.policy.outbound_address import AddressError, Check, is_literal, parse_target
from fareclass.policy.webhooks import EVENTS, TEST
from fareclass.store.ids import EVENT, new_id
from fareclass.store.master_key import MasterKey
from fareclass.store.records import ProjectRecord, moment
from fareclass.store.webhooks import (
    WAITING,
    EventRow,
    Seed,
    WebhookRow,
    add_event,
    change_event,
    count_waiting,
    delete_webhook,
    find_event,
    find_webhook,
    give_up_events,
    give_up_oldest,
    has_event,
    hurry_events,
    list_events,
    put_webhook,
)

_SALT_BYTES = 16


class WebhookView(msgspec.Struct, frozen=True, kw_only=True):
    """Where a project's events go, and how many wait; `events` null means all.

    `stopped_at`: since then the receiver wants no more (it answered 410); to set it again begins anew.
    """

    project: str
    project_name: str
    url: str
    events: tuple[str, ...] | None
    changed_at: datetime
    stopped_at: datetime | None
    waiting: int


class WebhookMade(WebhookView, frozen=True, kw_only=True):
    """With the secret that proves who sends, where it is a new one; it is shown only here."""

    secret: str | None


class DeliveryView(msgspec.Struct, frozen=True, kw_only=True):
    """One event and how it stands: `waiting`, `delivered` or `failed`; `status` and `error` are of the last attempt."""

    id: str
    project: str
    type: str
    object: str
    state: str
    attempts: int
    created_at: datetime
    tried_at: datetime | None
    next_at: datetime | None
    status: int | None
    error: str | None


def announce(connection: Connection, project: str, type: str, object_id: str) -> None:
    """Something has ended: its event is sent at least once, if this transaction comes about and the project wants it.

    Saying the same again changes nothing.
    """
    webhook = find_webhook(connection, project)
    wanted = webhook is not None and webhook.stopped_us is None and (webhook.events is None or type in webhook.events)
    if wanted and not has_event(connection, project, type, object_id):
        _queue(connection, project, type, object_id)


def webhook_secrets(master: MasterKey, webhook: WebhookRow, at_us: int) -> list[bytes]:
    """Those in force, the newest first.

    Raises:
        StoreError: the master key file lost a version.
    """
    seeds = [seed for seed in webhook.seeds if seed.until_us is None or at_us < seed.until_us]
    return [master.webhook_secret(webhook.project, seed.salt, seed.version) for seed in seeds]


class Webhooks:
    """Commands beside those of `Control`, audited too. `check` judges an address; without `http` all must be https."""

    def __init__(self, control: Control, master: MasterKey, check: Check, *, http: bool) -> None:
        self._control = control
        self._master = master
        self._check = check
        self._http = http

    def set(self, actor: str, project: str, url: str, events: Sequence[str] | None, *, rotate: bool) -> WebhookMade:
        """Send a project's events there from now on, those that wait at once.

        The secret stays, unless it is the first or to `rotate`; the old one signs too for a day.
        """
        self._check_url(url)
        wanted = _checked_events(events)
        now = now_us()
        with self._control.change() as connection:
            owner = find_project(connection, project)
            before = find_webhook(connection, owner.id)
            seeds = () if before is None else before.seeds
            fresh = rotate or not seeds
            if fresh:
                old = [
                    msgspec.structs.replace(seed, until_us=now + WEBHOOK_OVERLAP_S * 1_000_000) for seed in seeds[:1]
                ]
                seeds = (Seed(salt=secrets.token_hex(_SALT_BYTES), version=self._master.version), *old)
            row = WebhookRow(
                project=owner.id,
                project_name=owner.name,
                url=url,
                events=wanted,
                seeds=seeds,
                changed_us=now,
                stopped_us=None,
            )
            put_webhook(connection, row)
            hurry_events(connection, owner.id, now)
            shown = None if before is None else _webhook(connection, before)
            after = _webhook(connection, row)
            action = "webhook.rotate" if rotate and before else "webhook.set"
            note(connection, actor, action, owner.id, shown, after)
        secret = f"whsec_{b64encode(webhook_secrets(self._master, row, now)[0]).decode()}" if fresh else None
        return WebhookMade(**msgspec.structs.asdict(after), secret=secret)

    def get(self, project: str) -> WebhookView:
        with self._control.store.read() as connection:
            return _webhook(connection, _find(connection, find_project(connection, project)))

    def clear(self, actor: str, project: str) -> WebhookView:
        """No more events, those that wait neither; returns it as it stood."""
        with self._control.change() as connection:
            owner = find_project(connection, project)
            before = _webhook(connection, _find(connection, owner))
            delete_webhook(connection, owner.id)
            give_up_events(connection, owner.id, "the webhook was cleared")
            note(connection, actor, "webhook.clear", owner.id, before, None)
        return before

    def deliveries(self, project: str, *, before: str, limit: int) -> list[DeliveryView]:
        """A project's events of the last days, the newest first."""
        with self._control.store.read() as connection:
            owner = find_project(connection, project).id
            return [_delivery(row) for row in list_events(connection, owner, before=before, limit=limit)]

    def delivery(self, project: str, id: str) -> DeliveryView:
        with self._control.store.read() as connection:
            return _delivery(_find_event(connection, find_project(connection, project), id))

    def replay(self, actor: str, project: str, id: str) -> DeliveryView:
        """Send an event again, under the same id, as often as it takes."""
        with self._control.change() as connection:
            owner = find_project(connection, project)
            before = _find_event(connection, owner, id)
            _not_stopped(_find(connection, owner))
            now = now_us()
            _make_room(connection, owner.id)
            after = msgspec.structs.replace(before, state=WAITING, began_us=now, due_us=now, attempts=0, error=None)
            change_event(connection, after, again=True)
            note(connection, actor, "webhook.replay", f"{owner.id}/{id}", _delivery(before), _delivery(after))
            return _delivery(after)

    def test(self, actor: str, project: str) -> DeliveryView:
        """Send an event that is of nothing, to see whether it arrives."""
        with self._control.change() as connection:
            owner = find_project(connection, project)
            _not_stopped(_find(connection, owner))
            made = _delivery(_queue(connection, owner.id, TEST, "test"))
            note(connection, actor, "webhook.test", f"{owner.id}/{made.id}", None, made)
            return made

    def _check_url(self, url: str) -> None:
        if len(url) > URL_CHARS:
            raise ControlError("invalid", f"must have at most {URL_CHARS} characters", "url")
        try:
            target = parse_target(url)
        except AddressError as error:
            raise ControlError("invalid", str(error), "url") from None
        why = self._check(target.scheme, target.host) if is_literal(target) else None
        if target.scheme == "http" and not self._http:
            why = "must be https: the configuration has no outbound_networks that http may go to"
        if why is not None:
            raise ControlError("invalid", why, "url")


def _checked_events(events: Sequence[str] | None) -> tuple[str, ...] | None:
    if events is None:
        return None
    for place, event in enumerate(events):
        if event not in EVENTS:
            raise ControlError("invalid", f"unknown event; there are: {', '.join(EVENTS)}", f"events[{place}]")
    if not events:
        raise ControlError("invalid", "must name at least one event, or be null for all", "events")
    return tuple(event for event in EVENTS if event in events)


def _queue(connection: Connection, project: str, type: str, object_id: str) -> EventRow:
    _make_room(connection, project)
    now = now_us()
    row = EventRow(
        id=new_id(EVENT),
        project=project,
        type=type,
        object=object_id,
        state=WAITING,
        created_us=now,
        began_us=now,
        due_us=now,
        attempts=0,
        tried_us=None,
        status=None,
        error=None,
    )
    add_event(connection, row)
    return row


def _make_room(connection: Connection, project: str) -> None:
    if count_waiting(connection, project) >= WEBHOOK_WAITING:
        give_up_oldest(connection, project, f"more than {WEBHOOK_WAITING} events of the project waited")


def _find(connection: Connection, project: ProjectRecord) -> WebhookRow:
    webhook = find_webhook(connection, project.id)
    if webhook is None:
        raise ControlError("not_found", f"project {project.name!r} has no webhook: set one", "project")
    return webhook


def _not_stopped(webhook: WebhookRow) -> None:
    if webhook.stopped_us is not None:
        raise ControlError("ended", "the receiver answered 410, so nothing is sent to it: set the webhook again")


def _find_event(connection: Connection, project: ProjectRecord, id: str) -> EventRow:
    row = find_event(connection, project.id, id)
    if row is None:
        raise ControlError("not_found", f"project {project.name!r} has no such delivery", "delivery")
    return row


def _webhook(connection: Connection, row: WebhookRow) -> WebhookView:
    return WebhookView(
        project=row.project,
        project_name=row.project_name,
        url=row.url,
        events=row.events,
        changed_at=moment(row.changed_us),
        stopped_at=_moment(row.stopped_us),
        waiting=count_waiting(connection, row.project),
    )


def _delivery(row: EventRow) -> DeliveryView:
    return DeliveryView(
        id=row.id,
        project=row.project,
        type=row.type,
        object=row.object,
        state=row.state,
        attempts=row.attempts,
        created_at=moment(row.created_us),
        tried_at=_moment(row.tried_us),
        next_at=_moment(row.due_us),
        status=row.status,
        error=row.error,
    )


def _moment(at_us: int | None) -> datetime | None:
    return None if at_us is None else moment(at_us)
