"""What a line of a batch came to, as its API would have answered a caller, and whether it may fare better later."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from fareclass.core.request import Job
from fareclass.core.snapshot import Key
from fareclass.flow.clock import now_us
from fareclass.wire.calls import Calls
from fareclass.wire.dialect import Endpoint
from fareclass.wire.recording import Recording

_OURS_MS: Final = 2_000
_LEAST_MS: Final = 1_000
_LATER: Final = frozenset([429, 503, 529])
OURS: Final = frozenset([424, 500, 502])
"""What every API says where the gateway or an engine failed."""


class Heard(NamedTuple):
    """The answer to one line: its body is JSON of one text line. `ran_s` is how long it ran once it had its turn."""

    status: int
    body: bytes
    headers: Mapping[bytes, bytes]
    ran_s: float

    @property
    def succeeded(self) -> bool:
        return self.status == 200

    @property
    def ours(self) -> bool:
        return self.status in OURS

    @property
    def again_ms(self) -> int | None:
        """When a refused line may fare better; None where it is what it is."""
        if self.ours:
            return _OURS_MS
        if self.headers.get(b"x-should-retry") == b"false":
            return None
        return max(_LEAST_MS, int(self.headers.get(b"retry-after-ms", 0))) if self.status in _LATER else None


async def hear(calls: Calls, endpoint: Endpoint, body: bytes, key: Key, id: str, job: Job) -> Heard:
    """Send one line down the walk. Cancelled: hang up."""
    recording = Recording()
    began_us = now_us()
    await calls.run(endpoint, body, key, recording.send, id=id, job=job)
    headers = dict(recording.headers)
    waited_s = int(headers.get(b"x-fareclass-queue-ms", 0)) / 1e3
    ran_s = max(0.0, (now_us() - began_us) / 1e6 - waited_s)
    return Heard(recording.status, one_line(recording.body), headers, ran_s)


def one_line(text: bytes) -> bytes:
    """JSON without line ends."""
    return msgspec.json.format(text, indent=-1) if b"\n" in text else text
