"""Every setting there is, as frozen structs: its type, default and bounds, and what its text must look like.

What the structs say, `fareclass.config_reader` holds a file to.
"""

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta, Struct
from msgspec.structs import asdict

from fareclass.config_reader import Secret
from fareclass.config_rules import (
    host_and_port,
    is_address,
    is_amount,
    is_domain,
    is_engine_url,
    is_field,
    is_loopback,
    is_network,
    is_origin,
    is_store,
)
from fareclass.config_values import must_be
from fareclass.core import limits
from fareclass.core.tiers import DEFAULT_POLICIES, TIERS, Tier, TierPolicy

MULTIPLIERS = (Decimal(1), Decimal("1.75"), Decimal(1), Decimal("0.5"), Decimal("0.5"))
"""Price multipliers in the order of the tiers, where nothing else is set (section 2 of the rules)."""

Name = Annotated[str, Meta(max_length=limits.MODEL_CHARS)]
Slots = Annotated[int, Meta(ge=1, le=limits.SLOTS)]
Share = Annotated[float, Meta(ge=0, le=1)]
Micros = Annotated[int, Meta(ge=1, le=limits.SIMULATED_US)]
SimulatedTokens = Annotated[int, Meta(ge=1, le=limits.SIMULATED_TOKENS)]
Wait = Annotated[float, Meta(gt=0, le=limits.WAIT_S)]
PauseWait = Annotated[float, Meta(gt=0, le=limits.MAX_PAUSED_S)]
Tiers = Annotated[tuple[Tier, ...], Meta(min_length=1)]
Usd = Annotated[
    Decimal,
    must_be(
        f"USD per 1M tokens from 0 to {limits.PRICE_USD}, such as 0.60, of at most {limits.AMOUNT_DECIMALS} decimals",
        lambda amount: is_amount(amount, limits.PRICE_USD),
    ),
]
HourlyUsd = Annotated[
    Decimal,
    must_be(
        f"USD an hour from 0 to {limits.RESERVED_PRICE_USD}, such as 0.021, of at most {limits.AMOUNT_DECIMALS} decimals",
        lambda amount: is_amount(amount, limits.RESERVED_PRICE_USD),
    ),
]
Multiplier = Annotated[
    Decimal,
    must_be(
        f"a multiplier from 0 to {limits.MULTIPLIER}, such as 1.75, of at most {limits.AMOUNT_DECIMALS} decimals",
        lambda amount: is_amount(amount, limits.MULTIPLIER),
    ),
]
Weight = Annotated[
    Decimal,
    must_be(
        f"a number from 0 to {limits.BURNDOWN} of at most 2 decimals, such as 1.25",
        lambda weight: weight.is_finite() and 0 <= weight <= limits.BURNDOWN and int(weight.as_tuple().exponent) >= -2,
    ),
]
Listen = Annotated[str, must_be("HOST:PORT, such as 127.0.0.1:8000 or [::1]:8000", is_address)]
NO_CONSOLE = "false"
ConsoleListen = Annotated[
    str,
    must_be(
        "HOST:PORT, such as 127.0.0.1:8001, or false for none", lambda text: text == NO_CONSOLE or is_address(text)
    ),
]
StoreUrl = Annotated[str, must_be("sqlite:///FILE or postgresql://USER@HOST[:PORT]/DATABASE", is_store, shown=False)]
EngineUrl = Annotated[
    str,
    must_be("http://HOST[:PORT]/v1 or https://…, without user, query and fragment", is_engine_url, shown=False),
]
ExistingFile = Annotated[Path, must_be("a file that is there", Path.is_file)]
NewFile = Annotated[Path, must_be("a file rather than a folder", lambda path: not path.is_dir())]
NewFolder = Annotated[Path, must_be("a folder rather than a file", lambda path: not path.is_file())]
Domain = Annotated[
    str,
    must_be("a host or domain alone, in lower case, such as media.example.com: no scheme, port, path or *", is_domain),
]
Network = Annotated[
    str, must_be("a network such as 10.20.0.0/16 or fd00:20::/32, with no bits set beyond its length", is_network)
]
Origin = Annotated[
    str, must_be("https://HOST[:PORT] and no more, such as https://s3.example.com", is_origin, shown=False)
]
AbsoluteFolder = Annotated[Path, must_be("a folder that is there", Path.is_dir)]
Field = Annotated[
    str,
    must_be(
        "a field that only the engine knows: the API's own go upstream anyway, the gateway's never do (R50)", is_field
    ),
]


class Tls(Struct, frozen=True, kw_only=True):
    """Certificate chain and private key, both PEM files."""

    cert: ExistingFile
    key: ExistingFile


