"""Logins of the console (R51)."""

import pytest

from fareclass.console.session import Attempts, Session, Sessions
from fareclass.core.limits import (
    CONSOLE_LOGIN_WINDOW_S,
    CONSOLE_LOGINS,
    CONSOLE_PEERS,
    CONSOLE_SESSION_S,
    CONSOLE_SESSIONS,
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ended() -> list[Session]:
    return []


@pytest.fixture
def sessions(clock: Clock, ended: list[Session]) -> Sessions:
    return Sessions(ended.append, clock)


def test_a_token_stands_for_its_session_until_that_ends(sessions: Sessions, ended: list[Session]):
    token = sessions.begin("the-key", "admin")
    session = sessions.find(token)
    assert session is not None and (session.key, session.role) == ("the-key", "admin")
    assert sessions.find(token + "x") is sessions.find("") is sessions.find(None) is None
    assert "the-key" not in repr(session) and "the-key" not in token
    sessions.end(session)
    sessions.end(session)
    assert sessions.find(token) is None
    assert ended == [session] and session.over and session.key == ""


def test_a_session_ends_by_itself(sessions: Sessions, clock: Clock, ended: list[Session]):
    token = sessions.begin("k", "read_only")
    clock.now = CONSOLE_SESSION_S - 1
    assert sessions.find(token)
    clock.now = CONSOLE_SESSION_S
    sessions.sweep()
    assert len(ended) == 1
    assert sessions.find(token) is None


def test_one_login_too_many_ends_the_oldest(sessions: Sessions):
    tokens = [sessions.begin("k", "admin") for _ in range(CONSOLE_SESSIONS + 1)]
    assert sessions.find(tokens[0]) is None
    assert all(sessions.find(token) for token in tokens[1:])


def test_logins_that_only_look_end_no_admins(sessions: Sessions):
    admin = sessions.begin("a", "admin")
    first, *_ = [sessions.begin("r", "read_only") for _ in range(CONSOLE_SESSIONS + 1)]
    assert sessions.find(admin)
    assert sessions.find(first) is None


def test_failed_logins_of_a_peer_are_bounded(clock: Clock):
    attempts = Attempts(clock)
    for _ in range(CONSOLE_LOGINS):
        assert attempts.wait_s("a") == 0
        attempts.begun("a")
    assert attempts.wait_s("a") == CONSOLE_LOGIN_WINDOW_S
    assert attempts.wait_s("b") == 0
    clock.now = CONSOLE_LOGIN_WINDOW_S
    assert attempts.wait_s("a") == 0


def test_what_did_not_fail_does_not_count(clock: Clock):
    attempts = Attempts(clock)
    for _ in range(3 * CONSOLE_LOGINS):
        attempts.begun("a")
        attempts.passed("a")
    assert attempts.wait_s("a") == 0
    attempts.passed("nobody")


def test_peers_are_bounded(clock: Clock):
    attempts = Attempts(clock)
    for number in range(CONSOLE_PEERS + 10):
        for _ in range(CONSOLE_LOGINS):
            attempts.begun(str(number))
    assert attempts.wait_s("0") == 0
    assert attempts.wait_s(str(CONSOLE_PEERS + 9)) > 0
