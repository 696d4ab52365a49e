"""R47: a webhook goes only where it may, whatever names, redirects, proxies and answers say. Real servers, real TLS."""

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiohttp import web

from fareclass.engine import outbound
from fareclass.engine.outbound import Names, Outbound, OutboundError
from fareclass.policy.outbound_address import judge
from tests.engine.receiver import certified, receiving

NAME = "hooks.example.com"
ONE = ["127.0.0.1/32"]
HEADERS = {"webhook-id": "evt_1"}


class FakeNames:
    """A name server that says something else each time; what comes last stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, _port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def made(
    names: outbound.Resolve | None = None, networks: Sequence[str] = ONE, tls: ssl.SSLContext | None = None
) -> Outbound:
    return Outbound(judge(networks), tls or ssl.create_default_context(), names or Names())


async def refused(sender: Outbound, url: str) -> str:
    with pytest.raises(OutboundError) as caught:
        await sender.post(url, HEADERS, b"{}")
    return str(caught.value)


async def test_r47_the_checked_address_is_spoken_to_under_the_right_name(tmp_path: Path):
    """TLS for the name, with its SNI and Host, though the connection is to an address that was looked up once."""
    server, client = certified(tmp_path, NAME)
    async with receiving(server) as receiver:
        names = FakeNames(["127.0.0.1"])
        found = await made(names, tls=client).post(f"https://{NAME}:{receiver.port}/a?b=c", HEADERS, b'{"x":1}')
        assert found.status == 200 and names.asked == [NAME] and receiver.names == [NAME]
        [got] = receiver.got
        assert got.headers["host"] == f"{NAME}:{receiver.port}" and got.body == b'{"x":1}'
        assert got.headers["webhook-id"] == "evt_1" and got.headers["content-type"] == "application/json"


async def test_r47_a_certificate_must_be_trusted_and_for_the_name(tmp_path: Path):
    server, client = certified(tmp_path, "other.example.com")
    async with receiving(server) as receiver:
        url = f"https://{NAME}:{receiver.port}/"
        assert "certificate" in await refused(made(FakeNames(["127.0.0.1"]), tls=client), url)
        assert "certificate" in await refused(made(FakeNames(["127.0.0.1"])), url)
        assert receiver.got == []


async def test_r47_a_name_that_changes_its_address_after_the_check_changes_nothing():
    """DNS rebinding: the address that was checked is the one that is connected to."""
    async with receiving() as allowed, receiving(host="127.0.0.2", port=allowed.port) as inner:
        names = FakeNames(["127.0.0.1"], ["127.0.0.2"])
        sender = made(names)
        url = f"http://{NAME}:{allowed.port}/"
        assert (await sender.post(url, HEADERS, b"{}")).status == 200
        assert (len(allowed.got), len(inner.got), len(names.asked)) == (1, 0, 1)
        assert "outbound_networks" in await refused(sender, url)
        assert (len(allowed.got), len(inner.got)) == (1, 0)


@pytest.mark.parametrize("others", [["127.0.0.2"], ["10.0.0.1"], ["::1"], ["::ffff:127.0.0.2"], ["64:ff9b::a00:1"]])
async def test_r47_one_bad_address_of_a_name_is_enough(others: list[str]):
    async with receiving() as receiver:
        for addresses in (["127.0.0.1", *others], [*others, "127.0.0.1"]):
            assert "must be https" in await refused(made(FakeNames(addresses)), f"http://{NAME}:{receiver.port}/")
        assert receiver.got == []


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]", "[2002:7f00:1::]", "[64:ff9b::7f00:1]", "0.0.0.0", "[::]", "169.254.169.254", "127.0.0.1.",
    ],
)  # fmt: skip
async def test_r47_this_machine_is_not_reached_however_it_is_written(host: str, tmp_path: Path):
    server, client = certified(tmp_path, "localhost")
    async with receiving(server) as receiver:
        await refused(made(networks=[], tls=client), f"https://{host}:{receiver.port}/")
        await refused(made(networks=["10.0.0.0/8"], tls=client), f"http://{host}:{receiver.port}/")
        assert receiver.names == [] and receiver.got == []


async def test_r47_what_the_first_check_did_not_see_the_socket_does(monkeypatch: pytest.MonkeyPatch):
    """Were a name resolved again on the way to the connection, that address is checked as well."""
    async with receiving() as allowed, receiving(host="127.0.0.2", port=allowed.port) as inner:
        pinned = outbound._Pinned
        monkeypatch.setattr(outbound, "_Pinned", lambda _addresses: pinned(["127.0.0.2"]))
        await refused(made(FakeNames(["127.0.0.1"])), f"http://{NAME}:{allowed.port}/")
        assert inner.got == [] and allowed.got == []


async def test_r47_a_redirect_is_an_answer_and_not_a_way():
    async with receiving() as inner, receiving() as receiver:
        for status in (301, 302, 303, 307, 308):
            receiver.status, receiver.headers = status, {"Location": inner.url}
            assert (await made().post(receiver.url, HEADERS, b"{}")).status == status
        assert inner.got == [] and len(receiver.got) == 5


async def test_r47_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch):
    async with receiving() as proxy, receiving() as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert (await made().post(receiver.url, HEADERS, b"{}")).status == 200
        assert len(receiver.got) == 1 and proxy.got == []


async def test_r47_an_answer_without_end_is_not_read():
    sent = 0
    ended = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Encoding": "gzip"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65_536)
                sent += 65_536
        finally:
            ended.set()

    async with receiving() as receiver:
        receiver.answer = answer
        assert (await made().post(receiver.url, HEADERS, b"{}")).status == 200
        await asyncio.wait_for(ended.wait(), 5)
        assert sent < 16 * 2**20, "what the sockets hold, and no more"


async def test_r47_an_answer_that_does_not_come_ends_in_time(monkeypatch: pytest.MonkeyPatch):
    """Nor does one that comes a byte at a time, or a name that takes for ever."""
    monkeypatch.setattr(outbound, "OUTBOUND_S", 0.2)
    hangs = asyncio.Event()

    async def answer(_request: web.Request) -> web.StreamResponse:
        await hangs.wait()
        return web.Response()

    async def slow_name(_host: str, _port: int) -> list[str]:
        await hangs.wait()
        return []

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nx: ")
        while not hangs.is_set():
            writer.write(b"x")
            await writer.drain()
            await reader.read(1)
        writer.close()

    async with receiving() as receiver:
        receiver.answer = answer
        dripping = await asyncio.start_server(drip, "127.0.0.1", 0)
        dripped = f"http://127.0.0.1:{dripping.sockets[0].getsockname()[1]}/"
        assert "no answer" in await refused(made(), receiver.url)
        assert "no answer" in await refused(made(), dripped)
        assert "no answer" in await refused(made(slow_name), receiver.url)
        hangs.set()
        dripping.close()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000,
        b"\x00" * 9000,
    ],
)
async def test_r47_what_speaks_no_http_is_a_failed_attempt(said: bytes):
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    why = await refused(made(), f"http://127.0.0.1:{port}/")
    assert "OpenSSH" not in why, "what an inner service says is nobody's to read"
    server.close()
    await server.wait_closed()
    assert "no connection" in await refused(made(), f"http://127.0.0.1:{port}/")


async def test_r47_a_name_without_addresses_or_with_too_many_is_not_spoken_to():
    async def unknown(_host: str, _port: int) -> list[str]:
        raise OSError("Name or service not known")

    assert "resolved" in await refused(made(unknown), f"http://{NAME}/")
    assert "addresses" in await refused(made(FakeNames([])), f"http://{NAME}/")
    assert "addresses" in await refused(made(FakeNames(["127.0.0.1"] * 65)), f"http://{NAME}/")
