"""What `fareclass demo` tells is what its tally holds."""

from decimal import Decimal

import pytest

from fareclass.cli.demo import scenario, story
from fareclass.cli.demo.scenario import AGENTS, BANK, TAX
from fareclass.cli.demo.stage import Stage
from fareclass.cli.demo.tally import Books, Done, Tally, percentile, spread

STAGE = Stage(
    keys=(), input_tpm=74_400, output_tpm=14_400, hourly_usd=Decimal(3), on_demand_usd=Decimal(4), ends="1 May 2027"
)


def done(project, requested, served=None, *, hour=19.0, status=200, ttft_ms=50.0, whole=True):
    refused = status != 200
    return Done(
        project=project, hour=hour, requested=requested, served=served or requested, status=status,
        ttft_ms=None if refused else ttft_ms, whole=whole and not refused,
    )  # fmt: skip


@pytest.fixture
def tally():
    tally = Tally()
    tally.done = [
        *[done(TAX.project, "reserved", ttft_ms=60.0)] * 6,
        *[done(TAX.project, "reserved", "priority", ttft_ms=80.0)] * 3,
        done(TAX.project, "reserved", "priority", status=503),
        done(BANK.project, "priority", hour=12.5, ttft_ms=1_500.0),
        *[done(AGENTS.project, "flex", hour=15.0, status=429)] * 5,
        done(AGENTS.project, "flex", hour=15.0, whole=False),
    ]
    tally.sent = {"reserved": 10, "priority": 1, "flex": 6}
    tally.books = {
        "priority": Books(usd=Decimal("0.12345")),
        "flex": Books(pauses=7, cache_read=30_000, usd=Decimal("0.01")),
    }
    tally.batch_lines, tally.batch_done = 20, 12
    return tally


def told(tally, hour):
    return next(words(tally) for at, words in story.beats(6.0) if at == hour)


def test_the_table_counts_refusals_where_they_were_asked_for_and_answers_where_they_were_served(tally):
    rows = {row[0]: dict(zip(story.COLUMNS, row, strict=True)) for row in story.table(tally)}
    assert [*rows] == ["reserved", "priority", "default", "flex", "batch"]
    assert (rows["reserved"]["sent"], rows["reserved"]["served"], rows["reserved"]["503"]) == ("10", "6", "1")
    assert (rows["priority"]["sent"], rows["priority"]["served"], rows["priority"]["503"]) == ("1", "4", "0")
    assert rows["priority"]["first token"] == "80 ms / 1.5 s" and rows["priority"]["USD"] == "0.123"
    assert (rows["flex"]["429"], rows["flex"]["served"], rows["flex"]["paused"]) == ("5", "0", "7")
    assert (rows["batch"]["sent"], rows["batch"]["served"], rows["batch"]["waited"]) == ("20", "12", "–")
    assert rows["default"]["first token"] == "none yet"


def test_the_story_says_what_happened_in_its_hours(tally):
    assert "Of Ledgerly's 10 requests since 18:00, 6 ran inside the floor" in told(tally, 21.0)
    assert "1 of Tillbank's 1 requests were answered" in told(tally, 13.0) and "1.5 s" in told(tally, 13.0)
    assert "5 of the agents' 6 requests were refused (429), and 0 of all others' 0" in told(tally, 16.0)


def test_the_summary_says_whether_the_floor_held(tally):
    assert any("The floor held: of Ledgerly's 10 requests 6 ran inside it, 0 throttled and 0 shed." in line
               for line in story.summary(tally, STAGE, 6.0))  # fmt: skip
    tally.done.append(done(TAX.project, "reserved", status=429))
    assert any("The floor did not hold" in line and "1 throttled" in line for line in story.summary(tally, STAGE, 6.0))


def test_the_summary_tells_times_by_tier_what_was_cut_and_the_cost(tally):
    text = "\n".join(story.summary(tally, STAGE, 6.0))
    assert "reserved 60 ms / 60 ms, priority 80 ms / 80 ms." in text
    assert "paused 7 times; 1 did not come to their end" in text
    assert "priority 0.123, flex 0.010." in text
    assert "0.300 for these 6.0 minutes, 72.00 for a whole day" in text
    assert "96.00 a day on default and 168.00 on priority: it pays from 75% use on" in text
    assert "30,000 tokens were read from caches" in text


def test_a_day_on_which_nothing_came_back_is_told_too():
    assert all(words(Tally()) for _, words in story.beats(6.0))
    assert story.summary(Tally(), STAGE, 0.2)


def test_the_story_goes_through_the_whole_day_in_order():
    hours = [hour for hour, _ in story.beats(6.0)]
    assert hours == sorted(hours)
    assert (hours[0], hours[-1]) == (scenario.DAWN, scenario.DAWN + scenario.HOURS)


def test_what_is_squeezed_is_said():
    text = "\n".join(story.opening(STAGE, 6.0))
    assert "an hour takes 15 s" in text and "Only the pattern of arrivals is squeezed" in text


def test_percentiles_are_values_that_were_there():
    assert percentile([], 0.5) is None
    assert [percentile([3, 1, 2, 4], share) for share in (0.25, 0.5, 0.99)] == [1, 2, 4]
    assert spread([10.0, 2_000.0]) == "10 ms / 2.0 s"
