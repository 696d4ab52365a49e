"""The log of R51."""

import io
import json
import logging

import pytest

from fareclass.core.tokens import token
from fareclass.telemetry.logs import JsonFormatter


@pytest.fixture
def log():
    """A logger of its own, and what it wrote, as objects."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("fareclass.test")  # noqa: LOG001  # no other test shall see it
    logger.addHandler(handler)
    return logger, lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_log_line_is_one_json_object_whatever_a_caller_sent(log):
    logger, lines = log
    logger.warning("refused %s", 'a\n{"forged": 1}', extra={"request": "é\u2028", "status": 400})
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("failed")
    first, second = lines()
    assert (first["message"], first["request"], first["status"]) == ('refused a\n{"forged": 1}', "é\u2028", 400)
    assert first["level"] == "warning" and first["time"].endswith("Z")
    assert "ValueError: broken" in second["traceback"]


def test_a_secret_does_not_reach_the_log(log):
    """R51: the id of a key stays, what proves it goes."""
    logger, lines = log
    secret = token("key_7", "abcdefghijklmnopqrstuvwxyz234567")
    logger.error("told %s", secret, extra={"header": f"Bearer {secret}"})
    [line] = lines()
    assert line["message"] == "told fc_key_7_…"
    assert line["header"] == "Bearer fc_key_7_…"
