"""How many tokens a prompt has, asked without running it: not billed, and in no line."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from fareclass.core.limits import COUNTS
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Snapshot
from fareclass.engine.base import Engine
from fareclass.flow.dispatch import Dispatcher
from fareclass.policy.estimate import Estimator

_RETRY_MS = 1_000
_MEDIA_TOKENS: Final = 1_024
"""What a picture counts, which no tokenizer of texts knows."""


class TokenCounts:
    """Counts prompts; each project at most `COUNTS` at once, or as many as its quota lets it run."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], dispatchers: Mapping[str, Dispatcher], estimator: Estimator
    ) -> None:
        self._snapshot = snapshot
        self._dispatchers = dispatchers
        self._estimator = estimator
        self._under_way: Counter[str] = Counter()

    async def count(self, request: Request) -> int:
        """Tokens of the prompt as the model reads it; of its words alone where an engine can't tell that or there are
        pictures; the gateway's estimate where no tokenizer answers.

        Raises:
            Refusal: `not_found`: no such model; `throttled`: too many at once.
        """
        snapshot, project = self._snapshot(), request.key.project.id
        model = self._model(snapshot, request.model)
        quota = snapshot.quotas.get((project, model))
        most = COUNTS if quota is None or quota.concurrency is None else min(COUNTS, quota.concurrency)
        if self._under_way[project] >= most:
            raise Refusal(
                Outcome.THROTTLED,
                f"{most} counts of tokens are under way for this project; wait for one of them.",
                retry_after_ms=_RETRY_MS,
            )
        self._under_way[project] += 1
        try:
            counted = await _count(self._dispatchers[model].tokenizer(), request.body)
        finally:
            self._under_way[project] -= 1
            self._under_way += Counter()  # forgets who has none
        return self._estimator.prompt_tokens(model, request.prompt_bytes) if counted is None else counted

    def _model(self, snapshot: Snapshot, name: str) -> str:
        """The model of this name; of a route's the first one that can count, else the first (R45)."""
        if name in snapshot.models:
            return name
        route = snapshot.routes.get(name)
        if route is None or not route.models:
            raise Refusal(Outcome.NOT_FOUND, f"The model `{name[:200]}` does not exist.", param="model")
        names = [each.model for each in route.models]
        return next((each for each in names if self._dispatchers[each].tokenizer() is not None), names[0])


async def _count(engine: Engine | None, body: Mapping[str, Any]) -> int | None:
    if engine is None:
        return None
    media = sum(1 for part in _parts(body) if part.get("type") != "text")
    exact = None if media else await engine.count_prompt(body)
    if exact is not None:
        return exact
    counted = await engine.count_tokens("\n".join(_words(body)))
    return None if counted is None else counted + media * _MEDIA_TOKENS


def _words(body: Mapping[str, Any]) -> Iterator[str]:
    """All that a model would read of a chat: tools, texts, what it thought, and calls."""
    for tool in body.get("tools") or ():
        yield msgspec.json.encode(tool).decode()
    for message in body["messages"]:
        if isinstance(content := message.get("content"), str):
            yield content
        for name in ("reasoning_content", "tool_calls"):
            if given := message.get(name):
                yield msgspec.json.encode(given).decode()
    for part in _parts(body):
        if isinstance(text := part.get("text"), str):
            yield text


def _parts(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for message in body["messages"]:
        if isinstance(content := message.get("content"), list):
            yield from content
