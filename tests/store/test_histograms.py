"""Histograms: small, mergeable, and less than 1 % off (R42, R43)."""

import numpy as np
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from fareclass.store import histograms
from fareclass.store.database import Store

MEASURES = ("a", "b")
VALUES = st.lists(st.integers(0, 2**40 - 1) | st.integers(0, 300), min_size=1, max_size=60)


@given(VALUES, VALUES, st.integers(0, 200))
def test_quantiles_of_merged_histograms_are_close(first: list[int], second: list[int], zeros: int) -> None:
    """R43: nearest rank, zeros included, within 1 %."""
    packed = [
        histograms.pack(*np.unique(histograms.codes(1, np.array(values)), return_counts=True))
        for values in (first, second)
    ]
    counts = histograms.of_measure(histograms.merge(packed, MEASURES), 1)
    shares = 0.01, 0.25, 0.5, 0.9, 0.99, 1
    ordered = sorted([*first, *second, *([0] * zeros)])
    true = [ordered[max(0, -(-len(ordered) * int(share * 100) // 100) - 1)] for share in shares]
    assert histograms.exact_quantiles(np.array([*first, *second]), shares, zeros) == true
    found = histograms.quantiles(counts, shares, zeros)
    assert found is not None
    for shown, value in zip(found, true, strict=True):
        assert abs(shown - value) <= value / 100
        assert shown == value or value >= 128
    assert histograms.merge([histograms.pack_counts(histograms.merge(packed, MEASURES))], MEASURES).sum() == len(
        [*first, *second]
    )


def test_nothing_has_no_quantiles() -> None:
    empty = histograms.merge([], MEASURES)
    assert histograms.quantiles(histograms.of_measure(empty, 0), [0.5]) is None
    assert histograms.exact_quantiles(np.zeros(0, np.int64), [0.5]) is None
    assert histograms.parse([]).tolist() == []


def test_sql_makes_the_same_codes(store: Store) -> None:
    """R42: in both databases; what has no value has no code, and what is too large counts as the largest."""
    edges = [number for bits in range(44) for number in (2**bits - 1, 2**bits, 2**bits + 1, 3 * 2**bits // 2)]
    value = sa.column("column1", sa.BigInteger)
    rows = sa.text(f"(VALUES {','.join(f'(CAST({edge} AS BIGINT))' for edge in edges)},(NULL)) AS given(column1)")
    if store.is_sqlite:
        rows = sa.text(f"(VALUES {','.join(f'({edge})' for edge in edges)},(NULL))")
    with store.read() as connection:
        found = connection.execute(sa.select(histograms.code(1, value)).select_from(rows)).scalars().all()
    assert found[:-1] == histograms.codes(1, np.array(edges)).tolist()
    assert found[-1] == histograms.NO_CODE
    assert max(found) < histograms.space(MEASURES)