class LocalEngine(Struct, frozen=True, kw_only=True, tag_field="kind", tag="local"):
    """The built-in CPU engine. `model_file` is a GGUF file, the built-in model where none is named.

    `context_tokens` is what one slot can hold, prompt and answer together.
    """

    slots: Annotated[int, Meta(ge=1, le=limits.LOCAL_SLOTS)] = 8
    model_file: ExistingFile | None = None
    context_tokens: Annotated[int, Meta(ge=256, le=limits.CONTEXT_TOKENS)] = 2048


class SimulatedEngine(Struct, frozen=True, kw_only=True, tag_field="kind", tag="simulated"):
    """Replicas without a model. The speeds are those of `engine.sim_replica.Speed`, of the same names."""

    replicas: Annotated[int, Meta(ge=1, le=limits.SETTINGS)] = 1
    slots: Slots = 16
    base_us: Micros = 8_000
    sequence_us: Annotated[int, Meta(ge=0, le=limits.SIMULATED_US)] = 1_500
    context_ns: Annotated[int, Meta(ge=0, le=limits.SIMULATED_US)] = 0
    chunk_tokens: SimulatedTokens = 512
    prefill_tokens_s: SimulatedTokens = 20_000
    kv_tokens: SimulatedTokens = 262_144
    lead_steps: Annotated[int, Meta(ge=0, le=limits.SIMULATED_LEAD_STEPS)] = 0
    overcommits: bool = False


class Replica(Struct, frozen=True, kw_only=True):
    """One OpenAI-compatible server. `url` is what its API stands below, such as `http://gpu-1:8000/v1`.

    `tiers`: the only ones that it serves (R16); None is all.
    """

    url: EngineUrl
    slots: Slots
    api_key: Secret | None = None
    tiers: Tiers | None = None

    @property
    def place(self) -> tuple[str, str | None, int, str]:
        """The URL as one server has it, however it is written."""
        parts = urlsplit(self.url)
        return (
            parts.scheme,
            parts.hostname,
            parts.port or {"http": 80, "https": 443}[parts.scheme],
            parts.path.rstrip("/"),
        )


class Price(Struct, frozen=True, kw_only=True):
    """USD per 1 M tokens at tier `default` (R33). Cache prices that are not set follow from `input` (R24, R32)."""

    input: Usd
    output: Usd
    cache_write_5m: Usd | None = None
    cache_write_1h: Usd | None = None
    cache_read: Usd | None = None

    def kinds(self) -> tuple[Decimal, ...]:
        """The price of each token kind, in the order of `core.usage.KINDS`."""
        return (
            self.input,
            _or(self.cache_write_5m, self.input * Decimal("1.25")),
            _or(self.cache_write_1h, self.input * 2),
            _or(self.cache_read, self.input * Decimal("0.1")),
            self.output,
        )


class ReservedPrice(Struct, frozen=True, kw_only=True):
    """USD an hour for each 1,000 tokens a minute of a reservation's floor (R33)."""

    input: HourlyUsd
    output: HourlyUsd


class Capacity(Struct, frozen=True, kw_only=True):
    """What the whole pool does of each kind alone, in tokens a minute (R19): `fareclass bench capacity` measures it."""

    input_tpm: Annotated[int, Meta(ge=1, le=limits.QUOTA)]
    output_tpm: Annotated[int, Meta(ge=1, le=limits.QUOTA)]


class Cache(Struct, frozen=True, kw_only=True):
    """A cache point counts only where the prompt up to it has at least `min_tokens` (R28)."""

    min_tokens: Annotated[int, Meta(ge=1, le=limits.SIMULATED_TOKENS)] = 1_024


class Burndown(Struct, frozen=True, kw_only=True):
    """What a token of each kind counts, in hundredths at the finest (R24)."""

    input: Weight = Decimal(1)
    cache_write_5m: Weight = Decimal("1.25")
    cache_write_1h: Weight = Decimal(2)
    cache_read: Weight = Decimal("0.1")
    output: Weight = Decimal(1)


