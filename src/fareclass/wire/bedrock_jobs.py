"""Bedrock's model-invocation jobs: made from files that lie elsewhere, watched, stopped (R37, R38, R47)."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta
from starlette.responses import Response

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.snapshot import Snapshot
from fareclass.core.tiers import Tier
from fareclass.flow.batch_carrying import Places
from fareclass.flow.batch_job import COMPLETED, EXPIRED_BATCH, FAILED_BATCH
from fareclass.flow.batches import CHECKING, Batches, NewBatch
from fareclass.policy.batch_places import PlaceError
from fareclass.store.ids import short_id
from fareclass.store.objects import ENDED, BatchRow
from fareclass.wire.anthropic_input import read
from fareclass.wire.anthropic_models import route_model
from fareclass.wire.bedrock import model_name
from fareclass.wire.bedrock_fields import Strict
from fareclass.wire.bedrock_lines import CONVERSE, INVOKE
from fareclass.wire.bedrock_reply import error_headers
from fareclass.wire.json_checks import decode_object
from fareclass.wire.project_plane import Call, Operation, bedrock_refused, json_answer, moment, not_there

API: Final = "bedrock"
_KIND: Final = "mij"
_ONE: Final = "/model-invocation-job"
_REGION: Final = "us-east-1"
_ACCOUNT: Final = "000000000000"
_ID: Final = re.compile(r"(?:arn:[^/]{1,900}:model-invocation-job/)?([a-z0-9]{12})")
_HOUR_S: Final = 3_600
_LOOKED: Final = 10_000
"""Jobs that one list may pass over."""
_STATES: Final = {COMPLETED: "Completed", FAILED_BATCH: "Failed", "cancelled": "Stopped"}
_MESSAGE_CHARS: Final = 2_048
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9+.-]){0,62}$", max_length=63)]
Token = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9])*\Z", max_length=256)]
Uri = Annotated[str, Meta(min_length=1, max_length=1_024)]


class S3Input(Strict):
    """Where the records are."""

    s3_uri: Uri
    s3_input_format: Literal["JSONL"] | None = None
    s3_bucket_owner: str | None = None


class InputConfig(Strict):
    """The same."""

    s3_input_data_config: S3Input


class S3Output(Strict):
    """Where results go."""

    s3_uri: Uri
    s3_bucket_owner: str | None = None


class OutputConfig(Strict):
    """The same."""

    s3_output_data_config: S3Output


class Tag(Strict):
    """A word of the caller's on its job."""

    key: str
    value: str


class JobAsked(Strict):
    """`POST /model-invocation-job`."""

    job_name: Name
    role_arn: Annotated[str, Meta(max_length=2_048)]
    model_id: Annotated[str, Meta(min_length=1, max_length=2_048)]
    input_data_config: InputConfig
    output_data_config: OutputConfig
    client_request_token: Token | None = None
    timeout_duration_in_hours: Annotated[int, Meta(ge=24, le=168)] = 24
    model_invocation_type: Literal["InvokeModel", "Converse"] = "InvokeModel"
    tags: Annotated[tuple[Tag, ...], Meta(max_length=200)] = ()


class _Page(msgspec.Struct, rename="camel"):
    max_results: Annotated[int, Meta(ge=1, le=1_000)] = 100
    next_token: str | None = None
    status_equals: str | None = None
    name_contains: str | None = None
    submit_time_after: datetime | None = None
    submit_time_before: datetime | None = None
    sort_by: Literal["CreationTime"] = "CreationTime"
    sort_order: Literal["Ascending", "Descending"] = "Descending"


