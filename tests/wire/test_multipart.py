"""Forms with a file: what is none is refused, whatever it is (R50)."""

from collections.abc import AsyncIterator

import pytest

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.wire.multipart import Form, read_form


async def read(content: bytes, boundary: str) -> tuple[Form, bytes]:
    written = bytearray()

    async def body() -> AsyncIterator[bytes]:
        for at in range(0, len(content), 7):
            yield content[at : at + 7]

    async def write(part: bytes) -> None:
        written.extend(part)

    return await read_form(f"multipart/form-data; boundary={boundary}", body(), write), bytes(written)


async def test_a_form_and_its_file():
    part = b"--x\r\nContent-Disposition: form-data; name="
    content = part + b'"purpose"\r\n\r\nbatch\r\n' + part + b'"file"; filename="a.jsonl"\r\n\r\n{}\n\r\n--x--\r\n'
    form, written = await read(content, "x")
    assert (form.fields, form.file_name, written) == ({"purpose": "batch"}, "a.jsonl", b"{}\n")


async def test_a_file_name_may_be_in_any_language():
    part = b"--x\r\nContent-Disposition: form-data; name=file; filename*=UTF-8''na%C3%AFve.jsonl\r\n\r\n\r\n--x--\r\n"
    assert (await read(part, "x"))[0].file_name == "na\xefve.jsonl"


@pytest.mark.parametrize(
    ("content", "boundary"),
    [
        (b"", "x"),
        (b"no form", "x"),
        (b"--x\r\nno header", "x"),
        (b"--" + b"x" * 300 + b"\r\n", "x" * 300),
        (b"", '""'),
        (b"", "x; boundary*=a; boundary*0=b"),
        (b"", f"x; boundary*{'9' * 5_000}=a"),
        (b"--x\r\nContent-Disposition: form-data; name=file; filename*=a; filename*0=b\r\n\r\n\r\n--x--\r\n", "x"),
    ],
)
async def test_r50_what_is_no_form_is_refused(content, boundary):
    with pytest.raises(Refusal, match="can't be read") as caught:
        await read(content, boundary)
    assert caught.value.outcome is Outcome.INVALID
