"""What was asked of a model in each minute or day, by kind of token, workload and tier: what plans are made from (R44).

Requests without a first token count with their estimates, unless they could never have run.
"""

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from fareclass.core.outcomes import CALLER_ERRORS, Outcome
from fareclass.core.tiers import Tier
from fareclass.core.times import DAY_US, MINUTE_US
from fareclass.core.usage import KINDS
from fareclass.store.rollups import columns, folded

_REFUSED = tuple(outcome.value for outcome in (Outcome.THROTTLED, Outcome.SHED, Outcome.EXPIRED))


class Asked(NamedTuple):
    """Requests of one minute or day that ask alike. `kinds` are tokens in the order of `KINDS`."""

    start_us: int
    workload: str
    tier: str
    requests: int
    refused: int
    kinds: Sequence[int]


def asked_by_minute(connection: Connection, project: str, model: str, from_us: int, to_us: int) -> list[Asked]:
    """The busy minutes in `[from_us, to_us)`, whole minutes, in order; batches too."""
    return _asked(connection, project, model, (from_us, to_us), MINUTE_US)


def asked_by_day(connection: Connection, project: str, model: str, from_us: int, to_us: int) -> list[Asked]:
    """The same by day of UTC: that goes back for years (R43)."""
    return _asked(connection, project, model, (from_us, to_us), DAY_US)


def askers(connection: Connection, from_us: int, to_us: int) -> list[tuple[str, str]]:
    """Projects and models with any request in this time, those with the most tokens first; batches aside."""
    tokens: dict[tuple[str, str], int] = {}
    for part in folded(connection).parts(from_us, to_us, None):
        at = columns(part.table)
        amount = sa.func.sum(at["input"] + at["output"])
        query = sa.select(at["project"], at["model"], amount).group_by(at["project"], at["model"])
        query = query.where(part.within(), at["outcome"].not_in(CALLER_ERRORS))
        query = query.where(at["requested_tier"] != Tier.BATCH.word)
        for project, model, count in connection.execute(query):
            tokens[project, model] = tokens.get((project, model), 0) + int(count)
    return sorted((pair for pair in tokens if all(pair)), key=lambda pair: (-tokens[pair], pair))


def _asked(connection: Connection, project: str, model: str, times: tuple[int, int], unit_us: int) -> list[Asked]:
    found: dict[tuple[int, str, str], Asked] = {}
    for part in folded(connection).parts(*times, unit_us):
        at = columns(part.table)
        start = (part.time // unit_us * unit_us).label("start_us")
        groups = start, at["workload"], at["requested_tier"]
        requests = at["requests"]
        refused = sa.func.sum(sa.case((at["outcome"].in_(_REFUSED), requests), else_=0))
        query = sa.select(*groups, sa.func.sum(requests), refused, *(sa.func.sum(at[kind]) for kind in KINDS))
        query = query.where(part.within(), at["project"] == project, at["model"] == model)
        query = query.where(sa.or_(at["used"], at["outcome"].not_in(CALLER_ERRORS))).group_by(*groups)
        for start_us, workload, tier, count, lost, *kinds in connection.execute(query):
            before = found.get((start_us, workload, tier), Asked(start_us, workload, tier, 0, 0, [0] * len(KINDS)))
            found[start_us, workload, tier] = Asked(
                start_us,
                workload,
                tier,
                before.requests + int(count),
                before.refused + int(lost),
                [one + int(more) for one, more in zip(before.kinds, kinds, strict=True)],
            )
    return [found[key] for key in sorted(found)]