class JobCalls:
    """The four calls."""

    def __init__(self, batches: Batches, places: Places) -> None:
        self._batches = batches
        self._places = places

    def operations(self) -> list[Operation]:
        found = [
            ("POST", _ONE, self.create),
            ("GET", f"{_ONE}s", self.list),
            ("POST", _ONE + "/{job:path}/stop", self.stop),
            ("GET", _ONE + "/{job:path}", self.get),
        ]
        return [Operation(*each, bedrock_refused, error_headers) for each in found]

    async def create(self, call: Call) -> Response:
        asked = read(decode_object(await call.body()), JobAsked)
        _check_model(call.snapshot, model_name(asked.model_id))
        names = {
            "inputDataConfig.s3InputDataConfig.s3Uri": asked.input_data_config.s3_input_data_config.s3_uri,
            "outputDataConfig.s3OutputDataConfig.s3Uri": asked.output_data_config.s3_output_data_config.s3_uri,
        }
        try:
            await self._places.check(call.key.project.id, names)
        except PlaceError as error:
            raise Refusal(Outcome.INVALID, str(error)) from None
        source, target = names.values()
        terms = {
            "asked": {
                "name": asked.job_name,
                "model": asked.model_id,
                "role": asked.role_arn,
                "type": CONVERSE if asked.model_invocation_type == CONVERSE else INVOKE,
                "input": source,
                "output": target,
                "hours": asked.timeout_duration_in_hours,
            },
            "token": asked.client_request_token,
        }
        made = NewBatch(
            id=short_id(_KIND),
            terms=terms,
            window_s=asked.timeout_duration_in_hours * _HOUR_S,
            token=asked.client_request_token,
        )
        return json_answer({"jobArn": _arn(await self._batches.create(call.key, API, made))})

    async def get(self, call: Call) -> Response:
        return json_answer(self._shown(await self._find(call)))

    async def stop(self, call: Call) -> Response:
        row = await self._find(call)
        if row.state == ENDED:
            state = self._state(row)
            raise Refusal(Outcome.INVALID, f"The job is {state}, so that it can't be stopped.", code="job_ended")
        await self._batches.cancel(row)
        return json_answer({})

    async def list(self, call: Call) -> Response:
        page = call.query(_Page)
        if page.next_token is not None and not re.fullmatch("[a-z0-9]{12}", page.next_token):
            raise Refusal(Outcome.INVALID, "`nextToken` is none that a list has given.", param="nextToken")
        found: list[dict[str, Any]] = []
        looked, last = 0, None
        async for row in self._walk(call.key.project.id, page):
            if len(found) == page.max_results or looked == _LOOKED:
                break
            looked, last = looked + 1, row
            if self._wanted(row, page):
                found.append(self._shown(row))
        else:
            last = None
        more = {} if last is None else {"nextToken": last.id.removeprefix(f"{_KIND}_")}
        return json_answer({"invocationJobSummaries": found, **more})

    async def _walk(self, project: str, page: _Page) -> AsyncIterator[BatchRow]:
        """The project's jobs behind the page's token, in its order."""
        at = None if page.next_token is None else f"{_KIND}_{page.next_token}"
        rising = page.sort_order == "Ascending"
        while True:
            if rising:
                rows = (await self._batches.listed(project, API, before=at or _KIND, limit=100))[::-1]
            else:
                rows = await self._batches.listed(project, API, after=at, limit=100)
            for row in rows:
                yield row
            if len(rows) < 100:
                return
            at = rows[-1].id

    def _wanted(self, row: BatchRow, page: _Page) -> bool:
        made = datetime.fromtimestamp(row.created_us / 1e6, UTC)
        after, before = (
            None if moment is None else moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            for moment in (page.submit_time_after, page.submit_time_before)
        )
        return (
            page.status_equals in (None, self._state(row))
            and (page.name_contains or "") in row.terms["asked"]["name"]
            and (after is None or made > after)
            and (before is None or made < before)
        )

    async def _find(self, call: Call) -> BatchRow:
        match = _ID.fullmatch(call.part("job"))
        row = None if match is None else await self._batches.find(call.key.project.id, API, f"{_KIND}_{match[1]}")
        if row is None:
            raise not_there("The job")
        return row

    def _state(self, row: BatchRow) -> str:
        outcome = (row.result or {}).get("outcome")
        if row.state == ENDED:
            if outcome == EXPIRED_BATCH:
                return "PartiallyCompleted" if row.succeeded else "Expired"
            return _STATES[outcome or FAILED_BATCH]
        if row.cancelling_us is not None:
            return "Stopping"
        if row.state == CHECKING:
            return "Submitted" if self._batches.waits(row) else "Validating"
        return "InProgress"

    def _shown(self, row: BatchRow) -> dict[str, Any]:
        """What botocore calls a ModelInvocationJobSummary."""
        asked = row.terms["asked"]
        moved_us = row.ended_us or row.finalizing_us or row.cancelling_us or row.started_us or row.created_us
        done = row.succeeded + row.failed
        shown = {
            "jobArn": _arn(row),
            "jobName": asked["name"],
            "modelId": asked["model"],
            "clientRequestToken": row.terms["token"],
            "roleArn": asked["role"],
            "status": self._state(row),
            "message": _message(row),
            "submitTime": moment(row.created_us),
            "lastModifiedTime": moment(moved_us),
            "endTime": moment(row.ended_us),
            "inputDataConfig": {"s3InputDataConfig": {"s3InputFormat": "JSONL", "s3Uri": asked["input"]}},
            "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": asked["output"]}},
            "timeoutDurationInHours": asked["hours"],
            "jobExpirationTime": moment(row.deadline_us),
            "modelInvocationType": asked["type"],
            "totalRecordCount": row.total,
            "processedRecordCount": done,
            "successRecordCount": row.succeeded,
            "errorRecordCount": row.failed,
        }
        return {name: value for name, value in shown.items() if value is not None}


def _check_model(snapshot: Snapshot, name: str) -> None:
    """Refuse at once what each of the job's records would be refused for."""
    model = snapshot.models.get(name)
    if model is None and (route := snapshot.routes.get(name)) is not None:
        model = route_model(route, snapshot.models)
    if model is None:
        raise Refusal(Outcome.NOT_FOUND, f"The model `{name[:200]}` does not exist.", param="modelId")
    if Tier.BATCH not in model.tiers:
        raise Refusal(Outcome.FORBIDDEN, f"The model `{name}` does not allow the batch tier.", param="modelId")


def _arn(row: BatchRow) -> str:
    return f"arn:aws:bedrock:{_REGION}:{_ACCOUNT}:model-invocation-job/{row.id.removeprefix(f'{_KIND}_')}"


def _message(row: BatchRow) -> str | None:
    """What went wrong with the job as a whole, and where its results are if not where they are to be."""
    result = row.result or {}
    said = [error["message"] for error in result.get("errors", ()) if error["line"] is None]
    if (why := result.get("undelivered")) is not None:
        kept = [result[name] for name in ("output_file", "errors_file") if name in result]
        said.append(f"{why} Results are kept as files of the project: {', '.join(kept) or 'there are none'}.")
    return " ".join(said)[:_MESSAGE_CHARS] or None
