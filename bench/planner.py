"""Plans on the first half of real traffic, judged on the second: against trivial plans and the best in hindsight (R44).

Prices are 1 and 4 USD per 1M input and output tokens; the fee of a reservation is 40, 58 and 75 % of what its floor, used
to the full, would cost at default: above that use it pays. Every plan is judged by what the second half then costs, in % of
all-default. *Hindsight* is the planner's own search on the second half, with nothing to be unsure of, or the best trivial
plan there if that is better. One split is one realised future, so four more are averaged below.

What the traces do not say is drawn by seed: of ServeGen the requests of each minute from each client's rate and CV,
and lengths that are missing from the client's other windows; of BurstGPT, which has hours only, the minute and the length of
each request. Seasons are synthetic, seeded data altogether, and are said to be. `python -m bench planner FILE…` takes other
traces of the same kinds: CSV or JSON lines of requests, hourly CSV, or a ServeGen `…_arrivals.parquet`.
"""

import csv
import sys
from collections.abc import Callable
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.loads import TRACES
from bench.machine import heading
from fareclass.config_schema import MULTIPLIERS
from fareclass.core.snapshot import PriceBook
from fareclass.core.tiers import Tier
from fareclass.core.usage import KINDS
from fareclass.metering.pricing import compile_book
from fareclass.planner.cost import Floor, bill, bills
from fareclass.planner.demand import Demand, from_arrivals
from fareclass.planner.outlook import Outlook, outlook
from fareclass.planner.plan import Subject, at_percentile, plan
from fareclass.planner.search import Expectation
from fareclass.planner.trace import read_trace

BREAK_EVENS = (0.40, 0.58, 0.75)
SPLITS = (1 / 2, 3 / 5, 2 / 3, 3 / 4, 4 / 5)
SEED = 1
PRICES = Decimal(1), Decimal(4)
INPUT_MEAN, OUTPUT_MEAN, SIGMA = 620, 250, 1.0
"""Of a BurstGPT request, lognormal."""
CERTAIN = 1e-3
DAY = 1_440
FILES = (
    TRACES / "azure2023_code.csv.gz",
    TRACES / "servegen_language_m-mid_week1_arrivals.parquet",
    TRACES / "burstgpt1_hourly_days0-29.csv",
)


class Judged(NamedTuple):
    """Costs over the second half, as shares of all-default."""

    priority: float
    p50: float
    p90: float
    ours: float
    hindsight: float

    @property
    def trivial(self) -> float:
        return min(1.0, self.priority, self.p50, self.p90)

    @property
    def goal(self) -> float:
        """Where the best trivial plan loses 5 % or more to hindsight, half of that won back; else 1 % more than it."""
        loss = self.trivial - self.hindsight
        return self.trivial - loss / 2 if self.trivial >= 1.05 * self.hindsight else 1.01 * self.trivial


def book(break_even: float) -> PriceBook:
    """Prices whose reservations pay above this use."""
    cheap, dear = PRICES
    fees = [Decimal(str(break_even)) * price * 60 / 1_000 for price in PRICES]
    kinds = [cheap, cheap * Decimal("1.25"), cheap * 2, cheap / 10, dear]
    return compile_book("bench", 1, kinds, MULTIPLIERS, fees)


def judge(first: Demand, second: Demand, prices: PriceBook) -> Judged:
    """Plan on the one, pay on the other."""
    quantiles = [at_percentile(first.per_minute(), share) for share in (50, 90)]
    ours = Expectation(outlook(first, prices), prices).choose().floor
    best = Expectation(Outlook(second, CERTAIN, CERTAIN, 1.0), prices).choose().floor
    alone = second.pico(prices, Tier.DEFAULT)
    p50, p90, mine, hindsight = (one.pico / alone for one in bills(second, prices, [*quantiles, ours, best]))
    return Judged(second.pico(prices, Tier.PRIORITY) / alone, p50, p90, mine, min(1.0, p50, p90, mine, hindsight))


def load(path: Path) -> Demand:
    """A trace of any of the three kinds as demand."""
    if path.suffix == ".parquet":
        return servegen(path)
    if path.suffix == ".csv" and "hour" in path.open().readline():
        return burstgpt(path)
    demands = from_arrivals(read_trace(path))
    if len(demands) != 1:
        sys.exit(f"{path}: {len(demands)} projects and models; this bench takes one at a time")
    return next(iter(demands.values()))


