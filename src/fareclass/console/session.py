"""Who is logged in to the console: in this process's memory alone, so that no browser and no disk ever holds a key (R51).

A browser holds a random token in a cookie that no script can read and no other site can send. A session ends by
logging out, after `CONSOLE_SESSION_S`, or with the process.
"""

import hashlib
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Literal

from fareclass.core.limits import (
    CONSOLE_LOGIN_WINDOW_S,
    CONSOLE_LOGINS,
    CONSOLE_PEERS,
    CONSOLE_SESSION_S,
    CONSOLE_SESSIONS,
)

Role = Literal["admin", "read_only"]


class Session:
    """One login: the key that it was made with, what that may do, and the open pages that are its own."""

    __slots__ = ("ends_at", "id", "key", "over", "pages", "role")

    def __init__(self, id: str, key: str, role: Role, ends_at: float) -> None:
        self.id = id
        self.key = key
        self.role = role
        self.ends_at = ends_at
        self.pages: set[str] = set()
        self.over = False

    def __repr__(self) -> str:
        return f"Session({self.role})"


class Sessions:
    """All logins. `ended` is called with each one that ends while pages of it may be open."""

    def __init__(self, ended: Callable[[Session], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._ended = ended
        self._clock = clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def begin(self, key: str, role: Role) -> str:
        """Make a session; returns the token that stands for it. The oldest of its role ends where there are too many.

        Each role has a bound of its own: who may only look can log in as often as he likes and ends no admin's session.
        """
        self.sweep()
        alike = [session for session in self._sessions.values() if session.role == role]
        if len(alike) >= CONSOLE_SESSIONS:
            self.end(alike[0])
        token = secrets.token_urlsafe(32)
        session = Session(_id(token), key, role, self._clock() + CONSOLE_SESSION_S)
        self._sessions[session.id] = session
        return token

    def find(self, token: str | None) -> Session | None:
        """The session that a token stands for. What is looked up is its digest, so no timing tells how near a guess was."""
        if not token:
            return None
        self.sweep()
        return self._sessions.get(_id(token))

    def end(self, session: Session) -> None:
        """Idempotent."""
        if self._sessions.pop(session.id, None) is not None:
            session.over, session.key = True, ""
            self._ended(session)

    def sweep(self) -> None:
        """End those whose time is over; they end in the order in which they were made."""
        now = self._clock()
        while self._sessions and (first := next(iter(self._sessions.values()))).ends_at <= now:
            self.end(first)


class Attempts:
    """Bounds failed logins: so many of one peer in a window of time, whoever it is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, peer: str) -> float:
        """How long this peer must wait before it may try again, 0 if not at all."""
        times = self._failed.get(peer)
        if times is None or len(times) < CONSOLE_LOGINS:
            return 0.0
        return max(0.0, times[0] + CONSOLE_LOGIN_WINDOW_S - self._clock())

    def begun(self, peer: str) -> None:
        """A login is tried: it counts as failed until `passed`, so that many at once are no way around the bound.

        Of too many peers the one that tried longest ago is forgotten.
        """
        times = self._failed.setdefault(peer, deque(maxlen=CONSOLE_LOGINS))
        times.append(self._clock())
        self._failed.move_to_end(peer)
        while len(self._failed) > CONSOLE_PEERS:
            self._failed.popitem(last=False)

    def passed(self, peer: str) -> None:
        """It did not fail, or not for its key."""
        times = self._failed.get(peer)
        if times:
            times.pop()


def _id(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
