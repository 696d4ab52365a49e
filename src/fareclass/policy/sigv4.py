"""AWS Signature Version 4, as callers of Bedrock's API sign: the access key id is the key's id, the secret its token.

A signature may be used again while its time is within `SKEW_S`, since the SDKs' retries repeat it (R51).
"""

import hmac
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.snapshot import Key, Snapshot

SKEW_S: Final = 300
"""How far the caller's clock may be from ours."""
_SCHEME: Final = "AWS4-HMAC-SHA256"
_SERVICES: Final = frozenset({b"bedrock", b"bedrock-mantle"})
"""What callers take this gateway for: boto3's two clients the one, OpenAI's and Anthropic's SDKs for Bedrock either."""
_NOBODY: Final = b"fc_key_000000000000000000000000_0000000000000000000000000000000000000000000000000000"
_MUST: Final = frozenset({b"host", b"x-amz-date"})
_PREFIXES: Final = (b"x-amz-", b"x-amzn-")
_FORM: Final = re.compile(
    rb"AWS4-HMAC-SHA256 +Credential=([A-Za-z0-9_\-]{1,64})/([0-9]{8})/([a-z0-9\-]{1,32})/([a-z0-9\-]{1,32})/aws4_request *, *"
    rb"SignedHeaders=([a-z0-9\-;]{1,2000}) *, *Signature=([0-9a-f]{64})"
)
_WHEN: Final = re.compile(rb"[0-9]{8}T[0-9]{6}Z")

Headers = Sequence[tuple[bytes, bytes]]


class Call(NamedTuple):
    """What is signed of a request, but for its body. Path and query are as they came, still encoded."""

    method: str
    raw_path: bytes
    query: bytes
    headers: Headers


class Claim(NamedTuple):
    """What a request says of its signature."""

    key_id: str
    date: str
    region: str
    service: str
    signed: Sequence[bytes]
    signature: bytes
    timestamp: str


def is_signed(authorization: bytes) -> bool:
    """Whether this header is of a signed call, well formed or not."""
    return authorization.startswith(b"AWS4-")


def read_claim(call: Call, now_s: float) -> Claim:
    """Who claims to have signed a call, at a time that is near enough.

    Raises:
        Refusal: `unauthenticated`: it is malformed, of another service or too old, or leaves a header unsigned.
    """
    headers = dict(call.headers)
    found = _FORM.fullmatch(headers.get(b"authorization", b"").strip())
    if found is None:
        raise _refusal(
            "incomplete_signature",
            "The `Authorization` header is no AWS signature of version 4 "
            "(`AWS4-HMAC-SHA256 Credential=…/aws4_request, SignedHeaders=…, Signature=…`).",
        )
    if b"x-amz-security-token" in headers:
        raise _refusal("session_token", "Temporary credentials are not known here: leave AWS_SESSION_TOKEN unset.")
    key_id, date, region, service, signed, signature = found.groups()
    if service not in _SERVICES:
        raise _refusal("signature_scope", "The credential's scope must be of the service `bedrock`.")
    names = signed.split(b";")
    _check_signed(names, [name for name, _ in call.headers])
    timestamp = headers.get(b"x-amz-date", b"")
    _check_time(timestamp, date, now_s)
    scope = key_id.decode(), date.decode(), region.decode(), service.decode()
    return Claim(*scope, names, signature, timestamp.decode())


def verify(snapshot: Snapshot, claim: Claim, call: Call, digest: str) -> Key:
    """The key in force that signed this call; `digest` is the SHA-256 of its body, in hex.

    Raises:
        Refusal: `unauthenticated`, in the same words and after the same work, whether the key is unknown or revoked,
            or the signature of something else.
    """
    key = snapshot.keys.get(claim.key_id)
    signed = _signature(_NOBODY if key is None else key.secret, claim, _canonical(call, claim.signed, digest))
    told = dict(call.headers).get(b"x-amz-content-sha256", digest.encode())
    right = hmac.compare_digest(signed, claim.signature) and hmac.compare_digest(told, digest.encode())
    if key is None or not right:
        raise _refusal(
            "signature_mismatch",
            "The signature is wrong: the access key id must be the id of a key in force (`key_…`), the secret access "
            "key its whole secret (`fc_key_…`), and the request must arrive as it was signed.",
        )
    return key


def _check_signed(names: Sequence[bytes], given: Sequence[bytes]) -> None:
    unsigned = _MUST - set(names)
    unsigned |= {name for name in given if name.startswith(_PREFIXES) and name not in names}
    unsigned -= {b"x-amzn-trace-id"}  # load balancers add it
    if unsigned:
        named = ", ".join(f"`{name.decode('latin-1')[:100]}`" for name in sorted(unsigned)[:5])
        raise _refusal("unsigned_header", f"These headers must be signed: {named}.")
    if len(set(names)) != len(names) or sorted(names) != list(names) or not set(names) <= set(given):
        raise _refusal("incomplete_signature", "`SignedHeaders` must name headers of the request, each once, sorted.")


def _check_time(timestamp: bytes, date: bytes, now_s: float) -> None:
    try:
        if not _WHEN.fullmatch(timestamp):
            raise ValueError
        at = datetime.strptime(timestamp.decode(), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise _refusal("incomplete_signature", "`X-Amz-Date` must be a time like 20260131T235959Z.") from None
    if timestamp[:8] != date:
        raise _refusal("signature_scope", "The date of the credential's scope must be that of `X-Amz-Date`.")
    if abs(at.timestamp() - now_s) > SKEW_S:
        now = datetime.fromtimestamp(now_s, UTC)
        raise _refusal(
            "signature_expired",
            f"The request was signed at {at:%Y-%m-%dT%H:%M:%SZ}, here it is {now:%Y-%m-%dT%H:%M:%SZ}: "
            f"set the caller's clock (at most {SKEW_S} s apart).",
        )


def _canonical(call: Call, signed: Sequence[bytes], digest: str) -> str:
    """The request in the one form that both sides sign."""
    values: dict[bytes, list[bytes]] = {name: [] for name in signed}
    for name, value in call.headers:
        if name in values:
            values[name].append(b" ".join(value.split()))
    headers = b"".join(b"%b:%b\n" % (name, b",".join(found)) for name, found in values.items())
    path = quote(call.raw_path or b"/", safe="/~")  # what came encoded is encoded once more, except for S3
    return "\n".join(
        (
            call.method,
            path,
            _canonical_query(call.query),
            headers.decode("latin-1"),
            b";".join(signed).decode(),
            digest,
        )
    )


def _canonical_query(query: bytes) -> str:
    pairs = (part.partition(b"=") for part in query.split(b"&") if part)
    return "&".join(
        f"{name}={value}" for name, value in sorted((_encoded(name), _encoded(value)) for name, _, value in pairs)
    )


def _encoded(part: bytes) -> str:
    return quote(unquote_to_bytes(part), safe="-_.~")


def _signature(secret: bytes, claim: Claim, canonical: str) -> bytes:
    scope = f"{claim.date}/{claim.region}/{claim.service}/aws4_request"
    digest = sha256(canonical.encode("latin-1")).hexdigest()
    key = b"AWS4" + secret
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    said = f"{_SCHEME}\n{claim.timestamp}\n{scope}\n{digest}"
    return hmac.digest(key, said.encode(), "sha256").hex().encode()


def _refusal(code: str, message: str) -> Refusal:
    return Refusal(Outcome.UNAUTHENTICATED, message, code=code)