class Model(Struct, frozen=True, kw_only=True):
    """A public model and where it is served: exactly one of `engine` and `replicas`.

    `tier_prices` are multipliers that differ from those of the tiers. `tiers` are the only
    ones allowed on this model (R3), `pass_fields` the request fields passed on beside the
    API's own (R50), `media_domains` the hosts remote media may come from (R47),
    `burndown` what a token of each kind counts against a reservation, and output against a TPM quota (R24, R25).
    `capacity` is what the pool does of each kind alone; without it nothing can be reserved (R19). `headroom` are
    slots kept free of work that can't be moved while reservations are active, instead of the derived number (R10).
    `context_tokens` is what prompt and answer may hold together, `implicit_cache` bills reuse of a project's own
    prompts as cache reads where nobody set a cache point (R30), `shared_cache` lets projects share the caches
    of its replicas (R31).
    """

    engine: LocalEngine | SimulatedEngine | None = None
    replicas: Annotated[tuple[Replica, ...], Meta(max_length=limits.SETTINGS)] = ()
    upstream_model: Name | None = None
    price: Price | None = None
    tier_prices: Mapping[Tier, Multiplier] = {}
    tiers: Tiers | None = None
    pass_fields: Annotated[tuple[Field, ...], Meta(max_length=limits.SETTINGS)] = ()
    media_domains: Annotated[tuple[Domain, ...], Meta(max_length=limits.SETTINGS)] = ()
    burndown: Burndown = Burndown()
    max_tokens_default: Annotated[int, Meta(ge=1, le=limits.EXPECTED_TOKENS)] = 512
    capacity: Capacity | None = None
    reserved_price: ReservedPrice | None = None
    headroom: Annotated[int, Meta(ge=0, le=limits.SLOTS)] | None = None
    context_tokens: Annotated[int, Meta(ge=1, le=limits.SIMULATED_TOKENS)] | None = None
    cache: Cache = Cache()
    implicit_cache: bool = True
    shared_cache: bool = False

    @property
    def most_tokens(self) -> int | None:
        """What prompt and answer may hold together: as declared, or as the built-in engine is told; None if not known."""
        if self.context_tokens is None and isinstance(self.engine, LocalEngine):
            return self.engine.context_tokens
        return self.context_tokens


class TierSettings(Struct, frozen=True, kw_only=True):
    """What the operator sets of one tier; the rest stays as `core.tiers.DEFAULT_POLICIES` has it."""

    price: Multiplier | None = None
    max_batch: Annotated[float, Meta(gt=0, le=1)] | None = None
    max_wait_s: Wait | None = None
    roam_after_s: PauseWait | None = None
    floor: Share | None = None
    gap_guard_s: PauseWait | None = None
    queue_limit: Annotated[int, Meta(ge=1, le=limits.QUEUE_LIMIT)] | None = None


class ObjectStore(Struct, frozen=True, kw_only=True):
    """A store that speaks S3, for inputs and results of batches; buckets are in the path of its addresses."""

    url: Origin
    region: Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARS)] = "us-east-1"
    access_key_id: Annotated[str, Meta(min_length=1, max_length=limits.HEADER_VALUE_CHARS)]
    secret_access_key: Secret


class Config(Struct, frozen=True, kw_only=True):
    """All settings. Paths are absolute. `admin_key` is None where the first start shall make one, `read_only_key` too.

    `console` is where the console listens, NO_CONSOLE where there shall be none, None for the port after the gateway's.

    `data_folder` holds uploaded files and batches. `drain_s`: how long running work may go on after SIGTERM. `insecure_listen` allows
    listening beyond loopback without TLS, for use behind a proxy that has it.
    `outbound_networks`: the operator's own that webhooks may go to, and object stores be in. `batch_folders` are those
    of this machine, and `object_stores` those by name, that a project's batches may be given places in (R47).
    """

    listen: Listen = "127.0.0.1:8000"
    console: ConsoleListen | None = None
    insecure_listen: bool = False
    tls: Tls | None = None
    store: StoreUrl
    store_password: Secret | None = None
    data_folder: NewFolder
    master_key_file: NewFile
    admin_key: Secret | None = None
    read_only_key: Secret | None = None
    drain_s: Annotated[float, Meta(ge=0, le=limits.DRAIN_S)] = 30.0
    outbound_networks: Annotated[tuple[Network, ...], Meta(max_length=limits.SETTINGS)] = ()
    batch_folders: Annotated[tuple[AbsoluteFolder, ...], Meta(max_length=limits.SETTINGS)] = ()
    object_stores: Annotated[Mapping[Name, ObjectStore], Meta(max_length=limits.SETTINGS)] = {}
    models: Annotated[Mapping[Name, Model], Meta(min_length=1, max_length=limits.SETTINGS)]
    tiers: Mapping[Tier, TierSettings] = {}

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        return host_and_port(self.listen)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        return is_loopback(self.address[0])

    def console_address(self, gateway_port: int) -> tuple[str, int] | None:
        """Where the console of the gateway on this port listens, None where there shall be none.

        Without a setting that is the next port, and no host beyond loopback but with TLS (R51).
        """
        if self.console == NO_CONSOLE:
            return None
        if self.console is not None:
            return host_and_port(self.console)
        host = self.address[0] if self.tls or self.loopback else "127.0.0.1"
        return host, gateway_port + (1 if gateway_port < 65_535 else -1)

    @property
    def console_loopback(self) -> bool:
        """Whether only this machine can reach the console."""
        address = self.console_address(self.address[1])
        return address is None or is_loopback(address[0])

    def base_url(self, port: int, host: str | None = None) -> str:
        """Where a caller on this machine reaches what listens on this port, of the gateway's host or another."""
        host = host or self.address[0]
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


def _or(value: Decimal | None, default: Decimal) -> Decimal:
    return default if value is None else value
