"""Section 13 of the rules: one YAML file and the environment become frozen settings. What is refused: test_config_mistakes."""

from decimal import Decimal
from pathlib import Path

import pytest

from fareclass.config import ConfigError, LocalEngine, SimulatedEngine, load
from fareclass.core.tiers import DEFAULT_POLICIES, TIERS, Tier
from tests.unit.settings import DATA, GOOD, one_model, problems, replica


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


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file or directory"):
        load(tmp_path / "nowhere.yaml", {})


def test_secrets_come_by_variable_or_file_only(write, tmp_path):
    """R51: a secret in the configuration file is refused, with the way that it should come."""
    (tmp_path / "key").write_text("from a file\n")
    by_file = load(write(replica("api_key_file: key")), {})
    assert by_file.models["m"].replicas[0].api_key.value == "from a file"
    path = "fareclass.yaml:4: models.m.replicas[0].api_key"
    assert problems(write(replica("api_key: sk-123"))) == [
        f"{path}: a secret must not stand in this file: use {path.split(': ')[1]}_env or {path.split(': ')[1]}_file"
    ]
    assert problems(write(replica("api_key_env: NOPE"))) == [
        f"{path}_env: the environment variable named here is not set, or is empty"
    ]
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


@pytest.mark.parametrize("address", ["127.0.0.1:80", "[::1]:80", "localhost:80", "127.9.9.9:80"])
def test_loopback_needs_no_tls(write, address):
    assert load(write(f"listen: '{address}'\n" + one_model("")), {}).address[1] == 80


def test_the_master_key_lies_outside_the_databases_folder(write, tmp_path):
    """R51."""
    text = "store: sqlite:///data/f.db\nmaster_key_file: data/master.key\n" + one_model("")
    [problem] = problems(write(text))
    assert problem.startswith(
        "fareclass.yaml:2: master_key_file: database and master key must lie in different folders"
    )
    [problem] = problems(write(text), {"FARECLASS_STORE": f"sqlite:///{tmp_path}/x/../data/f.db"})
    assert problem.startswith("FARECLASS_STORE: store: database and master key must lie in different folders")


@pytest.mark.parametrize("kind", ["local", "simulated"])
def test_r31_projects_can_not_be_made_to_share_an_engine_that_keeps_them_apart_itself(write, kind):
    file = write(f"models:\n  m:\n    engine: {{kind: {kind}}}\n    shared_cache: true\n")
    says = "is for replicas only; this engine keeps projects apart by itself: remove it"
    assert problems(file) == [f"fareclass.yaml:4: models.m.shared_cache: {says}"]
    assert load(write(replica("tiers: null") + "    shared_cache: true\n"), {}).models["m"].shared_cache
