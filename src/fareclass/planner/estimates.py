"""How long the answers of a load will be, as the gateway learns it (R25)."""

from fareclass.core.request import Request
from fareclass.core.snapshot import Key, Model, Project
from fareclass.core.usage import Usage
from fareclass.policy.estimate import Estimator


class Estimates:
    """The gateway's own estimator, for jobs of one model."""

    def __init__(self, model: str = "m", max_tokens_default: int = 512) -> None:
        self._model = Model(
            name=model, upstream_model=model, created=0, tiers=frozenset(), max_tokens_default=max_tokens_default
        )
        self._estimator = Estimator()
        self._requests: dict[str, Request] = {}

    def output_tokens(self, project: str, max_tokens: int | None) -> int:
        """What is held for the next answer."""
        return self._estimator.output_tokens(project, self._model, max_tokens)

    def learn(self, project: str, output: int) -> None:
        """An answer of so many tokens has ended."""
        request = self._requests.get(project)
        if request is None:
            request = self._requests[project] = _request(project, self._model.name)
        self._estimator.learn(project, request, Usage(output=output))


def _request(project: str, model: str) -> Request:
    """A request of one sequence; the estimator reads little more of it than that."""
    return Request(
        id="",
        caller_id="",
        endpoint="",
        path="",
        key=Key(id="", project=Project(id=project, name=""), name="", secret=b""),
        model=model,
        tier_word=None,
        stream=False,
        body={},
        extra={},
        max_tokens=None,
        width=1,
        size_bytes=0,
        prompt_bytes=0,
        continuable=True,
        constrained=False,
        stop=(),
        media_hosts=(),
        traceparent=None,
        arrived_s=0.0,
        arrived_us=0,
    )
