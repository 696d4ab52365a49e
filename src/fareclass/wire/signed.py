"""Calls that are proved by a signature over all of them, the body too, instead of by a token (R51)."""

from hashlib import sha256

from fareclass.core.snapshot import Key, Snapshot
from fareclass.deadlines import Deadlines
from fareclass.flow.clock import now_us
from fareclass.policy import sigv4
from fareclass.wire.arrival import Arrival, Message, Receive, read_body


async def read_signed(
    snapshot: Snapshot, scope: Message, receive: Receive, arrival: Arrival, deadlines: Deadlines
) -> tuple[Key, bytes]:
    """Whose call this is, and its body, which must be read before that is known.

    The body of one who names no key is hashed like any other, so that it takes as long, but nothing of it is kept.

    Raises:
        Refusal: `unauthenticated`, or as `read_body`.
        CallerGone: the caller hung up meanwhile.
    """
    call = sigv4.Call(scope["method"], scope["raw_path"], scope["query_string"], scope["headers"])
    claim = sigv4.read_claim(call, now_us() / 1e6)
    known = claim.key_id in snapshot.keys
    digest, body = sha256(), bytearray()

    def take(part: bytes) -> None:
        digest.update(part)
        body.extend(part)
        if not known:
            body.clear()

    await read_body(receive, arrival, deadlines, take)
    return sigv4.verify(snapshot, claim, call, digest.hexdigest()), bytes(body)
