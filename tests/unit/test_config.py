"""Section 13 of the rules: one YAML file, wholly checked, every mistake with its path and line."""

from decimal import Decimal
from pathlib import Path

import pytest

from fareclass.config import ConfigError, LocalEngine, SimulatedEngine, load
from fareclass.core.tiers import DEFAULT_POLICIES, TIERS, Tier

GOOD = """\
listen: 127.0.0.1:8000
store: sqlite:///fareclass.db
models:
  smollm2-135m:
    engine: {kind: local, slots: 8}
  llama-70b:
    replicas:
      - {url: "http://gpu-1:8000/v1", slots: 64, api_key_env: GPU1_KEY}
      - {url: "http://gpu-2:8000/v1", slots: 64, tiers: [reserved, fast]}
    upstream_model: meta-llama/Llama-3.3-70B-Instruct
    price: {input: 0.60, output: 2.40}
    tier_prices: {priority: 2}
  fleet:
    engine: {kind: simulated, replicas: 4}
tiers:
  priority: {price: 1.80, max_batch: 0.5, max_wait_s: 20}
  flex: {price: 0.25}
"""

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes) -> Path:
        file = tmp_path / "fareclass.yaml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    return write


def problems(file: Path, env: dict[str, str] | None = None) -> list[str]:
    """The mistakes found, without the folder in front."""
    with pytest.raises(ConfigError) as caught:
        load(file, env or {})
    return [problem.replace(f"{file.parent}/", "") for problem in caught.value.problems]


def one_model(line: str) -> str:
    return f"models:\n  m:\n    engine: {{kind: simulated}}\n    {line}\n"


def test_a_whole_file_becomes_frozen_values(write, tmp_path):
    config = load(write(GOOD), {"GPU1_KEY": "s3cret\n"})
    assert config.address == ("127.0.0.1", 8000)
    assert config.store == f"sqlite:///{tmp_path}/fareclass.db"
    assert config.models["smollm2-135m"].engine == LocalEngine(slots=8)
    assert config.models["fleet"].engine == SimulatedEngine(replicas=4)
    first, second = config.models["llama-70b"].replicas
    assert first.api_key.value == "s3cret"
    assert second.tiers == (Tier.RESERVED, Tier.PRIORITY)
    with pytest.raises(AttributeError):
        config.listen = "elsewhere"


def test_prices_never_pass_through_a_float(write):
    """R34: `0.60` is exactly that, and prices that are not set follow from the input price (R24, R32)."""
    price = load(write(GOOD), {"GPU1_KEY": "k"}).models["llama-70b"].price
    assert price.kinds() == tuple(map(Decimal, ("0.60", "0.75", "1.20", "0.06", "2.40")))


def test_tier_settings_lie_over_the_defaults(write):
    config = load(write(GOOD), {"GPU1_KEY": "k"})
    policies = config.policies()
    assert (policies[Tier.PRIORITY].max_batch, policies[Tier.PRIORITY].max_wait_s) == (0.5, 20)
    assert policies[Tier.PRIORITY].roam_after_s == DEFAULT_POLICIES[Tier.PRIORITY].roam_after_s
    assert {tier: policies[tier] for tier in TIERS if tier is not Tier.PRIORITY} == {
        tier: DEFAULT_POLICIES[tier] for tier in TIERS if tier is not Tier.PRIORITY
    }


def test_multipliers_are_the_models_then_the_tiers_then_the_rules(write):
    """Section 2 of the rules: multipliers may be set per model."""
    config = load(write(GOOD), {"GPU1_KEY": "k"})
    assert config.multipliers("llama-70b") == tuple(map(Decimal, ("1", "2", "1", "0.25", "0.5")))
    assert config.multipliers("fleet") == tuple(map(Decimal, ("1", "1.80", "1", "0.25", "0.5")))


def test_without_a_file_the_built_in_model_is_served_on_loopback():
    config = load(None, {})
    assert config.models["smollm2-135m"].engine == LocalEngine(slots=8)
    assert config.address == ("127.0.0.1", 8000)
    assert Path(config.store.removeprefix("sqlite:///")).parent != config.master_key_file.parent


