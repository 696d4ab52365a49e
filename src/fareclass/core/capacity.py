"""How much of a pool may be promised (R19), in exact integers: load is counted in 10⁻⁶ slots."""

from fareclass.core.snapshot import Capacity

MICRO = 1_000_000


def load_micro(input_tpm: int, output_tpm: int, capacity: Capacity, slots: int) -> int:
    """The load of these floors together: how many of the pool's `slots` they keep busy, in 10⁻⁶ slots, rounded up.

    Prefill and decode share one engine, so both sides add up.
    """
    work = input_tpm * capacity.output_tpm + output_tpm * capacity.input_tpm
    return -(-work * slots * MICRO // (capacity.input_tpm * capacity.output_tpm))


def fits(load: int, slots: int) -> bool:
    """Whether a load is there without a wait on so many slots: a + 2.5 √a ≤ 0.9 × slots (R19)."""
    rest = 9 * slots * MICRO // 10 - load
    return rest >= 0 and 4 * rest * rest >= 25 * load * MICRO


def max_load_micro(slots: int) -> int:
    """The largest load that fits on so many slots."""
    low, high = 0, slots * MICRO
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle, slots) else (low, middle - 1)
    return low
