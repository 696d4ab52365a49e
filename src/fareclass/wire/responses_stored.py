"""Stored responses as callers see them: the conversation that a call goes on from, and what was asked and answered."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from fareclass.core.limits import BODY_BYTES, RESPONSE_BYTES, RESPONSE_REFERENCES
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.snapshot import Key
from fareclass.flow.clock import now_us
from fareclass.flow.stored_responses import StoredResponses
from fareclass.store.responses import UNFINISHED, ResponseRow
from fareclass.wire import responses_fields as fields
from fareclass.wire.json_checks import decode_object
from fareclass.wire.responses import History, ResponsesEndpoint, reference
from fareclass.wire.responses_background import Background
from fareclass.wire.responses_input import MARKS
from fareclass.wire.responses_reply import Answered

_POINTERS: Final = (b'"previous_response_id"', b'"item_reference"')
_PREFIXES: Final = {"function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
_RETRY_MS: Final = 2_000

_encode = msgspec.json.Encoder().encode


class _Output(msgspec.Struct):
    output: msgspec.Raw


class Conversations:
    """Makes the endpoint of each call: with what is kept of its conversation, and where its answer is kept."""

    def __init__(self, stored: StoredResponses, background: Background) -> None:
        self._stored = stored
        self.begin = background.begin

    async def endpoint(self, raw: bytes, key: Key) -> ResponsesEndpoint:
        """The endpoint for this body of this key's project.

        Raises:
            Refusal: `not_found`: it goes on from what the project does not have; `invalid`: from what is not over.
        """
        history = await self._history(raw, key) if any(pointer in raw for pointer in _POINTERS) else History()
        return ResponsesEndpoint(history, partial(self._keep, key))

    def _keep(self, key: Key, answered: Answered) -> None:
        self._stored.put(
            ResponseRow(
                id=answered.id,
                project=key.project.id,
                key=key.id,
                status=answered.status,
                background=False,
                created_us=now_us(),
                body=answered.body,
                input=answered.input,
            )
        )

    async def _history(self, raw: bytes, key: Key) -> History:
        body = decode_object(raw)
        previous = body.get("previous_response_id")
        if not isinstance(previous, str):
            previous = None
        references = list(_references(body.get("input")))
        wanted = {response_of(item) for _, item in references} | ({previous} if previous is not None else set())
        rows = await self._find(key.project.id, wanted)
        referred, referred_bytes = _referred(references, rows)
        if previous is None:
            return History([], referred, referred_bytes)
        row = _over(rows.get(previous), previous)
        items = [_unmarked(item) for item in [*_input(row), *_output(row)]]
        return History(items, referred, len(row.input) + len(_raw_output(row)) + referred_bytes)

    async def _find(self, project: str, wanted: Collection[str]) -> dict[str, ResponseRow]:
        if not wanted:
            return {}
        if len(wanted) > RESPONSE_REFERENCES:
            raise _invalid(f"`input` refers to items of more than {RESPONSE_REFERENCES} responses.", "input")
        try:
            # Few enough are never too large; of more it is asked before they are all in memory.
            many = len(wanted) * RESPONSE_BYTES > BODY_BYTES
            if many and await self._stored.size_bytes(project, wanted) > BODY_BYTES:
                said = f"`input` refers to items of responses that take more than {BODY_BYTES // 2**20} MiB together"
                raise _invalid(f"{said}; send the items themselves.", "input")
            return await self._stored.find(project, wanted)
        except SQLAlchemyError as error:
            said = "Stored responses can't be read at the moment."
            raise Refusal(Outcome.SHED, said, retry_after_ms=_RETRY_MS, cause=str(error)) from None


def _references(given: object) -> Iterator[tuple[str, str]]:
    for number, item in enumerate(given if isinstance(given, list) else ()):
        if isinstance(item, dict) and (name := reference(item)) is not None:
            yield f"input[{number}]", name


def _referred(
    references: Sequence[tuple[str, str]], rows: Mapping[str, ResponseRow]
) -> tuple[dict[str, fields.Item], int]:
    """The items that are referred to, and what they take as JSON, each as often as it is."""
    known: dict[str, dict[str, fields.Item]] = {}
    referred: dict[str, fields.Item] = {}
    sizes_bytes: dict[str, int] = {}
    for place, name in references:
        if name not in referred:
            response = response_of(name)
            if response not in known:
                known[response] = _items(rows[response]) if response in rows else {}
            if name not in known[response]:
                raise _missing(f"The item `{name[:200]}`", f"{place}.id", "item_not_found")
            referred[name] = _unmarked(known[response][name])
            sizes_bytes[name] = len(_encode(referred[name]))
    return referred, sum(sizes_bytes[name] for _, name in references)


def _items(row: ResponseRow) -> dict[str, fields.Item]:
    """All of a response, by their ids."""
    return {item["id"]: item for item in [*input_items(row), *_output(row)] if isinstance(item["id"], str)}


def response_of(item: str) -> str:
    """The response that an item's id names."""
    return f"resp_{item.split('_')[1] if item.count('_') == 2 else ''}"


