"""One sequence on a simulated replica, and what its caller sees of it."""

import msgspec

from fareclass.engine.sim_cache import Piece


class Sequence:
    """One sequence on a replica. The caller makes it; after `submit` only the replica writes its fields.

    `key` names its context for the prefix cache: a later sequence with the same key
    reuses what is left of it, if it says `reuses`; any sequence reuses the `pieces` of its prompt. Of its beginning so
    many tokens are `known` anyway. `prompt_tokens` is all that must be in
    memory before the first new token, an answer's beginning included; `output_tokens` is
    how many it will make; what it had made when it lost its context (`lost`) then counts as prompt. `prefilled` counts prompt tokens really computed, `cached` those
    reused, `made` the tokens made once it has ended (before that ask `SimReplica.made`).
    """

    __slots__ = (
        "abort_us",
        "admitted_us",
        "cached",
        "ended",
        "first_step",
        "first_us",
        "from_step",
        "key",
        "known",
        "last_step",
        "lost",
        "made",
        "output_tokens",
        "pieces",
        "prefilled",
        "prompt_tokens",
        "published",
        "rank",
        "reuses",
    )  # fmt: skip

    def __init__(
        self,
        key: object,
        prompt_tokens: int,
        output_tokens: int,
        *,
        reuses: bool = False,
        rank: int = 0,
        pieces: tuple[Piece, ...] = (),
        known: int = 0,
    ) -> None:
        if prompt_tokens < 1 or output_tokens < 1:
            raise ValueError(f"a sequence has a prompt and an answer, not {prompt_tokens} and {output_tokens} tokens")
        self.key = key
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.reuses = reuses
        self.pieces = pieces
        self.known = known
        self.published = 0
        self.rank = rank
        self.cached = 0
        self.prefilled = 0
        self.made = 0
        self.first_step = self.last_step = -1
        self.lost = 0
        self.from_step = 0
        self.admitted_us: int | None = None
        self.first_us: int | None = None
        self.abort_us: int | None = None
        self.ended = False

    @property
    def peak_tokens(self) -> int:
        """Memory it takes at its end. It is kept for it from its start, unless the replica overcommits."""
        return self.prompt_tokens + self.output_tokens


class Event(msgspec.Struct, frozen=True):
    """Something a caller sees: the first token of a sequence, or its last one (`finished`)."""

    at_us: int
    sequence: Sequence
    finished: bool
