"""What the demo tells: sentences through the day, and the summary. Pure: all figures come out of the tally."""

from collections.abc import Callable, Sequence
from decimal import Decimal

from fareclass.cli.demo import scenario
from fareclass.cli.demo.scenario import AGENTS, BANK, CODE, DEADLINE, FLOOR_RPS, NIGHT, NIGHTLY, RUNAWAY, SPIKES, TAX
from fareclass.cli.demo.stage import AGENTS_AT_ONCE, Stage
from fareclass.cli.demo.tally import Tally, answered, cut, shed, spread, throttled, ttfts
from fareclass.core.tiers import TIERS

Beat = tuple[float, Callable[[Tally], str]]
COLUMNS = ("tier", "sent", "served", "waited", "first token", "429", "503", "paused", "USD")
"""Of `table`; the two times are p50 / p99."""
_LUNCH = SPIKES[0]
_MILL = Decimal("0.001")


def opening(stage: Stage, minutes: float) -> list[str]:
    """Before the day begins: the fleet, the cast, and what is squeezed."""
    hour_s = scenario.day_s(minutes) / scenario.HOURS
    return [
        (
            f"A day in {minutes:g} minutes: an hour takes {hour_s:.3g} s. Two models on three replicas that compute nothing "
            "but take the time that GPUs would, behind a real gateway."
        ),
        (
            "Only the pattern of arrivals is squeezed. Waits, speeds, quotas and fees go by the real clock, so the console's "
            f"minutes are {60 / hour_s:.2g} hours of this day each."
        ),
        (
            f"{TAX.project} ({TAX.what}) has reserved {stage.input_tpm:,} input and {stage.output_tpm:,} output tokens a "
            f"minute for its season, until {stage.ends}; beyond that it overflows to priority. {BANK.project} ({BANK.what}) "
            f"asks priority, {CODE.project} ({CODE.what}) default, {AGENTS.project} ({AGENTS.what}) flex, "
            f"{NIGHTLY.project} a batch."
        ),
    ]


def beats(minutes: float) -> list[Beat]:
    """What is said at which hour of a day that takes so many minutes."""
    return [
        (scenario.DAWN, lambda _: "The day begins. All get what they ask for, at once."),
        (9.0, lambda _: _offices()),
        (_LUNCH[0], lambda _: _checks("Lunch: people bring their checks.", "Default and flex give way.")),
        (_LUNCH[1], _after_lunch),
        (RUNAWAY[0], lambda _: _runaway()),
        (RUNAWAY[1], _after_runaway),
        (SPIKES[1][0], lambda _: _checks("After work, checks again.", "")),
        (DEADLINE[0], lambda _: _deadline()),
        (DEADLINE[0] + 3, lambda tally: _floor_so_far(tally, DEADLINE[0] + 3)),
        (NIGHT, lambda _: _night(minutes)),
        (DEADLINE[1], lambda tally: "Midnight. " + _floor_so_far(tally, DEADLINE[1])),
        (27.0, lambda tally: f"The fleet is the batch's: {tally.batch_done} of {tally.batch_lines} lines are done."),
        (scenario.DAWN + scenario.HOURS, lambda _: "A new morning. What is under way may end."),
    ]


def _offices() -> str:
    return (
        f"Offices open. {CODE.project}'s prompts begin with the same {CODE.ask.cached_words:,} tokens: they are cached, "
        "and read at a tenth of the price."
    )


def _checks(when: str, then: str) -> str:
    return f"{when} {BANK.project} goes from {BANK.rate(9):g} to {BANK.rate(_LUNCH[0]):g} requests a second. {then}".strip()


def _after_lunch(tally: Tally) -> str:
    bank = tally.of(BANK.project, _LUNCH)
    return (
        f"Lunch is over. {len(answered(bank))} of {BANK.project}'s {len(bank)} requests were answered, with the first "
        f"token after {spread(ttfts(bank))} (p50 / p99). {_paused(tally)} answers of worse tiers were paused by now, "
        "and went on where they had stood."
    )


def _runaway() -> str:
    return (
        f"An agent of {AGENTS.project} runs in a circle: {AGENTS.rate(RUNAWAY[0]):g} requests a second. Its project may "
        f"have {AGENTS_AT_ONCE} under way."
    )


def _after_runaway(tally: Tally) -> str:
    agents = tally.of(AGENTS.project, RUNAWAY)
    others = [one for one in tally.of(None, RUNAWAY) if one.project != AGENTS.project]
    return (
        f"The circle is found. {throttled(agents)} of the agents' {len(agents)} requests were refused (429), "
        f"and {throttled(others) + shed(others)} of all others' {len(others)}."
    )


def _deadline() -> str:
    return (
        f"Deadline evening: {TAX.project} asks {TAX.rate(DEADLINE[0]) / FLOOR_RPS:g} times its floor. It has a minute "
        "saved up; after that two thirds spill to priority, and nobody is refused for it."
    )


