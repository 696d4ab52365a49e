"""Where the console of a gateway listens, and the key for looking alone (R51)."""

import pytest

from fareclass.config import load
from tests.unit.settings import GOOD, problems

ENV = {"GPU1_KEY": "k"}


@pytest.mark.parametrize(
    ("more", "address"),
    [
        ("", ("127.0.0.1", 8001)),
        ("console: 127.0.0.1:9000\n", ("127.0.0.1", 9000)),
        ("console: '[::1]:9000'\n", ("::1", 9000)),
        ("console: false\n", None),
    ],
)
def test_it_listens_on_the_next_port_or_where_it_is_told_to(write, more, address):
    assert load(write(GOOD + more), ENV).console_address(8000) == address


def test_there_is_a_port_after_the_last(write):
    assert load(write(GOOD), ENV).console_address(65_535) == ("127.0.0.1", 65_534)


def test_a_variable_says_it_too(write):
    assert load(write(GOOD), ENV | {"FARECLASS_CONSOLE": "false"}).console_address(8000) is None
    assert load(write(GOOD), ENV | {"FARECLASS_CONSOLE": "localhost:1"}).console_address(8000) == ("localhost", 1)


def test_behind_a_proxy_it_stays_on_this_machine_unless_told(write):
    open_settings = GOOD.replace("listen: 127.0.0.1:8000", "listen: 0.0.0.0:8000") + "insecure_listen: true\n"
    assert load(write(open_settings), ENV).console_address(8000) == ("127.0.0.1", 8001)
    assert load(write(open_settings + "console: 0.0.0.0:9000\n"), ENV).console_address(8000) == ("0.0.0.0", 9000)


def test_beyond_this_machine_it_wants_a_certificate(write):
    (said,) = problems(write(GOOD + "console: 0.0.0.0:9000\n"), ENV)
    assert "console: 0.0.0.0:9000 can be reached from other machines: set tls.cert and tls.key" in said


@pytest.mark.parametrize("text", ["true", "8001", "127.0.0.1", "here:99999"])
def test_what_is_no_address_is_refused(write, text):
    (said,) = problems(write(GOOD + f"console: {text}\n"), ENV)
    assert "console: must be HOST:PORT, such as 127.0.0.1:8001, or false for none" in said


def test_the_two_keys_differ(write):
    keys = {"FARECLASS_ADMIN_KEY": "one", "FARECLASS_READ_ONLY_KEY": "two"}
    config = load(write(GOOD), ENV | keys)
    assert config.read_only_key is not None and config.read_only_key.value == "two"
    (said,) = problems(write(GOOD), ENV | keys | {"FARECLASS_READ_ONLY_KEY": "one"})
    assert "must differ from the admin key" in said
