"""What a route trades: quality, speed and cost of several rules over three models, against each model alone (R45).

Three simulated models: small is fast and cheap, large is good, slow and dear, middle is between them. The gateway's own
walk, scheduler, price books and engines run on a virtual clock, without HTTP and disk, so that a run says the same
anywhere. The qualities are declared, not measured: what a rule does with them is shown, not how good an answer is.

Then the pool that a rule prefers fails in the middle of a run; and load rises until the preferred pool can't keep the
rule's limit.
"""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from bench.machine import heading
from bench.measure import percentile
from bench.virtual import KINDS, OUTPUT_TOKENS, PROMPT_TOKENS, SEED, SLOTS, Caller, World, virtual
from fareclass.core.snapshot import RouteRule

RATE = 2.5
SECONDS = 120
USD = 10**12
PER_1M = 10**6
RAMP = (2.0, 5.0, 8.0, 10.0)
RAMP_MS = 1_000
RULES = {
    "cheapest": RouteRule(order_by="cost"),
    "cheapest, quality ≥ 0.7": RouteRule(order_by="cost", quality_min=0.7),
    "fastest": RouteRule(order_by="latency"),
    "fastest, quality ≥ 0.6": RouteRule(order_by="latency", quality_min=0.6),
    "best": RouteRule(order_by="quality"),
    "best, ≤ 2 USD per 1M": RouteRule(order_by="quality", pico_per_1m_max=2 * USD),
    "best, p95 TTFT ≤ 150 ms": RouteRule(order_by="quality", ttft_p95_ms_max=150),
}


class Seen(NamedTuple):
    """One run: the three axes, who served, and how many did not get a whole answer."""

    quality: float
    ttft_p95_s: float
    tokens_per_s: float
    usd_per_1m: float
    shares: dict[str, float]
    refused: int
    broken: int

    @classmethod
    def of(cls, callers: Sequence[Caller]) -> "Seen":
        whole = [each for each in callers if each.refusal is None]
        entries = [each.entry for each in whole if each.entry is not None]
        tokens = sum(entry.usage.prompt + entry.usage.output for entry in entries)
        rates = [
            (entry.usage.output - 1) / (each.last_s - each.first_s)
            for each, entry in zip(whole, entries, strict=True)
            if entry.usage.output > 1 and each.last_s > each.first_s
        ]
        served = Counter(each.model for each in whole)
        return cls(
            quality=sum(KINDS[each.model].quality for each in whole) / max(1, len(whole)),
            ttft_p95_s=percentile([each.ttft_s for each in whole], 0.95),
            tokens_per_s=percentile(rates, 0.5),
            usd_per_1m=sum(entry.cost_pico for entry in entries) / USD * PER_1M / max(1, tokens),
            shares={name: served[name] / max(1, len(whole)) for name in KINDS},
            refused=sum(1 for each in callers if each.refusal is not None and not each.started),
            broken=sum(1 for each in callers if each.refusal is not None and each.started),
        )


class Bound(NamedTuple):
    """What must be so, what was seen, and whether that is within."""

    what: str
    seen: str
    met: bool


async def trade(model: str, seconds: float) -> Seen:
    """One rule, or one model alone, at the usual load."""
    async with World(RULES) as world:
        return Seen.of(await world.play(model, [(RATE, seconds)]))


async def failing(seconds: float) -> list[Seen]:
    """The preferred pool of `cheapest, quality ≥ 0.7` fails for good in the middle of a run: before and after that."""
    async with World(RULES) as world:
        at_s = seconds / 2
        playing = asyncio.create_task(world.play("cheapest, quality ≥ 0.7", [(RATE, seconds)]))
        await asyncio.sleep(at_s)
        await world.engines["middle"].close()
        callers = await playing
    return [Seen.of([each for each in callers if (each.arrived_s >= at_s) is late]) for late in (False, True)]


async def rising(limit_ms: int | None, seconds: float) -> list[Seen]:
    """Load that rises step by step, with a limit on the TTFT and without."""
    rule = RouteRule(order_by="cost", quality_min=0.7, ttft_p95_ms_max=limit_ms)
    async with World({"ramp": rule}) as world:
        return [Seen.of(await world.play("ramp", [(rate, seconds)])) for rate in RAMP]


