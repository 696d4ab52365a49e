"""`fareclass top` before a real gateway, its keys pressed and its screen read."""

from collections.abc import Awaitable, Callable

import pytest
from rich.console import Console
from textual.pilot import Pilot
from textual.widgets import Static

from fareclass.cli.top import app as top_app
from fareclass.cli.top.app import Top
from fareclass.cli.top.source import Away, Source
from tests.e2e.gateway import ADMIN_KEY, in_process, simulated
from tests.engine.conftest import eventually

CAPACITY = {"input_tpm": 1_000_000, "output_tpm": 50_000}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(top_app, "_LOOK_S", 0.05)


def settings():
    made = simulated(slots=8)
    made["models"]["m"] |= {"capacity": CAPACITY}
    return {"models": {**made["models"], "other": made["models"]["m"]}}


def screen(pilot: Pilot[None]) -> str:
    """What stands on the screen, as text."""
    console = Console(width=pilot.app.size.width, color_system=None, force_terminal=False)
    parts = []
    for name in ("head", "alarm", "picture"):
        widget = pilot.app.query_one(f"#{name}", Static)
        if widget.display:
            with console.capture() as capture:
                console.print(widget.content)
            parts.append(capture.get())
    return "\n".join(parts)


def shows(pilot: Pilot[None], *words: str) -> Callable[[], Awaitable[bool]]:
    async def seen() -> bool:
        await pilot.pause()
        return all(word in screen(pilot) for word in words)

    return seen


async def test_it_shows_slots_tiers_and_floors_and_obeys_its_keys(launch):
    gateway = await launch(settings())
    body = {"project": "default", "model": "m", "input_tpm": 1_000, "output_tpm": 200}
    (await gateway.admin.post("/reservations", json=body)).raise_for_status()
    (await gateway.ask(service_tier="priority")).raise_for_status()
    app = Top(Source(gateway.url, ADMIN_KEY))
    async with app.run_test(size=(80, 24)) as pilot:
        await eventually(shows(pilot, "m (1 of 2)", "sim-0", "0/8", "floor of", "default", "1,000", "priority"))
        assert all(len(line) <= 80 for line in screen(pilot).splitlines())
        assert "…" not in screen(pilot), "every column has its room"
        await pilot.press("m")
        await eventually(shows(pilot, "other (2 of 2)", "no request ended"))
        assert "floor of" not in screen(pilot)
        await pilot.press("question_mark")
        await eventually(shows(pilot, "headroom", "q quit"))
        await pilot.press("question_mark", "p")
        await eventually(shows(pilot, "PAUSED", "sim-0"))
        await pilot.resize_terminal(160, 50)
        await eventually(shows(pilot, "other (2 of 2)"))
        await pilot.resize_terminal(10, 4)
        await pilot.press("m", "p", "q")
    assert app.return_code == 0


async def test_what_runs_is_shown_while_it_runs(launch):
    gateway = await launch(simulated(slots=4, base_us=500_000))
    app = Top(Source(gateway.url, ADMIN_KEY))
    async with app.run_test(size=(80, 24)) as pilot, gateway.http.stream(
        "POST", "/chat/completions",
        json={"model": "m", "messages": [{"role": "user", "content": "hi"}], "service_tier": "flex", "stream": True},
    ):  # fmt: skip
        await eventually(shows(pilot, "1 of 4 slots run", "F··· 1/4"), 30)


async def test_a_gateway_that_goes_away_leaves_the_picture_and_comes_back_by_itself(tmp_path):
    async with in_process(tmp_path, settings()) as gateway:
        app = Top(Source(gateway.url, ADMIN_KEY))
        port = gateway.url.rpartition(":")[2]
        context = app.run_test(size=(80, 24))
        pilot = await context.__aenter__()
        await eventually(shows(pilot, "m (1 of 2)", "sim-0"))
    try:
        await eventually(shows(pilot, "Away since", "can't reach the gateway", "sim-0"))
        (tmp_path / "again").mkdir()
        async with in_process(tmp_path / "again", settings() | {"listen": f"127.0.0.1:{port}"}):
            await eventually(lambda: "Away" not in screen(pilot) and "sim-0" in screen(pilot))
    finally:
        await context.__aexit__(None, None, None)


async def test_pools_are_shown_while_reports_are_late(launch, monkeypatch):
    gateway = await launch(settings())

    async def late(source, model):
        raise Away("no answer within 5 s: it may be busy")

    monkeypatch.setattr(Source, "board", late)
    async with Top(Source(gateway.url, ADMIN_KEY)).run_test(size=(120, 30)) as pilot:
        await eventually(shows(pilot, "m (1 of 2)", "sim-0", "of before: no answer within 5 s"))
        assert "Away" not in screen(pilot)


async def test_a_key_that_is_not_taken_is_said(launch):
    gateway = await launch(settings())
    async with Top(Source(gateway.url, "fc_wrong")).run_test(size=(80, 24)) as pilot:
        await eventually(shows(pilot, "Away since", "does not take this key"))
