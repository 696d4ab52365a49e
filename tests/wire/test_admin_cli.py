"""The operator's commands against a live control plane, as typed."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import uvicorn
from typer.testing import CliRunner

from fareclass.cli import admin, db, usage
from fareclass.store.database import Store
from tests.wire.admin_plane import ADMIN_KEY, make_app, make_control


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A control plane on a real socket."""
    store = Store(f"sqlite:///{tmp_path / 'db' / 'fareclass.db'}")
    store.upgrade()
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(make_app(make_control(store, tmp_path)), log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    store.close()


@pytest.fixture
def program() -> typer.Typer:
    made = typer.Typer()
    for module in (admin, usage, db):
        module.register(made)
    return made


def run(program: typer.Typer, url: str, *words: str, ok: bool = True) -> str:
    env = {"FARECLASS_URL": url, "FARECLASS_ADMIN_KEY": ADMIN_KEY, "COLUMNS": "80", "TERM": "dumb"}
    result = CliRunner().invoke(program, list(words), env=env)
    assert (result.exit_code == 0) is ok, result.output + str(result.exception)
    return result.output


def test_a_tenant_from_nothing(program: typer.Typer, url: str) -> None:
    """Every command that a newcomer needs, with tables that fit 80 columns."""
    run(program, url, "project", "create", "search-team", "--weight", "2")
    made = json.loads(
        run(program, url, "key", "create", "search-team", "ci", "--tier", "flex", "--tag", "a=b", "--json")
    )
    assert made["secret"].startswith("fc_key_")
    assert made["tags"] == {"a": "b"}
    run(program, url, "quota", "set", "search-team", "meta-llama/Llama-3", "--tpm", "1000")
    run(program, url, "price", "set", "smollm2", "--input", "0.6", "--output", "2.4", "--tier", "priority=2")
    run(program, url, "pool", "set", "smollm2", "r1", "--slots", "4")
    run(program, url, "pool", "drain", "smollm2", "r1")
    run(program, url, "key", "update", "ci", "--allow", "flex", "--allow", "default")
    run(program, url, "project", "update", "search-team", "--name", "search")
    shown = {
        "project": run(program, url, "project", "list"),
        "key": run(program, url, "key", "list", "--project", "search"),
        "quota": run(program, url, "quota", "show"),
        "price": run(program, url, "price", "show"),
        "pool": run(program, url, "pool", "list"),
    }
    for name, word in (("project", "search"), ("key", "flex"), ("quota", "1000"), ("price", "2.4"), ("pool", "True")):
        assert word in shown[name]
        assert all(len(line) <= 80 for line in shown[name].splitlines())
    run(program, url, "key", "revoke", "ci")
    assert json.loads(run(program, url, "key", "list", "--json"))[0]["revoked_at"]
    assert run(program, url, "usage").strip() == "none"


def test_a_secret_is_printed_whole(program: typer.Typer, url: str) -> None:
    """R51: it is shown only this once, so no table may cut or break it."""
    run(program, url, "project", "create", "a")
    printed = run(program, url, "key", "create", "a", "ci")
    secret = next(word for word in printed.split() if word.startswith("fc_key_"))
    assert len(secret.rpartition("_")[2]) == 52


def test_a_refusal_says_why_and_fails(program: typer.Typer, url: str) -> None:
    assert "no project 'nobody'" in run(program, url, "key", "create", "nobody", "ci", ok=False)
    assert "NAME=VALUE" in run(program, url, "key", "create", "a", "ci", "--tag", "x", ok=False)
    assert "can't reach the gateway" in run(program, "http://127.0.0.1:1", "project", "list", ok=False)


def test_the_derived_admin_key_never_leaves_this_machine(program: typer.Typer) -> None:
    """R51: without FARECLASS_ADMIN_KEY, another host gets nothing that was derived from the master key."""
    env = {"FARECLASS_ADMIN_KEY": "", "FARECLASS_URL": "http://gateway.example"}
    result = CliRunner().invoke(program, ["project", "list"], env=env)
    assert result.exit_code == 1
    assert "set FARECLASS_ADMIN_KEY" in result.output


def test_every_command_teaches_by_an_example(program: typer.Typer) -> None:
    for group in ("project", "key", "quota", "price", "pool", "db"):
        commands = next(one for one in program.registered_groups if one.name == group).typer_instance
        assert commands is not None
        for command in commands.registered_commands:
            words = [group, command.name or str(command.callback and command.callback.__name__)]
            assert f"fareclass {' '.join(words)}" in " ".join(run(program, "", *words, "--help").split())


def test_the_database_is_upgraded_by_hand(program: typer.Typer, tmp_path: Path) -> None:
    config = tmp_path / "fareclass.yaml"
    config.write_text(
        f"store: sqlite:///{tmp_path / 'data' / 'f.db'}\nmaster_key_file: {tmp_path / 'keys' / 'm'}\n"
        "models: {m: {engine: {kind: simulated}}}\n"
    )
    assert "database: empty" in run(program, "", "db", "current", "--config", str(config))
    assert run(program, "", "db", "upgrade", "--config", str(config)).startswith("database: 0001, this version: 0001")
