"""OpenAI's Files: uploads that go to disk as they come, lists, contents (R37, R51)."""

import asyncio
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.responses import Response

from fareclass.core.limits import FILE_DAYS, FILE_NAME_CHARS, UPLOAD_S
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.flow.files import Files, Upload
from fareclass.store.objects import FileRow
from fareclass.wire.multipart import Form, read_form
from fareclass.wire.project_plane import Call, Operation, StreamedFile, json_answer, not_there

_PURPOSES = ("batch", "user_data")
_SHORTEST_S = 3_600


class _Page(msgspec.Struct):
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1_000
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"
    purpose: str | None = None


class FileCalls:
    """The five calls."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def operations(self) -> list[Operation]:
        one = "/v1/files/{file}"
        return [
            Operation("POST", "/v1/files", self.upload),
            Operation("GET", "/v1/files", self.list),
            Operation("GET", one, self.get),
            Operation("DELETE", one, self.delete),
            Operation("GET", one + "/content", self.content),
        ]

    async def upload(self, call: Call) -> Response:
        upload = await self._files.begin(call.key.project.id)
        try:
            async with asyncio.timeout(UPLOAD_S):
                row = await self._take(call, upload)
        except TimeoutError:
            raise Refusal(
                Outcome.INVALID, f"The upload took longer than {UPLOAD_S:.0f} s.", code="request_timeout"
            ) from None
        finally:
            upload.drop()
        return json_answer(shown(row))

    async def _take(self, call: Call, upload: Upload) -> FileRow:
        form = await read_form(call.request.headers.get("content-type", ""), call.stream(), upload.write)
        if form.file_name is None:
            raise Refusal(Outcome.INVALID, "`file` is required.", param="file")
        purpose = form.fields.get("purpose")
        if purpose not in _PURPOSES:
            raise Refusal(Outcome.INVALID, f"`purpose` must be one of {', '.join(_PURPOSES)}.", param="purpose")
        name = "".join(char for char in form.file_name if char.isprintable())[:FILE_NAME_CHARS]
        return await upload.finish(name or "file", purpose, _expires_s(form))

    async def list(self, call: Call) -> Response:
        page = call.query(_Page)
        found = await self._files.listed(
            call.key.project.id,
            purpose=page.purpose,
            after=page.after,
            limit=page.limit + 1,
            ascending=page.order == "asc",
        )
        return listing([shown(row) for row in found], page.limit)

    async def get(self, call: Call) -> Response:
        return json_answer(shown(await self._find(call)))

    async def delete(self, call: Call) -> Response:
        row = await self._find(call)
        if not await self._files.delete(row):
            raise Refusal(Outcome.INVALID, f"`{row.id}` is read by a batch that has not ended.", code="file_in_use")
        return json_answer({"id": row.id, "object": "file", "deleted": True})

    async def content(self, call: Call) -> Response:
        row = await self._find(call)
        return StreamedFile(self._files.path(row.id), call.deadlines)

    async def _find(self, call: Call) -> FileRow:
        row = await self._files.find(call.key.project.id, call.part("file"))
        if row is None:
            raise not_there("The file")
        return row


def shown(row: FileRow) -> dict[str, Any]:
    """OpenAI's FileObject."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.size_bytes,
        "created_at": row.created_us // 1_000_000,
        "expires_at": row.expires_us // 1_000_000,
        "filename": row.name,
        "purpose": row.purpose,
        "status": "processed",
    }


def listing(found: list[dict[str, Any]], limit: int) -> Response:
    """A page of a list that was read with one more than `limit`."""
    data = found[:limit]
    return json_answer(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": len(found) > limit,
        }
    )


def _expires_s(form: Form) -> int | None:
    seconds = form.fields.get("expires_after[seconds]")
    if seconds is None:
        return None
    return check_expiry(form.fields.get("expires_after[anchor]"), int(seconds) if seconds.isdecimal() else 0)


def check_expiry(anchor: str | None, seconds: int, name: str = "expires_after") -> int:
    """Raises:
    Refusal: `invalid`: not from the file's making, too short or too long.
    """
    if anchor != "created_at":
        raise Refusal(Outcome.INVALID, f"`{name}.anchor` must be `created_at`.", param=f"{name}.anchor")
    longest_s = FILE_DAYS * 86_400
    if not _SHORTEST_S <= seconds <= longest_s:
        message = f"`{name}.seconds` must be from {_SHORTEST_S} to {longest_s}."
        raise Refusal(Outcome.INVALID, message, param=f"{name}.seconds")
    return seconds
