"""R47, R50: what of a request goes upstream."""

import pytest

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Key, Model, Project
from fareclass.core.tiers import Tier
from fareclass.policy.fields import OWNED, check_media, upstream_fields

KEY = Key(id="k", project=Project(id="p", name="p"), name="k", secret=b"fc_k_x")


def request(body: dict, extra: dict) -> Request:
    return Request(
        id="r", caller_id="", endpoint="chat.completions", path="/chat/completions", key=KEY, model="m", tier_word=None,
        stream=False, body=body, extra=extra, max_tokens=None, width=1, size_bytes=1, prompt_bytes=1, continuable=True,
        constrained=False, stop=(), media_hosts=(), traceparent=None, arrived_s=0.0, arrived_us=0,
    )  # fmt: skip


def model(pass_fields: set[str] = frozenset(), media_domains: set[str] = frozenset()) -> Model:
    return Model(
        name="m", upstream_model="m", created=0, tiers=frozenset(Tier),
        pass_fields=frozenset(pass_fields), media_domains=frozenset(media_domains),
    )  # fmt: skip


def test_r50_what_the_api_knows_passes_untouched():
    body = {"model": "m", "messages": [], "tools": [{"type": "function"}], "user": "u", "safety_identifier": "s"}
    upstream = upstream_fields(request(body, {}), model())
    assert upstream.body is body
    assert upstream.dropped == ()


def test_r50_other_fields_pass_only_if_the_model_says_so():
    upstream = upstream_fields(request({"model": "m"}, {"top_k": 5, "min_p": 0.1}), model({"top_k"}))
    assert upstream.body == {"model": "m", "top_k": 5}
    assert upstream.dropped == ("min_p",)


@pytest.mark.parametrize("field", sorted(OWNED))
def test_r50_the_gateways_own_fields_never_pass(field):
    upstream = upstream_fields(request({"model": "m"}, {field: 1}), model({field}))
    assert upstream.body == {"model": "m"}
    assert upstream.dropped == (field,)


def test_r31_what_would_keep_things_upstream_is_withheld():
    body = {"model": "m", "store": True, "metadata": {"a": "b"}, "prompt_cache_key": "k"}
    upstream = upstream_fields(request(body, {}), model())
    assert upstream.body == {"model": "m"}
    assert upstream.dropped == ("store", "metadata", "prompt_cache_key")


@pytest.mark.parametrize("host", ["img.example.com", "a.img.example.com"])
def test_r47_a_listed_domain_and_what_is_below_it(host):
    check_media([host], model(media_domains={"img.example.com"}))


@pytest.mark.parametrize(
    "host",
    ["example.com", "evilimg.example.com", "img.example.com.evil.net", "127.0.0.1", "localhost", "169.254.169.254"],
)
def test_r47_any_other_host_is_refused_by_name(host):
    with pytest.raises(Refusal) as caught:
        check_media(["img.example.com", host], model(media_domains={"img.example.com"}))
    assert caught.value.outcome is Outcome.INVALID
    assert f"`{host}`" in caught.value.message


@pytest.mark.parametrize("host", ["10.0.0.1", "1.0x7f", "x.1"])
def test_r47_a_number_is_never_below_a_domain(host):
    with pytest.raises(Refusal):
        check_media([host], model(media_domains={host.partition(".")[2]}))
    check_media([host], model(media_domains={host}))
