"""R13: how many lines of a closing batch are raised."""

from hypothesis import given
from hypothesis import strategies as st

from fareclass.policy.batching import lines_to_raise

amounts = st.floats(0, 1e6)


def test_none_while_the_window_is_long_enough():
    assert lines_to_raise(100, running=2.0, line_s=1.0, window_s=100.0) == 0
    assert lines_to_raise(100, running=2.0, line_s=1.0, window_s=99.0) == 1


def test_none_in_the_first_minutes_of_a_long_window():
    """R39: what needs less than one slot waits for what the other tiers leave, until the window is near its end."""
    assert lines_to_raise(100, running=0.0, line_s=1.0, window_s=86_400.0) == 0
    assert lines_to_raise(100, running=0.0, line_s=1.0, window_s=601.0) == 0
    assert lines_to_raise(100, running=0.0, line_s=1.0, window_s=600.0) == 1
    assert lines_to_raise(10**6, running=0.0, line_s=1.0, window_s=86_400.0) == 24


def test_as_many_as_finishing_needs():
    assert lines_to_raise(100, running=0.0, line_s=1.0, window_s=50.0) == 4
    assert lines_to_raise(100, running=3.0, line_s=1.0, window_s=50.0) == 1
    assert lines_to_raise(100, running=0.0, line_s=1.0, window_s=0.0) == 100


@given(st.integers(0, 10**6), amounts, amounts, st.floats(1e-3, 1e6))
def test_never_more_than_needed_nor_than_are_left(left: int, running: float, line_s: float, window_s: float):
    raised = lines_to_raise(left, running, line_s, window_s)
    assert 0 <= raised <= left
    if raised > 1:
        assert raised - 1 + running <= 2 * left * line_s / window_s + 1e-6 * left * line_s / window_s
