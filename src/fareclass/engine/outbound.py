"""HTTP to receivers of webhooks and to object stores: the only way to a server that is no engine (R47)."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from fareclass.core.limits import OUTBOUND_ADDRESSES, OUTBOUND_ANSWER_BYTES, OUTBOUND_LOOKUPS, OUTBOUND_S

Check = Callable[[str, str], str | None]
"""`(scheme, address)`: why that may not be spoken to, None where it may."""
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""`(host, port)`: its addresses."""
_AGENT: Final = "fareclass-webhooks"


class OutboundError(Exception):
    """Nothing came back; the message says what went wrong, in words that hold nothing of the other side."""


class Answered(NamedTuple):
    """What came back. What else the other side said is nobody's business here, and is not kept."""

    status: int
    retry_after: str | None


class Names:
    """Looks names up in threads of its own: those that hang keep nobody from the database, and only each other waiting."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(OUTBOUND_LOOKUPS, "fareclass-names")

    async def __call__(self, host: str, port: int) -> list[str]:
        """The addresses of a name, or the address that it is."""
        look = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look)
        return list(dict.fromkeys(str(each[4][0]) for each in found))

    def close(self) -> None:
        """Begin no more; nobody waits for those that hang."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Outbound:
    """Sessions with one server: its name is resolved once, each of its addresses is checked, one of just those is used."""

    def __init__(self, check: Check, tls: ssl.SSLContext, resolve: Resolve) -> None:
        self._check = check
        self._tls = tls
        self._resolve = resolve

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answered:
        """A webhook: one attempt, of at most `OUTBOUND_S`.

        Raises:
            OutboundError: no connection, or no answer in time.
        """
        try:
            async with asyncio.timeout(OUTBOUND_S):
                return await self._post(url, headers, body)
        except TimeoutError:
            raise OutboundError(f"no answer within {OUTBOUND_S:.0f} s") from None
        except aiohttp.ClientConnectorCertificateError:
            raise OutboundError("its certificate is not trusted, or is for another name") from None
        except (aiohttp.ClientConnectorError, aiohttp.ClientSSLError):
            raise OutboundError("no connection could be made") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise OutboundError(f"the exchange failed ({type(error).__name__})") from None

    @asynccontextmanager
    async def session(
        self,
        url: str,
        *,
        timeout: aiohttp.ClientTimeout,
        read_bufsize: int,
        response_class: type[aiohttp.ClientResponse] = aiohttp.ClientResponse,
    ) -> AsyncIterator[aiohttp.ClientSession]:
        """Speaks to what the name in this URL stands for, each address of which was checked, and to nothing else.

        Raises:
            OutboundError: one of them may not be spoken to, or there is none.
        """
        connector = aiohttp.TCPConnector(
            resolver=_Pinned(await self._addresses(url)),
            socket_factory=self._socket_to(url),
            use_dns_cache=False,
            force_close=True,
            ssl=self._tls,
            limit=1,
        )
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            read_bufsize=read_bufsize,
            response_class=response_class,
            timeout=timeout,
        ) as session:
            yield session

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answered:
        async with (
            self.session(url, timeout=aiohttp.ClientTimeout(total=None), read_bufsize=OUTBOUND_ANSWER_BYTES) as session,
            session.post(
                url,
                data=body,
                headers={**headers, "Content-Type": "application/json", "User-Agent": _AGENT},
                allow_redirects=False,
            ) as answer,
        ):
            found = Answered(answer.status, answer.headers.get("Retry-After"))
            await answer.content.read(OUTBOUND_ANSWER_BYTES)
            return found

    async def _addresses(self, url: str) -> Sequence[str]:
        """All that its host stands for, each checked."""
        parts = urlsplit(url)
        try:
            addresses = await self._resolve(parts.hostname or "", parts.port or 443)
        except (OSError, UnicodeError):
            raise OutboundError("its name can't be resolved") from None
        if not 1 <= len(addresses) <= OUTBOUND_ADDRESSES:
            raise OutboundError(f"its name has {len(addresses)} addresses; from 1 to {OUTBOUND_ADDRESSES} are taken")
        for address in addresses:
            if why := self._check(parts.scheme, address):
                raise OutboundError(why)
        return addresses

    def _socket_to(self, url: str) -> Callable[[Any], socket.socket]:
        """The last gate before a connection, however the address got there: another parser may read a URL otherwise."""
        scheme = urlsplit(url).scheme

        def make(info: Any) -> socket.socket:
            family, kind, protocol, _, place = info
            if why := self._check(scheme, place[0]):
                raise PermissionError(why)
            return socket.socket(family, kind, protocol)

        return make


class _Pinned(AbstractResolver):
    """Resolves to what was checked, whatever the name server would say by now."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """There is nothing to close."""
