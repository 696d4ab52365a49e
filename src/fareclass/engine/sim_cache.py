"""The memory of a simulated replica: contexts of running sequences, and what ended ones left behind."""

from collections import OrderedDict
from typing import NamedTuple


class Piece(NamedTuple):
    """A stretch of a prompt that any prompt with the same beginning has too: `key` names it and all before it."""

    key: object
    tokens: int


class PrefixCache:
    """Room for `capacity` tokens. What ended sequences left is kept, least recently used out first.

    A prompt's pieces are found by whoever has the same ones. What stands behind them, of a prompt or of an answer,
    is known by the sequence's own key, and an old one loses its end first, since what follows a lost block can't be
    reused; of pieces, too, the last of a prompt go before the first.
    """

    def __init__(self, capacity: int, block: int) -> None:
        self._capacity = capacity
        self._block = block
        self._held = 0
        self._left: OrderedDict[object, int] = OrderedDict()
        self._left_tokens = 0

    def take(self, key: object | None, pieces: tuple[Piece, ...], prompt: int, peak: int) -> int | None:
        """Hold `peak` tokens for a sequence; how many of its `prompt` tokens need not be computed.

        `key` is None for one that goes on from nothing of its own. Returns None if running sequences leave no
        room for it. The last prompt token is always computed, since the first new one comes out of it.
        """
        if self._held + peak > self._capacity:
            return None
        known = self._known(pieces)
        if key is not None and known == sum(piece.tokens for piece in pieces):
            own = self._left.pop(key, 0)
            self._left_tokens -= own
            known += own
        self._held += peak
        self._shrink()
        return min(known, prompt - 1) // self._block * self._block

    @property
    def free(self) -> int:
        """Room that no running sequence holds."""
        return self._capacity - self._held

    def grow(self, tokens: int) -> None:
        """Running sequences hold so many tokens more, which are free."""
        self._held += tokens
        self._shrink()

    def publish(self, pieces: tuple[Piece, ...]) -> int:
        """A prompt is computed: its pieces are there for all; they count as left, no longer as held. Their tokens."""
        if not pieces:
            return 0
        for piece in reversed(pieces):
            self._keep(piece.key, piece.tokens)
        tokens = sum(piece.tokens for piece in pieces)
        self._held -= tokens
        self._shrink()
        return tokens

    def give_back(self, key: object, pieces: tuple[Piece, ...], tokens: int, held: int) -> None:
        """A sequence ended: `tokens` of its context can be reused, the rest of the `held` ones is free."""
        self._held -= held
        whole = []
        for piece in pieces:
            if piece.tokens > tokens:
                tokens = 0  # what follows a piece that is not whole is of no use
                break
            tokens -= piece.tokens
            whole.append(piece)
        if tokens or not pieces:
            self._keep(key, tokens)
        for piece in reversed(whole):
            self._keep(piece.key, piece.tokens)
        self._shrink()

    def _known(self, pieces: tuple[Piece, ...]) -> int:
        """Tokens of the pieces that are there, from the first one on; they count as used."""
        found = []
        for piece in pieces:
            if self._left.get(piece.key) != piece.tokens:
                break
            found.append(piece)
        for piece in reversed(found):
            self._left.move_to_end(piece.key)
        return sum(piece.tokens for piece in found)

    def _keep(self, key: object, tokens: int) -> None:
        self._left_tokens += tokens - self._left.pop(key, 0)
        self._left[key] = tokens

    def _shrink(self) -> None:
        """Forget the oldest contexts until everything fits."""
        while (excess := self._held + self._left_tokens - self._capacity) > 0:
            key, tokens = self._left.popitem(last=False)
            self._left_tokens -= min(tokens, excess)
            if tokens > excess:
                self._left[key] = tokens - excess
                self._left.move_to_end(key, last=False)
