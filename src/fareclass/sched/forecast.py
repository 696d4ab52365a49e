"""How long a newcomer would wait: measured from how fast its line has been moving (R14)."""

_TRUSTED_STARTS = 10
"""So many starts from a line tell its pace alone; a pool that has just filled up frees its slots in bursts."""
_MEMORY = 32


class Pace:
    """The mean time between starts from one line while somebody stood in it.

    Only intervals with a line count: an idle pool's slow arrivals say nothing about how
    fast it could serve. A line that has stood still for longer than its pace suggests is
    taken at its word.
    """

    __slots__ = ("_interval_s", "_since", "_starts")

    def __init__(self) -> None:
        self._interval_s = 0.0
        self._starts = 0
        self._since = 0.0

    @property
    def trusted(self) -> bool:
        """Whether enough starts from this line have been seen."""
        return self._starts == _TRUSTED_STARTS

    def line_began(self, now: float) -> None:
        """The first ticket has begun to wait."""
        self._since = now

    def started(self, now: float) -> None:
        """A ticket that had waited has started."""
        self._starts = min(self._starts + 1, _TRUSTED_STARTS)
        self._interval_s += (now - self._since - self._interval_s) / self._starts
        self._since = now

    def stood_s(self, now: float) -> float:
        """How long the line has stood since its last start, or since it began."""
        return now - self._since

    def wait_s(self, ahead: int, stood_s: float, guess_s: float) -> float:
        """The expected wait behind `ahead` tickets, itself included, in a line that has stood still for `stood_s`.

        `guess_s` is the time between two starts as far as the pool tells it; it counts the less, the more starts were seen.
        """
        share = self._starts / _TRUSTED_STARTS
        return max(ahead * (share * self._interval_s + (1 - share) * guess_s), stood_s)


class Service:
    """How long a ticket runs: the mean of the last few; None before the first is through."""

    __slots__ = ("_count", "mean_s")

    def __init__(self) -> None:
        self.mean_s: float | None = None
        self._count = 0

    def ran(self, seconds: float) -> None:
        """A ticket has run for so long."""
        self._count = min(self._count + 1, _MEMORY)
        mean_s = self.mean_s or 0.0
        self.mean_s = mean_s + (seconds - mean_s) / self._count
