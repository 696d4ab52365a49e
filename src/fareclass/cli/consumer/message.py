"""What a message of the queue asks for, what comes back for it, and what the gateway's replies mean. No I/O."""

import re
from collections.abc import Mapping
from enum import Enum, auto
from hashlib import blake2b
from typing import Final, NamedTuple
from urllib.parse import unquote

import msgspec

from fareclass.core.limits import BODY_BYTES, CONSUME_DELIVERIES, CONSUME_FIELD_BYTES, CONSUME_FIELDS

PATHS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")
"""Calls that a message may ask for, beside those of a model that its path names."""
_RESPONSES: Final = "/v1/responses"
_OF_MODEL: Final = re.compile(r"/model/[\w.:@%+/~-]{1,512}/(converse|invoke)", re.ASCII)
_NO_PLACE: Final = re.compile(r"//|/\.\.?(/|$)")
_TIER: Final = re.compile(r"[a-z_]{1,32}")
_ASKED: Final = (b"body", b"path", b"tier")
_OURS: Final = (b"request", b"status", b"request_id")
"""Fields of an answer whose names a message can't use for its own."""
_TIER_HEADER: Final = "X-Amzn-Bedrock-Service-Tier"
_NULL: Final = b"null"
_SHOWN_CHARS: Final = 100
_LATER: Final = (429, 503, 529)
_FAILED: Final = (408, 424)

_read_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Message(NamedTuple):
    """One message of the queue. `deliveries`: how often workers were given it, this time included."""

    id: str
    fields: Mapping[bytes, bytes]
    deliveries: int = 1


class Call(NamedTuple):
    """What the gateway is sent."""

    path: str
    body: bytes
    headers: Mapping[str, str]


class Answer(NamedTuple):
    """What comes back for a message: an HTTP status and JSON, and the tier and id that the gateway gave it, if it did."""

    status: int
    body: bytes
    tier: str | None = None
    request_id: str | None = None


class BadMessage(Exception):
    """A message that is not sent to the gateway; `answer` tells why."""

    def __init__(self, why: str, field: str | None = None, *, status: int = 400, code: str = "invalid_message") -> None:
        super().__init__(why)
        self.answer = Answer(status, _error(why, field, status, code))


def read_call(message: Message, queue: tuple[str, str], tier: str) -> Call:
    """The call that a message asks for, at `tier` unless it says another; `queue` are stream and group.

    The same message makes the same call under the same idempotency key, whoever reads it. That key also stands for
    what is asked, so that no two calls meet under it, even if a stream is deleted and made anew.

    Raises:
        BadMessage: it can't be understood, asks for no whole answer, or was given to workers too often.
    """
    if message.deliveries > CONSUME_DELIVERIES:
        why = f"Workers took this message {CONSUME_DELIVERIES} times and never came to its end; it is not tried again."
        raise BadMessage(why, status=500, code="too_many_deliveries")
    _check_others(message)
    path = _text(message, "path", PATHS[0])
    if path not in PATHS and not _names_model(path):
        these = f"{', '.join(PATHS)}, /model/MODEL/converse or /model/MODEL/invoke"
        raise BadMessage(f"`path` must be one of {these}, not {path[:_SHOWN_CHARS]!r}.", "path")
    tier = _text(message, "tier", tier)
    if not _TIER.fullmatch(tier):
        raise BadMessage(f"`tier` must be the name of a tier, not {tier[:_SHOWN_CHARS]!r}.", "tier")
    fields = _read_body(message)
    _check_whole(fields, path)
    headers = {"content-type": "application/json", "x-client-request-id": message.id}
    if not path.startswith("/model/"):
        _fill(fields, "service_tier", tier)
    elif path.endswith("/converse"):
        _fill(fields, "serviceTier", {"type": tier})
    elif bytes(fields.get("service_tier", _NULL)) == _NULL:
        headers[_TIER_HEADER] = tier
    body = msgspec.json.encode(fields)
    asked = msgspec.json.encode((*queue, message.id, path, headers.get(_TIER_HEADER)))
    headers["idempotency-key"] = f"consume-{blake2b(asked + body, digest_size=32).hexdigest()}"
    return Call(path, body, headers)


def answer_fields(message: Message, answer: Answer) -> dict[bytes, bytes]:
    """The message that carries an answer: with the fields of its request that are the requester's own."""
    made = {b"request": message.id.encode(), b"status": b"%d" % answer.status, b"body": answer.body}
    if answer.tier is not None:
        made[b"tier"] = answer.tier.encode()
    if answer.request_id is not None:
        made[b"request_id"] = answer.request_id.encode()
    if _fit(others := _others(message)):
        made |= others
    return made


