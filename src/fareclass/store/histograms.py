"""Histograms of whole numbers, less than 1 % off: exact below 128, then 64 buckets to each doubling.

Several measures share one histogram: a code is the place of the measure and the bucket of the value. SQL makes codes,
numpy counts them, and packed counts are merged by laying them one behind the other.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import ColumnElement

Counts = NDArray[np.int64]
_EXACT_BITS = 7
_STEPS = 1 << (_EXACT_BITS - 1)
_TOP_BITS = 40
"""Larger values count as the largest: 12 days in microseconds."""
BUCKETS = _STEPS * (_TOP_BITS - _EXACT_BITS + 2)
NO_CODE = 0
"""Where a measure has no value."""
_PAIR = np.dtype([("code", "<u2"), ("count", "<u4")])
_MERGE = 256


def space(measures: Sequence[str]) -> int:
    """How many codes there are."""
    return 1 + BUCKETS * len(measures)


def code(place: int, value: ColumnElement[Any]) -> ColumnElement[Any]:
    """In SQL: the code of a value, which is not negative, of the measure at this place; NULL has none."""
    return sa.case((value.is_(None), NO_CODE), else_=_bucket(value, 0, _TOP_BITS - _EXACT_BITS) + _first(place))


def codes(place: int, values: Counts) -> Counts:
    """The same in numpy."""
    values = np.minimum(values, (1 << _TOP_BITS) - 1)
    bits = np.frexp(values.astype(np.float64))[1]
    shift = np.maximum(bits - _EXACT_BITS, 0).astype(np.int64)
    found: Counts = (values >> shift) + shift * _STEPS + _first(place)
    return found


def parse(texts: Iterable[str]) -> Counts:
    """Codes out of texts in which commas part them."""
    text = ",".join(texts)
    return np.fromstring(text, dtype=np.int64, sep=",") if text else np.zeros(0, np.int64)


def pack(found: Counts, counts: Counts) -> bytes:
    """Codes in order, and how often each is there."""
    kept = found != NO_CODE
    packed = np.empty(int(kept.sum()), _PAIR)
    packed["code"], packed["count"] = found[kept], counts[kept]
    return packed.tobytes()


def pack_groups(groups: Counts, found: Counts, measures: Sequence[str]) -> dict[int, bytes]:
    """A packed histogram for each group that has any, out of codes that are each of a group."""
    size = space(measures)
    keys, counts = np.unique(groups * size + found, return_counts=True)
    owners, found = np.divmod(keys, size)
    owners = owners[found != NO_CODE]
    packed = pack(found, counts)
    edges = np.flatnonzero(np.diff(owners, prepend=-1, append=-1)).tolist()
    width = _PAIR.itemsize
    return {int(owners[first]): packed[first * width : last * width] for first, last in pairwise(edges)}


def pack_counts(counts: Counts) -> bytes:
    """Counts of every code."""
    found = np.flatnonzero(counts)
    return pack(found, counts[found])


def merge(packed: Iterable[bytes], measures: Sequence[str]) -> Counts:
    """Counts of every code in all of them together."""
    pairs = np.frombuffer(b"".join(packed), _PAIR)
    counts = np.bincount(pairs["code"], weights=pairs["count"], minlength=space(measures))
    return counts.astype(np.int64)


class Pile:
    """Packed histograms of one group, merged whenever there are `_MERGE` of them: so it stays small."""

    def __init__(self, measures: Sequence[str]) -> None:
        self._measures = measures
        self._packed: list[bytes] = []

    def add(self, packed: bytes) -> None:
        self._packed.append(packed)
        if len(self._packed) >= _MERGE:
            self._packed = [self.packed()]

    def counts(self) -> Counts:
        """Of every code, in all of them together."""
        return merge(self._packed, self._measures)

    def packed(self) -> bytes:
        return pack_counts(self.counts())


def of_measure(counts: Counts, place: int) -> Counts:
    """Counts of the buckets of one measure."""
    return counts[_first(place) : _first(place) + BUCKETS]


def quantiles(counts: Counts, shares: Sequence[float], zeros: int = 0) -> list[float] | None:
    """The value below or at which each share of all values lies (nearest rank); None if there is none.

    `zeros` are values of 0 that were not counted.
    """
    reached = np.cumsum(counts) + zeros
    if not reached[-1]:
        return None
    ranks = [max(1, int(np.ceil(share * int(reached[-1]) - 1e-9))) for share in shares]
    return [0.0 if rank <= zeros else _middle(int(np.searchsorted(reached, rank))) for rank in ranks]


def exact_quantiles(values: Counts, shares: Sequence[float], zeros: int = 0) -> list[int] | None:
    """The same out of the values themselves."""
    total = len(values) + zeros
    if not total:
        return None
    ordered = np.sort(values)
    ranks = [max(1, int(np.ceil(share * total - 1e-9))) for share in shares]
    return [0 if rank <= zeros else int(ordered[rank - zeros - 1]) for rank in ranks]


def _middle(bucket: int) -> float:
    """What a value in this bucket is taken for."""
    shift = max(0, bucket // _STEPS - 1)
    least = (bucket - shift * _STEPS) << shift
    return least + ((1 << shift) - 1) / 2


def _first(place: int) -> int:
    return NO_CODE + 1 + place * BUCKETS


def _bucket(value: ColumnElement[Any], low: int, high: int) -> ColumnElement[Any]:
    """A bisection: the value has from `low` to `high` bits more than are kept."""
    if low == high:
        top = high == _TOP_BITS - _EXACT_BITS
        kept = sa.case((value < _number(1 << _TOP_BITS), value), else_=_number((1 << _TOP_BITS) - 1)) if top else value
        return kept.bitwise_rshift(_number(low)) + _number(low * _STEPS) if low else value
    middle = (low + high) // 2
    less = value < _number(1 << (middle + _EXACT_BITS))
    return sa.case((less, _bucket(value, low, middle)), else_=_bucket(value, middle + 1, high))


def _number(number: int) -> ColumnElement[Any]:
    """In the text of the statement: there are too many of them to be bound."""
    return sa.literal_column(str(number), sa.BigInteger if number >> 31 else sa.Integer)
