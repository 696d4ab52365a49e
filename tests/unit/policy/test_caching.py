"""Prompt caching's rules: what is cached, for whom, how long, and what of a prompt is billed as what (R28-R32)."""

from hypothesis import given
from hypothesis import strategies as st

from fareclass.core.prefix import FIVE_MINUTES_S, ONE_HOUR_S, Block, Prefix
from fareclass.policy.caching import Index, Look, read_links, shown, split

US = 1_000_000
KEY = b"secret"
MIN = 10


def prefix(*texts: str, points: dict[int, int] | None = None, project: str = "p", key: bytes = KEY) -> Prefix:
    found = points or {}
    links = read_links(key, [Block(t.encode(), len(t), found.get(i, 0)) for i, t in enumerate(texts)])
    made = None if links is None else links.prefix(key, project.encode())
    assert made is not None
    return made


def ran(index: Index, asked: Prefix, tokens: int, now_us: int = 0, *, replica: str = "r0", project: str = "p") -> None:
    """A request came, was answered and counted."""
    look = index.look(asked, now_us)
    index.sent(asked, replica, tokens, now_us)
    index.began(look, replica, project, tokens, MIN, now_us)
    index.ended(look, replica, project, tokens, MIN, now_us)


def words(count: int) -> list[str]:
    return [f"{number:010}" for number in range(count)]


def test_r29_a_digest_names_project_key_and_every_block_before_it() -> None:
    one = prefix("a", "b")
    assert prefix("a", "b").digests == one.digests
    for other in (prefix("a", "b", project="q"), prefix("a", "b", key=b"other"), prefix("ab", "")):
        assert not set(other.digests) & set(one.digests)
    assert prefix("a", "c").digests[0] == one.digests[0]
    assert prefix("x", "b").digests[1] != one.digests[1]


def test_r28_the_look_back_is_exactly_twenty_blocks() -> None:
    index = Index()
    ran(index, prefix(*words(5), points={4: FIVE_MINUTES_S}), 100)
    for last, reached in ((23, True), (24, False)):
        look = index.look(prefix(*words(30), points={last: FIVE_MINUTES_S}), 1)
        assert (look.reached is not None) is reached


def test_r28_a_read_renews_and_an_entry_expires() -> None:
    index, asked = Index(), prefix(*words(2), points={1: FIVE_MINUTES_S})
    ran(index, asked, 100)
    assert index.look(asked, 299 * US).reached
    ran(index, asked, 100, 299 * US)
    assert index.look(asked, 598 * US).reached
    assert not index.look(asked, 600 * US).reached
    again = prefix(*words(2), "next", points={2: ONE_HOUR_S})
    ran(index, again, 150, 598 * US)
    assert index.look(asked, 897 * US).reached, "the look-back's read renewed it too"
    assert index.look(again, 3_600 * US).reached


def test_r28_below_the_minimum_there_is_silently_nothing() -> None:
    index, asked = Index(), prefix(*words(2), points={1: FIVE_MINUTES_S})
    ran(index, asked, MIN - 1)
    assert len(index) == 0
    usage = split(index.look(asked, 1), MIN - 1, 0, "r0", MIN, implicit=False)
    assert (usage.input, usage.cache_write_5m) == (MIN - 1, 0)


def test_r28_an_estimate_above_the_minimum_caches_nothing_that_the_engine_counts_below_it() -> None:
    """Else an engine that tells nothing would have the next one billed as read of what it never kept."""
    index, asked = Index(), prefix(*words(2), points={1: FIVE_MINUTES_S})
    look = index.look(asked, 0)
    index.began(look, "r0", "p", MIN + 2, MIN, 1)
    assert index.look(asked, 1).reached
    index.ended(look, "r0", "p", MIN - 1, MIN, 2)
    assert split(index.look(asked, 3), MIN - 1, None, "r0", MIN, implicit=False).input == MIN - 1


def test_r30_an_estimate_changes_nothing_that_the_engine_has_counted() -> None:
    index, asked = Index(), prefix(*words(2), points={1: FIVE_MINUTES_S})
    ran(index, asked, 100)
    for estimate in (130, MIN - 1):
        index.began(index.look(asked, 299 * US), "r0", "p", estimate, MIN, 299 * US)
        assert index.look(asked, 301 * US).tokens == 100, "renewed, as long as it was"


def test_r29_an_entry_counts_once_the_first_response_has_begun() -> None:
    index, asked = Index(), prefix(*words(2), points={1: FIVE_MINUTES_S})
    look = index.look(asked, 0)
    index.sent(asked, "r0", 100, 0)
    assert not index.look(asked, 1).reached
    index.began(look, "r0", "p", 100, MIN, 1)
    assert index.look(asked, 1).reached


def test_r30_writes_and_reads_by_ttl() -> None:
    index, asked = Index(), prefix(*words(4), points={1: ONE_HOUR_S, 2: FIVE_MINUTES_S})
    first = split(index.look(asked, 0), 400, 0, "r0", MIN, implicit=True)
    assert (first.input, first.cache_write_5m, first.cache_write_1h, first.cache_read) == (100, 100, 200, 0)
    ran(index, asked, 400)
    second = split(index.look(asked, 1), 400, 399, "r0", MIN, implicit=False)
    assert (second.input, second.cache_read, second.cache_write_5m + second.cache_write_1h) == (100, 300, 0)
    lost = split(index.look(asked, 1), 400, 0, "r0", MIN, implicit=True)
    assert lost == first, "what the engine has lost is written again"


