"""A batch whose requests come in the call that makes it: its body becomes a file of lines, in a process of its own.

To look through some hundred MiB of JSON would hold up everybody else in the gateway's.
"""

import asyncio
import mmap
import os
import resource
import sys
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import msgspec
from msgspec import Meta, Raw

from fareclass.core.limits import BATCH_LINE_BYTES, MESSAGE_BATCH_LINES

_SPLIT_S: Final = 300.0
_MEMORY_BYTES: Final = 2**29
"""Of the process, the body aside: many times what the most requests take, and less than a few million tiny ones."""
_encode = msgspec.json.Encoder().encode
_NAME: Final = r"^[a-zA-Z0-9_-]{1,64}$"


class SplitError(Exception):
    """The body is no batch. `of_field`: the message is of the form in which msgspec says where what is wrong."""

    def __init__(self, message: str, *, of_field: bool = False) -> None:
        super().__init__(message)
        self.of_field = of_field


class _Request(msgspec.Struct):
    custom_id: Annotated[str, Meta(pattern=_NAME)]
    params: Raw


class _Body(msgspec.Struct):
    requests: Annotated[list[_Request], Meta(min_length=1, max_length=MESSAGE_BATCH_LINES)]


class _Said(msgspec.Struct):
    """What the process says: how many lines it has written, or what is wrong."""

    total: int = 0
    error: str = ""
    of_field: bool = False


async def split(body: Path, lines: Path) -> int:
    """Write the requests in `body` to `lines`, one a line; how many there are.

    Raises:
        SplitError: it holds none, or one that is malformed, too large, or named like another.
    """
    words = [sys.executable, "-P", "-m", __name__, str(body), str(lines)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FARECLASS_")}
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, env=environment)
    try:
        async with asyncio.timeout(_SPLIT_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = msgspec.json.decode(output, type=_Said)
    if said.error:
        raise SplitError(said.error, of_field=said.of_field)
    return said.total


def split_here(body: Path, lines: Path) -> int:
    """The same in this process."""
    if not body.stat().st_size:
        raise SplitError("The request body is empty.")
    with body.open("rb") as file, lines.open("wb") as out:
        raw = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # requests point into it, so it goes with the last
        try:
            return _split(raw, out)
        except MemoryError:
            raise SplitError(f"The request body holds far more than {MESSAGE_BATCH_LINES} requests.") from None
        except msgspec.ValidationError as error:
            raise SplitError(str(error), of_field=True) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SplitError(f"The request body is not valid JSON: {error}.") from None


def _split(raw: mmap.mmap, out: BinaryIO) -> int:
    requests = msgspec.json.decode(raw, type=_Body).requests
    seen: set[str] = set()
    for number, request in enumerate(requests):
        place = f"`$.requests[{number}]"
        if request.custom_id in seen:
            raise SplitError(f"The same custom_id is there before - at {place}.custom_id`", of_field=True)
        seen.add(request.custom_id)
        params = bytes(request.params)
        line = _encode({"custom_id": request.custom_id, "params": Raw(_one_line(params))})
        if len(line) > BATCH_LINE_BYTES:
            raise SplitError(f"Longer than {BATCH_LINE_BYTES // 2**20} MiB - at {place}.params`", of_field=True)
        out.write(line + b"\n")
    return len(requests)


def _one_line(text: bytes) -> bytes:
    return msgspec.json.format(text, indent=-1) if b"\n" in text or b"\r" in text else text


def main() -> None:
    """Say on standard output what came of it."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    try:
        said = _Said(total=split_here(Path(sys.argv[1]), Path(sys.argv[2])))
    except SplitError as error:
        said = _Said(error=str(error), of_field=error.of_field)
    sys.stdout.buffer.write(_encode(said))


if __name__ == "__main__":
    main()
