"""Calls that come from inside: lines of batches and background responses take the same way as a caller's request."""

import asyncio
import logging

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Job
from fareclass.core.snapshot import Key
from fareclass.flow.clock import now_us
from fareclass.wire.arrival import Arrival, Send
from fareclass.wire.asgi import Walk
from fareclass.wire.dialect import Endpoint
from fareclass.wire.http_reply import HttpReply

_log = logging.getLogger(__name__)


class Calls:
    """Sends requests down the walk without a connection."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk

    async def run(
        self, endpoint: Endpoint, raw: bytes, key: Key, send: Send, *, id: str, job: Job | None = None
    ) -> None:
        """One request of `key`, given as the body that its API takes; the response goes to `send`.

        `id` is our own id of the request: the ledger keeps one entry for it, however often it is tried. Cancel the
        task to hang up: that has no effect on an answer that is whole already.
        """
        arrived_us = now_us()
        arrival = Arrival(
            id=id,
            caller_id="",
            token=None,
            traceparent=None,
            length=None,
            encoding=None,
            arrived_s=asyncio.get_running_loop().time(),
            arrived_us=arrived_us,
        )
        try:
            request = endpoint.parse(raw, arrival, key)
        except Refusal as error:
            refusal = error.alone()
        except Exception:  # noqa: BLE001 - a fault of ours must reach caller and log, and end as one outcome
            _log.exception("reading a request failed", extra={"request_id": id})
            refusal = Refusal(Outcome.INTERNAL, f"The gateway failed to read the request ({id}).")
        else:
            request.job = job
            reply = HttpReply(send, id, endpoint.dialect(arrival, request))
            walk = asyncio.ensure_future(self._walk.run(request, reply))
            try:
                await asyncio.shield(walk)
            except asyncio.CancelledError:
                if reply.billed:  # it is whole: what is paid for is delivered
                    await asyncio.wait([walk])
                    return
                reply.gone = True  # before the walk hears of it, which takes it for an end of the gateway otherwise
                walk.cancel()
                await asyncio.wait([walk])
                raise
            return
        self._walk.rejected(arrival, endpoint.name, key, refusal)
        await HttpReply(send, id, endpoint.dialect(arrival, None)).refuse(refusal)