def test_r30_an_engine_that_tells_nothing_is_believed_only_where_the_prompt_ran() -> None:
    index, asked = Index(), prefix(*words(2), points={1: FIVE_MINUTES_S})
    ran(index, asked, 100, replica="r0")
    look = index.look(asked, 1)
    assert split(look, 100, None, "r0", MIN, implicit=False).cache_read == 100
    assert split(look, 100, None, "r1", MIN, implicit=True).cache_read == 0


def test_r30_implicit_reuse_is_a_read_unless_the_model_says_otherwise() -> None:
    index = Index()
    ran(index, prefix(*words(3)), 90)
    look = index.look(prefix(*words(3), "more"), 1)
    assert split(look, 120, 95, "r0", MIN, implicit=True).cache_read == 90
    assert split(look, 120, 95, "r0", MIN, implicit=False).input == 120


def test_r16_every_replica_that_holds_a_beginning_is_known_with_how_much() -> None:
    index = Index()
    ran(index, prefix(*words(2)), 20, replica="r0")
    ran(index, prefix(*words(4)), 40, replica="r1")
    assert index.look(prefix(*words(5)), 1).holders == {"r1": 40, "r0": 20}
    assert index.look(prefix(*words(5)), 3_601 * US).holders == {}


def test_r31_another_projects_identical_prompt_finds_nothing() -> None:
    index = Index()
    ran(index, prefix(*words(3), points={2: ONE_HOUR_S}), 300)
    assert index.look(prefix(*words(3), points={2: ONE_HOUR_S}, project="q"), 1)[1:] == ({}, None, 0, "")


def test_r35_what_the_ledger_keeps_of_a_prompt_replays_it() -> None:
    assert len(shown(prefix(*words(20)), 200).split()) == 8
    one, two = shown(prefix(*words(2)), 20), shown(prefix(*words(3)), 30)
    assert two.startswith(one) and two.endswith(":30")


def test_the_index_is_bounded() -> None:
    index = Index(entries=5, digests=7)
    for number in range(50):
        ran(index, prefix(f"{number:010}", points={0: ONE_HOUR_S}), 100)
    assert len(index) == 5
    assert index.look(prefix(f"{49:010}"), 1).holders and not index.look(prefix(f"{3:010}"), 1).holders


def test_what_changed_is_taken_once_and_what_could_not_be_kept_again() -> None:
    index, asked = Index(), prefix(*words(2), points={1: FIVE_MINUTES_S})
    ran(index, asked, 100)
    taken = index.take_dirty(1)
    assert list(taken) == [asked.digests[1]] and not index.take_dirty(1)
    index.soil(taken)
    assert index.take_dirty(1) == taken
    index.soil(taken)
    assert not index.take_dirty(301 * US) and len(index) == 0
    other = Index()
    other.restore(taken.items())
    assert other.look(asked, 1).reached == asked.digests[1]


def test_entries_go_when_they_expire_and_not_before() -> None:
    """However often they were renewed, restored or crowded out."""
    index = Index(entries=3)
    short, long = prefix("s", points={0: FIVE_MINUTES_S}), prefix("l", points={0: ONE_HOUR_S})
    for second in (0, 100, 200):
        ran(index, short, 100, second * US)
        ran(index, long, 100, second * US)
    index.restore(index.take_dirty(200 * US).items())
    assert len(index) == 2 and not index.take_dirty(499 * US) and len(index) == 2
    assert not index.take_dirty(502 * US) and len(index) == 1 and index.look(long, 502 * US).reached
    for number in range(9):
        ran(index, prefix(f"{number}", points={0: FIVE_MINUTES_S}), 100, 600 * US)
    assert len(index.take_dirty(600 * US)) == len(index) == 3
    assert not index.take_dirty(4_000 * US) and len(index) == 0


@st.composite
def prompts(draw: st.DrawFn) -> Prefix:
    texts = draw(st.lists(st.sampled_from(["", "a", "bb", "a longer block of text"]), min_size=1, max_size=30))
    ttls = sorted(draw(st.lists(st.sampled_from([300, 3600]), max_size=4)), reverse=True)
    places = (
        sorted(draw(st.sets(st.integers(0, len(texts) - 1), min_size=len(ttls), max_size=len(ttls))))
        if len(ttls) <= len(texts)
        else []
    )
    return prefix("x", *texts, points=dict(zip(places, ttls, strict=False)))


@given(st.lists(st.tuples(prompts(), st.integers(1, 5_000), st.integers(0, 6_000) | st.none()), max_size=8))
def test_r30_the_kinds_add_up_and_no_read_is_more_than_index_or_engine_know(
    asked: list[tuple[Prefix, int, int | None]],
) -> None:
    index = Index()
    for number, (prompt, tokens, told) in enumerate(asked):
        look: Look = index.look(prompt, number)
        usage = split(look, tokens, told, "r0", MIN, implicit=number % 2 == 0)
        assert usage.prompt == tokens and min(usage.input, usage.cache_read, usage.cache_write_5m) >= 0
        assert usage.cache_write_1h >= 0
        assert usage.cache_read <= max([look.tokens, *look.holders.values()])
        if told is not None:
            assert usage.cache_read <= told
        if not prompt.points:
            assert usage.cache_write_5m == usage.cache_write_1h == 0
        ran(index, prompt, tokens, number)
