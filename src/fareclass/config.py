"""The settings of one gateway: a YAML file and `FARECLASS_*` variables -> one frozen `Config`, checked as a whole.

The only reader of files and environment variables for settings. How text becomes the
values declared here, with the line of every mistake, is in `fareclass.config_reader`.
"""

import ipaddress
import os
import ssl
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import platformdirs
from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from fareclass.config_reader import ConfigError, Reader, Secret
from fareclass.core.limits import PRICE_USD
from fareclass.core.money import per_token
from fareclass.core.tiers import DEFAULT_POLICIES, TIERS, Tier, TierPolicy

__all__ = [
    "Config",
    "ConfigError",
    "LocalEngine",
    "Model",
    "Price",
    "Replica",
    "Secret",
    "SimulatedEngine",
    "TierSettings",
    "Tls",
    "load",
]

DEFAULT_MODEL = "smollm2-135m"
MULTIPLIERS = (Decimal(1), Decimal("1.75"), Decimal(1), Decimal("0.5"), Decimal("0.5"))
"""Price multipliers in the order of the tiers, where nothing else is set (section 2 of the rules)."""

Slots = Annotated[int, Meta(ge=1, le=4096)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]


class Tls(Struct, frozen=True, kw_only=True):
    """Certificate chain and private key, both PEM files."""

    cert: Path
    key: Path


class LocalEngine(Struct, frozen=True, kw_only=True, tag_field="kind", tag="local"):
    """The built-in CPU engine. `model_file` is a GGUF file, the built-in model where none is named.

    `context_tokens` is what one slot can hold, prompt and answer together.
    """

    slots: Slots = 8
    model_file: Path | None = None
    context_tokens: Annotated[int, Meta(ge=256)] = 2048


class SimulatedEngine(Struct, frozen=True, kw_only=True, tag_field="kind", tag="simulated"):
    """Replicas without a model. The speeds are those of `engine.sim_replica.Speed`, of the same names."""

    replicas: Annotated[int, Meta(ge=1, le=1024)] = 1
    slots: Slots = 16
    base_us: Count = 8_000
    sequence_us: Annotated[int, Meta(ge=0)] = 1_500
    chunk_tokens: Count = 512
    prefill_tokens_s: Count = 20_000
    kv_tokens: Count = 262_144


class Replica(Struct, frozen=True, kw_only=True):
    """One OpenAI-compatible server. `url` is what its API stands below, such as `http://gpu-1:8000/v1`.

    `tiers`: the only ones that it serves (R16); None is all.
    """

    url: str
    slots: Slots
    api_key: Secret | None = None
    tiers: tuple[Tier, ...] | None = None


class Price(Struct, frozen=True, kw_only=True):
    """USD per 1 M tokens at tier `default` (R33). Cache prices that are not set follow from `input` (R24, R32)."""

    input: Decimal
    output: Decimal
    cache_write_5m: Decimal | None = None
    cache_write_1h: Decimal | None = None
    cache_read: Decimal | None = None

    def kinds(self) -> tuple[Decimal, ...]:
        """The price of each token kind, in the order of `core.usage.KINDS`."""
        return (
            self.input,
            _or(self.cache_write_5m, self.input * Decimal("1.25")),
            _or(self.cache_write_1h, self.input * 2),
            _or(self.cache_read, self.input * Decimal("0.1")),
            self.output,
        )


class Model(Struct, frozen=True, kw_only=True):
    """A public model and where it is served: exactly one of `engine` and `replicas`.

    `tier_prices` are multipliers that differ from those of the tiers. `tiers` are the only
    ones allowed on this model (R3), `pass_fields` the request fields passed on beside the
    API's own (R50), `media_domains` the hosts remote media may come from (R47),
    `output_burndown` what one output token counts against a TPM quota (R25).
    """

    engine: LocalEngine | SimulatedEngine | None = None
    replicas: tuple[Replica, ...] = ()
    upstream_model: str | None = None
    price: Price | None = None
    tier_prices: Mapping[Tier, Decimal] = {}
    tiers: tuple[Tier, ...] | None = None
    pass_fields: tuple[str, ...] = ()
    media_domains: tuple[str, ...] = ()
    output_burndown: Annotated[int, Meta(ge=1, le=100)] = 1
    max_tokens_default: Count = 512


