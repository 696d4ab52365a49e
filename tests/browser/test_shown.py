"""What the pages show: live, exact, and when the gateway is gone."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
from playwright.sync_api import Page, expect

from tests.browser.console import COOKIE, MODEL, OTHER, Live, bearer, choose, planned, row_of, until, visit
from tests.e2e.gateway import ADMIN_KEY, chat


@contextmanager
def long_answers(live: Live, tier: str, number: int) -> Iterator[None]:
    """So many requests of this tier run until the end of the block."""
    body = chat(model=OTHER, service_tier=tier, max_tokens=1_000, stream=True)
    headers = bearer(live.gateway.key)
    stop = threading.Event()
    url = f"{live.gateway.url}/v1/chat/completions"

    def run() -> None:
        with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as answer:
            for _ in answer.iter_raw():
                if stop.is_set():
                    return

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def test_the_pool_is_seen_live(live: Live, page: Page):
    """Slots by tier, and who waits: without a reload."""
    visit(page, live, "/pools")
    pool = page.locator("section", has_text=OTHER)
    expect(pool).to_contain_text("0 of 8")
    with long_answers(live, "priority", 3), long_answers(live, "flex", 2):
        expect(pool).to_contain_text("5 of 8", timeout=15_000)
        expect(row_of(pool, "priority").locator("td").nth(1)).to_have_text("3")
        expect(row_of(pool, "flex").locator("td").nth(1)).to_have_text("2")
    expect(pool).to_contain_text("0 of 8", timeout=15_000)


def test_the_playground_shows_each_tier(live: Live, page: Page):
    """Its key lives as long as its calls."""
    visit(page, live, "/playground")
    choose(page, "Model", MODEL)
    page.get_by_label("Most tokens").fill("12")
    page.get_by_role("button", name="Send on each tier").click()
    for tier in ("priority", "default", "flex"):
        lane = page.locator(f"[data-tier={tier}].lane")
        expect(lane).to_contain_text("done", timeout=20_000)
        expect(lane).to_contain_text("$0.0000")
        assert lane.locator(".answer").inner_text()
    reserved = page.locator("[data-tier=reserved].lane")
    expect(reserved).to_contain_text("refused")
    expect(reserved).to_contain_text("Reservation not found.")
    expect(page.get_by_role("button", name="Send on each tier")).to_be_enabled()
    keys = live.api.get("/keys").json()["data"]
    assert [
        key["name"] for key in keys if key["name"].startswith("console-playground-") and not key["revoked_at"]
    ] == []
    prices = [
        Decimal(re.search(r"\$(\d+\.\d+)", page.locator(f"[data-tier={tier}].lane").inner_text())[1])  # type: ignore[index]
        for tier in ("priority", "default", "flex")
    ]
    assert prices == [prices[1] * Decimal("1.75"), prices[1], prices[1] / 2]


def test_the_playgrounds_key_ends_though_its_login_does_in_mid_run(live: Live, stranger: Page):
    """R51: and nobody is left to be told, which is no fault."""
    cookie = {"name": COOKIE, "value": live.console.log_in(), "url": live.console.url, "httpOnly": True}
    stranger.context.add_cookies([cookie])  # type: ignore[list-item]
    visit(stranger, live, "/playground")
    choose(stranger, "Model", OTHER)
    stranger.get_by_label("Most tokens").fill("9")
    stranger.get_by_role("button", name="Send on each tier").click()
    expect(stranger.locator("[data-tier=default].lane")).to_contain_text("answering", timeout=20_000)

    def live_keys() -> list[str]:
        keys = live.api.get("/keys", params={"limit": 500}).json()["data"]
        return [key["name"] for key in keys if key["name"].startswith("console-playground-") and not key["revoked_at"]]

    assert len(live_keys()) == 1
    other = stranger.context.new_page()
    visit(other, live, "/audit").get_by_role("button", name="Log out").click()
    expect(stranger).to_have_url(f"{live.console.url}/login")
    assert len(live_keys()) == 1, "the run goes on"
    other.close()
    until(lambda: live_keys() == [], 30)
    assert "Traceback" not in live.console.log.read_text() and "traceback" not in live.console.log.read_text()


def test_use_of_a_day_is_told_of_reservations_that_were_in_force_in_it(live: Live, page: Page):
    """Not of one whose hours did not come, though it is of the same project and model."""
    project = live.project("twice")["id"]
    later = f"{datetime.now(UTC) + timedelta(days=2):%a}".lower()
    hours = {"tz": "UTC", "weekly": [{"days": [later], "from": "09:00", "to": "17:00"}]}
    made = []
    for more in ({}, {"hours": hours}):
        body = {"project": project, "model": MODEL, "input_tpm": 1_000, "output_tpm": 100} | more
        made.append(live.api.post("/reservations", json=body).raise_for_status().json()["id"])
    try:
        visit(page, live, "/reservations")
        for one, use in zip(made, ("0 %", "–"), strict=True):
            expect(row_of(page, one).locator("td").nth(5)).to_have_text(use)
    finally:
        for one in made:
            live.api.delete(f"/reservations/{one}").raise_for_status()


def test_the_slider_moves_along_the_curve(live: Live, page: Page):
    """Without another call; what it stands on becomes a reservation."""
    planned(page, live)
    for name in ("all-default", "all-priority", "p50", "p90", "best"):
        expect(row_of(page, name)).to_be_visible()
    calls: list[str] = []
    page.on("request", lambda request: calls.append(request.url))
    level = page.locator(".fact").first
    expect(level).to_have_text("p50level")
    # Nothing is reserved at the median of these days, so no floor carries anything.
    expect(page.locator(".fact", has_text="overflows")).to_have_text("100 %overflows")
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
    (made,) = live.api.get("/reservations", params={"project": "default"}).json()["data"]
    assert (made["input_tpm"], made["model"], made["project_name"]) == (tokens, MODEL, "default")
    live.api.delete(f"/reservations/{made['id']}").raise_for_status()


def test_costs_are_those_of_the_ledger(live: Live, page: Page):
    """R34: to the last digit; the report as CSV too."""
    assert live.ask(service_tier="priority", max_tokens=7).status_code == 200
    assert live.ask(service_tier="flex", max_tokens=9).status_code == 200
    rows = live.api.get("/usage").json()["data"]
    total = sum((Decimal(row["cost"]) for row in rows), Decimal(0))
    visit(page, live, "/costs")
    expect(page.get_by_text(f"${total:f}", exact=True).first).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    text = download.value.path().read_text()
    assert "served_tier" in text.splitlines()[0] and "priority" in text
    visit(page, live, "/tiers")
    expect(row_of(page, "priority")).to_be_visible()
    expect(page.get_by_role("columnheader", name="Output tokens")).to_be_in_viewport(ratio=1)


def test_batches_show_how_far_they_are(live: Live, page: Page):
    """R37."""
    line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": chat()}
    with httpx.Client(base_url=f"{live.gateway.url}/v1", headers=bearer(live.gateway.key), timeout=30) as client:
        file = client.post("/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", json.dumps(line))}).json()
        body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        made = client.post("/batches", json=body).raise_for_status().json()
    visit(page, live, "/batches")
    expect(row_of(page, made["id"])).to_contain_text("completed", timeout=20_000)
    expect(row_of(page, made["id"])).to_contain_text("1 of 1")
    listed = live.api.get("/batches", params={"state": "ended", "project": "default"}).json()["data"]
    assert [(one["id"], one["outcome"], one["succeeded"]) for one in listed] == [(made["id"], "completed", 1)]


def test_a_gateway_that_is_gone_is_told_and_found_again(live: Live, page: Page):
    """A page keeps what it showed, says what is wrong, and goes on by itself."""
    visit(page, live, "/pools")
    alert = page.get_by_role("alert").locator("visible=true")
    live.front.close()
    try:
        expect(alert).to_contain_text(f"The gateway at {live.front.url} can't be reached", timeout=15_000)
        expect(page.get_by_text("slots in use").first).to_be_visible()
        page.goto(f"{live.console.url}/projects")
        expect(alert).to_contain_text("can't be reached")
        with live.console.http() as client:
            refused = client.post("/login", data={"key": ADMIN_KEY})
            assert refused.status_code == 502 and "can&#x27;t be reached" in refused.text
        page.goto(f"{live.console.url}/pools")
        expect(alert).to_contain_text("can't be reached")
    finally:
        live.front.open()
    expect(alert).to_have_count(0, timeout=15_000)
    expect(page.get_by_text("slots in use").first).to_be_visible()
