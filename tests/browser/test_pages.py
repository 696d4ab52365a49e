"""What the pages show: live, exact, empty, on a phone, by the keyboard, in the dark."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

import httpx
import pytest
from playwright.sync_api import Page, expect

from fareclass.console.pages import PAGES
from tests.browser.console import MODEL, OTHER, Live, choose, row_of, visit
from tests.e2e.gateway import chat

PATHS = [page.path for page in PAGES if page.key] + ["/projects/default"]
EMPTY = {
    "/tiers": "No request in this span.",
    "/reservations": "No reservation: every request takes its turn on demand.",
    "/workloads": "No workload is named yet.",
    "/routes": "No route: callers name the model itself.",
    "/batches": "No batch.",
    "/costs": "Nothing was used in this span.",
}
NAMELESS = """[...document.querySelectorAll('input, textarea, button, a[href]')].filter(one => {
    if (one.type === 'hidden' || one.closest('[aria-hidden=true]')) return false;
    const label = one.getAttribute('aria-label') || (one.labels && one.labels[0] && one.labels[0].textContent);
    return !(label || one.textContent || '').trim();
}).map(one => one.outerHTML.slice(0, 200))"""
"""What can be used on a page and has no name to read out."""


def ask(live: Live, **fields: object) -> httpx.Response:
    headers = {"authorization": f"Bearer {live.gateway.key}"}
    return httpx.post(f"{live.gateway.url}/v1/chat/completions", json=chat(**fields), headers=headers, timeout=60)


@contextmanager
def long_answers(live: Live, tier: str, number: int) -> Iterator[None]:
    """So many requests of this tier run until the end of the block."""
    body = chat(model=OTHER, service_tier=tier, max_tokens=1_000, stream=True)
    headers = {"authorization": f"Bearer {live.gateway.key}"}
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


@pytest.mark.parametrize("path", PATHS)
def test_an_empty_page_on_a_phone(live: Live, phone: Page, path: str):
    """First in this file: nothing has been made or asked for yet. Each page says so, and asks for nothing that is not there.

    Nothing scrolls sideways but tables in themselves; every field and button has a name that can be read out.
    """
    visit(phone, live, path)
    expect(phone.get_by_role("alert").locator("visible=true")).to_have_count(0)
    if path in EMPTY:
        expect(phone.get_by_text(EMPTY[path])).to_be_visible()
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    assert phone.evaluate(NAMELESS) == []


def test_the_navigation_folds_on_a_phone(live: Live, phone: Page):
    visit(phone, live, "/pools")
    link = phone.get_by_role("link", name="Audit")
    expect(link).not_to_be_in_viewport()
    phone.get_by_role("button", name="Menu").click()
    link.click()
    expect(phone.get_by_role("heading", level=1)).to_have_text("Audit")


def test_keys_lead_everywhere(live: Live, page: Page):
    visit(page, live, "/pools")
    page.keyboard.press("g")
    page.keyboard.press("c")
    expect(page.get_by_role("heading", level=1)).to_have_text("Costs")
    visit(page, live, "/audit")
    page.keyboard.press("/")
    expect(page.get_by_label("Find")).to_be_focused()
    page.keyboard.type("g p")
    expect(page.get_by_role("heading", level=1)).to_have_text("Audit")
    visit(page, live, "/projects")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()


def test_dark_and_light(live: Live, admin_token: str):
    """By the system's preference until somebody chooses, and then for good."""
    context = live.context(admin_token, color_scheme="dark")
    page = context.new_page()
    visit(page, live, "/pools")
    expect(page.locator("body")).to_have_class(re.compile("body--dark"))
    page.get_by_role("button", name="Dark or light").click()
    expect(page.locator("body")).to_have_class(re.compile("body--light"))
    page.wait_for_function("document.cookie.includes('fareclass_theme=light')")
    visit(page, live, "/audit")
    expect(page.locator("body")).to_have_class(re.compile("body--light"))
    context.close()


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
    keys = live.admin.get("/keys").json()["data"]
    assert [
        key["name"] for key in keys if key["name"].startswith("console-playground-") and not key["revoked_at"]
    ] == []
    prices = [
        Decimal(re.search(r"\$(\d+\.\d+)", page.locator(f"[data-tier={tier}].lane").inner_text())[1])  # type: ignore[index]
        for tier in ("priority", "default", "flex")
    ]
    assert prices == [prices[1] * Decimal("1.75"), prices[1], prices[1] / 2]


def test_costs_are_those_of_the_ledger(live: Live, page: Page):
    """R34: to the last digit; the report as CSV too."""
    assert ask(live, service_tier="priority", max_tokens=7).status_code == 200
    assert ask(live, service_tier="flex", max_tokens=9).status_code == 200
    rows = live.admin.get("/usage").json()["data"]
    total = sum((Decimal(row["cost"]) for row in rows), Decimal(0))
    visit(page, live, "/costs")
    expect(page.get_by_text(f"${total:f}", exact=True).first).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    text = download.value.path().read_text()
    assert "served_tier" in text.splitlines()[0] and "priority" in text
    visit(page, live, "/tiers")
    expect(row_of(page, "priority")).to_be_visible()


def test_batches_show_how_far_they_are(live: Live, page: Page):
    """R37."""
    line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": chat()}
    headers = {"authorization": f"Bearer {live.gateway.key}"}
    with httpx.Client(base_url=f"{live.gateway.url}/v1", headers=headers, timeout=30) as client:
        file = client.post("/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", json.dumps(line))}).json()
        body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        made = client.post("/batches", json=body).raise_for_status().json()
    visit(page, live, "/batches")
    expect(row_of(page, made["id"])).to_contain_text("completed", timeout=20_000)
    expect(row_of(page, made["id"])).to_contain_text("1 of 1")
    listed = live.admin.get("/batches", params={"state": "ended", "project": "default"}).json()["data"]
    assert [(one["id"], one["outcome"], one["succeeded"]) for one in listed] == [(made["id"], "completed", 1)]


def test_names_are_text(live: Live, page: Page):
    """What somebody calls a project is never markup."""
    name = "<img src=x onerror=alert(1)> {{ 7 * 7 }}"
    live.project(name)
    for path in ("/projects", "/audit"):
        visit(page, live, path)
        expect(page.get_by_text(name).first).to_be_visible()
        assert page.locator("img[src=x]").count() == 0
