"""R47: events go out at least once, are tried again as long as it makes sense, and no project waits for another's receiver.

A real database of each kind, and real receivers.
"""

import asyncio
import base64
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from email.utils import formatdate
from pathlib import Path

import pytest
import standardwebhooks
from aiohttp import web
from sqlalchemy.exc import OperationalError

from fareclass.engine.outbound import Names, Outbound
from fareclass.flow import webhook_sending
from fareclass.flow.control import Control
from fareclass.flow.webhook_sending import WebhookSender
from fareclass.flow.webhooks import DeliveryView, Webhooks, announce
from fareclass.policy import webhooks as policy_webhooks
from fareclass.policy.outbound_address import judge
from fareclass.store.database import Store
from fareclass.store.fingerprints import open_master_key
from tests.engine.conftest import eventually
from tests.engine.receiver import receiving
from tests.wire.admin_plane import make_control

LOCAL = judge(["127.0.0.0/8"])


class Hooks:
    """A control plane with webhooks, and a sender of their events."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.control: Control = make_control(store, folder)
        self.master = open_master_key(folder / "keys" / "master.key", store)
        self.commands = Webhooks(self.control, self.master, LOCAL, http=True)

    def project(self, name: str, url: str) -> str:
        """A project with a webhook; its secret."""
        self.control.create_project("test", name)
        secret = self.commands.set("test", name, url, None, rotate=False).secret
        assert secret is not None
        return secret

    def say(self, project: str, id: str, type: str = "batch.completed") -> None:
        with self.control.store.write() as connection:
            announce(connection, self.control.project(project).id, type, id)

    def stands(self, project: str) -> list[DeliveryView]:
        """Its events, oldest first."""
        return self.commands.deliveries(project, before="", limit=1_000)[::-1]

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[WebhookSender]:
        sender = WebhookSender(
            self.control.store, self.master, Outbound(LOCAL, ssl.create_default_context(), Names()).post
        )
        sender.open()
        try:
            yield sender
        finally:
            await sender.close()

    async def become(self, project: str, holds: Callable[[DeliveryView], bool]) -> None:
        """Wait until all events of a project are so."""
        await eventually(lambda: all(map(holds, self.stands(project))))


@pytest.fixture
def hooks(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hooks:
    monkeypatch.setattr(webhook_sending, "WEBHOOK_POLL_S", 0.02)
    return Hooks(store, tmp_path)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits before it is sent again."""
    monkeypatch.setattr(policy_webhooks, "RETRY_S", (0,))


def delivered(event: DeliveryView) -> bool:
    return event.state == "delivered"