def _floor_so_far(tally: Tally, hour: float) -> str:
    found = tally.of(TAX.project, (DEADLINE[0], hour))
    inside = [one for one in found if one.served == "reserved"]
    spilled = [one for one in found if one.served != "reserved"]
    return (
        f"Of {TAX.project}'s {len(found)} requests since {scenario.clock(DEADLINE[0])}, {len(inside)} ran inside the floor "
        f"(first token {spread(ttfts(inside))}) and {len(spilled)} on priority ({spread(ttfts(spilled))})."
    )


def _night(minutes: float) -> str:
    return (
        f"Night: {NIGHTLY.project} hands in {scenario.batch_lines(minutes)} requests as one batch: half price, within 24 "
        "hours, in what all others leave."
    )


def _paused(tally: Tally) -> int:
    return sum(books.pauses for books in tally.books.values())


def table(tally: Tally) -> list[tuple[str, ...]]:
    """The tiers so far, as `COLUMNS`: sent and refused by the tier that was asked for, the rest by the one that served.

    When a batch's lines begin its callers do not see.
    """
    rows: list[tuple[str, ...]] = []
    for tier in (tier.word for tier in TIERS):
        books = tally.books.get(tier)
        asked, served = tally.of(requested=tier), answered(tally.of(served=tier))
        batch = tier == "batch"
        rows.append(
            (
                tier,
                f"{tally.batch_lines if batch else tally.sent.get(tier, 0):,}",
                f"{tally.batch_done if batch else len(served):,}",
                *(["–"] * 2 if batch else [spread([one.queue_ms for one in served]), spread(ttfts(served))]),
                f"{throttled(asked):,}",
                f"{shed(asked):,}",
                f"{books.pauses if books else 0:,}",
                f"{(books.usd if books else Decimal(0)).quantize(_MILL)}",
            )
        )
    return rows


def summary(tally: Tally, stage: Stage, real_minutes: float) -> list[str]:
    """The day in sentences: who got which tier, the deadline by tier, the floor, the cost."""
    return [*_deadline_by_tier(tally), _floor_held(tally), _others(tally), *_costs(tally, stage, real_minutes)]


def _deadline_by_tier(tally: Tally) -> list[str]:
    """TTFT by served tier in the evening."""
    evening = [
        f"{tier} {spread(times)}"
        for tier in ("reserved", "priority", "default", "flex")
        if (times := ttfts(tally.of(None, DEADLINE, served=tier)))
    ]
    return [f"First token on deadline evening (p50 / p99): {', '.join(evening)}."] if evening else []


def _floor_held(tally: Tally) -> str:
    asked = tally.of(TAX.project)
    inside = [one for one in asked if one.served == "reserved"]
    spilled = [one for one in asked if one.served != "reserved"]
    refused = throttled(inside), shed(inside)
    return (
        f"{'The floor did not hold' if any(refused) else 'The floor held'}: of {TAX.project}'s {len(asked):,} requests "
        f"{len(inside):,} ran inside it, {refused[0]} throttled and {refused[1]} shed. {len(spilled):,} spilled to priority; "
        f"{len(answered(spilled)):,} of them were answered."
    )


def _others(tally: Tally) -> str:
    parts = []
    for actor in (BANK, CODE, AGENTS):
        found = tally.of(actor.project)
        parts.append(f"{actor.project} {len(answered(found)):,} of {len(found):,}")
    circle = throttled(tally.of(AGENTS.project, RUNAWAY))
    return (
        f"Answered: {', '.join(parts)}, {NIGHTLY.project} {tally.batch_done:,} of {tally.batch_lines:,} lines. Of "
        f"{AGENTS.project}'s requests {circle:,} were refused while the agent ran in its circle. Answers "
        f"were paused {_paused(tally):,} times; {cut(tally.done)} did not come to their end."
    )


def _costs(tally: Tally, stage: Stage, real_minutes: float) -> Sequence[str]:
    fee = stage.hourly_usd * Decimal(str(round(real_minutes, 2))) / 60
    whole_day, on_demand = stage.hourly_usd * scenario.HOURS, stage.on_demand_usd * scenario.HOURS
    by_tier = ", ".join(
        f"{tier} {books.usd.quantize(_MILL)}"
        for tier in (tier.word for tier in TIERS)
        if (books := tally.books.get(tier)) is not None and tier != "reserved"
    )
    read = sum(books.cache_read for books in tally.books.values())
    return [
        f"Cost in USD: {by_tier}. {read:,} tokens were read from caches, at a tenth of their price.",
        (
            f"Tokens inside the floor cost nothing more: its fee was {fee.quantize(_MILL)} for these {real_minutes:.1f} "
            f"minutes, {_dollars(whole_day)} for a whole day. In full use it would come to {_dollars(on_demand)} a day on "
            f"default and {_dollars(on_demand * 7 / 4)} on priority: it pays from {whole_day / on_demand:.0%} use on."
        ),
    ]


def _dollars(amount: Decimal) -> str:
    return f"{amount.quantize(Decimal('0.01'))}"
