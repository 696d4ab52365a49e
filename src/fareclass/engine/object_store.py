"""Objects in a store that speaks S3, over connections to its checked addresses alone (R47)."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import ParseError

import aiohttp
from aiohttp_s3_client import S3Client
from aiohttp_s3_client.client import AwsError
from aiohttp_s3_client.credentials import StaticCredentials

from fareclass.engine.outbound import Outbound, OutboundError

_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=60.0)
_BLOCK: Final = 2**20
_PART: Final = 16 * 2**20
"""A larger file goes in parts of so many bytes, of which S3 takes 10,000."""
_PARTS_HELD: Final = 2
"""Parts that are in memory at once. With one alone, the library would read them all before the first is sent."""
_PAGE_BYTES: Final = 8 * 2**20
_FINAL: Final = range(300, 500)
_PASSES: Final = frozenset({408, 429})


class ObjectRefused(Exception):
    """The store says no, and would again: there is no such object, or it may not be read or written."""


class _Answer(aiohttp.ClientResponse):
    """What the library reads whole, a page of a listing or an error, is bounded; objects are not read so."""

    async def read(self) -> bytes:
        if self._body is None:
            body = bytearray()
            async for block in self.content.iter_any():
                body += block
                if len(body) > _PAGE_BYTES:
                    self.close()
                    raise aiohttp.ClientPayloadError("the object store's answer is too long")
            self._body = bytes(body)
        return self._body


class _Client(S3Client):
    """Follows no redirect: nobody has checked where that leads, and it would be sent what is written there (R47).

    Every call of the library goes through `request`.
    """

    def request(self, *args: Any, **kwargs: Any) -> Any:
        return super().request(*args, **kwargs, allow_redirects=False)


class ObjectStore:
    """One store. `url` is `https://HOST[:PORT]`; buckets are in the path."""

    def __init__(
        self, outbound: Outbound, url: str, *, region: str, access_key_id: str, secret_access_key: str
    ) -> None:
        self._outbound = outbound
        self._url = url.rstrip("/")
        self._credentials = StaticCredentials(access_key_id, secret_access_key, region=region)

    async def names(self, bucket: str, prefix: str, most: int) -> list[str]:
        """Keys that begin so, in order, at most one more than `most`.

        Raises:
            ObjectRefused: there is no such bucket, or it may not be listed.
            OutboundError: the store can't be spoken to at the moment.
        """
        found: list[str] = []
        pages = 0
        async with self._bucket(bucket) as client:
            async for objects, _ in client.list_objects_v2(prefix=prefix):
                found += (each.key for each in objects)
                pages += 1
                if len(found) > most or pages > most:
                    break
        return found[: most + 1]

    async def read(self, bucket: str, key: str) -> AsyncGenerator[bytes, None]:
        """An object, piece by piece; raises as `names` does."""
        async with self._bucket(bucket) as client, client.get(key) as answer:
            _check(answer.status, key)
            async for block in answer.content.iter_chunked(_BLOCK):
                yield block

    async def write(self, bucket: str, key: str, source: Path) -> None:
        """A copy of a file; raises as `names` does."""
        async with self._bucket(bucket) as client:
            if source.stat().st_size > _PART:
                await client.put_file_multipart(key, source, part_size=_PART, workers_count=_PARTS_HELD)
                return
            answer = await client.put_file(key, source)
            async with answer:
                _check(answer.status, key)

    @asynccontextmanager
    async def _bucket(self, bucket: str) -> AsyncIterator[S3Client]:
        url = f"{self._url}/{bucket}"
        try:
            async with self._outbound.session(
                url, timeout=_TIMEOUT, read_bufsize=_BLOCK, response_class=_Answer
            ) as session:
                yield _Client(session, url, credentials=self._credentials)
        except AwsError as error:
            _check(error.status, bucket)
            raise OutboundError(f"the object store answered {error.status}") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise OutboundError(f"the object store can't be used ({type(error).__name__})") from None
        except (ParseError, AssertionError, ValueError):
            raise OutboundError("the object store says what is no S3") from None


def _check(status: int, what: str) -> None:
    if status in _FINAL and status not in _PASSES:
        raise ObjectRefused(f"the object store answered {status} for {what}")
    if status >= 400:
        raise OutboundError(f"the object store answered {status}")
