"""How a request can end (R6), and the one exception that carries a refusal to its caller."""

from enum import StrEnum
from typing import Final


class Outcome(StrEnum):
    """Every request ends in exactly one of these."""

    COMPLETED = "completed"
    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    THROTTLED = "throttled"
    SHED = "shed"
    EXPIRED = "expired"
    UPSTREAM_FAILED = "upstream_failed"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


CALLER_ERRORS: Final = (Outcome.INVALID, Outcome.UNAUTHENTICATED, Outcome.FORBIDDEN, Outcome.NOT_FOUND)
"""What could never have run, however much room there was: it is no demand (R43, R44)."""


class Refusal(Exception):
    """A request that ends without (or before the end of) an answer.

    `message` is for the caller: what was wrong, where, and what to do. `param` is the path
    of the offending field. `code` refines the outcome's own code where an API has a finer
    one (`budget_exceeded`). `retry_after_ms` is the honest time to come back (R14);
    `retry` says whether coming back can help at all (`x-should-retry`), None where the
    status alone tells. `cause` is for the operator's log and never reaches the caller.
    """

    def __init__(
        self,
        outcome: Outcome,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_ms: int | None = None,
        retry: bool | None = None,
        cause: str | None = None,
    ) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_ms = retry_after_ms
        self.retry = retry
        self.cause = cause

    def alone(self) -> "Refusal":
        """Without the frames that it came through: they hold the request, and one that keeps the refusal would so be kept
        by it until the next collection of cycles, body and all.
        """
        self.__traceback__ = self.__context__ = None
        return self
