"""Keys of the playground: none outlives its run for long (R51)."""

from datetime import UTC, datetime, timedelta

import pytest

from fareclass.console.client import ControlPlane, Trouble
from fareclass.console.session import Sessions
from fareclass.console.temporary import LEFT_AFTER, PREFIX, TemporaryKeys
from tests.unit.console.calls import ADMIN, Keys, gateway_of


def logged_in(keys: Keys) -> tuple[Sessions, str, ControlPlane]:
    sessions = Sessions(lambda _: None)
    token = sessions.begin(ADMIN, "admin")
    session = sessions.find(token)
    assert session is not None
    return sessions, token, ControlPlane(gateway_of(keys), session)


async def test_a_key_is_revoked_though_its_login_ended_in_mid_run():
    keys = Keys()
    sessions, token, control = logged_in(keys)
    async with TemporaryKeys().made(control, "p"):
        session = sessions.find(token)
        assert session is not None
        sessions.end(session)
        assert keys.revoked == []
    assert keys.revoked == [keys.held[0]["name"]]
    with pytest.raises(Trouble, match="logged out"):
        async with TemporaryKeys().made(control, "p"):
            pass
    assert len(keys.held) == 1


async def test_what_another_console_left_is_revoked_and_nothing_else():
    now = datetime.now(UTC)
    old, young = (now - 2 * LEFT_AFTER).isoformat(), (now - LEFT_AFTER + timedelta(minutes=1)).isoformat()
    keys = Keys((f"{PREFIX}old", old), (f"{PREFIX}young", young), ("a-caller", old), (f"{PREFIX}gone", old))
    keys.held[3]["revoked_at"] = old
    _, _, control = logged_in(keys)
    temporary = TemporaryKeys()
    async with temporary.made(control, "p"):
        await temporary.sweep(control)
        assert keys.revoked == [f"{PREFIX}old"]
