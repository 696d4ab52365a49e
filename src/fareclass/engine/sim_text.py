"""What a simulated model says: plain words drawn from the hash of its prompt, the same every time.

A token is up to eight letters of one word (white space costs nothing), so each word
of the vocabulary is one token and any text can be counted.
"""

import hashlib
import random
import re
from collections.abc import Mapping
from typing import Any

_WORDS = tuple(
    "a and as at be but by can city day do even field few for from give good green hand have he high home house how "  # noqa: SIM905 - one word a line would fill the file
    "if in is it just keep know land large last left light line little long look make many more most move much must "
    "name near new next night no not now of old on one open or other our out over own part people place point rain "
    "right river road same say sea see she so some stand still stone such take tell than that the their then there "
    "they this time to tree turn two under up upon us water way we well what when where which while white who will "
    "wind with word work world year you".split()
)
_TOKEN = re.compile(r"\S{1,8}")
IMAGE_TOKENS = 256
"""Tokens of any part of a message that is not text."""
MESSAGE_TOKENS = 4
"""Tokens of a message's frame."""
SHORTEST = 8
"""Tokens of the shortest answer of its own accord."""


def count_tokens(text: str) -> int:
    """Tokens of a text."""
    return sum(1 for _ in _TOKEN.finditer(text))


class Question:
    """A prompt as the simulated model sees it: how long it is, and the digest its answer is drawn from."""

    def __init__(self, body: Mapping[str, Any], prompt: Any = None) -> None:
        digest = hashlib.blake2b(digest_size=16)
        self.tokens = 0
        if prompt is None:
            for message in body.get("messages") or ():
                self.tokens += MESSAGE_TOKENS
                self._read(message.get("content"), digest)
        else:
            self._read(prompt, digest)
        self.tokens = max(1, self.tokens)
        digest.update(str(body.get("seed", "")).encode())
        self.digest = digest.hexdigest()

    def _read(self, content: Any, digest: hashlib.blake2b) -> None:
        if isinstance(content, str):
            self.tokens += count_tokens(content)
            digest.update(content.encode("utf-8", "replace") + b"\0")
        elif isinstance(content, list) and content and isinstance(content[0], int):
            self.tokens += len(content)
            digest.update(repr(content).encode())
        elif isinstance(content, list):
            for part in content:
                if isinstance(part, Mapping) and part.get("type") == "text":
                    self._read(part.get("text"), digest)
                else:
                    self.tokens += IMAGE_TOKENS
                    digest.update(repr(part).encode("utf-8", "replace"))


class Answer:
    """One choice of an answer, known whole from the start: its text, and where each of its tokens ends.

    `most` bounds its tokens (`finish` is then `length`), `stop` ends it before the first
    such string. `beginning` is what was said already: the answer goes on right behind it,
    even in the middle of a word. A beginning that this model did not write is answered afresh.
    """

    def __init__(self, seed: str, mean_tokens: int, most: int, stop: tuple[str, ...], beginning: str) -> None:
        draw = random.Random(seed)  # noqa: S311 - not a secret: the same prompt must get the same words
        natural = SHORTEST + int(draw.expovariate(1 / max(1, mean_tokens - SHORTEST)))
        text = " ".join(draw.choices(_WORDS, k=natural))
        if not text.startswith(beginning):
            text = beginning + " " + text
        cut = min((at for word in stop if (at := text.find(word, len(beginning))) >= 0), default=len(text))
        self.text = text[:cut]
        self.ends = [token.end() for token in _TOKEN.finditer(self.text, len(beginning))] or [cut]
        self.ends[-1] = cut
        self.finish = "stop"
        if len(self.ends) > most:
            del self.ends[most:]
            self.finish = "length"
        self._start = min(len(beginning), cut)

    @property
    def tokens(self) -> int:
        """Tokens it makes from its beginning to its end, at least one."""
        return len(self.ends)

    def piece(self, first: int, last: int) -> str:
        """The text of its tokens from number `first` up to, not including, `last`."""
        start = self.ends[first - 1] if first else self._start
        return self.text[start : self.ends[last - 1]]
