"""What `fareclass consume` says of its options, before it loads what it needs to run."""

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from fareclass.cli import consume
from fareclass.cli.consumer.run import place

GOOD = {"FARECLASS_API_KEY": "fc_key_secret", "FARECLASS_VALKEY": "redis://:guess-me@127.0.0.1:1/2"}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What the worker would be started with."""
    from fareclass.cli.consumer import run

    found: list[tuple] = []
    monkeypatch.setattr(run, "run", lambda *words, **more: found.append((words, more)))
    return found


def fareclass(*words: str, **environ: str) -> tuple[int, str]:
    program = typer.Typer()
    consume.register(program)
    done = CliRunner().invoke(program, [*words], env=GOOD | environ)
    return done.exit_code, " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("told", "words", "environ"),
    [
        ("others can read a command line", ("a", "b", "--valkey", "redis://:guess-me@h"), {}),
        ("must be redis://HOST:PORT", ("a", "b"), {"FARECLASS_VALKEY": "http://user:guess-me@h"}),
        ("must be redis://HOST:PORT", ("a", "b"), {"FARECLASS_VALKEY": "redis://:guess-me/x@h:63"}),
        ("must be redis://HOST:PORT", ("a", "b"), {"FARECLASS_VALKEY": "redis://h/guess-me"}),
        ("must be redis://HOST:PORT", ("a", "b"), {"FARECLASS_VALKEY": "redis://h?protocol=3"}),
        ("must be one of auto, default, fast, flex", ("a", "b", "--tier", "batch"), {}),
        ("less than or equal to 256", ("a", "b", "--concurrency", "257"), {}),
        ("must be another stream", ("a", "a"), {}),
        ("set FARECLASS_API_KEY", ("a", "b"), {"FARECLASS_API_KEY": ""}),
        ("set FARECLASS_API_KEY", ("a", "b"), {"FARECLASS_API_KEY": "fc_key_secret\n"}),
    ],
)
def test_r51_mistakes_are_told_without_secrets(told, words, environ, started):
    status, said = fareclass(*words, **environ)
    assert status in {1, 2} and told in said
    assert "guess-me" not in said and "fc_key_secret" not in said
    assert not started


@pytest.mark.parametrize("address", ["redis://h", "rediss://u:p@h:6380/3?ssl_ca_certs=ca.pem", "redis://[::1]:6379"])
def test_addresses_that_are_good(address, started):
    assert fareclass("a", "b", "--name", "me", FARECLASS_VALKEY=address) == (0, "")
    ((words, more),) = started
    assert words == (address, "a", "b", "fareclass", "me") and more["tier"] == "flex"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://h", "h:6379"),
        ("rediss://u:guess-me@h:6380/3?ssl_ca_certs=ca.pem", "h:6380"),
        ("redis://:guess@me@[::1]:7000", "[::1]:7000"),
    ],
)
def test_r51_host_and_port_are_shown_without_the_password(address, shown):
    assert place(address) == shown


def test_certificates_that_are_not_there_are_told():
    status, said = fareclass("a", "b", SSL_CERT_FILE="/no/such/file.pem")
    assert status == 1 and "the certificates in SSL_CERT_FILE or SSL_CERT_DIR can't be used" in said


def test_no_other_command_waits_for_what_it_needs():
    heavy = "print([name for name in ('redis', 'asyncio') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, fareclass.__main__; {heavy}"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
