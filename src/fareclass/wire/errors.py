"""How each outcome looks to a caller: one table per API (section 11)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.tiers import Tier

Headers = list[tuple[bytes, bytes]]


class Row(NamedTuple):
    """Status, type and code of one outcome; `Refusal.code` stands in for `code` where it is set."""

    status: int
    type: str
    code: str


OPENAI: Mapping[Outcome, Row] = MappingProxyType(
    {
        Outcome.INVALID: Row(400, "invalid_request_error", "invalid_request_error"),
        Outcome.UNAUTHENTICATED: Row(401, "invalid_request_error", "invalid_api_key"),
        Outcome.FORBIDDEN: Row(403, "invalid_request_error", "permission_denied"),
        Outcome.NOT_FOUND: Row(404, "invalid_request_error", "model_not_found"),
        Outcome.THROTTLED: Row(429, "rate_limit_error", "rate_limit_exceeded"),
        Outcome.SHED: Row(503, "server_error", "overloaded"),
        Outcome.EXPIRED: Row(503, "server_error", "overloaded"),
        Outcome.UPSTREAM_FAILED: Row(502, "server_error", "upstream_error"),
        Outcome.INTERNAL: Row(500, "server_error", "server_error"),
        Outcome.CANCELLED: Row(500, "server_error", "server_error"),
    }
)
ANTHROPIC: Mapping[Outcome, tuple[int, str]] = MappingProxyType(
    {
        Outcome.INVALID: (400, "invalid_request_error"),
        Outcome.UNAUTHENTICATED: (401, "authentication_error"),
        Outcome.FORBIDDEN: (403, "permission_error"),
        Outcome.NOT_FOUND: (404, "not_found_error"),
        Outcome.THROTTLED: (429, "rate_limit_error"),
        Outcome.SHED: (529, "overloaded_error"),
        Outcome.EXPIRED: (529, "overloaded_error"),
        Outcome.UPSTREAM_FAILED: (500, "api_error"),
        Outcome.INTERNAL: (500, "api_error"),
        Outcome.CANCELLED: (500, "api_error"),
    }
)
BEDROCK: Mapping[Outcome, tuple[int, str]] = MappingProxyType(
    {
        Outcome.INVALID: (400, "ValidationException"),
        Outcome.UNAUTHENTICATED: (403, "UnrecognizedClientException"),
        Outcome.FORBIDDEN: (403, "AccessDeniedException"),
        Outcome.NOT_FOUND: (404, "ResourceNotFoundException"),
        Outcome.THROTTLED: (429, "ThrottlingException"),
        Outcome.SHED: (503, "ServiceUnavailableException"),
        Outcome.EXPIRED: (503, "ServiceUnavailableException"),
        Outcome.UPSTREAM_FAILED: (424, "ModelErrorException"),
        Outcome.INTERNAL: (500, "InternalServerException"),
        Outcome.CANCELLED: (500, "InternalServerException"),
    }
)
_BEDROCK_OWN: Mapping[str | None, tuple[int, str]] = MappingProxyType(
    {"method_not_allowed": (405, "ValidationException"), "idempotency_key_reused": (400, "ConflictException")}
)
OPENAI_FLEX_EXPIRED = Row(429, "rate_limit_error", "resource_unavailable")
_OWN_STATUS: Mapping[str | None, int] = MappingProxyType(
    {"method_not_allowed": 405, "request_timeout": 408, "idempotency_key_reused": 409}
)


def openai_error(refusal: Refusal, tier: Tier | None = None) -> tuple[int, bytes]:
    """Status and body of a refusal in OpenAI's form. `tier` is the one served as, where it came so far."""
    row = OPENAI[refusal.outcome]
    if refusal.outcome in (Outcome.EXPIRED, Outcome.SHED) and tier is Tier.FLEX:
        row = OPENAI_FLEX_EXPIRED
    error = {"message": refusal.message, "type": row.type, "code": refusal.code or row.code, "param": refusal.param}
    return _OWN_STATUS.get(refusal.code, row.status), msgspec.json.encode({"error": error})


def anthropic_error(refusal: Refusal, request_id: str) -> tuple[int, bytes]:
    """Status and body of a refusal in Anthropic's form; `code` is ours, where there is a finer one."""
    status, kind = ANTHROPIC[refusal.outcome]
    error = {"type": kind, "message": refusal.message}
    if refusal.code is not None:
        error["code"] = refusal.code
    body = {"type": "error", "error": error, "request_id": request_id}
    return _OWN_STATUS.get(refusal.code, status), msgspec.json.encode(body)


def bedrock_error(refusal: Refusal) -> tuple[int, bytes, bytes]:
    """Status, exception and body of a refusal in Bedrock's form; `code` is ours, where there is a finer one."""
    status, kind = _BEDROCK_OWN.get(refusal.code, BEDROCK[refusal.outcome])
    error = {"message": refusal.message}
    if refusal.code is not None:
        error["code"] = refusal.code
    return status, kind.encode(), msgspec.json.encode(error)


def retry_headers(refusal: Refusal) -> Headers:
    """When to come back, in the words of every client library, and whether that can help (R14)."""
    headers: Headers = []
    if refusal.retry_after_ms is not None:
        wait_ms = max(0, refusal.retry_after_ms)
        headers += [
            (b"retry-after", b"%d" % -(-wait_ms // 1000)),
            (b"retry-after-ms", b"%d" % wait_ms),
            (b"x-amz-retry-after", b"%d" % wait_ms),
        ]
    if refusal.retry is not None:
        headers.append((b"x-should-retry", b"true" if refusal.retry else b"false"))
    return headers
