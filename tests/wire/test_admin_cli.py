"""The operator's commands against a live control plane, as typed."""

import inspect
import json
import shlex
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fareclass.core.tiers import TIERS
from tests.e2e import gateway
from tests.wire.admin_plane import ADMIN_KEY

DATA = Path(__file__).parents[1] / "data"
NARROW = {"COLUMNS": "80"}
WIDE = {"COLUMNS": "220"}


def run(program: typer.Typer, url: str, *words: str, ok: bool = True, env: Mapping[str, str | None] = NARROW) -> str:
    """What one command prints; `env` goes over the settings of an operator whose terminal has 80 columns."""
    ours = {"FARECLASS_URL": url, "FARECLASS_ADMIN_KEY": ADMIN_KEY, "TERM": "dumb"}
    result = CliRunner().invoke(program, list(words), env={**ours, **env})
    assert (result.exit_code == 0) is ok, result.output + str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def shown(output: str) -> dict[str, str]:
    """One object, a field a line."""
    return dict(map(cells, output.splitlines()))


def refusal(program: typer.Typer, url: str, *words: str) -> str:
    """What one refused command says, on one line whatever the terminal did to it."""
    return " ".join(run(program, url, *words, ok=False).replace("│", " ").split())


# What is done


def test_a_tenant_from_nothing(program: typer.Typer, url: str) -> None:
    """Every command that a newcomer needs."""
    run(program, url, "project", "create", "search-team", "--weight", "2")
    made = json.loads(
        run(program, url, "key", "create", "search-team", "ci", "--tier", "flex", "--tag", "a=b", "--json")
    )
    assert made["secret"].startswith("fc_key_")
    assert made["tags"] == {"a": "b"}
    run(program, url, "quota", "set", "search-team", "meta-llama/Llama-3", "--tpm", "1000")
    run(program, url, "price", "set", "smollm2", "--input", "0.6", "--output", "2.4", "--tier", "priority=2")
    run(program, url, "key", "update", "ci", "--allow", "flex", "--allow", "default")
    run(program, url, "project", "update", "search-team", "--name", "search")
    assert cells(run(program, url, "project", "list").splitlines()[1])[:2] == ["search", "2"]
    assert "flex" in run(program, url, "key", "list", "--project", "search")
    assert cells(run(program, url, "quota", "show").splitlines()[1]) == [
        "search",
        "meta-llama/Llama-3",
        "1000",
        "-",
        "-",
        "0",
    ]
    assert cells(run(program, url, "price", "show").splitlines()[2])[2:] == ["0.6", "2.4", "0.06", "2", "1", "0.5"]
    run(program, url, "key", "revoke", "ci")
    assert json.loads(run(program, url, "key", "list", "--json"))[0]["revoked_at"]
    assert run(program, url, "usage").strip() == "none"


def test_r26_a_budget_from_the_command_line(program: typer.Typer, url: str) -> None:
    """R26: of a project, of a key of it; shown, and lifted."""
    run(program, url, "project", "create", "a")
    run(program, url, "key", "create", "a", "ci")
    made = shown(run(program, url, "budget", "set", "a", "--usd", "12.50", "--per", "day"))
    assert (made["key"], made["usd"], made["per"], made["left"], made["spent"]) == ("all", "12.5", "day", "12.5", "0")
    assert shown(run(program, url, "budget", "set", "a", "--key", "ci", "--usd", "1"))["per"] == "month"
    rows = run(program, url, "budget", "show", "--project", "a", env=WIDE).splitlines()
    assert [cells(row)[:3] for row in rows[1:]] == [["a", "all", "12.5"], ["a", "ci", "1"]]
    assert "--usd: must be an amount" in refusal(program, url, "budget", "set", "a", "--usd", "-1")
    per_week = refusal(program, url, "budget", "set", "a", "--usd", "1", "--per", "week")
    assert per_week == "--per: must be one of day, month"
    assert "no key 'x'" in refusal(program, url, "budget", "clear", "a", "--key", "x")
    run(program, url, "budget", "clear", "a", "--key", "ci")
    assert json.loads(run(program, url, "budget", "show", "--json"))[0]["key_name"] is None


def test_a_secret_is_printed_whole(program: typer.Typer, url: str) -> None:
    """R51: it is shown only this once, so no table may cut or break it."""
    run(program, url, "project", "create", "a")
    secret = shown(run(program, url, "key", "create", "a", "ci"))["secret"]
    assert len(secret.rpartition("_")[2]) == 52


