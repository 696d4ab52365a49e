"""A prompt as what can be cached of it: blocks in order, and the digests of its beginnings (R28, R29)."""

from typing import NamedTuple

import msgspec

FIVE_MINUTES_S = 300
ONE_HOUR_S = 3_600


class Block(NamedTuple):
    """A tool, or a part of the system prompt or of a message, in canonical bytes.

    `size` is what it counts of the prompt, in bytes of text. `ttl_s` is that of the cache point behind it, 0
    where there is none.
    """

    data: bytes
    size: int
    ttl_s: int = 0


class Prefix(msgspec.Struct, frozen=True):
    """A prompt's beginnings, one up to the end of each block.

    `digests[i]` is the name of the beginning that ends with block i, `ends[i]` its size; `points` are the blocks
    behind which a cache point stands, each with its TTL in seconds.
    """

    digests: tuple[bytes, ...]
    ends: tuple[int, ...]
    points: tuple[tuple[int, int], ...] = ()

    def tokens(self, index: int, prompt_tokens: int) -> int:
        """Tokens up to the end of a block: its share by size of all that the engine counted."""
        return prompt_tokens * self.ends[index] // self.ends[-1]
