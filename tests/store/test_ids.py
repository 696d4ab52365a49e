"""Names of objects: no two alike, in the order of their making."""

import re

from fareclass.store.ids import new_id, short_id


def test_short_ids_are_twelve_characters_and_never_alike():
    """Twelve is what an ARN of Bedrock's has room for; a second one of a name would be a fault in mid-call."""
    made = [short_id("job") for _ in range(20_000)]
    assert all(re.fullmatch("job_[a-z0-9]{12}", name) for name in made)
    assert len(set(made)) == len(made)


def test_ids_sort_by_the_time_of_their_making(monkeypatch):
    now_ns = 1_800_000_000_000_000_000
    for make in (new_id, short_id):
        names = []
        for later_ns in (0, 1_000_000, 2_000_000, 3_000_000_000):
            monkeypatch.setattr("time.time_ns", lambda at=now_ns + later_ns: at)
            names.append(make("job"))
        assert names == sorted(names)
