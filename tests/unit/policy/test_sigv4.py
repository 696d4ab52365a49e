"""R51: AWS signatures are verified as AWS's own SDK makes them, and nothing else passes."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from unittest import mock
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.snapshot import Key, Project, Snapshot
from fareclass.policy import sigv4
from fareclass.policy.sigv4 import Call, read_claim, verify

NOW = datetime(2026, 11, 28, 12, 0, 0, tzinfo=UTC)
SECRET = "fc_key_a_secret"
KEY = Key(id="key_a", project=Project(id="p", name="p"), name="k", secret=SECRET.encode())
SNAPSHOT = Snapshot(projects={}, keys={KEY.id: KEY}, models={}, quotas={}, books={})
URL = "http://127.0.0.1:8000/model/m/converse"
BODY = b'{"messages":[]}'


def signed(
    url: str = URL,
    body: bytes = BODY,
    *,
    headers: dict[str, str] | None = None,
    at: datetime = NOW,
    key_id: str = KEY.id,
    secret: str = SECRET,
    service: str = "bedrock",
    token: str | None = None,
) -> Call:
    """The call as boto3 would sign and send it."""
    request = AWSRequest("POST", url, {"Content-Type": "application/json", **(headers or {})}, body)
    with mock.patch("botocore.auth.get_current_datetime", return_value=at.replace(tzinfo=None)):
        SigV4Auth(Credentials(key_id, secret, token), service, "eu-central-1").add_auth(request)
    parts = urlsplit(url)
    sent = [(name.lower().encode(), value.encode("latin-1")) for name, value in request.headers.items()]
    return Call("POST", parts.path.encode(), parts.query.encode(), [(b"host", parts.netloc.encode()), *sent])


def check(call: Call, body: bytes = BODY, now: datetime = NOW) -> Key:
    return verify(SNAPSHOT, read_claim(call, now.timestamp()), call, sha256(body).hexdigest())


def refused(call: Call, body: bytes = BODY, now: datetime = NOW) -> Refusal:
    with pytest.raises(Refusal) as caught:
        check(call, body, now)
    assert caught.value.outcome is Outcome.UNAUTHENTICATED
    return caught.value


WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


@given(
    model=st.text(min_size=1, max_size=30).filter(lambda model: model.strip(".") != ""),
    query=st.lists(st.tuples(WORDS, WORDS | st.just("")), max_size=4),
    values=st.dictionaries(
        st.sampled_from(["X-Amzn-Bedrock-Accept", "x-amzn-bedrock-service-tier", "X-Own", "amz-sdk-invocation-id"]),
        st.lists(WORDS, min_size=1, max_size=3).map("  ".join),
        max_size=3,
    ),
    body=st.binary(max_size=200),
    service=st.sampled_from(["bedrock", "bedrock-mantle"]),
)
def test_what_the_sdk_signs_is_right(
    model: str, query: list[tuple[str, str]], values: dict[str, str], body: bytes, service
):
    model = quote(model.encode("utf-8", "replace"), safe="")
    asked = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in query)
    url = f"http://gateway.example:8000/model/{model}/converse" + (f"?{asked}" if asked else "")
    assert check(signed(url, body, headers=values, service=service), body) is KEY


@pytest.mark.parametrize("seconds", [-300, 0, 300])
def test_r51_a_clock_may_be_five_minutes_off(seconds):
    assert check(signed(at=NOW + timedelta(seconds=seconds))) is KEY
    error = refused(signed(at=NOW + timedelta(seconds=seconds + (1 if seconds > 0 else -301))))
    assert error.code == "signature_expired" and "2026-11-28T12:00:00Z" in error.message


def changed(call: Call, name: bytes, value: bytes | None) -> Call:
    """With another value of this header, or without it."""
    headers = [
        (each, old if each != name else value) for each, old in call.headers if each != name or value is not None
    ]
    return call._replace(headers=headers)


def test_r51_nothing_that_was_signed_may_change():
    call = signed(headers={"x-amzn-bedrock-service-tier": "flex"})
    assert check(call) is KEY
    for other in (
        call._replace(method="GET"),
        call._replace(raw_path=b"/model/other/converse"),
        call._replace(query=b"a=b"),
        changed(call, b"host", b"other.example"),
        changed(call, b"x-amzn-bedrock-service-tier", b"priority"),
    ):
        assert refused(other).code == "signature_mismatch"
    assert refused(call, BODY + b" ").code == "signature_mismatch"
    assert refused(signed(secret=SECRET + "x")).code == "signature_mismatch"
    assert refused(signed(body=b"other")).code == "signature_mismatch"


def test_r51_a_declared_hash_is_not_believed():
    """The body is hashed here, whatever the caller says of it."""
    of_another = sha256(b"other").hexdigest()
    assert check(signed(headers={"X-Amz-Content-SHA256": sha256(BODY).hexdigest()})) is KEY
    for told in (of_another, "UNSIGNED-PAYLOAD"):
        assert refused(signed(headers={"X-Amz-Content-SHA256": told})).code == "signature_mismatch"


@pytest.mark.parametrize(
    "name",
    ["x-amzn-bedrock-service-tier", "x-amz-target", "x-amzn-bedrock-guardrailidentifier", "x-amz-content-sha256"],
)
def test_r51_a_header_of_amazons_must_be_signed(name):
    """Else whoever stands between could put in a tier that costs more."""
    call = signed()
    error = refused(call._replace(headers=[*call.headers, (name.encode(), b"priority")]))
    assert (error.code, name in error.message) == ("unsigned_header", True)
    traced = call._replace(headers=[*call.headers, (b"x-amzn-trace-id", b"Root=1")])
    assert check(traced) is KEY, "a load balancer's own"


def reworded(call: Call, old: bytes, new: bytes) -> Call:
    headers = dict(call.headers)
    assert old in headers[b"authorization"]
    return changed(call, b"authorization", headers[b"authorization"].replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b"/bedrock/", b"/s3/", "signature_scope"),
        (b"/20261128/", b"/20261127/", "signature_scope"),
        (b"aws4_request", b"aws4", "incomplete_signature"),
        (b"content-type;host;x-amz-date", b"content-type;x-amz-date", "unsigned_header"),
        (b"content-type;host;x-amz-date", b"content-type;host", "unsigned_header"),
        (b"content-type;host;x-amz-date", b"host;content-type;x-amz-date", "incomplete_signature"),
        (b"content-type;host;x-amz-date", b"host;host;x-amz-date", "incomplete_signature"),
        (b"content-type;host;x-amz-date", b"content-type;host;x-amz-date;x-else", "incomplete_signature"),
        (b"content-type;host;x-amz-date", b"host;x-amz-date", "signature_mismatch"),
        (b"AWS4-HMAC-SHA256 ", b"AWS4-HMAC-SHA1 ", "incomplete_signature"),
        (b"Signature=", b"Signature=0", "incomplete_signature"),
        (b"eu-central-1", b"us-east-1", "signature_mismatch"),
    ],
)
def test_r51_what_a_signature_says_of_itself_must_be_right(old, new, code):
    assert refused(reworded(signed(), old, new)).code == code


@pytest.mark.parametrize("when", [b"", b"now", b"20261128T120000", b"20261328T120000Z", b"20261128T120060Z"])
def test_r51_a_time_that_is_none_is_refused(when):
    assert refused(changed(signed(), b"x-amz-date", when)).code == "incomplete_signature"


def test_r51_temporary_credentials_are_told_what_to_do():
    error = refused(signed(token="session"))
    assert error.code == "session_token" and "AWS_SESSION_TOKEN" in error.message


def test_r51_an_unknown_key_is_refused_in_the_same_words_after_the_same_work():
    done: list[Any] = []
    real = sigv4._signature

    def counted(*given: Any) -> bytes:
        done.append(len(given[0]) > 0)
        return real(*given)

    with mock.patch.object(sigv4, "_signature", counted):
        wrong, unknown = refused(signed(secret="other")), refused(signed(key_id="key_b"))
    assert (wrong.message, wrong.code, wrong.outcome) == (unknown.message, unknown.code, unknown.outcome)
    assert done == [True, True]


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_any_bytes_are_refused_and_no_more(authorization: bytes, when: bytes):
    call = changed(changed(signed(), b"authorization", b"AWS4-HMAC-SHA256 " + authorization), b"x-amz-date", when)
    refused(call)
