"""What is left of a caller's limits, in the words of each API (R27)."""

from datetime import UTC, datetime
from typing import Final

from fareclass.flow.reply import Allowances
from fareclass.wire.errors import Headers

_LAST_S: Final = 253_402_300_799
"""The last second that a date can name."""


def openai_limits(allowances: Allowances) -> Headers:
    """OpenAI's `x-ratelimit-*`, of the limits that there are."""
    headers: Headers = []
    for kind, allowance in ((b"requests", allowances.requests), (b"tokens", allowances.tokens)):
        if allowance is not None:
            headers += [
                (b"x-ratelimit-limit-" + kind, b"%d" % allowance.limit),
                (b"x-ratelimit-remaining-" + kind, b"%d" % allowance.remaining),
                (b"x-ratelimit-reset-" + kind, duration(allowance.reset_us)),
            ]
    return headers


def anthropic_limits(allowances: Allowances, at_us: int) -> Headers:
    """Anthropic's `anthropic-ratelimit-*`, of the limits that there are; `at_us` is the time of day of their look."""
    headers: Headers = []
    for kind, allowance in ((b"requests", allowances.requests), (b"tokens", allowances.tokens)):
        if allowance is not None:
            reset_s = min(-(-(at_us + allowance.reset_us) // 1_000_000), _LAST_S)
            reset = datetime.fromtimestamp(reset_s, UTC)
            name = b"anthropic-ratelimit-" + kind
            headers += [
                (name + b"-limit", b"%d" % allowance.limit),
                (name + b"-remaining", b"%d" % allowance.remaining),
                (name + b"-reset", reset.strftime("%Y-%m-%dT%H:%M:%SZ").encode()),
            ]
    return headers


def duration(us: int) -> bytes:
    """A time as OpenAI writes it, to the millisecond above: `20ms`, `1.5s`, `6m0s`, `1h0m0s`."""
    ms = -(-us // 1_000)
    if 0 < ms < 1_000:
        return b"%dms" % ms
    seconds, rest = divmod(ms, 1_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    part = b".%03d" % rest if rest else b""
    text = b"%d%ss" % (seconds, part.rstrip(b"0"))
    if hours:
        return b"%dh%dm%s" % (hours, minutes, text)
    return b"%dm%s" % (minutes, text) if minutes else text
