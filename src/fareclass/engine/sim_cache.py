"""The memory of a simulated replica: contexts of running sequences, and what ended ones left behind."""

from collections import OrderedDict


class PrefixCache:
    """Room for `capacity` tokens. What ended sequences left is kept, least recently used out first.

    A context is known by its key alone: whoever has the key has the same prefix. An old
    context loses its end first, since what follows a lost block can't be reused.
    """

    def __init__(self, capacity: int, block: int) -> None:
        self._capacity = capacity
        self._block = block
        self._held = 0
        self._left: OrderedDict[object, int] = OrderedDict()
        self._left_tokens = 0

    def take(self, key: object | None, prompt: int, peak: int) -> int | None:
        """Hold `peak` tokens for a sequence; how many of its `prompt` tokens need not be computed.

        `key` is None for one that reuses nothing. Returns None if running sequences leave no
        room for it. The last prompt token is always
        computed, since the first new one comes out of it.
        """
        if self._held + peak > self._capacity:
            return None
        known = self._left.pop(key, 0)
        self._left_tokens -= known
        self._held += peak
        self._shrink()
        return min(known, prompt - 1) // self._block * self._block

    def give_back(self, key: object, tokens: int, peak: int) -> None:
        """A sequence ended: `tokens` of its context can be reused, the rest of its `peak` is free."""
        self._held -= peak
        self._left_tokens += tokens - self._left.pop(key, 0)
        self._left[key] = tokens
        self._shrink()

    def _shrink(self) -> None:
        """Forget the oldest contexts until everything fits."""
        while (excess := self._held + self._left_tokens - self._capacity) > 0:
            key, tokens = self._left.popitem(last=False)
            self._left_tokens -= min(tokens, excess)
            if tokens > excess:
                self._left[key] = tokens - excess
                self._left.move_to_end(key, last=False)