class TierSettings(Struct, frozen=True, kw_only=True):
    """What the operator sets of one tier; the rest stays as `core.tiers.DEFAULT_POLICIES` has it."""

    price: Decimal | None = None
    max_batch: Annotated[float, Meta(gt=0, le=1)] | None = None
    max_wait_s: Positive | None = None
    roam_after_s: Positive | None = None
    floor: Share | None = None
    gap_guard_s: Positive | None = None
    queue_limit: Count | None = None


class Config(Struct, frozen=True, kw_only=True):
    """All settings. Paths are absolute. `admin_key` is None where the first start shall make one.

    `drain_s`: how long running work may go on after SIGTERM. `insecure_listen` allows
    listening beyond loopback without TLS, for use behind a proxy that has it.
    """

    listen: str = "127.0.0.1:8000"
    insecure_listen: bool = False
    tls: Tls | None = None
    store: str
    store_password: Secret | None = None
    master_key_file: Path
    admin_key: Secret | None = None
    drain_s: Annotated[float, Meta(ge=0)] = 30.0
    models: Mapping[str, Model]
    tiers: Mapping[Tier, TierSettings] = {}

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on.

        Raises:
            ValueError: `listen` is not `host:port`; never in a loaded config.
        """
        host, _, port = self.listen.rpartition(":")
        if not (host and port.isascii() and port.isdigit() and int(port) <= 65_535):
            raise ValueError(self.listen)
        return host.removeprefix("[").removesuffix("]"), int(port)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        return _is_loopback(self.address[0])

    def base_url(self, port: int) -> str:
        """Where a caller on this machine reaches the gateway that listens on this port."""
        host, _ = self.address
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"{'https' if self.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    def policies(self) -> dict[Tier, TierPolicy]:
        """Every tier's policy for the brain, the operator's settings over the defaults."""
        return {tier: self._policy(tier) for tier in TIERS}

    def _policy(self, tier: Tier) -> TierPolicy:
        given = asdict(self.tiers.get(tier, TierSettings()))
        given.pop("price")
        settings = asdict(DEFAULT_POLICIES[tier]) | {name: value for name, value in given.items() if value is not None}
        return TierPolicy(**settings)

    def multipliers(self, model: str) -> tuple[Decimal, ...]:
        """A model's price multipliers in the order of the tiers."""
        own = self.models[model].tier_prices
        return tuple(
            own[tier] if tier in own else _or(self.tiers.get(tier, TierSettings()).price, MULTIPLIERS[tier])
            for tier in TIERS
        )


def load(file: Path | None = None, env: Mapping[str, str] = os.environ) -> Config:
    """Read and check everything: the file, or the built-in default without one, and `FARECLASS_*` over it.

    Raises:
        ConfigError: with every mistake found, each with its path and line.
    """
    reader = Reader(file, env)
    reader.override("listen", "FARECLASS_LISTEN")
    reader.override("store", "FARECLASS_STORE")
    reader.override("master_key_file", "FARECLASS_MASTER_KEY_FILE")
    reader.override("admin_key_env", "FARECLASS_ADMIN_KEY", by_name=True)
    reader.default("store", f"sqlite:///{platformdirs.user_data_path('fareclass') / 'store' / 'fareclass.db'}")
    reader.default("master_key_file", str(platformdirs.user_config_path("fareclass") / "keys" / "master.key"))
    if file is None:
        reader.default(
            "models", {DEFAULT_MODEL: {"engine": {"kind": "local"}, "price": {"input": "0.1", "output": "0.4"}}}
        )
    config: Config = reader.convert(Config)
    config = _with_store(config, reader)
    for path, message in _mistakes(config):
        reader.complain(path, message)
    reader.finish()
    return config


