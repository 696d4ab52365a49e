"""Ids that sort by the time of their making, so that `ORDER BY id` is the order of creation."""

import secrets
import time
from base64 import b32hexencode

PROJECT = "proj"
KEY = "key"
RESERVATION = "rsv"
EVENT = "evt"
FILE = "file"
BATCH = "batch"


def new_id(kind: str) -> str:
    """`kind`, an underscore, 24 characters of 0-9a-v: the time in ms, then 72 random bits."""
    raw = (time.time_ns() // 1_000_000).to_bytes(6) + secrets.token_bytes(9)
    return f"{kind}_{b32hexencode(raw).decode('ascii').lower()}"


def first_request_id(at_us: int) -> str:
    """No request that arrives at this time or later has an id that is less; they are all of this length."""
    return f"req_{at_us:013x}{0:016x}"


def short_id(kind: str) -> str:
    """`kind`, an underscore, 12 characters of 0-9a-z: the time in 1,024ths of a ms, then 10 random bits.

    It takes longer than that to make one, so one process makes no two alike, and a database has only one gateway.
    """
    number = (time.time_ns() * 1_024 // 1_000_000) << 10 | secrets.randbits(10)
    digits = ""
    while len(digits) < 12:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return f"{kind}_{digits}"


def looks_like_id(text: str) -> bool:
    """Whether a name could be taken for an id: every call accepts either."""
    return text.startswith((f"{PROJECT}_", f"{KEY}_", f"{RESERVATION}_"))
