"""The settings of one gateway: a YAML file and `FARECLASS_*` variables -> one frozen `Config`, checked as a whole.

The only reader of files and environment variables for settings. The settings themselves are
declared in `fareclass.config_schema`; how text becomes them, with the line of every mistake,
is in `fareclass.config_reader`. Here is what no single setting shows.
"""

import math
import os
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import platformdirs
from msgspec.structs import asdict, replace

from fareclass.config_reader import ConfigError, Reader, Secret, given, known
from fareclass.config_schema import (
    Burndown,
    Config,
    LocalEngine,
    Model,
    Price,
    Replica,
    ReservedPrice,
    SimulatedEngine,
    TierSettings,
    Tls,
)
from fareclass.core.limits import PRICE_USD
from fareclass.core.money import per_reserved_minute, per_token
from fareclass.core.tiers import Tier
from fareclass.core.usage import KINDS

__all__ = [
    "Burndown",
    "Config",
    "ConfigError",
    "LocalEngine",
    "Model",
    "Price",
    "Replica",
    "ReservedPrice",
    "Secret",
    "SimulatedEngine",
    "TierSettings",
    "Tls",
    "load",
]

DEFAULT_MODEL = "smollm2-135m"
_SENT = (Tier.PRIORITY, Tier.DEFAULT, Tier.FLEX)
"""The tiers that callers may send (section 1 of the rules)."""


def load(file: Path | None = None, env: Mapping[str, str] = os.environ) -> Config:
    """Read and check everything: the file, or the built-in default without one, and `FARECLASS_*` over it.

    Raises:
        ConfigError: with every mistake found, each with its path and line.
    """
    reader = Reader(file, env)
    reader.override("listen", "FARECLASS_LISTEN")
    reader.override("store", "FARECLASS_STORE")
    reader.override("data_folder", "FARECLASS_DATA_FOLDER")
    reader.override("master_key_file", "FARECLASS_MASTER_KEY_FILE")
    reader.override("admin_key_env", "FARECLASS_ADMIN_KEY", by_name=True)
    reader.override("read_only_key_env", "FARECLASS_READ_ONLY_KEY", by_name=True)
    reader.override("console", "FARECLASS_CONSOLE")
    reader.default("store", f"sqlite:///{platformdirs.user_data_path('fareclass') / 'store' / 'fareclass.db'}")
    reader.default("data_folder", str(platformdirs.user_data_path("fareclass") / "files"))
    reader.default("master_key_file", str(platformdirs.user_config_path("fareclass") / "keys" / "master.key"))
    if file is None:
        reader.default(
            "models", {DEFAULT_MODEL: {"engine": {"kind": "local"}, "price": {"input": "0.1", "output": "0.4"}}}
        )
    config: Config = reader.convert(Config)
    if known(config.store):
        config = _with_store(config, reader)
    for path, message in _mistakes(config, reader):
        reader.complain(path, message)
    reader.finish()
    return config


def _with_store(config: Config, reader: Reader) -> Config:
    """SQLite's file absolute; a password in FARECLASS_STORE moved to where it is not printed."""
    if config.store.startswith("sqlite:///"):
        file = reader.file("store", config.store.removeprefix("sqlite:///"))
        return replace(config, store=f"sqlite:///{file}")
    url = urlsplit(config.store)
    if url.password is None or not reader.from_variable("store"):
        return config
    bare = url._replace(netloc=url.netloc.replace(f":{url.password}@", "@", 1)).geturl()
    return replace(config, store=bare, store_password=Secret(unquote(url.password)))


def _mistakes(config: Config, reader: Reader) -> Iterator[tuple[str, str]]:
    """What no single setting shows. Nothing is said that rests on a setting that could not be read."""
    yield from _listen_mistakes(config)
    yield from _key_mistakes(config)
    yield from _tls_mistakes(config.tls)
    yield from _store_mistakes(config, reader)
    yield from _batch_mistakes(config)
    yield from _floor_mistakes(given(config.tiers, {}).values())
    for name, model in given(config.models, {}).items():
        path = f"models.{name}"
        if (model.engine is None) == (model.replicas == ()):
            yield path, "must have exactly one of engine and replicas"
        if known(model.engine) and model.engine is not None and model.shared_cache is True:
            yield f"{path}.shared_cache", "is for replicas only; this engine keeps projects apart by itself: remove it"
        yield from _replica_mistakes(path, given(model.replicas, ()))
        yield from _tier_mistakes(path, model)
        if known(model.price, model.tier_prices, config.tiers) and model.price is not None:
            yield from _price_mistakes(f"{path}.price", model.price, config.multipliers(name))
        if known(model.reserved_price) and model.reserved_price is not None:
            yield from _fee_mistakes(f"{path}.reserved_price", model.reserved_price)


def _listen_mistakes(config: Config) -> Iterator[tuple[str, str]]:
    if known(config.listen, config.insecure_listen) and not (config.tls or config.insecure_listen or config.loopback):
        yield (
            "listen",
            (
                f"{config.listen} can be reached from other machines: set tls.cert and tls.key, or insecure_listen: "
                "true where something in front of the gateway does TLS"
            ),
        )
    if known(config.console, config.listen, config.tls, config.insecure_listen) and not (
        config.tls or config.insecure_listen or config.console_loopback
    ):
        yield "console", f"{config.console} can be reached from other machines: set tls.cert and tls.key (R51)"


