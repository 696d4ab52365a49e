"""The plan page: advice, and the slider (R44)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.console import MODEL, Console, Live, row_of, settings, visit
from tests.browser.past import with_past
from tests.e2e.gateway import Process


@pytest.fixture(scope="module")
def live(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A console before a gateway with nine days of past."""
    folder: Path = tmp_path_factory.mktemp("plan")
    gateway = Process(folder, settings())
    live = Live(gateway, None, browser)  # type: ignore[arg-type]
    try:
        project = live.admin.get("/projects/default").json()["id"]
        with with_past(gateway.url, project) as url:
            live.console = Console(url, folder)
            yield live
            live.console.close()
    finally:
        live.close()
        gateway.close()


def planned(page: Page, live: Live) -> Page:
    visit(page, live, "/plan")
    page.get_by_role("button", name="Make a plan").click()
    expect(page.get_by_role("heading", name="What if we reserved at")).to_be_visible(timeout=30_000)
    return page


def test_the_slider_moves_along_the_curve(live: Live, page: Page):
    """Without another call; what it stands on becomes a reservation."""
    planned(page, live)
    for name in ("all-default", "all-priority", "p50", "p90", "best"):
        expect(row_of(page, name)).to_be_visible()
    calls: list[str] = []
    page.on("request", lambda request: calls.append(request.url))
    level = page.locator(".fact").first
    expect(level).to_have_text("p50level")
    page.get_by_role("slider", name="Level to reserve at").locator("[tabindex='0']").focus()
    for name in ("p60", "p70", "p75", "p80", "p90", "p95", "p99"):
        page.keyboard.press("ArrowRight")
        expect(level).to_have_text(f"{name}level")
    assert calls == []
    page.get_by_role("button", name="Make this reservation").click()
    dialog = page.get_by_role("dialog")
    tokens = int(dialog.get_by_label("Input tokens a minute").input_value())
    assert tokens > 0
    dialog.get_by_role("button", name="Reserve", exact=True).click()
    expect(dialog).to_have_count(0)
    (made,) = live.admin.get("/reservations").json()["data"]
    assert (made["input_tpm"], made["model"], made["project_name"]) == (tokens, MODEL, "default")


def test_the_read_only_key_plans_and_reserves_nothing(live: Live, reader: Page):
    planned(reader, live)
    expect(reader.get_by_role("button", name="Reserve")).to_have_count(0)
    expect(reader.get_by_role("button", name="Make this reservation")).to_have_count(0)


def test_a_plan_on_a_phone(live: Live, phone: Page):
    planned(phone, live)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