def test_every_mistake_is_told_at_once_with_its_path_and_line(write):
    text = (
        "listen: 127.0.0.1:8000\nstor: x\nmodels:\n  a:\n    engine: {kind: locall}\n  b:\n    replicas:\n"
        "      - {url: http://gpu/v1, slots: 0}\n      - {slots: many}\n    price: {input: -1, output: 1}\n"
        "tiers:\n  prio: {price: 2}\n"
    )
    assert problems(write(text)) == [
        "fareclass.yaml:2: stor: there is no such setting; did you mean store?",
        "fareclass.yaml:5: models.a.engine.kind: must be local or simulated",
        "fareclass.yaml:8: models.b.replicas[0].slots: must be a whole number, at least 1 and at most 4096, not '0'",
        "fareclass.yaml:9: models.b.replicas[1].slots: must be a whole number, at least 1 and at most 4096, not 'many'",
        "fareclass.yaml:9: models.b.replicas[1].url: is missing",
        "fareclass.yaml:10: models.b.price.input: must be an amount, such as 0.60, not '-1'",
        "fareclass.yaml:12: tiers.prio: must be one of reserved, priority, default, flex, batch, not 'prio'",
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("output_burndown: 0", "models.m.output_burndown: must be a whole number, at least 1 and at most 100, not '0'"),
        ("output_burndown: 1.5", "must be a whole number"),
        ("pass_fields: guided_json", "models.m.pass_fields: must be a list"),
        ("pass_fields: [{a: 1}]", "models.m.pass_fields[0]: must be text"),
        ("upstream_model:", None),
        ("price: 5", "models.m.price: must be settings of the form `name: value`"),
        ("price: {input: nan, output: 1}", "must be an amount"),
        ("price: {input: 0.0000001, output: 1}", "models.m.price: 1E-7 USD per 1M tokens × 1 is not a whole number"),
        ("replicas: [{url: 'http://a/v1', slots: 1}]", "models.m: must have exactly one of engine and replicas"),
        ("tiers: [gold]", "models.m.tiers[0]: must be one of reserved"),
    ],
)
def test_a_wrong_value_is_refused_with_what_would_be_right(write, line, says):
    if says is None:
        assert load(write(one_model(line)), {}).models["m"].upstream_model is None
    else:
        [problem] = problems(write(one_model(line)))
        assert problem.startswith("fareclass.yaml:")
        assert says in problem


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"models: [1\nlisten: 2", "fareclass.yaml:2: expected ',' or ']'"),
        (b"", "fareclass.yaml: must be settings of the form `name: value`"),
        (b"- a", "fareclass.yaml: must be settings of the form `name: value`"),
        (b"a: \xff", "fareclass.yaml: is not UTF-8 text (byte 3)"),
        (b"a: &x 1\nb: *x", "fareclass.yaml:2: aliases (*name) can't be used here"),
        (b"a: " + b"[" * 5000, "fareclass.yaml: is nested too deeply"),
        (b"#" * (1024 * 1024 + 1), "fareclass.yaml: is larger than 1048576 bytes"),
        (b"models: {}", "fareclass.yaml:1: models: must name at least one model"),
        (b"listen: 127.0.0.1:80", "fareclass.yaml: models: is missing"),
    ],
)
def test_what_is_no_settings_file_is_refused_in_one_line(write, text, says):
    [problem] = problems(write(text))
    assert problem.startswith(says)


def test_a_key_that_is_there_twice_is_refused(write):
    [problem] = problems(write(GOOD + "listen: 127.0.0.1:9000\n"), {"GPU1_KEY": "k"})
    assert problem == "fareclass.yaml:18: listen: is there twice (first on line 1)"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file or directory"):
        load(tmp_path / "nowhere.yaml", {})


def replica(line: str) -> str:
    return f'models:\n  m:\n    replicas:\n      - {{url: "http://a/v1", slots: 1, {line}}}\n'


def test_secrets_come_by_variable_or_file_only(write, tmp_path):
    """R51: a secret in the configuration file is refused, with the way that it should come."""
    (tmp_path / "key").write_text("from a file\n")
    by_file = load(write(replica("api_key_file: key")), {})
    assert by_file.models["m"].replicas[0].api_key.value == "from a file"
    path = "fareclass.yaml:4: models.m.replicas[0].api_key"
    assert problems(write(replica("api_key: sk-123"))) == [
        f"{path}: a secret must not stand in this file: use {path.split(': ')[1]}_env or {path.split(': ')[1]}_file"
    ]
    assert problems(write(replica("api_key_env: NOPE"))) == [f"{path}_env: the environment variable 'NOPE' is not set"]
    assert problems(write(replica("api_key_file: gone")))[0].startswith(f"{path}_file: can't read ")


