"""How many lines of a closing batch go ahead of flex (R13)."""

import math

_LAST_S = 600.0
"""A batch that needs less than one slot is left to its own rank until the window is that near: longer than flex waits."""
_SAFETY = 2
"""A line is raised where the window left is shorter than so many times what it is expected to take (R13)."""


def lines_to_raise(left: int, running: float, line_s: float, window_s: float) -> int:
    """Of a batch with `left` lines, `running` of which run at once by its own rank, how many shall rank as default.

    A line takes `line_s` seconds, in line and running, and `window_s` are left. All lines need `left × line_s` seconds
    of slots; at twice the pace that would just do, so many slots are needed at once; what its own rank does not get is
    raised, no more.
    """
    if left <= 0 or line_s <= 0:
        return 0
    if window_s <= 0:
        return left
    needed = _SAFETY * left * line_s / window_s
    if needed <= running or (needed < 1 and window_s > _LAST_S):
        return 0
    return min(left, math.ceil(needed - running))
