"""R47, R51: webhooks as operators set them, on both databases, and the outbox that they go out of."""

from typing import Any

import httpx
import pytest

from fareclass.core import limits
from fareclass.flow import webhooks as flow_webhooks
from fareclass.flow.control import Control
from fareclass.flow.webhooks import announce
from fareclass.store.webhooks import sweep_events
from tests.wire.test_admin import made, refused

HOOK = "https://hooks.example.com/fareclass"


@pytest.fixture
async def admin(admin: httpx.AsyncClient) -> httpx.AsyncClient:
    await made(admin, "/projects", {"name": "acme"})
    await made(admin, "/projects", {"name": "other"})
    return admin


async def put(admin: httpx.AsyncClient, project: str = "acme", **fields: Any) -> dict[str, Any]:
    answer = await admin.put(f"/projects/{project}/webhooks", json={"url": HOOK, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def say(control: Control, admin: httpx.AsyncClient, type: str, id: str, project: str = "acme") -> None:
    owner = (await admin.get(f"/projects/{project}")).json()["id"]
    with control.store.write() as connection:
        announce(connection, owner, type, id)


async def events(admin: httpx.AsyncClient, project: str = "acme", **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await admin.get(f"/projects/{project}/webhooks/deliveries", params=params)).json()[
        "data"
    ]
    return found


async def test_r51_the_secret_is_shown_once_and_a_new_one_when_it_is_rotated(
    admin: httpx.AsyncClient, control: Control
) -> None:
    first = await put(admin)
    assert first["secret"].startswith("whsec_") and len(first["secret"]) == 6 + 44
    assert (first["project_name"], first["url"], first["events"], first["waiting"]) == ("acme", HOOK, None, 0)
    again = await put(admin, url=HOOK + "/2", events=["batch.failed", "batch.completed", "batch.failed"])
    assert again["secret"] is None and again["events"] == ["batch.completed", "batch.failed"]
    assert "secret" not in (await admin.get("/projects/acme/webhooks")).json()
    rotated = (await put(admin, rotate=True))["secret"]
    assert (await admin.delete("/projects/acme/webhooks")).json()["url"] == HOOK
    anew = (await put(admin))["secret"]
    elsewhere = (await put(admin, "other"))["secret"]
    assert len({first["secret"], rotated, anew, elsewhere}) == 4
    changes = (await admin.get("/audit")).json()["data"]
    said = [change["action"] for change in changes[:6]]
    assert said == ["webhook.set", "webhook.set", "webhook.clear", "webhook.rotate", "webhook.set", "webhook.set"]
    assert changes[4]["before"]["url"] == HOOK and changes[4]["after"]["url"] == HOOK + "/2"
    with control.store.read() as connection:
        kept = repr([*connection.exec_driver_sql("SELECT * FROM webhooks"), *changes])
    for secret in (first["secret"], rotated, anew, elsewhere):
        assert secret.removeprefix("whsec_") not in kept


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("url", {}),
        ("url", {"url": 7}),
        ("url", {"url": ""}),
        ("url", {"url": "hooks.example.com"}),
        ("url", {"url": "https://user:pw@hooks.example.com/"}),
        ("url", {"url": "https://10.0.0.7/"}),
        ("url", {"url": "https://[::ffff:169.254.169.254]/latest"}),
        ("url", {"url": "http://93.184.216.34/"}),
        ("url", {"url": "https://" + "a" * 3_000}),
        ("url", {"url": "https://h\u00f6ok.example.com/"}),
        ("events", {"url": HOOK, "events": []}),
        ("events[1]", {"url": HOOK, "events": ["batch.completed", "batch.begun"]}),
        ("event", {"url": HOOK, "event": "batch.completed"}),
    ],
)
async def test_r47_what_is_no_webhook_is_refused(admin: httpx.AsyncClient, field: str, body: dict[str, Any]) -> None:
    refused(await admin.put("/projects/acme/webhooks", json=body), 400, "invalid", field)
    refused(await admin.get("/projects/acme/webhooks"), 404, "not_found", "project")