def test_r2_the_only_allowed_tier_need_not_be_named_twice(program: typer.Typer, url: str) -> None:
    run(program, url, "project", "create", "a")
    made = shown(run(program, url, "key", "create", "a", "one", "--allow", "flex"))
    assert (made["tier"], made["allowed"]) == ("flex", "flex")
    said = refusal(program, url, "key", "create", "a", "two", "--allow", "flex", "--allow", "priority")
    assert said.startswith("--tier: ") and "priority, flex" in said


def test_what_was_set_can_be_taken_back(program: typer.Typer, url: str) -> None:
    """R16: allowed tiers, tags and a replica's tiers, each by one word."""
    run(program, url, "project", "create", "a")
    run(program, url, "key", "create", "a", "k", "--allow", "flex", "--tag", "x=y", "--tag", "z=")
    changed = shown(run(program, url, "key", "update", "k", "--tier", "flex"))
    assert (changed["allowed"], changed["tags"]) == ("flex", "x=y, z=-")
    changed = shown(run(program, url, "key", "update", "k", "--allow", "all", "--tag", "none"))
    assert (changed["allowed"], changed["tags"]) == ("all", "-")
    changed = shown(run(program, url, "pool", "set", "smollm2", "r1", "--tier", "reserved", "--tier", "priority"))
    assert changed["tiers"] == "reserved, priority"
    changed = json.loads(run(program, url, "pool", "set", "smollm2", "r1", "--tier", "all", "--json"))
    assert changed["tiers"] == [tier.word for tier in TIERS]


def test_a_pool_shows_whether_it_is_up_and_what_runs(program: typer.Typer, url: str) -> None:
    """R16: and a drain shows when it is over."""
    assert cells(run(program, url, "pool", "list").splitlines()[1]) == ["smollm2", "r1", "up", "8", "flex=2", "all"]
    drained = shown(run(program, url, "pool", "drain", "smollm2", "r1"))
    assert drained == {"replica": "r1", "state": "draining", "slots": "8", "running": "flex=2", "tiers": "all"}
    assert shown(run(program, url, "pool", "resume", "smollm2", "r1"))["state"] == "up"


# How it is shown


def test_r40_r41_a_workload_and_a_rule_as_typed(program: typer.Typer, url: str) -> None:
    run(program, url, "project", "create", "a")
    rule = "to=priority, for_s=60,after_throttles=2,usd_per_day=5.50"
    run(program, url, "workload", "set", "chat", "--shape", "steady", "--tier", "flex", "--escalate", rule)
    made = shown(run(program, url, "key", "create", "a", "ci", "--workload", "chat"))
    assert (made["tier"], made["workload"], made["escalation"]) == ("(chat)", "chat", "-")
    own = shown(run(program, url, "key", "update", "ci", "--escalate", rule, "--workload", "none"))
    assert (own["tier"], own["workload"]) == ("default", "-")
    assert own["escalation"] == "to=priority, for_s=60, after_throttles=2, window_s=300, usd_per_day=5.5"
    assert shown(run(program, url, "key", "update", "ci", "--escalate", "none"))["escalation"] == "-"
    said = refusal(program, url, "key", "update", "ci", "--escalate", "to=priority,for_s=soon,after_throttles=2")
    assert said == "--escalate for_s: must be a whole number"
    assert "no workload 'x'" in refusal(program, url, "key", "update", "ci", "--workload", "x")
    assert "NAME=VALUE" in refusal(program, url, "key", "update", "ci", "--escalate", "priority")
    run(program, url, "workload", "delete", "chat")
    assert run(program, url, "workload", "list").strip() == "none"


# What is refused


