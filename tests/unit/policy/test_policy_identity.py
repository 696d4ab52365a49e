"""R51: whose request it is."""

import pytest

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.snapshot import Key, Project, Snapshot
from fareclass.core.tokens import token
from fareclass.policy.identity import _NOBODY, authenticate

SECRET = token("key_" + "a" * 24, "z" * 52).encode()
KEY = Key(id="key_" + "a" * 24, project=Project(id="proj_1", name="acme"), name="app", secret=SECRET)
SNAPSHOT = Snapshot(projects={}, keys={KEY.id: KEY}, models={}, quotas={}, books={})


def test_a_keys_own_token_proves_it():
    assert authenticate(SNAPSHOT, SECRET) is KEY


@pytest.mark.parametrize(
    "bad",
    [
        SECRET[:-1],
        SECRET + b"z",
        SECRET[:-1] + b"y",
        SECRET.replace(b"aaa", b"aab"),
        b"",
        b"sk-123",
        b"\xff\x00",
        _NOBODY,
    ],
)
def test_r51_any_other_token_is_refused_in_the_same_words(bad):
    with pytest.raises(Refusal) as caught:
        authenticate(SNAPSHOT, bad)
    assert caught.value.outcome is Outcome.UNAUTHENTICATED
    assert caught.value.message.startswith("The API key is wrong or has been revoked.")


def test_the_admin_key_is_told_where_it_belongs():
    with pytest.raises(
        Refusal, match=r"^An admin key is for the control plane alone\. Ask .* for a key of your project"
    ):
        authenticate(SNAPSHOT, token("admin", "z" * 52).encode())


def test_no_token_says_how_to_send_one():
    with pytest.raises(Refusal, match="Authorization: Bearer"):
        authenticate(SNAPSHOT, None)


def test_r51_an_unknown_id_is_compared_at_the_length_of_a_real_token():
    assert len(_NOBODY) == len(SECRET)
