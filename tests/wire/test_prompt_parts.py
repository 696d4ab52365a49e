"""How many pieces a prompt may have (R14)."""

import pytest

from fareclass.core.outcomes import Outcome, Refusal
from tests.wire.test_openai_parse import chat


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "a"}] * 10_001,
        [{"role": "user", "content": [{"type": "text", "text": "a"}] * 10_000}],
    ],
)
def test_a_prompt_of_very_many_pieces_is_refused(messages):
    """One request must not hold up everybody's streams for seconds (R14)."""
    with pytest.raises(Refusal) as refused:
        chat(messages=messages)
    assert (refused.value.outcome, refused.value.param) == (Outcome.INVALID, "messages")
