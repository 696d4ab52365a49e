"""Stored responses over HTTP: fetched, followed, cancelled, deleted."""

import zlib
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta
from starlette.responses import Response

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.flow.stored_responses import StoredResponses
from fareclass.store.responses import UNFINISHED, ResponseRow
from fareclass.wire import sse
from fareclass.wire.project_plane import Call, Operation, Streamed, json_answer, not_there
from fareclass.wire.responses_background import Background, beyond, follow
from fareclass.wire.responses_stored import input_items, page

_PATH: Final = "/v1/responses/{id}"
_HEADERS: Final = {name.decode(): value.decode() for name, value in sse.HEADERS}


class _Get(msgspec.Struct):
    """Query of a GET."""

    stream: bool = False
    starting_after: Annotated[int, Meta(ge=-1)] = -1


class _List(msgspec.Struct):
    """Query of a list."""

    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"


class ResponsesPlane:
    """The commands on stored responses."""

    def __init__(self, stored: StoredResponses, background: Background) -> None:
        self._stored = stored
        self._background = background

    def operations(self) -> list[Operation]:
        return [
            Operation("GET", _PATH, self._get),
            Operation("DELETE", _PATH, self._delete),
            Operation("GET", f"{_PATH}/input_items", self._input_items),
            Operation("POST", f"{_PATH}/cancel", self._cancel),
        ]

    async def _get(self, call: Call) -> Response:
        query = call.query(_Get)
        row = await self._find(call)
        if not query.stream:
            return Response(row.body, media_type="application/json")
        recording = self._background.recording(row.project, row.id)
        if recording is not None:
            return Streamed(follow(recording, query.starting_after), _HEADERS, call.deadlines)
        if row.events is None:
            raise Refusal(
                Outcome.INVALID,
                "Only a response that was made with `background` and `stream` can be streamed again; get it whole.",
                param="stream",
            )
        return Response(beyond(zlib.decompress(row.events), query.starting_after), headers=_HEADERS)

    async def _delete(self, call: Call) -> Response:
        project, name = call.key.project.id, call.part("id")
        await self._background.cancel(project, name)
        if not await self._stored.delete(project, name):
            raise _missing(name)
        return json_answer({"id": name, "object": "response", "deleted": True})

    async def _input_items(self, call: Call) -> Response:
        query = call.query(_List)
        items: list[dict[str, Any]] = input_items(await self._find(call))
        return json_answer(page(items[::-1] if query.order == "desc" else items, query.after, query.limit))

    async def _cancel(self, call: Call) -> Response:
        row = await self._find(call)
        if not row.background:
            raise Refusal(Outcome.INVALID, "Only a response made with `background` can be cancelled.", param="id")
        if row.status in UNFINISHED:
            row = await self._background.cancel(row.project, row.id) or await self._find(call)
        return Response(row.body, media_type="application/json")

    async def _find(self, call: Call) -> ResponseRow:
        project, name = call.key.project.id, call.part("id")
        row = self._background.find(project, name) or (await self._stored.find(project, [name])).get(name)
        if row is None:
            raise _missing(name)
        return row


def _missing(id: str) -> Refusal:
    return not_there(f"The response `{id[:200]}`")
