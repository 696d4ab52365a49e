"""Section 13 of the rules: settings are checked as a whole, and every mistake is told with its path and line."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from fareclass.config import ConfigError, load
from fareclass.core import field_names
from fareclass.wire.openai import ENDPOINTS
from tests.unit.settings import DATA, GOOD, one_model, problems, replica

WRONG = """\
listen: 127.0.0.1:8000
stor: x
models:
  a:
    engine: {kind: locall}
    price: {input: 0.0000001, output: -1}
  b:
    replicas:
      - {url: "http://gpu/v1", slots: 0}
      - {slots: many}
      - {url: "http://GPU:80/v1/", slots: 1}
    tiers: [flex, flex]
  c: {upstream_model: ""}
tiers:
  prio: {price: 2}
  priority: {floor: 0.6, queue_limit: 0}
  flex: {floor: 0.5}
"""


def test_every_mistake_is_told_at_once_with_its_path_and_line(write):
    """What several settings show together is told in the same run as what is wrong in another one of the same part."""
    assert problems(write(WRONG)) == [
        "fareclass.yaml:2: stor: there is no such setting; did you mean store?",
        "fareclass.yaml:5: models.a.engine.kind: must be local or simulated, as in {kind: local}",
        (
            "fareclass.yaml:6: models.a.price.output: must be USD per 1M tokens from 0 to 100000, such as 0.60, of at "
            "most 9 decimals, not '-1'"
        ),
        (
            "fareclass.yaml:6: models.a.price.input: 1E-7 USD per 1M tokens × 1 is not a whole number of 10⁻¹² USD per "
            "token; use fewer decimals"
        ),
        "fareclass.yaml:9: models.b.replicas[0].slots: must be a whole number, at least 1 and at most 4096, not '0'",
        "fareclass.yaml:10: models.b.replicas[1].slots: must be a whole number, at least 1 and at most 4096, not 'many'",
        "fareclass.yaml:10: models.b.replicas[1].url: is missing",
        "fareclass.yaml:11: models.b.replicas[2].url: is there twice; one replica is one engine, its slots say how much",
        "fareclass.yaml:12: models.b.tiers[1]: 'flex' is there twice",
        "fareclass.yaml:13: models.c.upstream_model: must be text of 1 to 256 characters, not ''",
        "fareclass.yaml:13: models.c: must have exactly one of engine and replicas",
        "fareclass.yaml:14: tiers: the floors of all tiers are shares of the same slots: together at most 1, not 1.1 (R7)",
        "fareclass.yaml:15: tiers.prio: must be one of reserved, priority, default, flex, batch, not 'prio'",
        "fareclass.yaml:16: tiers.priority.queue_limit: must be a whole number, at least 1 and at most 1000000, not '0'",
    ]


def test_nothing_is_said_that_rests_on_what_could_not_be_read(write):
    """A mistyped TLS setting does not make the listening address a mistake too, nor a mistyped tier list its replicas."""
    text = "listen: 0.0.0.0:80\ntls: 5\n" + replica("tiers: [gold]") + "    tiers: [priority, flax]\n"
    assert [problem.split(": ")[1] for problem in problems(write(text))] == [
        "tls",
        "models.m.replicas[0].tiers[0]",
        "models.m.tiers[1]",
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("burndown: {output: -1}", "models.m.burndown.output: must be a number from 0 to 100 of at most 2 decimals"),
        ("burndown: {cache_read: 0.125}", "at most 2 decimals"),
        ("burndown: {output: 101}", "from 0 to 100"),
        ("burndown: {outputs: 1}", "models.m.burndown.outputs"),
        ("capacity: {input_tpm: 0, output_tpm: 1}", "models.m.capacity.input_tpm: must be a whole number, at least 1"),
        ("capacity: {input_tpm: 1}", "models.m.capacity.output_tpm"),
        ("reserved_price: {input: 0.6}", "models.m.reserved_price.output"),
        ("cache: {min_tokens: 0}", "models.m.cache.min_tokens"),
        ("headroom: -1", "models.m.headroom"),
        ("max_tokens_default: 1048577", "at most 1048576"),
        ("max_tokens_default: 1e3", "must be a whole number"),
        (f"max_tokens_default: {'9' * 5000}", "must be a whole number"),
        (f"max_tokens_default: {'9' * 400}", "must be a whole number"),
        ("pass_fields: guided_json", "models.m.pass_fields: must be a list"),
        ("pass_fields: [{a: 1}]", "models.m.pass_fields[0]: must be a field that only the engine knows"),
        ("pass_fields: [top_k, a.b]", "models.m.pass_fields[1]: must be a field that only the engine knows"),
        ("pass_fields: [top_k, min_p, top_k]", "models.m.pass_fields[2]: 'top_k' is there twice"),
        (f"pass_fields: [{', '.join(f'f{i}' for i in range(1025))}]", "may have at most 1024 entries, not 1025"),
        (f"upstream_model: {'m' * 257}", "must be text of 1 to 256 characters"),
        ("upstream_model: !ENV MODEL", "aliases (*name) and tags (!name) can't be used here"),
        ('upstream_model: "a\\e[31m"', "must be text of 1 to 256 characters, not 'a\\x1b[31m'"),
        ("price: 5", "models.m.price: must be settings of the form `name: value`"),
        ("price: {input: nan, output: 1}", "must be USD per 1M tokens from 0 to 100000"),
        ("price: {input: true, output: 1}", "must be USD per 1M tokens from 0 to 100000"),
        ("price: {input: 100000.01, output: 1}", "must be USD per 1M tokens from 0 to 100000"),
        ("price: {input: 1e-999999999, output: 1}", "of at most 9 decimals"),
        ("price: {input: 1, output: 60000}", "price.output: 60000 USD per 1M tokens × 1.75 is more than 100000"),
        ("price: {input: 0.0000001, output: 1}", "price.input: 1E-7 USD per 1M tokens × 1 is not a whole number"),
        ("price: {input: 0.000001, output: 1, cache_write_5m: 1, cache_write_1h: 1}", "price.input: 0.000001 USD"),
        ("price: {input: 0.000004, output: 1, cache_write_5m: 1}", "price.cache_read: 4E-7 USD per 1M tokens × 1"),
        ("tier_prices: {flex: 1000.1}", "models.m.tier_prices.flex: must be a multiplier from 0 to 1000"),
        ("tier_prices: {flex: .inf}", "must be a multiplier from 0 to 1000"),
        ("tier_prices: {priority: 2, fast: 3}", "models.m.tier_prices.fast: is there twice, under two names"),
        ("replicas: [{url: 'http://a/v1', slots: 1}]", "models.m: must have exactly one of engine and replicas"),
        ("tiers: [gold]", "models.m.tiers[0]: must be one of reserved"),
        ("tiers: []", "models.m.tiers: must have at least 1 entry"),
        ("tiers: [priority, fast]", "models.m.tiers[1]: 'fast' is there twice"),
        ("tiers: [reserved, batch]", "models.m.tiers: must allow one that callers may send: priority, default, flex"),
        ("? [a, b]\n    : 1", "models.m.?: a name must be plain text"),
        ("~: 1", "models.m.?: a name must be plain text"),
        ("<<: {price: {input: 1, output: 1}}", "models.m.<<: there is no such setting"),
        ("\tprice: {input: 1, output: 1}", "indent with spaces, not tabs"),
    ],
)
def test_a_wrong_value_is_refused_with_what_would_be_right(write, line, says):
    [problem] = problems(write(one_model(line)))
    assert problem.startswith(("fareclass.yaml:4: ", "fareclass.yaml:2: models.m: "))
    assert says in problem


def test_null_is_the_same_as_nothing(write):
    assert load(write(one_model("upstream_model:")), {}).models["m"].upstream_model is None


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ("local", "engine.kind: must be local or simulated, as in {kind: local}"),
        ("{kind: [local]}", "engine.kind: must be local or simulated"),
        ("{kind: local, slots: 255}", "engine.slots: must be a whole number, at least 1 and at most 254"),
        ("{kind: local, context_tokens: 1048577}", "at least 256 and at most 1048576, not '1048577'"),
        ("{kind: local, model_file: nowhere.gguf}", "nowhere.gguf'"),
        ("{kind: local, replicas: 2}", "engine.replicas: there is no such setting; there are slots, model_file"),
        ("{kind: simulated, slots: 10000000}", "engine.slots: must be a whole number, at least 1 and at most 4096"),
        ("{kind: simulated, replicas: 1025}", "at most 1024"),
        ("{kind: simulated, kv_tokens: 1e30}", "engine.kv_tokens: must be a whole number, at least 1 and at most"),
        ("{kind: simulated, kv_tokens: 1000000001}", "at most 1000000000"),
        ("{kind: simulated, base_us: 60000001}", "at most 60000000"),
    ],
)
def test_a_wrong_engine_is_refused(write, engine, says):
    [problem] = problems(write(f"models:\n  m:\n    engine: {engine}\n"))
    assert problem.startswith("fareclass.yaml:3: models.m.engine.")
    assert says in problem


@pytest.mark.parametrize(
    "field", sorted(field_names.OWNED | field_names.WITHHELD | {"messages", "stream", "n", "echo", "service_tier"})
)
def test_r50_fields_that_are_settled_are_not_for_the_operator_to_pass(write, field):
    """They would do nothing, or get past what the gateway reads of them where the API has them."""
    [problem] = problems(write(one_model(f"pass_fields: [{field}]")))
    assert problem.startswith("fareclass.yaml:4: models.m.pass_fields[0]: must be a field that only the engine knows")
    assert problem.endswith(f"not '{field}'")


def test_r50_the_apis_fields_are_those_that_are_read():
    assert frozenset().union(*(endpoint.own_fields for endpoint in ENDPOINTS.values())) == field_names.API


@pytest.mark.parametrize(
    "domain",
    ["*", "*.example.com", "https://example.com", "example.com/a", "example.com:443", "Example.com", "", "a..b",
     ".example.com", "example.com.", "exa mple.com", "10.0.0.300", "7", "[::1]", "me@example.com", "bücher.de"],
)  # fmt: skip
def test_r47_what_can_be_no_media_domain_is_refused(write, domain):
    """None of these would ever be the host of a URL that a caller may send."""
    [problem] = problems(write(one_model(f"media_domains: [media.example.com, 10.0.0.3, '{domain}']")))
    assert problem.startswith(
        "fareclass.yaml:4: models.m.media_domains[2]: must be a host or domain alone, in lower case"
    )


@pytest.mark.parametrize(
    "url",
    ["gpu-1:8000/v1", "ftp://a", "http://", "http:///v1", "http://user:hunter2@a/v1", "http://:hunter2@a/v1",
     "http://a/v1?key=hunter2", "http://a/v1#x", "http://a:99999/v1", "http://a:b/v1", "http://[::1/v1", "http://[::g]/v1",
     "http://a b/v1", "http://a\\b/v1", "http://300.0.0.1/v1", "//a/v1", f"http://a/{'v' * 2048}"],
)  # fmt: skip
def test_a_replicas_address_is_a_plain_url(write, url):
    """It may hold a secret, so it is not shown."""
    [problem] = problems(write(f"models:\n  m:\n    replicas: [{{url: '{url}', slots: 1}}]\n"))
    assert problem.startswith("fareclass.yaml:3: models.m.replicas[0].url: must be http://HOST[:PORT]/v1 or https://…")
    assert "hunter2" not in problem


@pytest.mark.parametrize("url", ["http://a/v1", "http://A/v1", "http://a:80/v1", "http://a/v1/"])
def test_a_replica_is_there_once(write, url):
    text = f"models:\n  m:\n    replicas:\n    - {{url: http://a/v1, slots: 1}}\n    - {{url: '{url}', slots: 1}}\n"
    [problem] = problems(write(text))
    assert problem.startswith("fareclass.yaml:5: models.m.replicas[1].url: is there twice")


def test_other_replicas_may_differ_in_anything(write):
    urls = ["http://a/v1", "https://a/v1", "http://a:81/v1", "http://a/v2", "http://[::1]:8000/v1", "http://gpu_1/v1"]
    listed = "".join(f"      - {{url: '{url}', slots: 1}}\n" for url in urls)
    assert len(load(write(f"models:\n  m:\n    replicas:\n{listed}"), {}).models["m"].replicas) == len(urls)


def test_r16_every_tier_has_a_replica_and_every_replica_a_tier(write):
    """Else its requests would be refused for ever, or the replica stand idle."""
    [problem] = problems(write(replica("tiers: [priority]")))
    assert problem == (
        "fareclass.yaml:3: models.m.replicas: none serves default, flex: let one, or name the others in models.m.tiers"
    )
    assert load(write(replica("tiers: [priority]") + "    tiers: [priority]\n"), {})
    idle = "      - {url: http://b/v1, slots: 1, tiers: [flex]}\n    tiers: [priority, default]\n"
    [problem] = problems(write(replica("") + idle))
    assert (
        problem
        == "fareclass.yaml:5: models.m.replicas[1].tiers: must have one that the model allows: priority, default"
    )


def test_r7_floors_are_shares_of_the_same_slots(write):
    floors = "tiers:\n  priority: {floor: %s}\n  default: {floor: 0.2}\n  flex: {floor: 0.1}\n"
    assert load(write(one_model("") + floors % 0.7), {})
    [problem] = problems(write(one_model("") + floors % 0.8))
    assert problem.startswith("fareclass.yaml:5: tiers: the floors of all tiers")


@pytest.mark.parametrize("setting", ["max_wait_s: 604801", "roam_after_s: 601", "gap_guard_s: 601", "max_batch: 1.1",
                                     "floor: -0.1", "queue_limit: 1000001", "max_wait_s: 0", "max_wait_s: nan",
                                     "price: 1e9", "price: -1", "price: 0.12345678901"])  # fmt: skip
def test_every_number_of_a_tier_has_bounds(write, setting):
    [problem] = problems(write(one_model("") + f"tiers:\n  flex: {{{setting}}}\n"))
    assert problem.startswith(f"fareclass.yaml:6: tiers.flex.{setting.split(':')[0]}: must be ")
    assert problem.endswith(f"not '{setting.split(': ')[1]}'")


@pytest.mark.parametrize("address", ["8000", ":8000", "localhost", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1",
                                     "127.0.0.1:http", "::1:80", "[::1:80", "http://127.0.0.1:80", "*:80", "300.0.0.1:80"])  # fmt: skip
def test_an_address_to_listen_on_is_host_and_port(write, address):
    says = f"listen: must be HOST:PORT, such as 127.0.0.1:8000 or [::1]:8000, not '{address}'"
    assert problems(write(f"listen: '{address}'\n{one_model('')}")) == [f"fareclass.yaml:1: {says}"]
    assert problems(write(one_model("")), {"FARECLASS_LISTEN": address}) == [f"FARECLASS_LISTEN: {says}"]


@pytest.mark.parametrize(
    "store",
    ["fareclass.db", "sqlite:fareclass.db", "sqlite://fareclass.db", "sqlite:///", "sqlite:///data/", "sqlite:///:memory:",
     "sqlite:///~nobody-here/f", "sqlite:///a.db?mode=ro", "sqlite:///a#b.db", "postgres://u:hunter2@h/d", "postgresql+psycopg://u@h/d",
     "postgresql://u@h", "postgresql://u@h:99999/d", "postgresql://u@h:port/d", "postgresql://u:hunter2/2@h/d",
     "postgresql://u@[::g]/d", "mysql://u@h/d", "postgresql:u@h/d"],
)  # fmt: skip
def test_a_store_is_a_file_or_a_database(write, store):
    """It may hold a secret, so it is not shown."""
    says = "store: must be sqlite:///FILE or postgresql://USER@HOST[:PORT]/DATABASE"
    assert problems(write(f"store: '{store}'\n{one_model('')}")) == [f"fareclass.yaml:1: {says}"]
    assert problems(write(one_model("")), {"FARECLASS_STORE": store}) == [f"FARECLASS_STORE: {says}"]


@pytest.mark.parametrize(
    "store", ["postgresql://u@h/d", "postgresql:///d?host=/run/pg", "postgresql://u%40x@[::1]:5432/d"]
)
def test_a_store_may_be_any_postgresql(write, store):
    assert load(write(f"store: '{store}'\n{one_model('')}"), {}).store == store


@pytest.mark.parametrize("store", ["postgresql://u:hunter2@h/d", "postgresql://u@h/d?password=hunter2"])
def test_a_database_password_must_not_stand_in_the_file(write, store):
    [problem] = problems(write(f"store: {store}\n{one_model('')}"))
    assert problem == "fareclass.yaml:1: store: must not hold a password: use store_password_env or store_password_file"


def test_a_folder_is_no_file(write, tmp_path):
    assert problems(write(f"store: sqlite:///{tmp_path}\nmaster_key_file: {tmp_path}\n{one_model('')}")) == [
        f"fareclass.yaml:1: store: must be a file, not the folder {tmp_path}",
        f"fareclass.yaml:2: master_key_file: must be a file rather than a folder, not '{tmp_path}'",
    ]


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("FARECLASS_LISTEN", "0.0.0.0:80", "listen: 0.0.0.0:80 can be reached from other machines"),
        ("FARECLASS_MASTER_KEY_FILE", "/", "master_key_file: must be a file rather than a folder"),
        ("FARECLASS_MASTER_KEY_FILE", "~nobody-here/key", "master_key_file: must be a file rather than a folder"),
        ("FARECLASS_ADMIN_KEY", "  ", "admin_key_env: the environment variable named here is not set, or is empty"),
        ("FARECLASS_ADMIN_KEY", "a\nb", "admin_key_env: the secret must be one line of plain text"),
    ],
)
def test_a_wrong_variable_is_named(write, variable, value, says):
    [problem] = problems(write(GOOD), {"GPU1_KEY": "k", variable: value})
    assert problem.startswith(f"{variable}: {says}")


def test_r51_a_secret_in_the_wrong_place_is_not_shown(write, tmp_path):
    """Nor is one read that can be none."""
    [problem] = problems(write(replica("api_key_env: sk-hunter2")))
    assert "hunter2" not in problem
    for content, says in ((b"a\nb", "one line of plain text"), (b"x" * 8193, "at most 8192 bytes"),
                          (b"\xff", "not text"), (b"\n", "is empty")):  # fmt: skip
        (tmp_path / "key").write_bytes(content)
        [problem] = problems(write(replica("api_key_file: key")))
        assert problem.startswith("fareclass.yaml:4: models.m.replicas[0].api_key_file: ")
        assert says in problem


@pytest.mark.parametrize(
    ("cert", "key", "says"),
    [
        ("tls-key.pem", "tls-key.pem", "tls: must be a PEM certificate and its own key"),
        ("nothing.pem", "tls-key.pem", "tls.cert: must be a file that is there"),
        ("tls-cert.pem", "tls-key-locked.pem", "tls: must be a PEM certificate and its own key, which has no password"),
    ],
)
def test_a_certificate_that_can_not_be_used_is_a_mistake_of_the_settings(write, cert, key, says):
    """It would be a traceback at the start, or a question that nobody answers."""
    [problem] = problems(write(one_model("") + f"tls: {{cert: {DATA / cert}, key: {DATA / key}}}\n"))
    assert problem.startswith(f"fareclass.yaml:5: {says}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"models: [1\nlisten: 2", "fareclass.yaml:2: expected ',' or ']'"),
        (b"", "fareclass.yaml: must be settings of the form `name: value`"),
        (b"- a", "fareclass.yaml: must be settings of the form `name: value`"),
        (b"a: 1\nb: \xff", "fareclass.yaml:2: is not UTF-8 text"),
        (b"a: 1\nb: \x00", "fareclass.yaml:2: must be plain text, without control characters"),
        (b"a: &x 1\nb: *x", "fareclass.yaml:2: aliases (*name) and tags (!name) can't be used here"),
        (b"a: !!binary aGk=", "fareclass.yaml:1: aliases (*name) and tags (!name) can't be used here"),
        (b"a: 1\n---\nb: 2", "fareclass.yaml:2: but found another document (expected a single document"),
        (b"a: " + b"[" * 5000, "fareclass.yaml: is nested too deeply"),
        (b"#" * (1024 * 1024 + 1), "fareclass.yaml: is larger than 1048576 bytes"),
        (b"models: {}", "fareclass.yaml:1: models: must have at least 1 entry"),
        (b"models:", "fareclass.yaml:1: models: must be entries of the form `name: value`"),
        (b"listen: 127.0.0.1:80", "fareclass.yaml: models: is missing"),
    ],
)
def test_what_is_no_settings_file_is_refused_in_one_line(write, text, says):
    [problem] = problems(write(text))
    assert problem.startswith(says)


def test_a_key_that_is_there_twice_is_refused(write):
    [problem] = problems(write(GOOD + "listen: 127.0.0.1:9000\n"), {"GPU1_KEY": "k"})
    assert problem == "fareclass.yaml:18: listen: is there twice (first on line 1)"


def replaced(settings: Any, by: object) -> Iterator[Any]:
    """These settings again and again, each time with another part of them replaced."""
    yield by
    items = (
        settings.items() if isinstance(settings, dict) else enumerate(settings) if isinstance(settings, list) else ()
    )
    for key, value in items:
        for other in replaced(value, by):
            copy = settings.copy()
            copy[key] = other
            yield copy


@pytest.mark.parametrize(
    "value", [None, "", " ", "x", "-1", "1e999", "nan", True, "a\x1bb", "~nobody/x", [], {}, [[]], {"": {"": None}}]
)
def test_whatever_stands_anywhere_is_refused_in_words(write, value):
    """No value of any setting is a traceback."""
    told = []
    for settings in replaced(yaml.safe_load(GOOD), value):
        try:
            load(write(json.dumps(settings)), {"GPU1_KEY": "k"})
        except ConfigError as error:
            told += error.problems
    assert len(told) > 20
    assert all(
        re.match(r"/.*/fareclass\.yaml:(1: .+| must be settings| models: is missing)", problem) for problem in told
    )


def test_nobody_is_asked_for_a_keys_password(write):
    """The start of a service would wait for ever."""
    tls = f"tls: {{cert: {DATA / 'tls-cert.pem'}, key: {DATA / 'tls-key-locked.pem'}}}\n"
    done = subprocess.run(
        [sys.executable, "-m", "fareclass", "check", str(write(one_model("") + tls))],
        input=b"secret\n", capture_output=True, check=False, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"Enter" not in done.stderr


def test_check_says_all_of_it_and_starts_nothing(write):
    done = subprocess.run(
        [sys.executable, "-m", "fareclass", "check", str(write(WRONG))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 14
    assert not done.stdout
