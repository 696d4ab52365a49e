"""Where webhooks may go and object stores be (R47): judged by the address that a name was resolved to, not by the name."""

import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Check = Callable[[str, str], str | None]
"""`(scheme, address)`: why that may not be spoken to, None where it may."""

CLOSED = (
    "0.0.0.0/8", "100.64.0.0/10", "168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15",
    "100::/64", "64:ff9b:1::/48", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16", "fec0::/10",
)  # fmt: skip
"""Networks that are nobody's on the internet, or lead into somebody's own, whatever Python's version says of them.

168.63.129.16 is a public address by which every machine in Azure reaches its own host.
"""
_NAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*\.?"
)
_FORM = "must be https://HOST[:PORT]/PATH"
_NAT64 = IPv6Network("64:ff9b::/96")
_PORTS = range(1, 65_536)


class Target(NamedTuple):
    """A webhook's URL, as far as its form tells. `host` is a name or an address without brackets."""

    url: str
    scheme: str
    host: str
    port: int


class AddressError(Exception):
    """A webhook can't go there; the message says why."""


def parse_target(url: str) -> Target:
    """What every URL parser reads alike.

    Raises:
        AddressError: it is no such URL.
    """
    if not (url.isascii() and url.isprintable()) or set(url) & set(' \\"<>^`{|}'):
        raise AddressError("must be plain ASCII without spaces; write other characters of a path as %XX")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
        if parts.netloc.startswith("["):
            IPv6Address(host)
            host = host if "%" not in host else ""
        elif not _NAME.fullmatch(host):
            host = ""
    except ValueError:
        raise AddressError(_FORM) from None
    if parts.scheme not in {"http", "https"} or not host:
        raise AddressError(_FORM)
    if parts.username is not None or parts.password is not None:
        raise AddressError("must hold no user or password: the signature proves who sends")
    if "#" in url:
        raise AddressError("must have no fragment")
    port = {"http": 80, "https": 443}[parts.scheme] if port is None else port
    if port not in _PORTS:
        raise AddressError("must have a port from 1 to 65535")
    return Target(url, parts.scheme, host, port)


def parse_networks(networks: Sequence[str]) -> tuple[Network, ...]:
    """Networks as the configuration names them.

    Raises:
        ValueError: one is none.
    """
    return tuple(ip_network(network) for network in networks)


def judge(networks: Sequence[str]) -> Check:
    """What tells why one address may not be spoken to; `networks` are the operator's own that he allows, over http too."""
    own, closed = parse_networks(networks), parse_networks(CLOSED)

    def check(scheme: str, text: str) -> str | None:
        address = _meant(ip_address(text.partition("%")[0]))
        if _within(address, own):
            return None
        if scheme != "https":
            return "must be https: http is only for addresses within outbound_networks"
        if not _public(address) or _within(address, closed):
            return "leads to an address that is not public, nor within outbound_networks"
        return None

    return check


def is_literal(target: Target) -> bool:
    """Whether its host is an address, which can be judged before anything is resolved."""
    try:
        ip_address(target.host)
    except ValueError:
        return False
    return True


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 address only wraps."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _public(address: Address) -> bool:
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks if network.version == address.version)
