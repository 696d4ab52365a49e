"""Demands with known shapes, and prices with a known break-even."""

from decimal import Decimal

import numpy as np
from numpy.typing import ArrayLike

from fareclass.config_schema import MULTIPLIERS
from fareclass.core.snapshot import PriceBook
from fareclass.core.usage import KINDS
from fareclass.metering.pricing import compile_book
from fareclass.planner.demand import Demand

DAY = 1_440
MONDAY_US = 4 * 86_400 * 1_000_000
"""The first Monday of 1970."""


def book(break_even: str = "0.58") -> PriceBook:
    """1 USD per 1M tokens of prompts, 4 of answers; reserving pays above this use."""
    kinds = [Decimal(1), Decimal("1.25"), Decimal(2), Decimal("0.1"), Decimal(4)]
    fees = [Decimal(break_even) * price * 60 / 1_000 for price in (kinds[0], kinds[-1])]
    return compile_book("m", 1, kinds, MULTIPLIERS, fees)


def demand(inputs: ArrayLike, outputs: ArrayLike | None = None, step_s: int = 60) -> Demand:
    """These tokens in each step, from a Monday on; a request for each 100 of input, answers a fifth of it."""
    kinds = np.zeros((len(KINDS), np.size(inputs)), np.int64)
    kinds[0] = np.asarray(inputs)
    kinds[-1] = kinds[0] // 5 if outputs is None else np.asarray(outputs)
    return Demand(MONDAY_US, step_s, kinds, kinds[0] // 100)
