"""R1 to R3: which tier a request is admitted as."""

import pytest

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.snapshot import Key, Model, Project, Reservation
from fareclass.core.tiers import Tier
from fareclass.policy.tiers import Claim, asked, check_allowed, overflow, usable

LIVE = frozenset({Tier.PRIORITY, Tier.DEFAULT, Tier.FLEX})


def key(**more: object) -> Key:
    return Key(id="key_1", project=Project(id="proj_1", name="acme"), name="app", secret=b"", **more)


def model(tiers: frozenset[Tier] = LIVE) -> Model:
    return Model(name="m", upstream_model="m", created=0, tiers=tiers)


def admit(of_key: Key, of_model: Model, word: str | None) -> None:
    check_allowed(asked(of_key, of_model, word).requested, of_key, of_model)


def refusal(word: str | None, of_key: Key | None = None, of_model: Model | None = None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        admit(of_key or key(), of_model or model(), word)
    assert caught.value.param == "service_tier"
    return caught.value


@pytest.mark.parametrize(
    ("word", "tier"),
    [("priority", Tier.PRIORITY), ("fast", Tier.PRIORITY), ("default", Tier.DEFAULT), ("flex", Tier.FLEX)],
)
def test_r1_a_word_names_its_tier(word, tier):
    assert asked(key(), model(), word) == Claim(tier, tier)


@pytest.mark.parametrize("word", [None, "auto"])
def test_r2_no_tier_and_auto_are_the_keys_default(word):
    assert asked(key(default_tier=Tier.FLEX), model(), word) == Claim(Tier.FLEX, Tier.FLEX)
    assert asked(key(), model(), word) == Claim(Tier.DEFAULT, Tier.DEFAULT)


def reservation(id: str, overflow: Tier | None, ends_us: int | None) -> Reservation:
    return Reservation(
        id=id, project="proj_1", model="m", input_tpm=1, output_tpm=1, overflow=overflow, starts_us=0, ends_us=ends_us
    )


def test_r2_auto_claims_a_floor_where_the_key_may():
    bought = (reservation("a", Tier.FLEX, None),)
    everything = model(frozenset(Tier))
    assert asked(key(), everything, "auto", bought) == Claim(Tier.DEFAULT, Tier.DEFAULT, claims=True)
    assert asked(key(), everything, None, bought) == Claim(Tier.DEFAULT, Tier.DEFAULT)
    assert not asked(key(allowed_tiers=frozenset({Tier.DEFAULT})), everything, "auto", bought).claims
    assert not asked(key(), model(), "auto", bought).claims
    for word in (None, "auto"):
        claim = asked(key(default_tier=Tier.RESERVED), everything, word, bought)
        assert claim == Claim(Tier.RESERVED, Tier.FLEX, claims=True)


def test_r3_the_overflow_of_several_is_that_of_the_one_that_ends_last():
    several = [reservation("a", Tier.FLEX, 10), reservation("b", Tier.PRIORITY, 30), reservation("c", None, 20)]
    assert overflow(key(), several) is Tier.PRIORITY
    assert overflow(key(), [*several, reservation("d", None, None)]) is None
    assert overflow(key(overflow=Tier.DEFAULT), several) is Tier.DEFAULT, "the workload's own goes first (R41)"
    assert overflow(key(overflow=None), several) is None


@pytest.mark.parametrize("word", ["standard", "standard_only", "", "FLEX", "x" * 10_000])
def test_r3_an_unknown_tier_is_refused_with_the_valid_ones(word):
    refused = refusal(word)
    assert refused.outcome is Outcome.INVALID
    assert refused.message == (
        f"`{word[:64]}` is no service tier; this request may use `auto`, `priority` (or `fast`), `default`, `flex`."
    )


@pytest.mark.parametrize(
    ("of_key", "of_model", "words"),
    [
        (key(), model(frozenset(Tier)), "may use `auto`, `priority` (or `fast`), `default`, `flex`."),
        (key(), model(frozenset({Tier.FLEX})), "may use `flex`."),
        (key(default_tier=Tier.FLEX, allowed_tiers=frozenset({Tier.FLEX})), model(), "may use `auto`, `flex`."),
        (key(allowed_tiers=frozenset({Tier.PRIORITY})), model(frozenset({Tier.FLEX})), "there is none"),
        (key(allowed_tiers=frozenset({Tier.RESERVED, Tier.BATCH})), model(frozenset(Tier)), "there is none"),
    ],
)
def test_r3_only_tiers_that_this_caller_could_send_are_named(of_key, of_model, words):
    """Neither reserved nor batch: they are refused themselves; `auto` only if the key's own default is allowed."""
    for word in ("gold", "batch"):
        assert words in refusal(word, of_key, of_model).message


@pytest.mark.parametrize("word", ["reserved", "scale"])
def test_r3_reserved_without_a_reservation(word):
    refused = refusal(word)
    assert (refused.outcome, refused.message) == (Outcome.INVALID, "Reservation not found.")


def test_r3_batch_is_told_where_it_belongs():
    refused = refusal("batch")
    assert refused.outcome is Outcome.INVALID
    assert "batch API" in refused.message


def test_r3_a_tier_that_the_key_forbids_names_both():
    refused = refusal("priority", key(allowed_tiers=frozenset({Tier.FLEX, Tier.DEFAULT})))
    assert refused.outcome is Outcome.FORBIDDEN
    assert refused.message == (
        "The service tier `priority` is not allowed for the key `app`; this request may use `auto`, `default`, `flex`."
    )


def test_r3_a_tier_that_the_model_forbids_names_both():
    refused = refusal(None, key(), model(frozenset({Tier.FLEX})))
    assert refused.outcome is Outcome.FORBIDDEN
    assert (
        refused.message == "The service tier `default` is not allowed for the model `m`; this request may use `flex`."
    )


def test_r3_a_day_after_its_end_a_reservation_is_none():
    """With nothing but the time that passes: no command needs to tell."""
    bought, everything = (reservation("a", Tier.FLEX, 1_000),), model(frozenset(Tier))
    last_us = 1_000 + 86_400_000_000 - 1
    assert asked(key(), everything, "reserved", usable(bought, last_us)).otherwise is Tier.FLEX
    with pytest.raises(Refusal, match="Reservation not found"):
        asked(key(), everything, "reserved", usable(bought, last_us + 1))
    assert len(usable((*bought, reservation("b", None, None)), last_us + 1)) == 1
