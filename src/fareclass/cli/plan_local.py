"""Plans for a trace file, made on this machine: nothing of it goes to a gateway."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from fareclass.config import ConfigError, Price, load
from fareclass.config_schema import MULTIPLIERS
from fareclass.core.snapshot import PriceBook
from fareclass.metering.pricing import PriceError, compile_book
from fareclass.planner.demand import US, Demand, DemandError, from_arrivals
from fareclass.planner.plan import Subject, plan
from fareclass.planner.pools import Pool, pools_of
from fareclass.planner.trace import Arrival, TraceError, read_trace
from fareclass.planner.waits import Replayed, sample_size

_KINDS = ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read")
_RESERVED = ("reserved_input", "reserved_output")


def plan_trace(
    trace: Path, project: str | None, model: str | None, config: Path | None, prices: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A row for each project and model of the trace, as the gateway answers them. Ends the program on a mistake."""
    if (config is None) == (not prices):
        raise typer.BadParameter(
            "a trace needs prices: give either --config or --price", param_hint="'--config'/'--price'"
        )
    try:
        pools = pools_of(load(config)) if config is not None else {}
        books = {name: pool.book for name, pool in pools.items()}
        own = _book(prices) if prices else None
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("Reading the trace", total=None)
            demands = from_arrivals(one for one in read_trace(trace) if project in (None, one.project))
            progress.update(task, description="Planning", total=len(demands), completed=0)
            rows = []
            for (owner, name), demand in demands.items():
                book = own or _of(books, model or name)
                pool = pools.get(book.model)
                if demand.kinds.any():
                    rows.append(_row(trace, owner, demand, book, pool, sample_size(len(demands))))
                progress.advance(task)
    except (ConfigError, TraceError, DemandError, PriceError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    built: list[dict[str, Any]] = msgspec.to_builtins(rows)
    return built


def _row(trace: Path, owner: str, demand: Demand, book: PriceBook, pool: Pool | None, size: int) -> Any:
    subject = Subject(project=owner, project_name=owner, model=book.model, demand=demand, book=book)
    if pool is None or not size:
        return plan(subject)
    return plan(subject, Replayed(pool, owner, _sample(trace, demand, size)))


def _sample(trace: Path, demand: Demand, size: int) -> list[Arrival]:
    """The trace's requests from a minute before the busiest on."""
    busiest = int(np.sum(demand.per_minute(), axis=0).argmax())
    from_us = demand.start_us + max(0, busiest - 1) * 60 * US
    return list(islice((one for one in read_trace(trace) if one.at_us >= from_us), size))


def _of(books: Mapping[str, PriceBook], name: str) -> PriceBook:
    if name in books:
        return books[name]
    if not name and len(books) == 1:
        return next(iter(books.values()))
    known = ", ".join(books) or "none whose speed is known"
    raise DemandError(
        f"the configuration has no prices for model {name!r}: name one of its models in --model ({known})"
    )


def _book(prices: Mapping[str, str]) -> PriceBook:
    numbers: dict[str, Decimal] = {}
    for name, text in prices.items():
        if name not in (*_KINDS, *_RESERVED):
            raise typer.BadParameter(
                f"{name}: must be one of {', '.join((*_KINDS, *_RESERVED))}", param_hint="'--price'"
            )
        try:
            numbers[name] = Decimal(text)
        except InvalidOperation:
            raise typer.BadParameter(f"{name}: {text!r} is no amount, such as 0.60", param_hint="'--price'") from None
    missing = [name for name in ("input", "output", *_RESERVED) if name not in numbers]
    if missing:
        raise typer.BadParameter(f"{' and '.join(missing)} must be given too", param_hint="'--price'")
    kinds = Price(**{name: number for name, number in numbers.items() if name in _KINDS}).kinds()
    return compile_book("trace", 1, kinds, MULTIPLIERS, [numbers[name] for name in _RESERVED])
