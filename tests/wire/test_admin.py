"""The control plane, as its clients see it, on both databases."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from openapi_spec_validator import validate

from fareclass.config import Price
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from fareclass.flow.control import Control
from fareclass.metering.ledger import Ledger
from fareclass.store.database import Store
from tests.store.made import entry
from tests.wire.admin_plane import ADMIN_KEY, make_control


async def made(admin: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await admin.post(path, json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()  # type: ignore[no-any-return]


def refused(answer: httpx.Response, status: int, code: str, field: str | None) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == (code, field), error
    return str(error["message"])


# Projects and keys


async def test_a_new_key_is_in_force_at_once_and_a_revoked_one_no_more(
    admin: httpx.AsyncClient, control: Control
) -> None:
    """R51: the secret is shown once; revoked, the key is gone from what the data path reads."""
    project = await made(admin, "/projects", {"name": "acme", "weight": 3})
    body = {
        "project": "acme",
        "name": "ci",
        "default_tier": "fast",
        "allowed_tiers": ["flex", "fast"],
        "tags": {"a": "b"},
    }
    key = await made(admin, "/keys", body)
    in_force = control.snapshot.keys[key["id"]]
    assert in_force.secret == key["secret"].encode()
    assert (in_force.project.id, in_force.project.weight) == (project["id"], 3)
    assert (in_force.default_tier, in_force.allowed_tiers) == (Tier.PRIORITY, frozenset({Tier.PRIORITY, Tier.FLEX}))
    assert in_force.tags == {"a": "b"}
    assert "secret" not in (await admin.get(f"/keys/{key['id']}")).json()
    revoked = await admin.delete("/keys/ci")
    assert revoked.status_code == 200
    assert revoked.json()["revoked_at"].endswith("Z")
    assert key["id"] not in control.snapshot.keys
    assert (await admin.delete(f"/keys/{key['id']}")).json() == revoked.json()


async def test_objects_are_named_by_id_or_name(admin: httpx.AsyncClient, control: Control) -> None:
    project = await made(admin, "/projects", {"name": "Ächme & Söhne"})
    for ref in (project["id"], project["name"]):
        assert (await admin.get(f"/projects/{ref}")).json() == project
        await made(admin, "/keys", {"project": ref, "name": f"for {ref[:4]}"})
    renamed = await admin.patch(f"/projects/{project['name']}", json={"name": "acme", "weight": 2})
    assert renamed.json() == project | {"name": "acme", "weight": 2}
    assert {key.project.name for key in control.snapshot.keys.values()} == {"acme"}
    changed = await admin.patch("/keys/for proj", json={"allowed_tiers": ["default", "flex"], "tags": {"x": "1"}})
    assert (changed.json()["allowed_tiers"], changed.json()["tags"]) == (["default", "flex"], {"x": "1"})
    cleared = await admin.patch("/keys/for proj", json={"allowed_tiers": None})
    assert (cleared.json()["allowed_tiers"], cleared.json()["tags"]) == (None, {"x": "1"})


async def test_names_are_unique_where_they_must_be(admin: httpx.AsyncClient) -> None:
    for name in ("one", "two"):
        await made(admin, "/projects", {"name": name})
        await made(admin, "/keys", {"project": name, "name": "ci"})
    refused(await admin.post("/projects", json={"name": "one"}), 409, "already_exists", "name")
    refused(await admin.patch("/projects/two", json={"name": "one"}), 409, "already_exists", "name")
    refused(await admin.post("/keys", json={"project": "one", "name": "ci"}), 409, "already_exists", "name")
    assert "use the id" in refused(await admin.delete("/keys/ci"), 409, "ambiguous", "key")
    first = (await admin.get("/keys", params={"project": "one"})).json()["data"][0]
    await admin.delete(f"/keys/{first['id']}")
    await made(admin, "/keys", {"project": "one", "name": "ci"})


async def test_lists_come_in_pages(admin: httpx.AsyncClient) -> None:
    names = [f"p{number}" for number in range(5)]
    for name in names:
        await made(admin, "/projects", {"name": name})
        await admin.put(f"/quotas/{name}/smollm2", json={"rpm": 1})
        await admin.put(f"/quotas/{name}/meta-llama/Llama-3", json={"rpm": 2})
    for path, count in (("/projects", 5), ("/quotas", 10), ("/audit", 15)):
        found: list[dict[str, Any]] = []
        part: dict[str, Any] = {"next": ""}
        while part["next"] is not None:
            after = part["next"]
            part = (await admin.get(path, params={"limit": 4, "after": after})).json()
            assert len(part["data"]) <= 4
            found += part["data"]
        assert len(found) == count
        assert len({str(item) for item in found}) == count


async def test_the_only_allowed_tier_is_the_default(admin: httpx.AsyncClient) -> None:
    """R2."""
    await made(admin, "/projects", {"name": "acme"})
    key = await made(admin, "/keys", {"project": "acme", "name": "k", "allowed_tiers": ["flex"]})
    changed = await admin.patch("/keys/k", json={"allowed_tiers": ["priority"]})
    assert (key["default_tier"], changed.json()["default_tier"]) == ("flex", "priority")


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/projects", b'{"name":"a","colour":1}', "colour"),
        ("POST", "/projects", b"{}", "name"),
        ("POST", "/projects", b'{"name":""}', "name"),
        ("POST", "/projects", b'{"name":"proj_x"}', "name"),
        ("POST", "/projects", b'{"name":"a/b"}', "name"),
        ("POST", "/projects", b'{"name":".."}', "name"),
        ("POST", "/projects", b'{"name":"a\\u0000"}', "name"),
        ("POST", "/projects", b'{"name":"a\\ud800"}', None),
        ("POST", "/projects", b'{"name":"a","weight":0}', "weight"),
        ("POST", "/projects", b'{"name":"a","weight":99999999999999999999999}', "weight"),
        ("POST", "/projects", b'{"name":1}', "name"),
        ("POST", "/projects", b'{"name":"a","name":"b"}', "name"),
        ("POST", "/projects", b"\xff", None),
        ("POST", "/projects", b"[]", None),
        ("POST", "/projects", b"", None),
        ("POST", "/projects", b'{"name":' + b"[" * 50_000, None),
        ("POST", "/projects", b'{"name":"' + b"a" * 300_000 + b'"}', None),
        ("POST", "/keys", b'{"project":"acme","name":"k","default_tier":"gold"}', "default_tier"),
        ("POST", "/keys", b'{"project":"acme","name":"k","default_tier":"batch"}', "default_tier"),
        ("POST", "/keys", b'{"project":"acme","name":"k","allowed_tiers":["flex","batch"]}', "default_tier"),
        ("POST", "/keys", b'{"project":"acme","name":"k","allowed_tiers":[]}', "allowed_tiers"),
        ("POST", "/keys", b'{"project":"acme","name":"k","allowed_tiers":["default","x"]}', "allowed_tiers[1]"),
        ("POST", "/keys", b'{"project":"acme","name":"k","tags":{"a b":"c"}}', "tags"),
        ("POST", "/keys", b'{"project":"acme","name":"k","tags":{"a":"\\u0000"}}', "tags.a"),
        ("PUT", "/quotas/acme/smollm2", b'{"tpm":-1}', "tpm"),
        ("PUT", "/quotas/acme/smollm2", b'{"tpm":1.5}', "tpm"),
        ("PUT", "/quotas/acme/smollm2", b'{"priority_share":0.5}', "priority_share"),
        ("PUT", "/prices/smollm2", b'{"input":1}', "output"),
        ("PUT", "/prices/smollm2", b'{"input":-1,"output":1}', "input"),
        ("PUT", "/prices/smollm2", b'{"input":"1e999999999","output":1}', "input"),
        ("PUT", "/prices/smollm2", b'{"input":1e300,"output":1}', "input"),
        ("PUT", "/prices/smollm2", b'{"input":"NaN","output":1}', "input"),
        ("PUT", "/prices/smollm2", b'{"input":"0.0000010001","output":1}', "input"),
        ("PUT", "/prices/smollm2", b'{"input":1,"output":1,"tiers":{"gold":2}}', "tiers.gold"),
        ("PUT", "/prices/smollm2", b'{"input":1,"output":1,"tiers":{"flex":"1e-999999"}}', "tiers.flex"),
        ("PATCH", "/pools/smollm2/replicas/r1", b'{"slots":0}', "slots"),
        ("PATCH", "/pools/smollm2/replicas/r1", b'{"slots":65}', None),
        ("PATCH", "/pools/smollm2/replicas/r1", b'{"tiers":["x"]}', "tiers[0]"),
        ("GET", "/projects?limit=0", b"", "limit"),
        ("GET", "/projects?limit=x", b"", "limit"),
        ("GET", "/projects?limti=1", b"", "limti"),
        ("GET", "/projects?after=%00", b"", "after"),
        ("GET", "/audit?after=x", b"", "after"),
        ("GET", "/usage?by=colour", b"", "by"),
        ("GET", "/usage?by=tag:a,tag:b", b"", "by"),
        ("GET", "/usage?tag=a", b"", "tag"),
        ("GET", "/usage?from=yesterday", b"", "from"),
        ("GET", "/usage?from=2026-01-01T00:00:00", b"", "from"),
        ("GET", "/usage?step=0", b"", "step"),
    ],
)
async def test_bad_input_is_told_with_its_field(
    admin: httpx.AsyncClient, method: str, path: str, body: bytes, field: str | None
) -> None:
    """Section 11: nothing that a caller sends makes a 500, and nothing is changed."""
    await made(admin, "/projects", {"name": "acme"})
    answer = await admin.request(method, path, content=body or None)
    if field is None:
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["message"]
    else:
        assert "Expected" not in refused(answer, 400, "invalid", field)
    assert len((await admin.get("/projects")).json()["data"]) == 1
    assert (await admin.get("/keys")).json()["data"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("GET", "/projects/nobody", None, "project"),
        ("GET", "/projects/a%00b", None, "project"),
        ("PATCH", "/projects/nobody", {}, "project"),
        ("POST", "/keys", {"project": "nobody", "name": "k"}, "project"),
        ("DELETE", "/keys/none", None, "key"),
        ("PUT", "/quotas/nobody/smollm2", {}, "project"),
        ("PUT", "/prices/gpt-9", {"input": 1, "output": 1}, "model"),
        ("GET", "/prices/gpt-9", None, "model"),
        ("GET", "/pools?model=gpt-9", None, "model"),
        ("PATCH", "/pools/smollm2/replicas/r9", {"drain": True}, "replica"),
        ("GET", "/usage?project=nobody", None, "project"),
        ("GET", "/usage?key=none", None, "key"),
        ("GET", "/nothing", None, None),
    ],
)
async def test_what_is_not_there_is_404(
    admin: httpx.AsyncClient, method: str, path: str, body: object, field: str | None
) -> None:
    refused(await admin.request(method, path, json=body), 404, "not_found", field)


async def test_a_wrong_method_is_405(admin: httpx.AsyncClient) -> None:
    answer = await admin.delete("/projects")
    refused(answer, 405, "method_not_allowed", None)
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer x", f"Basic {ADMIN_KEY}", "Bearer \xff", f"Bearer {ADMIN_KEY}x"]
)
async def test_only_the_admin_key_opens(admin: httpx.AsyncClient, header: str) -> None:
    """R51: and nothing is told about what there is."""
    for path in ("/projects", "/usage", "/keys/none"):
        answer = await admin.get(path, headers={b"Authorization": header.encode("latin-1")})
        refused(answer, 401, "unauthenticated", None)


# Quotas, prices, pools


async def test_a_quota_is_replaced_as_a_whole(admin: httpx.AsyncClient, control: Control) -> None:
    """R25."""
    project = await made(admin, "/projects", {"name": "acme"})
    at = (project["id"], "meta-llama/Llama-3")
    await admin.put("/quotas/acme/meta-llama/Llama-3", json={"tpm": 1000, "rpm": 10})
    assert control.snapshot.quotas[at].tpm == 1000
    answer = await admin.put("/quotas/acme/meta-llama/Llama-3", json={"concurrency": 0})
    assert answer.json() == {
        "project": project["id"],
        "project_name": "acme",
        "model": "meta-llama/Llama-3",
        "tpm": None,
        "rpm": None,
        "concurrency": 0,
        "priority_share": "0",
    }
    quota = control.snapshot.quotas[at]
    assert (quota.tpm, quota.rpm, quota.concurrency) == (None, None, 0)


async def test_a_new_price_is_a_new_version(admin: httpx.AsyncClient, control: Control) -> None:
    """R33: exact from JSON to the price book; a book that a request took before stays as it is (R5)."""
    before = control.snapshot.books["smollm2"]
    first = await admin.put("/prices/smollm2", json={"input": "0.60", "output": 2.40})
    assert first.json()["version"] == 1
    body = b'{"input":0.1234,"output":2,"cache_read":"0.01","tiers":{"priority":2}}'
    second = (await admin.put("/prices/smollm2", content=body)).json()
    assert (second["version"], second["input"], second["cache_read"]) == (2, "0.1234", "0.01")
    assert (second["tiers"]["priority"], second["tiers"]["flex"]) == ("2", "0.5")
    book = control.snapshot.books["smollm2"]
    assert book.version == 2
    assert book.rates[Tier.PRIORITY][0] == 246_800
    assert book.rates[Tier.PRIORITY][3] == 20_000
    assert before.version == 0
    assert before.rates[Tier.DEFAULT] == (0, 0, 0, 0, 0)
    assert [row["version"] for row in (await admin.get("/prices/smollm2")).json()["data"]] == [2, 1]
    assert [row["version"] for row in (await admin.get("/prices")).json()["data"]] == [2]


async def test_the_configuration_sets_a_price_only_when_it_changed(store: Store, tmp_path: Path) -> None:
    """R33: what an operator set through the control plane outlives a restart."""
    one, two = (Price(input=Decimal(text), output=Decimal(2)) for text in ("1", "3"))
    assert make_control(store, tmp_path, one).snapshot.books["smollm2"].version == 1
    control = make_control(store, tmp_path, one)
    assert control.snapshot.books["smollm2"].version == 1
    control.set_prices("admin", "smollm2", two, {})
    again = make_control(store, tmp_path, one)
    assert again.snapshot.books["smollm2"].rates[Tier.DEFAULT][0] == 3_000_000
    edited = make_control(store, tmp_path, Price(input=Decimal(4), output=Decimal(2)))
    assert edited.snapshot.books["smollm2"].version == 3


async def test_a_replica_is_changed_and_audited(admin: httpx.AsyncClient) -> None:
    """R16: tiers, slots and drain, each change on record, refused ones too."""
    answer = await admin.patch("/pools/smollm2/replicas/r1", json={"drain": True, "tiers": ["scale"], "slots": 4})
    changed = {"slots": 4, "tiers": ["reserved"], "drain": True}
    assert answer.json() == {"id": "r1", "up": True, "running": {"flex": 2}} | changed
    pools = (await admin.get("/pools")).json()["data"]
    assert pools == [{"model": "smollm2", "replicas": [answer.json()], "queued": {"flex": 3}, "kept_share": 0.5}]
    assert (await admin.patch("/pools/smollm2/replicas/r1", json={"slots": 65})).status_code == 400
    refusal, change, done = (await admin.get("/audit")).json()["data"]
    assert (refusal["action"], change["after"]["slots"]) == ("replica.change_refused", 65)
    assert (done["target"], done["before"]["slots"], done["after"]["slots"]) == ("smollm2/r1", 8, 4)


# Reports, audit, the document


async def test_usage_is_what_the_ledger_says(admin: httpx.AsyncClient, store: Store) -> None:
    """R36: by names, exact."""
    project = await made(admin, "/projects", {"name": "acme"})
    key = await made(admin, "/keys", {"project": "acme", "name": "ci"})
    ledger = Ledger(store)
    for served, cost in ((Tier.PRIORITY, 1), (Tier.FLEX, 10**12), (Tier.FLEX, 2)):
        given: dict[str, Any] = {"project": project["id"], "key": key["id"], "served_tier": served, "cost_pico": cost}
        await ledger.append(entry(usage=Usage(input=7, output=3), ended_us=1_800_000_000_000_000, **given))
    await ledger.append(entry(project="proj_other"))
    await ledger.close()
    await admin.delete(f"/keys/{key['id']}")
    params = {"project": "acme", "key": "ci", "by": "project,key", "step": "3600", "from": "2027-01-15T00:00:00Z"}
    rows = (await admin.get("/usage", params=params)).json()["data"]
    assert [(row["served_tier"], row["requests"], row["input"], row["cost"]) for row in rows] == [
        ("flex", 2, 14, "1.000000000002"),
        ("priority", 1, 7, "0.000000000001"),
    ]
    assert {(row["start"], row["project_name"], row["key_name"]) for row in rows} == {
        ("2027-01-15T08:00:00Z", "acme", "ci")
    }


async def test_every_change_is_audited(admin: httpx.AsyncClient) -> None:
    """Who, what, before and after; a command that was refused left nothing."""
    await made(admin, "/projects", {"name": "acme"})
    await admin.post("/projects", json={"name": "acme"})
    await admin.patch("/projects/acme", json={"weight": 5})
    await made(admin, "/keys", {"project": "acme", "name": "ci"})
    await admin.patch("/keys/ci", json={"default_tier": "flex"})
    await admin.delete("/keys/ci")
    await admin.put("/quotas/acme/smollm2", json={"rpm": 1})
    await admin.put("/prices/smollm2", json={"input": 1, "output": 1})
    found = list(reversed((await admin.get("/audit")).json()["data"]))
    assert [row["action"] for row in found] == [
        "project.create",
        "project.update",
        "key.create",
        "key.update",
        "key.revoke",
        "quota.set",
        "price.set",
    ]
    assert found[0]["before"] is None
    assert (found[1]["before"]["weight"], found[1]["after"]["weight"]) == (1, 5)
    assert {row["actor"] for row in found} == {"admin"}


async def test_the_document_is_valid_openapi(admin: httpx.AsyncClient) -> None:
    answer = await admin.get("http://gw/admin/openapi.json", headers={"Authorization": ""})
    described = answer.json()
    validate(described)
    assert described["openapi"].startswith("3.1")
    names = [part["name"] for part in described["paths"]["/admin/v1/usage"]["get"]["parameters"]]
    assert {"project", "model", "key", "tag", "from", "to", "step", "by", "format"} == set(names)
    assert set(described["paths"]["/admin/v1/keys/{key}"]) == {"get", "patch", "delete"}


# Trouble


async def test_no_secret_is_in_the_database_or_the_log(
    admin: httpx.AsyncClient, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """R51: neither the key, nor what proves it, nor the master key; raw bytes on SQLite, every column on both."""
    caplog.set_level(0)
    await made(admin, "/projects", {"name": "acme"})
    key = await made(admin, "/keys", {"project": "acme", "name": "ci"})
    await admin.patch("/keys/ci", json={"default_tier": "flex"})
    master = (tmp_path / "keys" / "master.key").read_text().split()[1]
    proof = key["secret"].rpartition("_")[2]
    with store.read() as connection:
        tables = sa.inspect(connection).get_table_names()
        text = "".join(str(connection.exec_driver_sql(f"SELECT * FROM {table}").all()) for table in tables)
    raw = b"".join(file.read_bytes() for file in (tmp_path / "db").rglob("*") if file.is_file())
    assert not store.is_sqlite or key["id"].encode() in raw, "the key itself is there"
    for secret in (proof, master, bytes.fromhex(master).decode("latin-1")):
        assert secret not in text
        assert secret.encode("latin-1") not in raw
        assert secret not in caplog.text


async def test_a_database_that_is_gone_is_a_503(admin: httpx.AsyncClient, store: Store) -> None:
    """Nothing is half done, and the caller is told that trying again can help."""
    await made(admin, "/projects", {"name": "acme"})
    with store.write() as connection:
        connection.exec_driver_sql("ALTER TABLE projects RENAME TO gone")
    refused(await admin.get("/projects"), 503, "unavailable", None)
    refused(await admin.post("/projects", json={"name": "b"}), 503, "unavailable", None)
