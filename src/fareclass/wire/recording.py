"""An answer kept as it goes out, for whoever else is to get it: a repeat of the call, a batch, a background response."""

import asyncio
from collections.abc import Sequence

from fareclass.wire.arrival import Message, Send


class Recording:
    """Stands where a caller would: takes the ASGI messages of one response, whatever its API.

    `messages` grow until `done`. Any number may `replay` them, each from its beginning and at its own pace.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.size_bytes = 0
        self.done = False
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def status(self) -> int:
        """Of a response that has begun."""
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """Of a response that has begun."""
        headers: Sequence[tuple[bytes, bytes]] = self.messages[0]["headers"]
        return headers

    @property
    def body(self) -> bytes:
        """What has come of it so far."""
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    async def send(self, message: Message) -> None:
        """One message of the response."""
        self.add(message)

    def add(self, message: Message) -> None:
        """The same, at once."""
        self.messages.append(message)
        self.size_bytes += len(message.get("body", b""))
        self.done = message["type"] == "http.response.body" and not message.get("more_body", False)
        self._wake()

    def close(self) -> None:
        """Nothing more will come, though it is not whole: `replay` ends."""
        self.done = True
        self._wake()

    async def wait(self, beyond: int) -> None:
        """Until there are more than so many messages, or it is done."""
        while len(self.messages) <= beyond and not self.done:
            grown = asyncio.get_running_loop().create_future()
            self._waiting.append(grown)
            await grown

    async def replay(self, send: Send, sent: int = 0) -> None:
        """The whole response, as it was sent, behind so many messages."""
        while sent < len(self.messages) or not self.done:
            await self.wait(sent)
            for message in self.messages[sent:]:
                await send(message)
                sent += 1

    def _wake(self) -> None:
        for grown in self._waiting:
            if not grown.done():
                grown.set_result(None)
        self._waiting.clear()
