"""Saying no to what a caller has sent."""

from typing import NoReturn

from fareclass.core.outcomes import Outcome, Refusal


def refuse(message: str, param: str | None = None) -> NoReturn:
    """`param` is the path of the offending field.

    Raises:
        Refusal: `invalid`, always.
    """
    raise Refusal(Outcome.INVALID, message, param=param)