def _with_store(config: Config, reader: Reader) -> Config:
    """SQLite's file absolute; a password in FARECLASS_STORE moved to where it is not printed."""
    url = urlsplit(config.store)
    if url.scheme == "sqlite":
        return replace(config, store=f"sqlite:///{reader.folder_of('store') / url.path.removeprefix('/')}")
    if url.password is None or reader.from_file("store"):
        return config
    bare = url._replace(netloc=url.netloc.replace(f":{url.password}@", "@", 1)).geturl()
    return replace(config, store=bare, store_password=Secret(unquote(url.password)))


def _mistakes(config: Config) -> Iterator[tuple[str, str]]:
    """What no single field shows."""
    yield from _listen_mistakes(config)
    yield from _tls_mistakes(config.tls)
    yield from _store_mistakes(config)
    if not config.models:
        yield "models", "must name at least one model"
    for name, model in config.models.items():
        yield from _model_mistakes(f"models.{name}", model)
        yield from _price_mistakes(f"models.{name}", model, config.multipliers(name))


def _tls_mistakes(tls: Tls | None) -> Iterator[tuple[str, str]]:
    if tls is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as error:
        yield "tls", f"the certificate and its key can't be used: {error}"


def _listen_mistakes(config: Config) -> Iterator[tuple[str, str]]:
    try:
        host, _ = config.address
    except ValueError:
        yield "listen", "must be host:port, such as 127.0.0.1:8000"
        return
    if not (config.tls or config.insecure_listen or _is_loopback(host)):
        yield (
            "listen",
            (
                f"{host} can be reached from other machines: set tls.cert and tls.key, or insecure_listen: true "
                "where something in front of the gateway does TLS"
            ),
        )


def _store_mistakes(config: Config) -> Iterator[tuple[str, str]]:
    url = urlsplit(config.store)
    if url.scheme == "sqlite":
        database = Path(url.path.removeprefix("/"))
        if database.parent == config.master_key_file.parent:
            yield "master_key_file", "must lie outside the database's folder: who copies that would have both (R51)"
    elif url.scheme != "postgresql":
        yield "store", "must be sqlite:///FILE or postgresql://USER@HOST/DATABASE"
    if url.password is not None:
        yield "store", "must not hold a password: use store_password_env or store_password_file"


def _model_mistakes(path: str, model: Model) -> Iterator[tuple[str, str]]:
    if (model.engine is None) == (not model.replicas):
        yield path, "must have exactly one of engine and replicas"
    urls = [replica.url for replica in model.replicas]
    for index, url in enumerate(urls):
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query:
            yield f"{path}.replicas[{index}].url", "must be http://HOST[:PORT]/v1 or https://…, without user and query"
        if url in urls[:index]:
            yield f"{path}.replicas[{index}].url", "is there twice; one replica is one engine, its slots say how much"
    if isinstance(model.engine, LocalEngine) and model.engine.model_file and not model.engine.model_file.is_file():
        yield f"{path}.engine.model_file", f"no such file: {model.engine.model_file}"


def _price_mistakes(path: str, model: Model, multipliers: tuple[Decimal, ...]) -> Iterator[tuple[str, str]]:
    if model.price is None:
        return
    if not all(price.is_finite() and price <= PRICE_USD for price in model.price.kinds()):
        yield f"{path}.price", f"prices may be up to {PRICE_USD} USD per 1M tokens"
        return
    for multiplier in dict.fromkeys(multipliers):
        for price in model.price.kinds():
            try:
                per_token(price, multiplier)
            except (ValueError, ArithmeticError) as error:
                yield f"{path}.price", str(error)
                return


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _or(value: Decimal | None, default: Decimal) -> Decimal:
    return default if value is None else value