def _key_mistakes(config: Config) -> Iterator[tuple[str, str]]:
    admin, read_only = config.admin_key, config.read_only_key
    if known(admin, read_only) and admin is not None and read_only is not None and admin.value == read_only.value:
        yield "read_only_key", "must differ from the admin key: who has it could change everything"


def _tls_mistakes(tls: Tls | None) -> Iterator[tuple[str, str]]:
    if tls is None or not known(tls.cert, tls.key):
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.cert, tls.key, password="")  # rather than be asked
    except (OSError, ssl.SSLError) as error:
        yield "tls", f"must be a PEM certificate and its own key, which has no password: {error}"


def _store_mistakes(config: Config, reader: Reader) -> Iterator[tuple[str, str]]:
    if not known(config.store):
        return
    if config.store.startswith("sqlite:///"):
        file = Path(config.store.removeprefix("sqlite:///"))
        if file.is_dir():
            yield "store", f"must be a file, not the folder {file}"
        if known(config.master_key_file) and file.parent.resolve() == config.master_key_file.parent.resolve():
            where = "store" if reader.from_variable("store") else "master_key_file"
            yield where, "database and master key must lie in different folders: who copies one would have both (R51)"
        return
    url = urlsplit(config.store)
    if url.password is not None or any("password" in name for name in parse_qs(url.query)):
        yield "store", "must not hold a password: use store_password_env or store_password_file"


def _batch_mistakes(config: Config) -> Iterator[tuple[str, str]]:
    """What callers' files may be put into must hold nothing of the gateway's own."""
    own = [("data_folder", config.data_folder), ("master_key_file", config.master_key_file)]
    if known(config.store) and config.store.startswith("sqlite:///"):
        own.append(("store", Path(config.store.removeprefix("sqlite:///")).parent))
    for index, folder in enumerate(given(config.batch_folders, ())):
        for name, path in own:
            if known(folder, path) and path.resolve().is_relative_to(folder.resolve()):
                yield f"batch_folders[{index}]", f"{folder} must not be above {name}: batches write there (R47)"


def _floor_mistakes(tiers: Iterable[TierSettings]) -> Iterator[tuple[str, str]]:
    floors = math.fsum(given(tier.floor, None) or 0 for tier in tiers)
    if floors > 1:
        yield "tiers", f"the floors of all tiers are shares of the same slots: together at most 1, not {floors:g} (R7)"


def _replica_mistakes(path: str, replicas: Sequence[Replica]) -> Iterator[tuple[str, str]]:
    seen = set()
    for index, replica in enumerate(replicas):
        if known(replica.url):
            if replica.place in seen:
                yield (
                    f"{path}.replicas[{index}].url",
                    "is there twice; one replica is one engine, its slots say how much",
                )
            seen.add(replica.place)


def _tier_mistakes(path: str, model: Model) -> Iterator[tuple[str, str]]:
    replicas = given(model.replicas, ())
    if not known(model.replicas, model.tiers, *(replica.tiers for replica in replicas)):
        return
    allowed = {tier for tier in _SENT if model.tiers is None or tier in model.tiers}
    if not allowed:
        yield f"{path}.tiers", f"must allow one that callers may send: {_words(_SENT)}"
    lanes = [allowed.intersection(_SENT if replica.tiers is None else replica.tiers) for replica in replicas]
    for index, lane in enumerate(lanes):
        if allowed and not lane:
            yield f"{path}.replicas[{index}].tiers", f"must have one that the model allows: {_words(allowed)}"
    missed = allowed.difference(*lanes)
    if lanes and missed and missed != allowed:
        yield f"{path}.replicas", f"none serves {_words(missed)}: let one, or name the others in {path}.tiers"


def _price_mistakes(path: str, price: Price, multipliers: Iterable[Decimal]) -> Iterator[tuple[str, str]]:
    price = Price(**{kind: given(amount, Decimal(0)) for kind, amount in asdict(price).items()})
    factors = [factor for factor in dict.fromkeys(multipliers) if known(factor)]
    wrong = {
        kind: why
        for kind, amount in zip(KINDS, price.kinds(), strict=True)
        if (why := next(filter(None, (_unpayable(amount, factor) for factor in factors)), None))
    }
    for kind, why in wrong.items():
        if getattr(price, kind) is not None or "input" not in wrong:
            yield f"{path}.{kind}", why


def _unpayable(price: Decimal, factor: Decimal) -> str | None:
    """Why a price can't be charged at a tier, if so (R34)."""
    if price * factor > PRICE_USD:
        return f"{price} USD per 1M tokens × {factor} is more than {PRICE_USD}"
    try:
        per_token(price, factor)
    except ValueError as error:
        return str(error)
    return None


def _fee_mistakes(path: str, price: ReservedPrice) -> Iterator[tuple[str, str]]:
    """A reservation's fee accrues per minute, exactly (R34)."""
    for side, amount in asdict(price).items():
        try:
            per_reserved_minute(given(amount, Decimal(0)))
        except ValueError as error:
            yield f"{path}.{side}", str(error)


def _words(tiers: Iterable[Tier]) -> str:
    return ", ".join(tier.word for tier in sorted(tiers))