def bounds_of_trade(seen: Mapping[str, Seen]) -> list[Bound]:
    """Each rule lands on the right side of the models alone."""
    small, middle, large = (seen[name] for name in KINDS)
    good, fast = seen["cheapest, quality ≥ 0.7"], seen["fastest, quality ≥ 0.6"]
    capped, quick = seen["best, ≤ 2 USD per 1M"], seen["best, p95 TTFT ≤ 150 ms"]
    least, first = min(each.usd_per_1m for each in (small, middle, large)), small.ttft_p95_s
    return [
        _most("cheapest: cost × the cheapest model alone", seen["cheapest"].usd_per_1m / least, 1.02),
        _most("cheapest, quality ≥ 0.7: cost × large alone", good.usd_per_1m / large.usd_per_1m, 0.5),
        _most("cheapest, quality ≥ 0.7: share of worse models", good.shares["small"], 0),
        _most("fastest: p95 TTFT × the fastest model alone", seen["fastest"].ttft_p95_s / first, 1.1),
        _most("fastest, quality ≥ 0.6: p95 TTFT × large alone", fast.ttft_p95_s / large.ttft_p95_s, 0.6),
        _most("fastest, quality ≥ 0.6: share of worse models", fast.shares["small"], 0),
        _least("best: mean quality", seen["best"].quality, 0.9),
        _least("best, ≤ 2 USD per 1M: mean quality", capped.quality, 0.7),
        _most("best, ≤ 2 USD per 1M: share of dearer models", capped.shares["large"], 0),
        _most("best, ≤ 2 USD per 1M: USD per 1M", capped.usd_per_1m, 2),
        _most("best, p95 TTFT ≤ 150 ms: p95 TTFT in ms", quick.ttft_p95_s * 1000, 150),
        _least("best, p95 TTFT ≤ 150 ms: mean quality", quick.quality, 0.6),
        _most("refused in any run", max(each.refused + each.broken for each in seen.values()), 0),
    ]


def bounds_of_failure(before: Seen, after: Seen) -> list[Bound]:
    """Nobody is refused; only streams that had begun are broken off."""
    return [
        _most("pool fails: refused", before.refused + after.refused, 0),
        _least("pool fails: share that the next model serves from then on", after.shares["large"], 0.99),
        _most("pool fails: streams broken off that began after", after.broken, 0),
    ]


def bounds_of_ramp(limited: Sequence[Seen], free: Sequence[Seen]) -> list[Bound]:
    """Traffic moves when the limit breaks, and not before."""
    shares = [each.shares["large"] for each in limited]
    worst = max(each.ttft_p95_s for each in limited) * 1000
    return [
        _most(f"load rises: share of the next model at {RAMP[0]:g}/s", shares[0], 0.02),
        _least(f"load rises: share of the next model at {RAMP[-1]:g}/s", shares[-1], 0.1),
        _least("load rises: that share never falls, by step", min(after - one for one, after in pairwise(shares)), 0),
        _most("load rises: worst p95 TTFT × the limit", worst / RAMP_MS, 1.25),
        _least("load rises: the same without the limit", max(each.ttft_p95_s for each in free) * 1000 / RAMP_MS, 2),
        _most("load rises: refused", sum(each.refused + each.broken for each in limited), 0),
    ]


def _most(what: str, seen: float, bound: float) -> Bound:
    return Bound(f"{what} ≤ {bound:g}", f"{seen:.3g}", seen <= bound)


def _least(what: str, seen: float, bound: float) -> Bound:
    return Bound(f"{what} ≥ {bound:g}", f"{seen:.3g}", seen >= bound - 1e-9)


def show(title: str, rows: Mapping[str, Seen]) -> Table:
    table = Table("", "quality", "p95 TTFT ms", "tokens/s", "USD per 1M", *KINDS, "refused", "broken", title=title)
    for name, seen in rows.items():
        numbers = (
            f"{seen.quality:.2f}",
            f"{seen.ttft_p95_s * 1000:.0f}",
            f"{seen.tokens_per_s:.0f}",
            f"{seen.usd_per_1m:.2f}",
        )
        table.add_row(
            name, *numbers, *(f"{share:.0%}" for share in seen.shares.values()), str(seen.refused), str(seen.broken)
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of each run, in virtual time")
    seconds = parser.parse_args().seconds
    console = Console(width=130)
    console.print(heading())
    console.print(
        f"{RATE:g} requests a second for {seconds} virtual seconds, {PROMPT_TOKENS} tokens in and {OUTPUT_TOKENS} out on average; "
        f"each model one replica of {SLOTS} slots, alone in the first three rows. Seed {SEED}."
    )
    seen = {name: virtual(trade(name, seconds)) for name in (*KINDS, *RULES)}
    console.print(show("The trade", seen))
    before, after = virtual(failing(seconds))
    console.print(show("cheapest, quality ≥ 0.7: the middle model's pool fails", {"before": before, "after": after}))
    limited, free = virtual(rising(RAMP_MS, seconds / 2)), virtual(rising(None, seconds / 2))
    steps = {f"{rate:g}/s, p95 TTFT ≤ {RAMP_MS} ms": one for rate, one in zip(RAMP, limited, strict=True)}
    steps |= {f"{rate:g}/s, no limit": one for rate, one in zip(RAMP, free, strict=True)}
    console.print(show("cheapest, quality ≥ 0.7: load rises", steps))
    bounds = [*bounds_of_trade(seen), *bounds_of_failure(before, after), *bounds_of_ramp(limited, free)]
    table = Table("must show", "measured", "", title="Bounds")
    for bound in bounds:
        table.add_row(bound.what, bound.seen, "met" if bound.met else "missed")
    console.print(table)
    sys.exit(not all(bound.met for bound in bounds))


if __name__ == "__main__":
    main()
