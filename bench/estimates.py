"""How long the answers of a load will be, as the gateway learns it (R25)."""

from fareclass.core.request import Request
from fareclass.core.snapshot import Key, Model, Project
from fareclass.core.usage import Usage
from fareclass.policy.estimate import Estimator

_MODEL = Model(name="m", upstream_model="m", created=0, tiers=frozenset())


class Estimates:
    """The gateway's own estimator, for jobs of one model."""

    def __init__(self) -> None:
        self._estimator = Estimator()

    def output_tokens(self, project: str, max_tokens: int | None) -> int:
        """What is held for the next answer."""
        return self._estimator.output_tokens(project, _MODEL, max_tokens)

    def learn(self, project: str, output: int) -> None:
        """An answer of so many tokens has ended."""
        self._estimator.learn(project, _request(project), Usage(output=output))


def _request(project: str) -> Request:
    """A request of one sequence; the estimator reads little more of it than that."""
    return Request(
        id="",
        caller_id="",
        endpoint="",
        path="",
        key=Key(id="", project=Project(id=project, name=""), name="", secret=b""),
        model=_MODEL.name,
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
