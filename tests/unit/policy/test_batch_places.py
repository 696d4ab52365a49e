"""R47: names of places mean one thing, and lead nowhere but below what an operator has set."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fareclass.policy.batch_places import PlaceError, Root, find_spot, parse_uri

TAX = Root("s3://tax/", folder="/srv/tax")
RETURNS = Root("s3://tax/returns/2026/", store="minio")
ROOTS = [TAX, RETURNS, Root("s3://other/a/", folder="/srv/other")]


@pytest.mark.parametrize(
    ("name", "root", "below"),
    [
        ("s3://tax/in.jsonl", TAX, ("in.jsonl",)),
        ("s3://tax", TAX, ()),
        ("s3://tax/", TAX, ()),
        ("s3://tax/returns/2025/in.jsonl", TAX, ("returns", "2025", "in.jsonl")),
        ("s3://tax/returns/2026/in.jsonl", RETURNS, ("in.jsonl",)),
        ("s3://tax/returns/2026", RETURNS, ()),
        ("s3://tax/returns/20261/in.jsonl", TAX, ("returns", "20261", "in.jsonl")),
    ],
)
def test_the_longest_root_that_a_name_is_below(name, root, below):
    spot = find_spot(name, ROOTS)
    assert (spot.root, spot.below) == (root, below)


@pytest.mark.parametrize("name", ["s3://taxes/in.jsonl", "s3://tab/x", "s3://other/in.jsonl", "s3://other/ab/in.jsonl"])
def test_what_is_below_none_is_refused(name):
    with pytest.raises(PlaceError, match="not below a place"):
        find_spot(name, ROOTS)


@pytest.mark.parametrize(
    "name",
    [
        "", "s3://", "s3:///a", "/srv/tax/a", "file:///etc/passwd", "http://tax/a", "S3://tax/a", "s3://TAX/a", "s3://t/a",
        "s3://tax/../a", "s3://tax/a/../../b", "s3://tax/./a", "s3://tax/...", "s3://tax//a", "s3://tax/a//", "s3://tax/a b",
        "s3://tax/%2e%2e/a", "s3://tax/a\\b", "s3://tax/a\x00", "s3://tax/a?b", "s3://tax/a#b", "s3://user@tax/a",
        "s3://tax:9000/a", "s3://tax/" + "a/" * 40, "s3://tax/" + "a" * 1100, "s3://tax/ü",
    ],
)  # fmt: skip
def test_what_could_mean_two_things_is_no_name(name):
    with pytest.raises(PlaceError, match="must be such as"):
        parse_uri(name)


@given(st.text(string.ascii_letters + "./\\%-: \0", max_size=40))
def test_no_name_leads_up(path: str):
    try:
        spot = find_spot("s3://tax/" + path, ROOTS)
    except PlaceError:
        return
    assert all(part and part.strip(".") and "/" not in part and "\\" not in part for part in spot.below)
    assert parse_uri(spot.uri.text) == spot.uri
