"""uvicorn's HTTP protocol with what it lacks: bounds on the head of a request, in bytes and in time (R14, R51), and
answers that leave in one piece.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fareclass.core.limits import HEAD_BYTES, HEAD_READ_S

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain\r\ncontent-length: 33\r\nconnection: close\r\n\r\n"
    b"the request's head is too large.\r\n"
)


_STATUS_LINE = b"HTTP/1.1 "


class _OneWrite:
    """A transport that holds the head of a response back for what is written behind it in the same step.

    uvicorn writes the two apart. A system call and a packet for each, and a caller who wakes up for each, cost a
    request 10 to 20 µs.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_STATUS_LINE):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head:
            self._transport.write(head)


class BoundedHttp(HttpToolsProtocol):
    """Nobody has shown a key before the head of a request is through, so nobody may fill memory or sockets with it.

    A head that comes in one piece, as nearly all do, costs two flags and no timer.
    """

    _in_head = True
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_OneWrite(transport, self.loop))  # type: ignore[arg-type]
        self._limit_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop_limit()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head:
            return
        self._head_bytes += len(data)
        if self._head_timer is None:
            self._limit_head()
        if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._drop_limit()
        super().on_headers_complete()

    def _limit_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_READ_S, self.transport.close)

    def _drop_limit(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