def test_a_refusal_names_the_option(program: typer.Typer, url: str) -> None:
    """In the words of the command line, not of the API or of a library."""
    run(program, url, "project", "create", "a")
    pool, price = ("pool", "set", "smollm2", "r1"), ("price", "set", "smollm2", "--input", "1", "--output")
    assert refusal(program, url, "project", "update", "a", "--weight", "0") == (
        "--weight: must be a whole number, at least 1"
    )
    assert refusal(program, url, *price, "x") == "--output: must be an amount, such as 0.60"
    assert refusal(program, url, *price, "1", "--tier", "gold=2").startswith("--tier gold: unknown tier 'gold'")
    assert refusal(program, url, *pool, "--tier", "gold").startswith("--tier: unknown tier 'gold'; valid are")
    assert refusal(program, url, "key", "create", "a", "k", "--allow", "gold").startswith("--allow: unknown tier")
    assert refusal(program, url, "key", "create", "a", "k", "--tag", "a b=c").startswith("--tag: a tag's name")
    assert refusal(program, url, "usage", "--by", "colour").startswith("--by: unknown dimension 'colour'")
    assert "must be NAME=VALUE" in refusal(program, url, "usage", "--tag", "x")
    assert "such as 2026-11-01" in refusal(program, url, "usage", "--from", "yesterday")
    assert refusal(program, url, "key", "create", "nobody", "ci") == "no project 'nobody'"
    share = refusal(program, url, "quota", "set", "a", "smollm2", "--priority-share", "0.5")
    assert share == "--priority-share: needs a --tpm, of which it is a share: set that too"
    rule = (
        "--allow",
        "flex",
        "--allow",
        "default",
        "--tier",
        "flex",
        "--escalate",
        "to=priority,for_s=1,after_throttles=1",
    )
    assert "allowed_tiers" not in refusal(program, url, "key", "create", "a", "k", *rule)
    run(program, url, "workload", "set", "starts_at", "--shape", "steady", "--tier", "flex")
    assert "workload 'ends_at'" in refusal(program, url, "key", "create", "a", "k", "--workload", "ends_at")


@pytest.mark.parametrize("key", ["two\nlines", "cl\u00e9", "\u043a\u043b\u044e\u0447", "sekrit fraze"])
def test_r51_an_admin_key_that_can_be_none_is_refused_and_not_shown(program: typer.Typer, key: str) -> None:
    said = run(program, "http://127.0.0.1:1", "project", "list", ok=False, env={"FARECLASS_ADMIN_KEY": key})
    assert said.startswith("FARECLASS_ADMIN_KEY holds") and len(said.splitlines()) == 1
    assert not any(part in said for part in key.split())


def test_a_wrong_admin_key_says_where_to_set_it(program: typer.Typer, url: str) -> None:
    said = run(program, url, "project", "list", ok=False, env={"FARECLASS_ADMIN_KEY": "wrong"})
    assert "set FARECLASS_ADMIN_KEY" in said and "wrong" not in said


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000", "ftp://gateway", "http://", "http://127.0.0.1:8000/v1", "http://127.0.0.1:99999",
        "http://127.0.0.1:http", "http://user:passphrase@gateway", "http://[::1", "http://a b", "http://gat\u00e9",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(program: typer.Typer, url: str) -> None:
    said = refusal(program, url, "project", "list")
    assert "must be http://HOST:PORT or https://HOST:PORT" in said
    assert "passphrase" not in said