class Verdict(Enum):
    """What a reply is to a worker."""

    ANSWER = auto()
    LATER = auto()
    """No room at the moment: the call is to come back, however often."""
    FAILED = auto()
    """The gateway or an engine failed it: another try may do better."""
    WRONG_KEY = auto()
    STRANGER = auto()
    """Something that is not the gateway said it, such as a proxy that does not reach it."""


def judge(status: int, headers: Mapping[str, str]) -> Verdict:
    """Whether a reply is the answer, by its status and what it says of a next try (R14)."""
    if not headers.get("x-request-id", "").startswith("req_"):
        # A proxy that takes no such body will never take it.
        return Verdict.ANSWER if status == 413 else Verdict.STRANGER
    if status == 401 or headers.get("x-amzn-errortype") == "UnrecognizedClientException":
        return Verdict.WRONG_KEY
    hopeless = headers.get("x-should-retry") == "false"
    if status in _LATER:
        # A time is told beside "false" where it is only too far off for a client that somebody waits for (R26).
        return Verdict.ANSWER if hopeless and told_wait_s(headers) is None else Verdict.LATER
    if (status >= 500 or status in _FAILED) and not hopeless:
        return Verdict.FAILED
    return Verdict.ANSWER


def told_wait_s(headers: Mapping[str, str]) -> float | None:
    """Seconds after which a refusal asks to come back, None if it does not say."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if (told := headers.get(name, "")).isdecimal():
            return int(told[:9]) * unit_s
    return None


def as_answer(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """A reply as the message's answer; that of a proxy in words of ours, since it need not be JSON."""
    request_id = headers.get("x-request-id", "")
    if not request_id.startswith("req_"):
        why = f"Something between worker and gateway refused the body with status {status}."
        return Answer(status, _error(why, "body", status, "body_refused"))
    return Answer(status, body, headers.get("x-fareclass-served-tier"), request_id)


def _check_others(message: Message) -> None:
    for name in _OURS:
        if name in message.fields:
            own = name.decode()
            raise BadMessage(f"A message can't have a field `{own}`, since its answer has one; name it otherwise.", own)
    if not _fit(_others(message)):
        why = f"Beside body, path and tier a message may have {CONSUME_FIELDS} fields of {CONSUME_FIELD_BYTES // 1024} KiB together"
        raise BadMessage(f"{why}; they are not given back.")


def _others(message: Message) -> dict[bytes, bytes]:
    """Fields that are the requester's own."""
    return {name: value for name, value in message.fields.items() if name not in _ASKED and name not in _OURS}


def _fit(others: Mapping[bytes, bytes]) -> bool:
    return len(others) <= CONSUME_FIELDS and sum(map(len, (*others, *others.values()))) <= CONSUME_FIELD_BYTES


def _text(message: Message, field: str, default: str) -> str:
    try:
        return message.fields.get(field.encode(), default.encode()).decode()
    except UnicodeDecodeError:
        raise BadMessage(f"`{field}` is not valid UTF-8.", field) from None


def _names_model(path: str) -> bool:
    return _OF_MODEL.fullmatch(path) is not None and not _NO_PLACE.search(unquote(path))


def _read_body(message: Message) -> dict[str, msgspec.Raw]:
    """Fields of the call, each as the bytes that it came in."""
    raw = message.fields.get(b"body")
    if raw is None:
        raise BadMessage("The message has no `body`; it must hold the call's JSON.", "body")
    if len(raw) > BODY_BYTES:
        raise BadMessage(f"`body` is larger than {BODY_BYTES // 2**20} MiB.", "body")
    try:
        fields = _read_object(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"`body` must be a JSON object: {error}.", "body") from None
    return fields


def _check_whole(fields: Mapping[str, msgspec.Raw], path: str) -> None:
    """Refuse what is not answered with all of the answer: the one reply is what goes on the queue."""
    if _is_on(fields, "stream"):
        raise BadMessage("`stream` must be left out: a queue has whole answers.", "stream")
    if path == _RESPONSES and _is_on(fields, "background"):
        raise BadMessage(
            "`background` must be left out: a queue has whole answers, however long they take.", "background"
        )


def _is_on(fields: Mapping[str, msgspec.Raw], name: str) -> bool:
    return bytes(fields.get(name, _NULL)) not in (_NULL, b"false")


def _fill(fields: dict[str, msgspec.Raw], name: str, value: object) -> None:
    """Set a field that the body leaves open."""
    if bytes(fields.get(name, _NULL)) == _NULL:
        fields[name] = msgspec.Raw(msgspec.json.encode(value))


def _error(why: str, field: str | None, status: int, code: str) -> bytes:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return msgspec.json.encode({"error": {"message": why, "type": kind, "code": code, "param": field}})
