"""What the text of a setting must look like: hosts, addresses, URLs, names of fields, amounts."""

import ipaddress
import re
from decimal import Decimal

from fareclass.config_values import expanded
from fareclass.core import field_names, limits

_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~%+-]+)*/?")
_POSTGRES = re.compile(r"postgresql://(?:[^\s/?#@]+@)?([^\s/?#@]*)/[^\s/?#]+(?:\?[^\s#]*)?")
_FIELD = re.compile("[A-Za-z0-9_-]{1,128}")


def is_host(text: str) -> bool:
    """A name or an address, an IPv6 address in brackets."""
    try:
        if text.startswith("["):
            return text.endswith("]") and bool(ipaddress.IPv6Address(text[1:-1]))
        if not text.strip("0123456789."):
            return bool(ipaddress.IPv4Address(text))
    except ValueError:
        return False
    return _HOST.fullmatch(text) is not None


def is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return is_host(host) and re.fullmatch("[0-9]{1,5}", port) is not None and int(port) <= 65_535


def is_place(text: str) -> bool:
    """A host, with or without a port."""
    return is_host(text) or is_address(text)


def is_engine_url(text: str) -> bool:
    """Only what every URL parser reads alike."""
    scheme, _, rest = text.partition("://")
    place, slash, path = rest.partition("/")
    return (
        scheme in {"http", "https"}
        and len(text) <= limits.URL_CHARS
        and is_place(place)
        and _PATH.fullmatch(slash + path) is not None
    )


def is_store(text: str) -> bool:
    if text.startswith("sqlite:///"):
        name = expanded(text.removeprefix("sqlite:///")).name
        return name not in {"", "..", ":memory:"} and not text.endswith(("/", "/.")) and not set("?#") & set(text)
    match = _POSTGRES.fullmatch(text)
    return match is not None and len(text) <= limits.URL_CHARS and (not match[1] or is_place(match[1]))


def is_domain(text: str) -> bool:
    """As the host of a caller's URL is compared with it: lower case, no port, no dot at either end (R47)."""
    return is_host(text) and text == text.lower() and not set("[_") & set(text)


def is_origin(text: str) -> bool:
    scheme, _, rest = text.partition("://")
    return scheme in {"http", "https"} and len(text) <= limits.URL_CHARS and is_place(rest)


def is_network(text: str) -> bool:
    try:
        return bool(ipaddress.ip_network(text))
    except ValueError:
        return False


def is_field(name: str) -> bool:
    settled = field_names.API | field_names.OWNED | field_names.WITHHELD
    return _FIELD.fullmatch(name) is not None and name not in settled


def is_amount(amount: Decimal, at_most: int) -> bool:
    exponent = amount.as_tuple().exponent
    return amount.is_finite() and 0 <= amount <= at_most and int(exponent) >= -limits.AMOUNT_DECIMALS


def host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