@contextmanager
def answering(body: bytes, *, status: int = 200, tls: bool = False) -> Iterator[str]:
    """A server that answers everything with this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nothing to say."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(DATA / "tls-cert.pem", DATA / "tls-key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>"), (404, b"<html>"), (200, b"{}"), (200, b"[]"), (500, b'{"error":"no"}'), (200, b"\xff\x00")],
)
def test_what_is_no_gateway_is_told(program: typer.Typer, status: int, body: bytes) -> None:
    with answering(body, status=status) as url:
        assert run(program, url, "project", "list", ok=False) == f"what answers at {url} is not a Fareclass gateway\n"


def test_nobody_there_is_told(program: typer.Typer) -> None:
    assert "can't reach the gateway" in run(program, "http://127.0.0.1:1", "project", "list", ok=False)


def test_trouble_with_tls_is_told(program: typer.Typer) -> None:
    """A certificate that nobody vouches for, and http where https is meant, and the other way round."""
    page = b'{"data":[],"next":null}'
    with answering(page, tls=True) as url:
        said = run(program, url, "project", "list", ok=False)
        assert "does not trust the certificate" in said and "SSL_CERT_FILE" in said and len(said.splitlines()) == 1
        trusted = {"SSL_CERT_FILE": str(DATA / "tls-cert.pem")}
        assert run(program, url, "project", "list", env=trusted) == "none\n"
        said = run(program, url, "project", "list", ok=False, env={"SSL_CERT_FILE": "/no/such/file"})
        assert "SSL_CERT_FILE or SSL_CERT_DIR can't be used" in said
        assert "http and https" in run(program, url.replace("https", "http"), "project", "list", ok=False)
    with answering(page) as url:
        assert "no TLS" in run(program, url.replace("http", "https"), "project", "list", ok=False)


def test_the_derived_admin_key_never_leaves_this_machine(program: typer.Typer, url: str) -> None:
    """R51: without FARECLASS_ADMIN_KEY another host gets nothing that was derived from the master key; nor a proxy."""
    no_key = {"FARECLASS_ADMIN_KEY": ""}
    assert "set FARECLASS_ADMIN_KEY" in run(program, "http://gateway.example", "project", "list", ok=False, env=no_key)
    with answering(b"<html>") as proxy:
        assert run(program, url, "project", "list", env={"HTTP_PROXY": proxy}) == "none\n"


# Help, and the start


def commands(program: typer.Typer) -> Iterator[tuple[list[str], str]]:
    """Every command, as typed, and its example: first those that make what the others show."""
    groups = [*((group.name, group.typer_instance) for group in program.registered_groups), ("", program)]
    for name, group in groups:
        assert group is not None
        for command in group.registered_commands:
            assert command.callback is not None
            words = [*([name] if name else []), command.name or command.callback.__name__]
            text = inspect.getdoc(command.callback) or ""
            yield words, text.partition("\nExample: fareclass ")[2]


def test_every_command_teaches_by_an_example(program: typer.Typer) -> None:
    for words, example in commands(program):
        assert example.startswith(" ".join(words)), words
        text = run(program, "", *words, "--help")
        assert all(line.strip() in text for line in f"Example: fareclass {example}".splitlines()), "as it is typed"


def test_every_example_works(program: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the fleet of the README."""
    price = {"input": "0.60", "output": "2.40"}
    capacity = {"input_tpm": 4_000_000, "output_tpm": 100_000}
    model = {"engine": {"kind": "simulated", "replicas": 4}, "price": price, "capacity": capacity}
    batches = tmp_path / "batches"
    batches.mkdir()
    minio = {"url": "https://minio.internal", "access_key_id": "a", "secret_access_key_env": "PATH"}
    fleet = {"models": {"demo-70b": model}, "batch_folders": [str(batches)], "object_stores": {"minio": minio}}
    process = gateway.Process(tmp_path, fleet)
    monkeypatch.chdir(tmp_path)
    try:
        examples = [(words, example.replace("/srv/batches", str(batches))) for words, example in commands(program)]
        done = [words[0] for words, example in examples if try_out(program, process.url, words, example)]
    finally:
        process.close()
    assert (
        " ".join(sorted(set(done)))
        == "batch-roots budget check db invoice key percentiles plan pool price project quota reservation route tiers usage webhook workload"
    )


def try_out(program: typer.Typer, url: str, words: list[str], example: str) -> bool:
    """Run it, unless it would start something that stays, or measures for a minute, or needs a receiver or a trace.

    They are in `tests/e2e`, `tests/browser` and `tests/unit/cli`.
    """
    if words[0] in {"serve", "console", "demo", "top", "replay", "engine", "bench"} or words in (
        ["webhook", "replay"],
        ["webhook", "test"],
    ):
        return False
    ours = {"FARECLASS_ADMIN_KEY": gateway.ADMIN_KEY}
    if "rsv_0123" in example:
        made = json.loads(run(program, url, "reservation", "list", "--json", env=ours))
        example = example.replace("rsv_0123", made[0]["id"])
    return bool(run(program, url, *shlex.split(example.replace("\\\n", " ")), env=ours))


def test_a_client_does_not_load_the_server() -> None:
    """Or each command would take a second to start."""
    words = [sys.executable, "-X", "importtime", "-m", "fareclass", "usage", "--help"]
    loaded = subprocess.run(words, capture_output=True, text=True, check=True).stderr
    assert "fareclass.cli.usage" in loaded
    for heavy in ("sqlalchemy", "alembic", "uvicorn", "aiohttp", "starlette", "fareclass.app"):
        assert heavy not in loaded


def test_the_database_is_upgraded_by_hand(program: typer.Typer, tmp_path: Path) -> None:
    config = tmp_path / "fareclass.yaml"
    config.write_text(
        f"store: sqlite:///{tmp_path / 'data' / 'f.db'}\nmaster_key_file: {tmp_path / 'keys' / 'm'}\n"
        "models: {m: {engine: {kind: simulated}}}\n"
    )
    assert "database: empty" in run(program, "", "db", "current", "--config", str(config))
    nowhere = {"FARECLASS_STORE": "sqlite:////proc/nowhere/f.db"}
    said = run(program, "", "db", "current", "--config", str(config), ok=False, env=nowhere)
    assert "/proc/nowhere/f.db can't be made" in said
    assert run(program, "", "db", "upgrade", "--config", str(config)).startswith("database: 0006, this version: 0006")
