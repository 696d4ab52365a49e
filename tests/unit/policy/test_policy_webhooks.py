"""R47: where webhooks may go, how they are signed, and when they are sent again."""

import json
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_network

import openai
import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from fareclass.policy.outbound_address import AddressError, is_literal, judge, parse_target
from fareclass.policy.webhooks import EVENTS, GIVE_UP_S, RETRY_S, body, headers, retry_after_s, wait_us

PRIVATE = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/4", "240.0.0.0/4",
]  # fmt: skip
CLOSED_V6 = [
    "::/128", "::1/128", "::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:db8::/32", "fc00::/7", "fe80::/10",
    "fec0::/10", "ff00::/8", "3fff::/20", "5f00::/16",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1"]


def inside(network: str) -> st.SearchStrategy[int]:
    parsed = ip_network(network)
    return st.integers(int(parsed.network_address), int(parsed.broadcast_address))


@given(st.sampled_from(PRIVATE).flatmap(inside), st.integers(0, 2**32 - 1))
def test_r47_no_address_of_somebody_s_own_network_however_it_is_wrapped(number: int, low: int):
    check = judge([])
    for address in (
        IPv4Address(number),
        IPv6Address(0xFFFF << 32 | number),
        IPv6Address(0x2002 << 112 | number << 80 | low),
        IPv6Address(0x64FF9B << 96 | number),
        IPv6Address(number),
    ):
        assert check("https", str(address)), address


@given(st.sampled_from(CLOSED_V6).flatmap(inside))
def test_r47_no_ipv6_address_that_is_not_public(number: int):
    assert judge([])("https", str(IPv6Address(number)))


def test_r47_the_host_of_every_azure_machine_and_zones_are_refused():
    assert judge([])("https", "168.63.129.16")
    assert judge([])("https", "fe80::1%eth0")


@pytest.mark.parametrize("address", PUBLIC)
def test_r47_public_addresses_are_taken_over_https_alone(address: str):
    assert judge([])("https", address) is None
    assert "https" in str(judge(["10.0.0.0/8"])("http", address))


def test_r47_an_operator_s_own_networks_are_open_and_only_those():
    check = judge(["10.20.0.0/16", "fd00:20::/32"])
    for address in ("10.20.3.4", "::ffff:10.20.3.4", "fd00:20::7"):
        assert check("https", address) is None and check("http", address) is None
    assert check("https", "10.21.0.1") and check("https", "fd00:21::7")


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks.example.com", "//hooks.example.com/", "ftp://hooks.example.com/", "file:///etc/passwd",
        "https://", "https:///path", "https://user@hooks.example.com/", "https://user:pw@hooks.example.com/",
        "https://hooks.example.com/#part", "https://hooks.example.com:0/", "https://hooks.example.com:65536/",
        "https://hooks.example.com:x/", "https://a b/", "https://a\\@b/", "https://b\x00/", "https://b\r\nHost: x/",
        "https://\uff11\uff12\uff17.0.0.1/", "https://[::1/", "https://[fe80::1%25eth0]/", "https://[v1.x]/",
        "https://127.0.0.1%2f@x/", "https://a%2eb/", "https://-a/", "https://a..b/", "HTTPX://a/", "https://a\t.b/",
    ],
)  # fmt: skip
def test_r47_what_is_no_plain_address_is_refused(url: str):
    with pytest.raises(AddressError):
        parse_target(url)


@given(st.text(max_size=60).map(lambda text: f"https://{text}"))
def test_r47_any_text_is_an_address_or_refused(url: str):
    try:
        target = parse_target(url)
    except AddressError:
        return
    assert target.host == target.host.lower() and 1 <= target.port <= 65_535
    is_literal(target)


def test_r47_what_is_an_address_already_is_known_as_one():
    assert is_literal(parse_target("https://[::1]:8443/x")) and is_literal(parse_target("https://127.0.0.1"))
    assert not is_literal(parse_target("https://Hooks.example.com./x?y=1"))
    assert parse_target("http://a.b").port == 80 and parse_target("https://a.b").port == 443


# What is sent


def test_the_bytes_of_an_event():
    said = body("evt_1", "batch.completed", 1_700_000_000, "batch_9")
    assert said == (
        b'{"id":"evt_1","object":"event","type":"batch.completed","created_at":1700000000,"data":{"id":"batch_9"}}'
    )
    assert headers("evt_1", 1_700_000_001, said, [b"k" * 32]) == {
        "webhook-id": "evt_1",
        "webhook-timestamp": "1700000001",
        "webhook-signature": "v1,pMNpyqlhBMbPtEpu3Xy+7sV3Hhy9HVUFvxJm8SWjBAA=",
    }


@pytest.mark.parametrize("type", [*EVENTS, "webhook.test"])
def test_real_libraries_accept_what_is_signed(type: str):
    """The openai SDK and the reference library of Standard Webhooks; with two secrets in force each is accepted."""
    secrets = [b"a" * 32, b"b" * 32]
    now = int(datetime.now(UTC).timestamp())
    said = body("evt_1", type, now, "obj_1")
    sent = headers("evt_1", now, said, secrets)
    for secret in ("whsec_" + "YWFh" * 10 + "YWE=", "whsec_" + "YmJi" * 10 + "YmI="):
        event = openai.OpenAI(api_key="x", webhook_secret=secret).webhooks.unwrap(said.decode(), sent)
        assert (event.id, event.type, event.data.id) == ("evt_1", type, "obj_1")
        assert standardwebhooks.Webhook(secret).verify(said, sent) == json.loads(said)
    other = headers("evt_1", now, said, [b"c" * 32])
    with pytest.raises(openai.InvalidWebhookSignatureError):
        openai.OpenAI(api_key="x", webhook_secret=secret).webhooks.unwrap(said.decode(), other)


# When it is sent again


def test_waits_grow_to_six_hours_and_end_after_three_days():
    waits, waited = [], 0
    while (wait := wait_us(len(waits) + 1, waited, 0, 0.0)) is not None:
        waits.append(wait // 1_000_000)
        waited += wait
    assert waits[:8] == [5, 30, 120, 600, 3_600, 10_800, 21_600, 21_600]
    assert set(waits[8:]) == {21_600} and 2.7 * 86_400 < sum(waits) <= 3 * 86_400


@given(st.integers(1, 40), st.integers(0, GIVE_UP_S * 10**6), st.integers(0, 86_400), st.floats(0, 1))
def test_waits_are_no_shorter_than_asked_and_end_in_time(attempts: int, waited_us: int, asked_s: int, jitter: float):
    wait = wait_us(attempts, waited_us, asked_s, jitter)
    least_s = max(asked_s, RETRY_S[min(attempts, 7) - 1])
    if wait is None:
        assert waited_us + least_s * 1.2 * 10**6 >= GIVE_UP_S * 10**6
    else:
        assert least_s * 10**6 <= wait <= least_s * 1.2 * 10**6 + 1
        assert waited_us + wait <= GIVE_UP_S * 10**6


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0), ("", 0), ("120", 120), (" 7 ", 7), ("-5", 0), ("1e3", 0), ("9" * 5_000, 86_400), ("soon", 0),
        ("Tue, 14 Nov 2023 22:15:20 GMT", 120), ("Tue, 14 Nov 2023 22:13:00 GMT", 0),
        ("Tue, 14 Nov 9999 22:13:00 GMT", 86_400), ("Tue, 14 Nov 2023 22:15:20", 0), ("٣", 0),
    ],
)  # fmt: skip
def test_retry_after_is_read_as_seconds_or_a_date(header: str | None, seconds: int):
    assert retry_after_s(header, 1_700_000_000) == seconds
