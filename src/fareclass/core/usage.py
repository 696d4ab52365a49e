"""Token counts of one request: kinds that never overlap (docs/rules.md)."""

import msgspec


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one request used, in tokens. `input` excludes what was read from or written to a cache."""

    input: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0
    output: int = 0

    @property
    def prompt(self) -> int:
        """All tokens of the prompt, cached or not (OpenAI's `prompt_tokens`)."""
        return self.input + self.cache_write_5m + self.cache_write_1h + self.cache_read


def burnt(tokens: int, weight: int) -> int:
    """What so many tokens count at a weight in hundredths, in whole tokens, rounded up (R24)."""
    return -(-tokens * weight // 100)


KINDS: tuple[str, ...] = Usage.__struct_fields__
