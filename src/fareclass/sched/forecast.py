"""How long a newcomer would wait: measured from how fast its line has been moving (R14)."""

FIRST_SERVICE_S = 2.0
_WEIGHT = 0.1


class Pace:
    """The mean time between starts from one line while somebody stood in it.

    Only intervals with a line count: an idle pool's slow arrivals say nothing about how
    fast it could serve. A line that has stood still for longer than its pace suggests is
    taken at its word.
    """

    __slots__ = ("_interval_s", "_since")

    def __init__(self) -> None:
        self._interval_s: float | None = None
        self._since = 0.0

    def line_began(self, now: float) -> None:
        """The first ticket has begun to wait."""
        self._since = now

    def started(self, now: float) -> None:
        """A ticket that had waited has started."""
        sample = now - self._since
        self._since = now
        known = self._interval_s
        self._interval_s = sample if known is None else known + _WEIGHT * (sample - known)

    def wait_s(self, ahead: int, standing_at: float | None, slots: int) -> float:
        """The expected wait behind `ahead` tickets, itself included, in seconds.

        `standing_at` is the clock if there is a line now, None if there is none.
        """
        interval = FIRST_SERVICE_S / max(1, slots) if self._interval_s is None else self._interval_s
        stood = 0.0 if standing_at is None else standing_at - self._since
        return max(ahead * interval, stood)
