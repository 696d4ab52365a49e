"""Which key may call what of the control plane (R51)."""

import re

import httpx
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fareclass.wire.admin import all_operations
from fareclass.wire.admin_guard import Guard
from fareclass.wire.console_redirect import ConsolePlace, console_route
from tests.wire.admin_plane import ADMIN_KEY, READ_ONLY_KEY

READER = {"authorization": f"Bearer {READ_ONLY_KEY}"}


async def test_each_key_is_told_what_it_may_and_no_other_is_taken(admin: httpx.AsyncClient):
    assert (await admin.get("/self")).json() == {"role": "admin"}
    assert (await admin.get("/self", headers=READER)).json() == {"role": "read_only"}
    for key in ("", "Bearer", f"Basic {ADMIN_KEY}", f"Bearer {READ_ONLY_KEY}x", "Bearer é"):
        answer = await admin.get("/projects", headers={"authorization": key.encode()})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated"), key


async def test_nobody_is_sent_to_another_host(admin: httpx.AsyncClient):
    """Nor is it told without a key which addresses there are."""
    answer = await admin.get("/projects/", headers={"host": "evil.example", "authorization": ""})
    assert (answer.status_code, "location" in answer.headers) == (404, False)


async def test_the_read_only_key_looks_at_everything_and_plans(admin: httpx.AsyncClient):
    """R44: a plan changes nothing."""
    for path in ("/projects", "/keys", "/pools", "/usage", "/audit", "/batches", "/reservations", "/prices"):
        assert (await admin.get(path, headers=READER)).status_code == 200, path
    assert (await admin.post("/plan", content=b"not json", headers=READER)).status_code == 400


async def test_the_read_only_key_changes_nothing(admin: httpx.AsyncClient):
    """Refused before the body is read: not even what would be wrong with it is told."""
    changes = [one for one in all_operations(Guard(""), *[None] * 7) if one.method != "GET" and one.path != "/plan"]  # type: ignore[arg-type]
    assert len(changes) > 20
    for one in changes:
        path = re.sub(r"\{.*?\}", "x", one.path)
        answer = await admin.request(one.method, path, content=b"not json", headers=READER)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), path
        assert "admin key" in answer.json()["error"]["message"]


async def test_batches_are_listed_with_bounds(admin: httpx.AsyncClient):
    assert (await admin.get("/batches")).json() == {"data": [], "next": None}
    for query in ("state=new", "after=x", "after=1x/y", "limit=0", "project=nobody"):
        assert (await admin.get(f"/batches?{query}")).status_code in {400, 404}, query
    assert (await admin.get("/batches?after=1/x&state=open")).status_code == 200


def test_the_way_to_the_console():
    place = ConsolePlace()
    client = TestClient(
        Starlette(routes=[console_route(place)]), base_url="http://gw.example:8000", follow_redirects=False
    )
    assert client.get("/console").status_code == 404
    place.url = "http://127.0.0.1:8001"
    assert client.get("/console").headers["location"] == "http://127.0.0.1:8001/"
    place.url, place.beyond = "https://127.0.0.1:8001", True
    assert client.get("/console").headers["location"] == "https://gw.example:8001/"
