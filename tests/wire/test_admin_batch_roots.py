"""R47: where a project's batches may read and write, as operators say, on both databases."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from fareclass.core.limits import BATCH_ROOTS
from fareclass.flow.batch_roots import BatchRoots
from fareclass.flow.control import Control
from fareclass.policy.batch_places import Root
from tests.wire.test_admin import made, refused
from tests.wire.test_admin_cli import refusal, run

FOLDER = {"uri": "s3://nightly/in/", "folder": "/srv/batches/acme"}
MINIO = {"uri": "s3://archive/acme/", "store": "minio"}


@pytest.fixture
async def admin(admin: httpx.AsyncClient) -> httpx.AsyncClient:
    await made(admin, "/projects", {"name": "acme"})
    return admin


async def put(admin: httpx.AsyncClient, *roots: Any) -> httpx.Response:
    return await admin.put("/projects/acme/batch_roots", json={"roots": list(roots)})


async def test_those_set_are_shown_in_place_of_those_before(admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/projects/acme/batch_roots")).json()["roots"] == []
    answer = await put(admin, {**FOLDER, "uri": "s3://nightly/in"}, MINIO)
    assert answer.status_code == 200, answer.text
    expected = [{**MINIO, "folder": None}, {**FOLDER, "store": None}]
    assert sorted(answer.json()["roots"], key=lambda root: root["uri"]) == expected
    shown = (await admin.get("/projects/acme/batch_roots")).json()
    assert (shown["project_name"], shown["roots"]) == ("acme", answer.json()["roots"])
    assert [root["uri"] for root in (await put(admin, MINIO)).json()["roots"]] == ["s3://archive/acme/"]
    assert (await put(admin)).json()["roots"] == []


async def test_each_change_is_in_the_audit(admin: httpx.AsyncClient) -> None:
    """R51."""
    await put(admin, FOLDER)
    await put(admin)
    audit = (await admin.get("/audit")).json()["data"]
    changes = [each for each in audit if each["action"] == "batch_roots.set"]
    told = [[change["before"]["roots"], change["after"]["roots"]] for change in changes]
    assert told == [[[{**FOLDER, "store": None}], []], [[], [{**FOLDER, "store": None}]]]


@pytest.mark.parametrize(
    ("root", "field", "says"),
    [
        (
            {**FOLDER, "folder": "/srv"},
            "folder",
            "must be a folder of batch_folders in the configuration, or below one",
        ),
        ({**FOLDER, "folder": "/srv/batches/../../etc"}, "folder", "must be an absolute path without .."),
        ({**FOLDER, "folder": "batches"}, "folder", "must be an absolute path without .."),
        ({**FOLDER, "folder": "/srv/batches-of-others"}, "folder", "(/srv/batches)"),
        ({**MINIO, "store": "minoi"}, "store", "must be an object store of the configuration; there are: minio"),
        ({**FOLDER, "uri": "file:///etc"}, "uri", "must be such as s3://bucket/folder/file.jsonl"),
        ({**FOLDER, "uri": "s3://nightly/%2e%2e/"}, "uri", "must be such as s3://"),
        ({**FOLDER, "uri": "s3://nightly/../etc/"}, "uri", "must be such as s3://"),
        ({**FOLDER, **MINIO}, None, "must have exactly one of folder and store"),
        ({"uri": "s3://nightly/"}, None, "must have exactly one of folder and store"),
    ],
)
async def test_a_place_must_be_one_of_the_configuration(
    admin: httpx.AsyncClient, root: dict[str, str], field: str | None, says: str
) -> None:
    """A project is given nothing of the machine that its configuration does not open, and nothing is half done."""
    kept = (await put(admin, MINIO)).json()["roots"]
    name = f"roots[1].{field}" if field else "roots[1]"
    assert says in refused(await put(admin, {**FOLDER, "uri": "s3://other/"}, root), 400, "invalid", name)
    assert (await admin.get("/projects/acme/batch_roots")).json()["roots"] == kept


async def test_bounds_and_doubles(admin: httpx.AsyncClient) -> None:
    """R47."""
    many = [{**MINIO, "uri": f"s3://archive/{number}/"} for number in range(BATCH_ROOTS + 1)]
    assert (await put(admin, *many[1:])).status_code == 200
    refused(await put(admin, *many), 400, "invalid", "roots")
    assert "twice" in refused(await put(admin, MINIO, {**MINIO, "uri": "s3://archive/acme"}), 400, "invalid", "roots")
    answer = await admin.put("/projects/nobody/batch_roots", json={"roots": []})
    assert answer.status_code == 404


async def test_what_the_configuration_no_longer_opens_is_closed(admin: httpx.AsyncClient, control: Control) -> None:
    """R47: at once, without any change to the project."""
    project = (await put(admin, FOLDER, MINIO)).json()["project"]
    both = {Root(**FOLDER), Root(**MINIO)}
    assert set(BatchRoots(control, [Path("/srv/batches")], {"minio"}).of_project(project)) == both
    assert BatchRoots(control, [], {"minio"}).of_project(project) == [Root(**MINIO)]
    assert BatchRoots(control, [Path("/srv/batches/other")], ()).of_project(project) == []


def test_by_command(program: typer.Typer, url: str) -> None:
    run(program, url, "project", "create", "acme")
    places = ["s3://nightly/in/=/srv/batches/acme", "s3://archive/acme/=store:minio"]
    assert "store:minio" in run(program, url, "batch-roots", "set", "acme", *places)
    shown = json.loads(run(program, url, "batch-roots", "show", "acme", "--json"))
    assert {root["uri"] for root in shown} == {"s3://nightly/in/", "s3://archive/acme/"}
    said = refusal(program, url, "batch-roots", "set", "acme", "s3://nightly/in/=/etc")
    assert "s3://nightly/in/: folder must be a folder of batch_folders in the configuration" in said
    assert run(program, url, "batch-roots", "clear", "acme").strip() == "none"
