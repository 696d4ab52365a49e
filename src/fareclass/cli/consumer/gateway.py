"""The gateway as a worker sees it: asked as often as it takes, with one idempotency key for each message (R48)."""

from collections.abc import Callable
from typing import Any, Final, Self

import httpx

from fareclass.cli.consumer.message import Answer, Call, Verdict, as_answer, judge, told_wait_s
from fareclass.cli.consumer.patience import Patience, Stopped
from fareclass.cli.control_client import LOCAL_DIRECT
from fareclass.core.limits import CONSUME_TRIES

_LOST: Final = "the gateway can't be reached"
_MODELS: Final = "/v1/models"
_LONGEST_TOLD_S: Final = 600.0
"""Who is told to come back later than that (when a budget renews) asks again: somebody may have raised it meanwhile."""
_LONGEST_S: Final = 60.0
_SHORTEST_S: Final = 0.1
_LONGEST_AWAY_S: Final = 15.0
_CONNECT_S: Final = 10.0


class WrongKey(Exception):
    """The gateway does not take the key; says what to do."""


class Gateway:
    """One gateway, with a project's key. Each call under way has a connection of its own."""

    def __init__(self, url: str, key: str, patience: Patience) -> None:
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"}
        self._patience = patience
        self._trusted = httpx.create_ssl_context()
        self._free: list[httpx.AsyncClient] = []
        """Each for one call at a time: the pool of one for all would look through its connections at every call."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._free:
            await client.aclose()

    async def check(self) -> None:
        """Wait until it is there.

        Raises:
            WrongKey: and does not take the key.
            Stopped: the worker was stopped meanwhile.
        """
        await self._exchange(_lists_models, "GET", _MODELS, timeout=_CONNECT_S)

    async def ask(self, call: Call) -> Answer:
        """What the gateway makes of a call, as soon as that is more than a word to come back later.

        Raises:
            WrongKey: it no longer takes the key.
            Stopped: the worker was stopped while the call waited to be sent again.
        """
        refused = failed = 0
        while True:
            reply = await self._exchange(_is_known, "POST", call.path, content=call.body, headers=call.headers)
            verdict = judge(reply.status_code, reply.headers)
            if verdict is Verdict.LATER:
                refused += 1
                tries = refused
                self._patience.note(
                    f"the gateway has no room for some calls now ({reply.status_code}): they wait as told"
                )
            elif verdict is Verdict.FAILED and failed < CONSUME_TRIES - 1:
                failed += 1
                tries = failed
            else:
                return as_answer(reply.status_code, reply.headers, reply.content)
            told_s = told_wait_s(reply.headers)
            if told_s is None:
                told_s = self._patience.growing_s(tries, _LONGEST_S)
            await self._patience.pause(max(_SHORTEST_S, min(told_s, _LONGEST_TOLD_S)))

    async def _exchange(
        self, known: Callable[[httpx.Response], bool], method: str, path: str, **more: Any
    ) -> httpx.Response:
        """The first reply that is the gateway's; before that, it is tried again for as long as it takes."""
        tries = 0
        while True:
            try:
                reply = await self._send(method, path, **more)
            except httpx.ReadTimeout:
                if self._patience.stopping:
                    raise Stopped from None
                continue
            except httpx.RequestError as error:
                # Other errors have no words of their own, or those of a header.
                why = f"{error if isinstance(error, httpx.ConnectError) else type(error).__name__} at {self._url}"
            else:
                if judge(reply.status_code, reply.headers) is Verdict.WRONG_KEY:
                    raise WrongKey(
                        f"the gateway at {self._url} does not take this key: set FARECLASS_API_KEY to a key of the project"
                    )
                if known(reply):
                    self._patience.found(_LOST)
                    return reply
                why = f"what answers at {self._url} is no Fareclass gateway (status {reply.status_code})"
            tries += 1
            self._patience.lost(_LOST, why)
            await self._patience.pause(self._patience.growing_s(tries, _LONGEST_AWAY_S))

    async def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        client = self._free.pop() if self._free else self._connection()
        try:
            return await client.request(method, path, **more)
        finally:
            self._free.append(client)

    def _connection(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._url,
            headers=self._headers,
            timeout=httpx.Timeout(self._patience.times.read_s, connect=_CONNECT_S),
            verify=self._trusted,
            mounts=LOCAL_DIRECT,
        )


def _is_known(reply: httpx.Response) -> bool:
    return judge(reply.status_code, reply.headers) is not Verdict.STRANGER


def _lists_models(reply: httpx.Response) -> bool:
    try:
        return reply.is_success and isinstance(reply.json()["data"], list)
    except (ValueError, LookupError, TypeError):
        return False
