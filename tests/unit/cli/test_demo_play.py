"""The demo's sending: what becomes of a request is always counted."""

from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from fareclass.cli.demo.play import Play
from fareclass.cli.demo.scenario import CAST, Send
from fareclass.cli.demo.tally import Tally, shed


class Session:
    """Every request breaks off so."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def post(self, *_: Any, **__: Any) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [TimeoutError(), aiohttp.ServerDisconnectedError()])
async def test_a_request_that_breaks_off_is_in_the_tally(error: Exception) -> None:
    gateway: Any = SimpleNamespace(url="http://127.0.0.1:1", admin_key="k")
    stage: Any = SimpleNamespace(keys=["k"] * len(CAST))
    session: Any = Session(error)
    play = Play(session, gateway, stage, Tally(), 0.1, 1)
    await play._ask(Send(at_s=0.0, actor=CAST[0], number=1))
    assert shed(play.tally.done) == sum(play.tally.sent.values()) == 1
