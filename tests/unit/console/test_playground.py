"""A run of the playground whose page has gone."""

from typing import Any

import pytest
from nicegui import Client
from nicegui.page import page

from fareclass.console.client import ControlPlane, Trouble
from fareclass.console.frame import Desk
from fareclass.console.pages.playground import _Playground
from fareclass.console.session import Session
from fareclass.console.temporary import TemporaryKeys
from tests.unit.console.calls import ADMIN, Keys, gateway_of


async def test_trouble_at_the_end_of_a_run_is_no_fault_where_nobody_is_left_to_be_told(monkeypatch: pytest.MonkeyPatch):
    session = Session("s", ADMIN, "admin", 1.0)
    desk = Desk(ControlPlane(gateway_of(Keys()), session), session, {}, TemporaryKeys())
    client = Client(page("/playground"), request=None)
    with client:
        playground = _Playground(desk, {"p": "project"}, ["m"])

    async def gone(*_path: Any) -> Any:
        client.delete()
        raise Trouble("The gateway can't be reached.", reached=False)

    monkeypatch.setattr(desk.control, "rows", gone)
    with playground._send_button.parent_slot:
        await playground._send()
    assert client.is_deleted
