"""R25, R49: what a request will take, learned from those before it."""

from fareclass.core.request import Request
from fareclass.core.snapshot import Burndown, Key, Model, Project
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from fareclass.policy.estimate import Estimator

KEY = Key(id="k", project=Project(id="p", name="p"), name="k", secret=b"fc_k_x")
MODEL = Model(
    name="m",
    upstream_model="m",
    created=0,
    tiers=frozenset(Tier),
    burndown=Burndown(output=500),
    max_tokens_default=512,
)


def request(*, prompt_bytes: int = 4000, max_tokens: int | None = None, width: int = 1) -> Request:
    return Request(
        id="r", caller_id="", endpoint="chat.completions", path="/chat/completions", key=KEY, model="m", tier_word=None,
        stream=False, body={}, extra={}, max_tokens=max_tokens, width=width, size_bytes=prompt_bytes,
        prompt_bytes=prompt_bytes, continuable=True, constrained=False, stop=(), media_hosts=(),
        traceparent=None, arrived_s=0.0, arrived_us=0,
    )  # fmt: skip


def hold(estimator, asked, prompt_tokens):
    return MODEL.burndown.quota_tokens(estimator.likely("p", MODEL, asked, prompt_tokens=prompt_tokens))


def test_r25_before_anything_is_known():
    estimator = Estimator()
    assert estimator.prompt_tokens("m", 4000) == 1000
    assert estimator.prompt_tokens("m", 0) == 1
    assert estimator.output_tokens("p", MODEL, None) == 512
    assert estimator.output_tokens("p", MODEL, 100) == 100
    assert hold(estimator, request(), 1000) == 1000 + 512 * 5


def test_r25_the_learned_mean_bounds_the_hold():
    estimator = Estimator()
    for output in (10, 20, 30):
        estimator.learn("p", request(), Usage(input=1000, output=output))
    assert estimator.output_tokens("p", MODEL, None) == 20
    assert estimator.output_tokens("p", MODEL, 4096) == 20
    assert estimator.output_tokens("p", MODEL, 5) == 5
    assert estimator.output_tokens("another project", MODEL, None) == 512


def test_r25_bytes_per_token_follow_the_model_and_count_cached_tokens():
    estimator = Estimator()
    for _ in range(500):
        estimator.learn("p", request(prompt_bytes=2000), Usage(input=400, cache_read=600, output=1))
    assert 990 <= estimator.prompt_tokens("m", 2000) <= 1010
    assert estimator.prompt_tokens("another model", 2000) == 500


def test_r25_the_mean_follows_a_change():
    estimator = Estimator()
    for output in [1000] * 200 + [10] * 200:
        estimator.learn("p", request(), Usage(input=1000, output=output))
    assert estimator.output_tokens("p", MODEL, None) <= 13


def test_r49_width_multiplies_the_hold_and_divides_what_is_learned():
    estimator = Estimator()
    wide = request(width=4)
    assert hold(estimator, wide, 4000) == 4 * hold(estimator, request(), 1000)
    estimator.learn("p", wide, Usage(input=9999, output=400))
    assert estimator.output_tokens("p", MODEL, None) == 100
    assert estimator.prompt_tokens("m", 4000) == Estimator().prompt_tokens("m", 4000)


def test_embeddings_hold_no_output_and_teach_none():
    estimator = Estimator()
    embedding = request(max_tokens=0)
    assert hold(estimator, embedding, 1000) == 1000
    estimator.learn("p", embedding, Usage(input=1000))
    assert estimator.output_tokens("p", MODEL, None) == 512


def test_r14_what_is_remembered_is_bounded():
    estimator = Estimator(entries=10)
    for number in range(1000):
        estimator.learn(f"p{number}", request(), Usage(input=1, output=1))
    assert estimator.output_tokens("p999", MODEL, None) == 1
    assert estimator.output_tokens("p0", MODEL, None) == 512
    assert len(estimator._outputs) == 10


def test_r26_likely_output_is_what_95_of_the_last_100_answers_stayed_within() -> None:
    estimator = Estimator()
    assert estimator.likely_output_tokens("p", MODEL.name) is None
    for tokens in [10_000, *range(1, 101)]:
        estimator.learn("p", request(), Usage(input=1, output=tokens))
    assert estimator.likely_output_tokens("p", MODEL.name) == 95, "the 101st is forgotten"
    assert estimator.likely_output_tokens("q", MODEL.name) is None


def test_r26_an_answer_that_a_budget_cut_says_nothing_of_how_long_answers_are() -> None:
    estimator = Estimator()
    estimator.learn("p", request(), Usage(input=1000, output=3), cut=True)
    assert estimator.likely_output_tokens("p", MODEL.name) is None
    assert estimator.output_tokens("p", MODEL, None) == 512


def test_small_max_tokens_do_not_talk_the_hold_down():
    """R20, R25, litellm#37001: forty answers of one token, by request, and the next is still held at what answers take."""
    estimator = Estimator()
    estimator.learn("p", request(), Usage(input=10, output=600))
    for _ in range(40):
        estimator.learn("p", request(max_tokens=1), Usage(input=10, output=1))
    assert estimator.output_tokens("p", MODEL, None) == 600
    estimator.learn("p", request(max_tokens=1_000), Usage(input=10, output=200))
    assert estimator.output_tokens("p", MODEL, None) == 400
    estimator.learn("p", request(max_tokens=1_000), Usage(input=10, output=1_000))
    assert estimator.output_tokens("p", MODEL, None) == 600