async def test_r51_what_is_another_project_s_is_not_there(admin: httpx.AsyncClient, control: Control) -> None:
    for project in ("acme", "other"):
        await put(admin, project)
    await say(control, admin, "batch.completed", "batch_1")
    [mine] = await events(admin)
    at = f"webhooks/deliveries/{mine['id']}"
    assert (await admin.get(f"/projects/acme/{at}")).json() == mine
    refused(await admin.get(f"/projects/other/{at}"), 404, "not_found", "delivery")
    refused(await admin.post(f"/projects/other/{at}/replay"), 404, "not_found", "delivery")
    assert await events(admin, "other") == []
    for path in ("webhooks", "webhooks/deliveries", at):
        refused(await admin.get(f"/projects/nobody/{path}"), 404, "not_found", "project")


async def test_an_event_is_kept_once_if_it_is_wanted_and_its_transaction_comes_about(
    admin: httpx.AsyncClient, control: Control
) -> None:
    await say(control, admin, "batch.completed", "batch_0")
    await put(admin, events=["batch.completed"])
    for _ in range(2):
        await say(control, admin, "batch.completed", "batch_1")
    await say(control, admin, "batch.failed", "batch_2")
    owner = (await admin.get("/projects/acme")).json()["id"]
    with pytest.raises(ZeroDivisionError):
        announce_and_fail(control, owner)
    await say(control, admin, "batch.completed", "batch_3")
    found = await events(admin)
    assert [(one["object"], one["type"], one["state"], one["attempts"]) for one in found] == [
        ("batch_3", "batch.completed", "waiting", 0),
        ("batch_1", "batch.completed", "waiting", 0),
    ]
    page = (await admin.get("/projects/acme/webhooks/deliveries", params={"limit": 1})).json()
    assert page["data"] == found[:1] and await events(admin, after=page["next"]) == found[1:]
    assert (await admin.get("/projects/acme/webhooks")).json()["waiting"] == 2
    assert (await admin.delete("/projects/acme/webhooks")).json()["waiting"] == 2
    assert {(one["state"], one["error"]) for one in await events(admin)} == {("failed", "the webhook was cleared")}
    refused(
        await admin.post(f"/projects/acme/webhooks/deliveries/{found[0]['id']}/replay"), 404, "not_found", "project"
    )
    await put(admin)
    again = await admin.post(f"/projects/acme/webhooks/deliveries/{found[0]['id']}/replay")
    assert (again.json()["state"], again.json()["error"]) == ("waiting", None)


def announce_and_fail(control: Control, owner: str) -> None:
    with control.store.write() as connection:
        announce(connection, owner, "batch.completed", "batch_lost")
        raise ZeroDivisionError


async def test_no_more_wait_or_are_kept_than_the_bounds_say(
    admin: httpx.AsyncClient, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_webhooks, "WEBHOOK_WAITING", 3)
    assert limits.WEBHOOK_WAITING <= limits.WEBHOOK_KEPT
    await put(admin)
    for number in range(5):
        await say(control, admin, "batch.completed", f"batch_{number}")
    stands = {one["object"]: one["state"] for one in await events(admin)}
    assert stands == dict.fromkeys(["batch_0", "batch_1"], "failed") | dict.fromkeys(
        ["batch_2", "batch_3", "batch_4"], "waiting"
    )
    await admin.delete("/projects/acme/webhooks")
    await put(admin)
    with control.store.write() as connection:
        sweep_events(connection, 0, count=2)
    assert [one["object"] for one in await events(admin)] == ["batch_4", "batch_3"]
    with control.store.write() as connection:
        sweep_events(connection, 2**62, count=2)
    assert await events(admin) == []


async def test_a_test_event_needs_a_webhook(admin: httpx.AsyncClient) -> None:
    refused(await admin.post("/projects/acme/webhooks/test"), 404, "not_found", "project")
    await put(admin, events=["batch.completed"])
    sent = (await admin.post("/projects/acme/webhooks/test")).json()
    assert (sent["type"], sent["state"]) == ("webhook.test", "waiting")
