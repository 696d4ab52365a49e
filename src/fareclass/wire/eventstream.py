"""Messages of `application/vnd.amazon.eventstream`, the binary form in which AWS streams."""

from collections.abc import Mapping
from struct import Struct
from typing import Final
from zlib import crc32

from fareclass.wire.errors import Headers

HEADERS: Final[Headers] = [
    (b"content-type", b"application/vnd.amazon.eventstream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_STRING: Final = 7
"""The type of a header whose value is a string."""
_FRAME_BYTES: Final = 16
"""Two lengths and two checksums."""
_lengths = Struct(">II").pack
_number = Struct(">I").pack
_name_length = Struct(">B").pack
_value_head = Struct(">BH").pack


class Event:
    """One kind of message, whose headers never change; `message` makes one of a payload."""

    __slots__ = ("_headers",)

    def __init__(self, headers: Mapping[str, str]) -> None:
        """Names may have 255 bytes, values 65,535."""
        self._headers = b"".join(_header(name.encode(), value.encode()) for name, value in headers.items())

    def message(self, payload: bytes) -> bytes:
        """The whole message. Each checksum is over all that stands before it."""
        headers = self._headers
        lengths = _lengths(_FRAME_BYTES + len(headers) + len(payload), len(headers))
        checked = b"%b%b%b%b" % (lengths, _number(crc32(lengths)), headers, payload)
        return checked + _number(crc32(checked))


def event(kind: str) -> Event:
    """An event, whose payload is JSON."""
    return Event({":event-type": kind, ":content-type": "application/json", ":message-type": "event"})


def exception(kind: str) -> Event:
    """The end of a stream that is not whole; its payload is JSON."""
    return Event({":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"})


def _header(name: bytes, value: bytes) -> bytes:
    return _name_length(len(name)) + name + _value_head(_STRING, len(value)) + value