def test_a_secret_is_never_printed(write):
    """R51: neither the settings' own text nor a traceback's would show one."""
    config = load(write(GOOD), {"GPU1_KEY": "s3cret", "FARECLASS_ADMIN_KEY": "4dmin"})
    assert config.admin_key.value == "4dmin"
    assert "s3cret" not in repr(config)
    assert "4dmin" not in repr(config)


def test_environment_variables_override_the_file(write, tmp_path):
    env = {
        "GPU1_KEY": "k",
        "FARECLASS_LISTEN": "127.0.0.1:9000",
        "FARECLASS_STORE": "postgresql://user:p%40ss@db/fareclass",
        "FARECLASS_MASTER_KEY_FILE": str(tmp_path / "elsewhere" / "master.key"),
    }
    config = load(write(GOOD), env)
    assert config.address == ("127.0.0.1", 9000)
    assert config.store == "postgresql://user@db/fareclass"
    assert config.store_password.value == "p@ss"
    assert config.master_key_file == tmp_path / "elsewhere" / "master.key"
    assert problems(write(GOOD), env | {"FARECLASS_LISTEN": "9000"}) == [
        "FARECLASS_LISTEN: listen: must be host:port, such as 127.0.0.1:8000"
    ]


def test_a_database_password_must_not_stand_in_the_file(write):
    text = "store: postgresql://u:secret@h/d\n" + one_model("")
    [problem] = problems(write(text))
    assert problem == "fareclass.yaml:1: store: must not hold a password: use store_password_env or store_password_file"


@pytest.mark.parametrize("address", ["0.0.0.0:80", "[::]:80", "192.168.1.5:80", "gateway.example:80"])
def test_listening_beyond_loopback_wants_tls(write, address):
    """Section 13 of the rules: TLS where it listens beyond loopback, or a word that something in front does it."""
    text = f"listen: '{address}'\n" + one_model("")
    [problem] = problems(write(text))
    assert problem.startswith("fareclass.yaml:1: listen: ")
    assert "tls.cert" in problem
    assert load(write(text + "insecure_listen: true\n"), {}).listen == address
    tls = f"tls: {{cert: {DATA / 'tls-cert.pem'}, key: {DATA / 'tls-key.pem'}}}\n"
    assert load(write(text + tls), {}).tls.cert.name == "tls-cert.pem"


@pytest.mark.parametrize("file", ["tls-key.pem", "nothing.pem"])
def test_a_certificate_that_can_not_be_used_is_a_mistake_of_the_settings(write, file):
    """It would be a traceback at the start."""
    [problem] = problems(write(one_model("") + f"tls: {{cert: {DATA / file}, key: {DATA / 'tls-key.pem'}}}\n"))
    assert "tls: the certificate and its key can't be used" in problem


@pytest.mark.parametrize("address", ["127.0.0.1:80", "[::1]:80", "localhost:80", "127.9.9.9:80"])
def test_loopback_needs_no_tls(write, address):
    assert load(write(f"listen: '{address}'\n" + one_model("")), {}).address[1] == 80


def test_the_master_key_lies_outside_the_databases_folder(write):
    """R51."""
    text = "store: sqlite:///data/f.db\nmaster_key_file: data/master.key\n" + one_model("")
    [problem] = problems(write(text))
    assert problem.startswith("fareclass.yaml:2: master_key_file: must lie outside the database's folder")


def test_replica_addresses_are_checked(write):
    text = (
        'models:\n  m:\n    replicas:\n      - {url: "http://a/v1", slots: 1}\n      - {url: "http://a/v1", slots: 1}\n'
        '      - {url: "ftp://a", slots: 1}\n      - {url: "http://user:pw@a/v1", slots: 1}\n'
    )
    first, second, third = problems(write(text))
    assert first.startswith("fareclass.yaml:5: models.m.replicas[1].url: is there twice")
    assert second.startswith("fareclass.yaml:6: models.m.replicas[2].url: must be http://HOST")
    assert third.startswith("fareclass.yaml:7: models.m.replicas[3].url: must be http://HOST")
