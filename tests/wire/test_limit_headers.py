"""R27: limits in OpenAI's words."""

import pytest

from fareclass.flow.reply import Allowance, Allowances
from fareclass.sched.buckets import Bucket
from fareclass.wire.limit_headers import duration, openai_limits


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0, b"0s"), (1, b"1ms"), (20_000, b"20ms"), (999_001, b"1s"), (1_500_000, b"1.5s"), (59_999_000, b"59.999s"),
        (360_000_000, b"6m0s"), (61_020_000, b"1m1.02s"), (3_600_000_000, b"1h0m0s"), (90_061_000_000, b"25h1m1s"),
    ],
)  # fmt: skip
def test_r27_durations_are_written_as_openai_does(us: int, text: bytes) -> None:
    assert duration(us) == text


def test_r27_debt_shows_as_nothing_left_and_what_is_no_limit_not_at_all() -> None:
    bucket = Bucket(60, 0)
    bucket.take(90)
    headers = dict(openai_limits(Allowances(tokens=Allowance.of(bucket), requests=None)))
    assert headers == {
        b"x-ratelimit-limit-tokens": b"60",
        b"x-ratelimit-remaining-tokens": b"0",
        b"x-ratelimit-reset-tokens": b"1m30s",
    }