async def held(_request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def test_an_event_arrives_signed_and_is_noted(hooks: Hooks):
    async with receiving() as receiver, hooks.sending():
        secret = hooks.project("acme", receiver.url)
        hooks.say("acme", "batch_1")
        await eventually(lambda: receiver.got)
        await hooks.become("acme", delivered)
        [got], [event] = receiver.got, hooks.stands("acme")
        said = standardwebhooks.Webhook(secret).verify(got.body, got.headers)
        assert said["type"] == "batch.completed" and said["data"] == {"id": "batch_1"}
        assert said["id"] == got.headers["webhook-id"] == event.id
        assert (event.attempts, event.status, event.error, event.next_at) == (1, 200, None, None)


async def test_after_a_rotation_both_secrets_prove_it_and_after_a_day_only_the_new_one(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
):
    async with receiving() as receiver, hooks.sending():
        old = hooks.project("acme", receiver.url)
        new = hooks.commands.set("test", "acme", receiver.url, None, rotate=True).secret
        assert new is not None
        hooks.say("acme", "batch_1")
        await hooks.become("acme", delivered)
        [got] = receiver.got
        for secret in (old, new):
            standardwebhooks.Webhook(secret).verify(got.body, got.headers)
        monkeypatch.setattr(webhook_sending, "now_us", lambda: time.time_ns() // 1000 + 86_400_000_000)
        hooks.say("acme", "batch_2")
        await hooks.become("acme", delivered)
        got = receiver.got[1]
        signed = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
        wanted = policy_webhooks.hmac.digest(base64.b64decode(new.removeprefix("whsec_")), signed, "sha256")
        assert got.headers["webhook-signature"] == f"v1,{base64.b64encode(wanted).decode()}"


@pytest.mark.parametrize("status", [302, 400, 429, 500, 503])
async def test_what_is_not_taken_is_sent_again_under_the_same_id(hooks: Hooks, at_once: None, status: int):
    async with receiving() as receiver, hooks.sending():
        receiver.status = status
        hooks.project("acme", receiver.url)
        hooks.say("acme", "batch_1")
        await eventually(lambda: len(receiver.got) >= 3)
        receiver.status = 204
        await hooks.become("acme", delivered)
        [event] = hooks.stands("acme")
        assert {got.headers["webhook-id"] for got in receiver.got} == {event.id}
        assert event.attempts == len(receiver.got) and event.status == 204


async def test_waits_are_those_of_the_table_or_what_the_receiver_asks_for(hooks: Hooks):
    asked = {
        "s": {"Retry-After": "1000"},
        "date": {"Retry-After": formatdate(time.time() + 2_000, usegmt=True)},
        "no": {},
    }
    async with AsyncExitStack() as stack:
        sender = await stack.enter_async_context(hooks.sending())
        for name, headers in asked.items():
            receiver = await stack.enter_async_context(receiving())
            receiver.status, receiver.headers = 503, headers
            hooks.project(name, receiver.url)
            hooks.say(name, "batch_1")
        await eventually(lambda: sender.waiting == len(asked))
        for name, (least, most) in {"s": (1_000, 1_200), "date": (1_990, 2_400), "no": (5, 6)}.items():
            await hooks.become(name, lambda event: event.attempts == 1)
            [event] = hooks.stands(name)
            assert event.next_at is not None and event.tried_at is not None
            assert least - 1 <= (event.next_at - event.tried_at).total_seconds() <= most + 1
            assert (event.state, event.status, event.error) == ("waiting", 503, "the receiver answered 503")


async def test_after_three_days_it_is_given_up_and_can_be_sent_again(
    hooks: Hooks, at_once: None, monkeypatch: pytest.MonkeyPatch
):
    async with receiving() as receiver:
        receiver.status = 500
        hooks.project("acme", receiver.url)
        hooks.say("acme", "batch_1")
        late_us = (3 * 86_400 + 1) * 1_000_000
        with monkeypatch.context() as patch:
            patch.setattr(webhook_sending, "now_us", lambda: time.time_ns() // 1000 + late_us)
            async with hooks.sending():
                await hooks.become("acme", lambda event: event.state == "failed")
        [event] = hooks.stands("acme")
        assert (event.attempts, event.status, event.next_at) == (1, 500, None)
        receiver.status = 200
        async with hooks.sending():
            hooks.commands.replay("test", "acme", event.id)
            await hooks.become("acme", delivered)
        assert [got.headers["webhook-id"] for got in receiver.got] == [event.id] * 2


async def test_a_receiver_that_is_gone_gets_nothing_until_it_is_set_again(hooks: Hooks, at_once: None):
    async with receiving() as receiver, hooks.sending():
        receiver.status = 410
        hooks.project("acme", receiver.url)
        hooks.say("acme", "batch_1")
        await hooks.become("acme", lambda event: event.state == "failed")
        assert hooks.commands.get("acme").stopped_at is not None
        hooks.say("acme", "batch_2")
        assert len(hooks.stands("acme")) == 1
        receiver.status = 200
        assert hooks.commands.set("test", "acme", receiver.url, None, rotate=False).stopped_at is None
        hooks.say("acme", "batch_3")
        await hooks.become("acme", lambda event: event.state == "delivered" or event.object == "batch_1")
        assert len(receiver.got) == 2


async def test_a_slow_receiver_delays_nobody_else_and_few_of_its_own(hooks: Hooks):
    async with receiving() as slow, receiving() as quick, hooks.sending():
        slow.answer = held
        hooks.project("slow", slow.url)
        hooks.project("quick", quick.url)
        for number in range(50):
            hooks.say("slow", f"batch_{number}")
        await eventually(lambda: len(slow.got) == 4)
        for number in range(20):
            hooks.say("quick", f"batch_{number}")
        await hooks.become("quick", delivered)
        assert len(quick.got) == 20 and len(slow.got) == 4


async def test_a_receiver_that_fails_is_tried_with_one_at_a_time(hooks: Hooks):
    async with receiving() as receiver, hooks.sending():
        receiver.status = 500
        hooks.project("acme", receiver.url)
        hooks.say("acme", "batch_0")
        await hooks.become("acme", lambda event: event.attempts == 1)
        receiver.answer = held
        for number in range(1, 9):
            hooks.say("acme", f"batch_{number}")
        await eventually(lambda: len(receiver.got) == 2)
        hooks.say("acme", "batch_9")
        await asyncio.wait_for(looked_again(), 5)
        assert len(receiver.got) == 2


async def looked_again() -> None:
    """Long enough for the sender to look several times for what is due."""
    for _ in range(10):
        await asyncio.sleep(webhook_sending.WEBHOOK_POLL_S)


async def test_what_was_under_way_at_the_end_is_sent_again_after_the_next_start(hooks: Hooks):
    async with receiving() as receiver:
        receiver.answer = held
        hooks.project("acme", receiver.url)
        hooks.say("acme", "batch_1")
        async with hooks.sending():
            await eventually(lambda: receiver.got)
        receiver.answer = None
        async with hooks.sending():
            await hooks.become("acme", delivered)
        assert len({got.headers["webhook-id"] for got in receiver.got}) == 1


async def test_an_outcome_that_can_t_be_noted_is_noted_later(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Nor is the event sent a second time meanwhile."""
    monkeypatch.setattr(webhook_sending, "_RETRY_S", 0.05)
    change, failures = webhook_sending.change_event, iter(range(3))

    def fail_thrice(*given: object) -> None:
        if next(failures, None) is not None:
            raise OperationalError("UPDATE", {}, Exception("disk full"))
        change(*given)

    monkeypatch.setattr(webhook_sending, "change_event", fail_thrice)
    async with receiving() as receiver, hooks.sending():
        hooks.project("acme", receiver.url)
        with caplog.at_level(logging.ERROR):
            hooks.say("acme", "batch_1")
            await hooks.become("acme", delivered)
        assert len(receiver.got) == 1 and len(caplog.records) == 3


async def test_r47_what_leads_nowhere_allowed_is_told_and_not_tried(hooks: Hooks, monkeypatch: pytest.MonkeyPatch):
    """A name that passes when it is set and stands for an address of ours when it is used."""
    async with receiving() as receiver, hooks.sending():
        hooks.project("acme", f"https://localhost:{receiver.port}/")
        monkeypatch.setattr(hooks.commands, "_check", judge([]))
        hooks.say("acme", "batch_1")
        await hooks.become("acme", lambda event: event.attempts == 1)
        [event] = hooks.stands("acme")
        assert event.state == "waiting" and event.status is None and event.error
        assert receiver.got == []
        hooks.commands.clear("test", "acme")
        assert hooks.stands("acme")[0].state == "failed"


async def test_a_new_address_is_tried_at_once(hooks: Hooks):
    async with receiving() as broken, receiving() as receiver, hooks.sending():
        broken.status, broken.headers = 503, {"Retry-After": "3600"}
        hooks.project("acme", broken.url)
        hooks.say("acme", "batch_1")
        await hooks.become("acme", lambda event: event.attempts == 1)
        hooks.commands.set("test", "acme", receiver.url, None, rotate=False)
        await hooks.become("acme", delivered)
        assert json.loads(receiver.got[0].body)["data"] == {"id": "batch_1"}
