"""Webhooks by the Standard Webhooks form: what is said, how it is signed, and when it is said again (R47)."""

import hmac
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import msgspec

BATCH_EVENTS = ("batch.completed", "batch.failed", "batch.expired", "batch.cancelled")
RESPONSE_EVENTS = ("response.completed", "response.failed", "response.cancelled", "response.incomplete")
EVENTS = (*BATCH_EVENTS, *RESPONSE_EVENTS)
TEST = "webhook.test"
"""What an operator has sent to see whether it arrives; every webhook takes it."""
GONE = 410
"""The receiver wants no more of them."""
RETRY_S = (5, 30, 120, 600, 3_600, 10_800, 21_600)
"""Waits after the first attempts that fail; the last of them after every later one."""
GIVE_UP_S = 3 * 86_400
"""An event is tried for so long."""
_JITTER_PERCENT = 20
_RETRY_AFTER_S = 86_400


def body(id: str, type: str, created_s: int, object_id: str) -> bytes:
    """An event as its receiver reads it; who wants more asks for the object."""
    said = {"id": id, "object": "event", "type": type, "created_at": created_s, "data": {"id": object_id}}
    return msgspec.json.encode(said)


def headers(id: str, at_s: int, said: bytes, secrets: Sequence[bytes]) -> dict[str, str]:
    """What proves that it is ours, one signature for each secret that is in force."""
    signed = b"%s.%d.%s" % (id.encode(), at_s, said)
    signatures = (b64encode(hmac.digest(secret, signed, "sha256")).decode() for secret in secrets)
    return {
        "webhook-id": id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def arrived(status: int) -> bool:
    """Whether the receiver has taken it."""
    return 200 <= status < 300


def retry_after_s(header: str | None, now_s: int) -> int:
    """What a receiver's `Retry-After` asks for, at most a day; 0 where it asks for nothing that can be read."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:9]), _RETRY_AFTER_S)
    try:
        wait = parsedate_to_datetime(text) - datetime.fromtimestamp(now_s, UTC)
    except (ValueError, TypeError, OverflowError):
        return 0
    return max(0, min(wait, timedelta(seconds=_RETRY_AFTER_S)) // timedelta(seconds=1))


def wait_us(attempts: int, waited_us: int, asked_s: int, jitter: float) -> int | None:
    """How long to wait after so many attempts that failed, in microseconds; None is to give up.

    Args:
        attempts: at least 1.
        waited_us: since it was due for the first time.
        asked_s: what the receiver asked for.
        jitter: from 0 to 1; spreads those that failed together over a fifth of the wait.
    """
    wait_s = max(RETRY_S[min(attempts, len(RETRY_S)) - 1], asked_s)
    wait = wait_s * 1_000_000 + int(wait_s * 10_000 * _JITTER_PERCENT * jitter)
    return wait if waited_us + wait <= GIVE_UP_S * 1_000_000 else None
