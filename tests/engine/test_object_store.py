"""Objects in a store that speaks S3: large ones, odd names, refusals that last and those that pass (R47)."""

import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from aiohttp import web
from aiohttp_s3_client.file_reader import Reader
from moto.server import ThreadedMotoServer

from fareclass.engine import object_store
from fareclass.engine.object_store import ObjectRefused, ObjectStore
from fareclass.engine.outbound import Outbound, OutboundError
from fareclass.policy.outbound_address import judge

KEYS = {"aws_access_key_id": "id", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
BUCKET = "things"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    made = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=made, **KEYS).create_bucket(Bucket=BUCKET)
    yield made
    server.stop()


@pytest.fixture
def theirs(url: str) -> Any:
    return boto3.client("s3", endpoint_url=url, **KEYS)


async def look_up(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def store(url: str, *networks: str) -> ObjectStore:
    outbound = Outbound(judge(networks or ["127.0.0.0/8"]), ssl.create_default_context(), look_up)
    return ObjectStore(outbound, url, region="us-east-1", access_key_id="id", secret_access_key="secret")


async def whole(blocks: AsyncIterator[bytes]) -> bytes:
    return b"".join([block async for block in blocks])


@pytest.mark.parametrize("size", [0, 1, 3_000_000, 13_000_000])
async def test_what_is_written_is_read(url: str, theirs: Any, tmp_path: Path, monkeypatch, size: int):
    """Beyond a part's size it goes in several."""
    monkeypatch.setattr(object_store, "_PART", 6_000_000)
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    await store(url).write(BUCKET, "folder/a.bin", source)
    assert theirs.get_object(Bucket=BUCKET, Key="folder/a.bin")["Body"].read() == source.read_bytes()
    assert await whole(store(url).read(BUCKET, "folder/a.bin")) == source.read_bytes()


@pytest.mark.parametrize("key", ["a b", "a+b", "a%20b", "ü/日本", "a'(1)!*", "a&b=c", "a?b#c"])
async def test_keys_of_any_kind_are_the_same_on_both_sides(url: str, theirs: Any, tmp_path: Path, key: str):
    source = tmp_path / "source"
    source.write_text(key)
    await store(url).write(BUCKET, f"keys/{key}", source)
    assert theirs.get_object(Bucket=BUCKET, Key=f"keys/{key}")["Body"].read().decode() == key
    assert await whole(store(url).read(BUCKET, f"keys/{key}")) == key.encode()
    assert f"keys/{key}" in await store(url).names(BUCKET, "keys/", 100)


async def test_lists_are_read_page_by_page_and_bounded(url: str, theirs: Any, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")  # of a page
    names = sorted(f"many/{number}" for number in range(25))
    for name in names:
        theirs.put_object(Bucket=BUCKET, Key=name, Body=b"")
    assert len(theirs.list_objects_v2(Bucket=BUCKET, Prefix="many/")["Contents"]) == 10
    assert await store(url).names(BUCKET, "many/", 10_000) == names
    assert len(await store(url).names(BUCKET, "many/", 12)) == 13
    assert await store(url).names(BUCKET, "none/", 10) == []


async def test_what_is_not_there_will_not_be_later(url: str, tmp_path: Path):
    source = tmp_path / "source"
    source.write_text("x")
    with pytest.raises(ObjectRefused, match="404"):
        await whole(store(url).read(BUCKET, "missing"))
    with pytest.raises(ObjectRefused, match="404"):
        await store(url).names("absent", "", 10)
    with pytest.raises(ObjectRefused, match="404"):
        await store(url).write("absent", "a", source)


@asynccontextmanager
async def fake(say: Callable[[web.Request], web.Response]) -> AsyncIterator[str]:
    """A store that answers so, once it has read the whole call."""

    async def handle(request: web.Request) -> web.Response:
        async for _ in request.content.iter_chunked(2**20):
            pass
        return say(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    await runner.cleanup()


@pytest.fixture
async def odd() -> AsyncIterator[tuple[str, list[int]]]:
    """A server that answers with the status that was put last, or with what is no XML."""
    says = [500]

    def say(_request: web.Request) -> web.Response:
        location = {"Location": "http://169.254.169.254/latest"} if says[-1] == 302 else {}
        return web.Response(status=says[-1], text="<no", headers=location)

    async with fake(say) as url:
        yield url, says


@pytest.mark.parametrize("status", [500, 503, 429, 200])
async def test_what_passes_may_be_tried_again(odd: tuple[str, list[int]], status: int):
    url, says = odd
    says.append(status)
    with pytest.raises(OutboundError):
        await store(url).names(BUCKET, "", 10)
    if status != 200:
        with pytest.raises(OutboundError, match=str(status)):
            await whole(store(url).read(BUCKET, "a"))


@pytest.mark.parametrize("status", [301, 302, 400, 403, 404])
async def test_a_no_is_final_and_a_redirect_is_none_to_follow(odd: tuple[str, list[int]], status: int):
    url, says = odd
    says.append(status)
    with pytest.raises(ObjectRefused, match=str(status)):
        await whole(store(url).read(BUCKET, "a"))


XML = '<{0} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{1}</{0}>'


def s3_says(request: web.Request) -> web.Response:
    """What a store makes of one call of an upload in parts."""
    if "uploads" in request.query:
        return web.Response(text=XML.format("InitiateMultipartUploadResult", "<UploadId>u</UploadId>"))
    if request.method == "POST":
        return web.Response(text=XML.format("CompleteMultipartUploadResult", ""))
    return web.Response(status=204 if request.method == "DELETE" else 200, headers={"ETag": '"e"'})


@pytest.mark.parametrize("what", ["list", "get", "put", "begin of parts", "part", "end of parts"])
async def test_r47_no_redirect_of_a_store_is_followed(tmp_path: Path, monkeypatch, what: str):
    """The place that it names gets neither a call nor what was to be written."""
    monkeypatch.setattr(object_store, "_PART", 1_000)
    followed: list[str] = []

    def is_the_one(request: web.Request) -> bool:
        return what == {
            ("GET", True): "list", ("GET", False): "get", ("PUT", False): "put", ("PUT", True): "part",
            ("POST", "uploads" in request.query): "begin of parts", ("POST", "uploadId" in request.query): "end of parts",
        }.get((request.method, bool(request.query)))  # fmt: skip

    def say(request: web.Request) -> web.Response:
        if request.path == "/elsewhere":
            followed.append(request.method)
        if is_the_one(request):
            return web.Response(status=307, headers={"Location": "/elsewhere"})
        return s3_says(request)

    source = tmp_path / "source"
    source.write_bytes(b"x" * (10 if what == "put" else 2_500))
    async with fake(say) as url:
        made = store(url)
        calls = {"list": lambda: made.names(BUCKET, "", 10), "get": lambda: whole(made.read(BUCKET, "a"))}
        with pytest.raises(ObjectRefused, match="307"):
            await calls.get(what, lambda: made.write(BUCKET, "a", source))()
    assert followed == []


async def test_r38_of_a_large_file_two_parts_are_in_memory(tmp_path: Path, monkeypatch):
    """However many it has: those that were read, and whose upload has not ended."""
    monkeypatch.setattr(object_store, "_PART", 100_000)
    read, done, held = 0, 0, []
    slice_read = Reader._slice_read

    def count(reader: Reader, size: int, offset: int) -> Any:
        nonlocal read
        read += 1
        return slice_read(reader, size, offset)

    def say(request: web.Request) -> web.Response:
        nonlocal done
        if "partNumber" in request.query:
            held.append(read - done)
            done += 1
        return s3_says(request)

    monkeypatch.setattr(Reader, "_slice_read", count)
    source = tmp_path / "source"
    source.write_bytes(b"x" * 2_000_000)
    async with fake(say) as url:
        await store(url).write(BUCKET, "a", source)
    assert len(held) == 20 and max(held) <= 2


async def test_r47_an_address_that_is_not_public_is_not_spoken_to(url: str):
    with pytest.raises(OutboundError, match="https"):
        await store(url, "10.0.0.0/8").names(BUCKET, "", 10)
    with pytest.raises(OutboundError, match="not public"):
        await store(url.replace("http:", "https:"), "10.0.0.0/8").names(BUCKET, "", 10)


async def test_a_store_that_is_away_may_come_back():
    with pytest.raises(OutboundError, match="can't be used"):
        await store("http://127.0.0.1:1").names(BUCKET, "", 10)


async def test_r47_a_listing_that_is_too_long_is_not_kept():
    """A page has a bound, and so has the number of pages that hold no key."""
    pages: list[int] = []

    def long(_request: web.Request) -> web.Response:
        return web.Response(text=XML.format("ListBucketResult", "<Contents></Contents>" * 500_000))

    def endless(_request: web.Request) -> web.Response:
        pages.append(1)
        page = "<CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes><NextContinuationToken>on</NextContinuationToken>"
        return web.Response(text=XML.format("ListBucketResult", page))

    async with fake(long) as url:
        with pytest.raises(OutboundError):
            await store(url).names(BUCKET, "", 10)
    async with fake(endless) as url:
        assert await store(url).names(BUCKET, "", 10) == []
    assert len(pages) == 11
