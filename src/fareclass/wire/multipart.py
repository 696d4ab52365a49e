"""A form with one file in it (multipart/form-data), which goes on as it comes: it is never whole in memory."""

from collections.abc import AsyncIterator, Awaitable, Callable
from email.message import Message
from email.utils import collapse_rfc2231_value

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState

from fareclass.core.limits import FORM_FIELD_BYTES
from fareclass.core.outcomes import Outcome, Refusal

_FIELDS = 16
_HEADER_BYTES = 4_096
Write = Callable[[bytes], Awaitable[None]]


class Form:
    """What a form holds beside its file; `file_name` is None where there is no file."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None


class _Reader:
    """Collects what the parser calls out."""

    def __init__(self, form: Form) -> None:
        self.content = bytearray()
        self._form = form
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._name = ""
        self._value = bytearray()
        self._in_file = False

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._more(self._header[0], data[start:end]),
            "on_header_value": lambda data, start, end: self._more(self._header[1], data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data,
            "on_part_end": self._end,
        }

    def _more(self, buffer: bytearray, data: bytes) -> None:
        if len(buffer) + len(data) > _HEADER_BYTES:
            raise _bad("a part's header is too long")
        buffer += data

    def _begin(self) -> None:
        self._disposition, self._name, self._value, self._in_file = b"", "", bytearray(), False

    def _header_end(self) -> None:
        if bytes(self._header[0]).lower() == b"content-disposition":
            self._disposition = bytes(self._header[1])
        self._header = (bytearray(), bytearray())

    def _headers_end(self) -> None:
        disposition = self._disposition.decode("utf-8", "replace")
        self._name = _param("content-disposition", disposition, "name")
        if self._name == "file":
            if self._form.file_name is not None:
                raise _bad("there are two files")
            self._in_file = True
            self._form.file_name = _param("content-disposition", disposition, "filename")
        elif len(self._form.fields) >= _FIELDS or not self._name:
            raise _bad("there are too many fields, or one has no name")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self.content += data[start:end]
            return
        self._value += data[start:end]
        if len(self._value) > FORM_FIELD_BYTES:
            raise Refusal(Outcome.INVALID, f"`{self._name[:64]}` is too long.", param=self._name[:64])

    def _end(self) -> None:
        if not self._in_file:
            self._form.fields[self._name] = self._value.decode("utf-8", "replace")


async def read_form(content_type: str, body: AsyncIterator[bytes], write: Write) -> Form:
    """The form's fields; its part `file` goes to `write` piece by piece.

    Raises:
        Refusal: `invalid`: no such form, or broken off.
    """
    boundary = _param("content-type", content_type, "boundary")
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "multipart/form-data" or not boundary or not boundary.isascii():
        raise _bad("the body must be multipart/form-data")
    form = Form()
    reader = _Reader(form)
    try:
        parser = MultipartParser(boundary.encode(), reader.callbacks())  # type: ignore[arg-type]
        async for part in body:
            parser.write(part)
            if reader.content:
                content, reader.content = bytes(reader.content), bytearray()
                await write(content)
        parser.finalize()
    except FormParserError as error:
        raise _bad(str(error)[:200]) from None
    if parser.state != MultipartState.END:
        raise _bad("it breaks off")
    return form


def _param(header: str, value: str, name: str) -> str:
    """A parameter of a header, empty where there is none.

    Raises:
        Refusal: `invalid`: it is given in pieces that are none.
    """
    parsed = Message()
    parsed[header] = value
    try:
        found = parsed.get_param(name, "", header)
    except (TypeError, ValueError):
        raise _bad(f"`{header}` is malformed") from None
    return collapse_rfc2231_value(found)


def _bad(why: str) -> Refusal:
    return Refusal(Outcome.INVALID, f"The form can't be read: {why}.")