def _over(row: ResponseRow | None, id: str) -> ResponseRow:
    """The response, if it is one to go on from."""
    if row is None:
        raise _missing(f"The response `{id[:200]}`", "previous_response_id", "previous_response_not_found")
    if row.status in UNFINISHED:
        raise _invalid(f"The response `{id[:200]}` is not over yet; wait for it.", "previous_response_id")
    return row


def _input(row: ResponseRow) -> list[fields.Item]:
    items: list[fields.Item] = msgspec.json.decode(row.input)
    return items


def _output(row: ResponseRow) -> list[fields.Item]:
    output: list[fields.Item] = msgspec.json.decode(_raw_output(row))
    return output


def _raw_output(row: ResponseRow) -> msgspec.Raw:
    return msgspec.json.decode(row.body, type=_Output).output


def _unmarked(item: fields.Item) -> fields.Item:
    """Without its cache points, which belong to the call that it came with."""
    made = dict(item)
    for name in ("content", "output"):
        if isinstance(parts := item.get(name), list):
            made[name] = [
                {key: value for key, value in part.items() if key not in MARKS} if isinstance(part, dict) else part
                for part in parts
            ]
    return made


def input_items(row: ResponseRow) -> list[dict[str, Any]]:
    """What a response answers, the conversation before it included, each with an id."""
    suffix = row.id.removeprefix("resp_")
    return [_shown(item, suffix, number) for number, item in enumerate(_input(row))]


def _shown(item: fields.Item, suffix: str, number: int) -> dict[str, Any]:
    kind = item.get("type", "message")
    given = {name: value for name, value in item.items() if value is not None}
    shown = {"id": f"{_PREFIXES.get(kind, 'msg')}_{suffix}_i{number}", "type": kind, "status": "completed", **given}
    if isinstance(shown.get("content"), str):
        part = {"type": "input_text", "text": shown["content"]}
        if shown.get("role") == "assistant":
            part = {"type": "output_text", "text": shown["content"], "annotations": []}
        shown["content"] = [part]
    return shown


def page(items: Sequence[dict[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
    """Some of them, as OpenAI's lists are.

    Raises:
        Refusal: `invalid`: there is no item `after`.
    """
    if after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise _invalid(f"There is no item `{after[:200]}` here.", "after")
        items = items[places[0] + 1 :]
    data = items[:limit]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"object": "list", "data": data, **ends, "has_more": len(items) > limit}


def _missing(what: str, param: str, code: str) -> Refusal:
    return Refusal(Outcome.NOT_FOUND, f"{what} does not exist in this project.", param=param, code=code)


def _invalid(message: str, param: str) -> Refusal:
    return Refusal(Outcome.INVALID, message, param=param)