def servegen(path: Path) -> Demand:
    """Requests of each minute by each client's rate and CV in ten minutes, times its mean lengths there."""
    from pyarrow import parquet  # noqa: PLC0415 - of the bench extra alone

    draw = np.random.default_rng(SEED)
    rates = parquet.read_table(path).to_pylist()
    lengths = Lengths(parquet.read_table(str(path).replace("_arrivals", "_lengths")).to_pylist(), rates)
    minutes = max(row["window_s"] for row in rates) // 60 + 10
    tokens, requests = np.zeros((2, minutes)), np.zeros(minutes)
    for row in rates:
        if row["rate"]:
            spread = max(float(row["cv"] or 1.0), 0.1) ** 2
            count = draw.gamma(row["rate"] * 60 / spread, spread, 10)
            at = slice(row["window_s"] // 60, row["window_s"] // 60 + 10)
            tokens[:, at] += np.outer(lengths.of(row["client"], row["window_s"]), count)
            requests[at] += count
    return _demand(tokens, requests)


class Lengths:
    """Mean input and output of a client in six hours; else its mean over all, else everybody's."""

    def __init__(self, rows: list[dict[str, float]], rates: list[dict[str, float]]) -> None:
        self._known = {
            (row["client"], row["window_s"]): np.array([row["input_tokens_mean"], row["output_tokens_mean"]])
            for row in rows
            if row["input_tokens_mean"] is not None
        }
        self._of: dict[float, NDArray[np.float64]] = {}
        for client in {client for client, _ in self._known}:
            self._of[client] = np.mean([mean for (one, _), mean in self._known.items() if one == client], axis=0)
        heavy: dict[float, float] = {}
        for row in rates:
            heavy[row["client"]] = heavy.get(row["client"], 0.0) + (row["rate"] or 0.0)
        shares = np.array([heavy.get(client, 0.0) for client in self._of])
        self._all = shares @ np.array(list(self._of.values())) / shares.sum()

    def of(self, client: float, window_s: int) -> NDArray[np.float64]:
        found = self._known.get((client, window_s // 21_600 * 21_600))
        return self._of.get(client, self._all) if found is None else found


def burstgpt(path: Path) -> Demand:
    """Hours of requests, each put into a minute and given a length."""
    draw = np.random.default_rng(SEED)
    with path.open() as file:
        hours = {int(row["hour"]): int(row["requests"]) for row in csv.DictReader(file)}
    minutes = (max(hours) + 1) * 60
    tokens, requests = np.zeros((2, minutes)), np.zeros(minutes)
    for hour, count in hours.items():
        at = hour * 60 + draw.integers(0, 60, count)
        for side, mean in enumerate((INPUT_MEAN, OUTPUT_MEAN)):
            np.add.at(tokens[side], at, draw.lognormal(np.log(mean) - SIGMA**2 / 2, SIGMA, count))
        np.add.at(requests, at, 1)
    return _demand(tokens, requests)


def _demand(tokens: NDArray[np.float64], requests: NDArray[np.float64]) -> Demand:
    kinds = np.zeros((len(KINDS), len(requests)), np.int64)
    kinds[0], kinds[-1] = np.rint(tokens)
    return Demand(0, 60, kinds, np.rint(requests).astype(np.int64))


def season(seed: int) -> tuple[Demand, Demand]:
    """Two years of a product with a season, in minutes: the last three weeks of its quiet time, and the year after.

    Ten weeks are six times as busy, days have a curve, weekends are quiet; a year is 20 % busier than the one before.
    """
    draw = np.random.default_rng(seed)
    day = np.arange(3 * 364)
    busy = 1 + 5 * ((day % 364 >= 140) & (day % 364 < 210))
    level = busy * np.where(day % 7 < 5, 1.0, 0.4) * 1.2 ** (day // 364) * np.exp(draw.normal(0, 0.1, len(day)))
    hours = 1 + 0.8 * np.sin(2 * np.pi * (np.arange(DAY) / DAY - 0.3))
    count = draw.poisson(20 * np.outer(level, hours).ravel())
    past = _demand(np.array([count * 1_000.0, count * 200.0]), count.astype(np.float64))
    return past.part(0, 728 * DAY), past.part(728 * DAY, 1_092 * DAY)


def split(demand: Demand, share: float) -> tuple[Demand, Demand]:
    """The first part and the rest; parts of long traces are whole hours."""
    at = int(demand.minutes * share)
    at -= at % 60 if demand.minutes > 2 * DAY else 0
    return demand.part(0, at), demand.part(at, demand.minutes)


def show_traces(paths: list[Path]) -> None:
    demands = {path.name[:34]: load(path) for path in paths}
    print(f"{'trace':34} {'pays':>5} {'priority':>9} {'P50':>7} {'P90':>7} {'ours':>7} {'hindsight':>10} {'goal':>7}")
    for name, demand in demands.items():
        first, second = split(demand, SPLITS[0])
        for break_even in BREAK_EVENS:
            one = judge(first, second, book(break_even))
            met = "met" if one.ours <= one.goal + 1e-9 else "missed"
            shares = (one.priority, one.p50, one.p90, one.ours, one.hindsight, one.goal)
            cells = [f"{share:.1%}" for share in shares]
            print(
                f"{name:34} {break_even:>5.0%} {cells[0]:>9} {cells[1]:>7} {cells[2]:>7} {cells[3]:>7} "
                f"{cells[4]:>10} {cells[5]:>7} {met}",
                flush=True,
            )
    show_splits(demands)


def show_splits(demands: dict[str, Demand]) -> None:
    """One plan of a kind for every split and price: the best of them may not be picked afterwards."""
    print("\nCost beyond hindsight, of all-default: mean (worst) of " + ", ".join(f"{share:.0%}" for share in SPLITS))
    print(f"{'trace':34} {'default':>16} {'P50':>16} {'P90':>16} {'ours':>16}")
    beyond: dict[str, list[list[float]]] = {name: [] for name in demands}
    for name, demand in demands.items():
        for share, break_even in product(SPLITS, BREAK_EVENS):
            one = judge(*split(demand, share), book(break_even))
            beyond[name].append([cost - one.hindsight for cost in (1.0, one.p50, one.p90, one.ours)])
    if len(beyond) > 1:
        beyond["all"] = [row for rows in beyond.values() for row in rows]
    for name, rows in beyond.items():
        cells = [f"{np.mean(column):.1%} ({max(column):.1%})" for column in zip(*rows, strict=True)]
        print(f"{name:34} {cells[0]:>16} {cells[1]:>16} {cells[2]:>16} {cells[3]:>16}")


def show_seasons(seeds: Callable[[], range] = lambda: range(1, 4)) -> None:
    """The year's reservation by last year's shape against one for all the year, on synthetic data."""
    print("\nSeasons (synthetic, seeded): the third year, planned from two years of weeks and the last 28 days")
    print(f"{'seed':>4} {'pays':>5} {'P50':>7} {'P90':>7} {'season':>7}  weeks and input TPM")
    for seed in seeds():
        past, year = season(seed)
        minutes = np.sum(past.per_minute(), axis=0)
        weeks = minutes.reshape(-1, 7 * DAY).sum(1)
        recent = past.part(past.minutes - 28 * DAY, past.minutes)
        for break_even in BREAK_EVENS:
            prices = book(break_even)
            row = plan(Subject("synthetic", "synthetic", "bench", recent, prices, weeks=weeks, season=True))
            assert row.season is not None
            alone = year.pico(prices, Tier.DEFAULT)
            floors = [at_percentile(recent.per_minute(), share) for share in (50, 90)]
            trivial = [one.pico for one in bills(year, prices, floors)]
            mine, spans = alone, []
            for one in row.season.reserves:
                first, last = 0, year.minutes
                if one.starts_at is not None and one.ends_at is not None:
                    first, last = (int((at - row.end).total_seconds() // 60) for at in (one.starts_at, one.ends_at))
                inside = year.part(first, last)
                floor = Floor(one.input_tpm, one.output_tpm)
                mine += bill(inside, prices, floor).pico - inside.pico(prices, Tier.DEFAULT)
                spans.append(f"{first // DAY // 7}-{last // DAY // 7}: {one.input_tpm:,}")
            when = ", ".join(spans)
            cells = [f"{one / alone:.1%}" for one in (*trivial, mine)]
            print(f"{seed:>4} {break_even:>5.0%} {cells[0]:>7} {cells[1]:>7} {cells[2]:>7}  {when}", flush=True)


def main() -> None:
    print(heading())
    given = [Path(name) for name in sys.argv[1:]]
    paths = given or [path for path in FILES if path.exists()]
    for path in FILES if not given else ():
        if not path.exists():
            print(f"{path} is absent: left out")
    show_traces(paths)
    if not given:
        show_seasons()


if __name__ == "__main__":
    main()
