"""How long a newcomer would wait: measured from how fast its line has been moving (R14)."""

FIRST_SERVICE_S = 1.0
_WEIGHT = 0.1
_MEMORY = 32


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

    @property
    def known(self) -> bool:
        """Whether a start from this line has been seen."""
        return self._interval_s is not None

    def line_began(self, now: float) -> None:
        """The first ticket has begun to wait."""
        self._since = now

    def started(self, now: float) -> None:
        """A ticket that had waited has started."""
        sample = now - self._since
        self._since = now
        known = self._interval_s
        self._interval_s = sample if known is None else known + _WEIGHT * (sample - known)

    def wait_s(self, ahead: int, standing_at: float | None, first_guess_s: float) -> float:
        """The expected wait behind `ahead` tickets, itself included, in seconds.

        `standing_at` is the clock if there is a line now, None if there is none; `first_guess_s`
        the time between two starts before any was seen.
        """
        stood = 0.0 if standing_at is None else standing_at - self._since
        return max(ahead * (first_guess_s if self._interval_s is None else self._interval_s), stood)


class Service:
    """How long a ticket runs: the mean of the last few, and a guess before the first is through."""

    __slots__ = ("_count", "mean_s")

    def __init__(self) -> None:
        self.mean_s = FIRST_SERVICE_S
        self._count = 0

    def ran(self, seconds: float) -> None:
        """A ticket has run for so long."""
        self._count = min(self._count + 1, _MEMORY)
        self.mean_s += (seconds - self.mean_s) / self._count
