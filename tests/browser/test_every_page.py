"""Each page before anything was made, on a phone; and plans by others than the admin at his desk."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from fareclass.console.pages import PAGES
from tests.browser.console import Live, planned, usable_on_a_phone, visit

pytestmark = pytest.mark.slow

PATHS = [page.path for page in PAGES if page.key] + ["/projects/default"]
EMPTY = {
    "/tiers": "No request in this span.",
    "/reservations": "No reservation: every request takes its turn on demand.",
    "/workloads": "No workload is named yet.",
    "/routes": "No route: callers name the model itself.",
    "/batches": "No batch.",
    "/costs": "Nothing was used in this span.",
}


@pytest.fixture(scope="module")
def live(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A gateway of its own, on which nothing has been made or asked for yet."""
    live = Live(tmp_path_factory.mktemp("empty"))
    yield live
    live.close()


@pytest.mark.parametrize("path", PATHS)
def test_an_empty_page_on_a_phone(live: Live, phone: Page, path: str):
    """Each page says that nothing is there, and asks for nothing that is not."""
    visit(phone, live, path)
    expect(phone.get_by_role("alert").locator("visible=true")).to_have_count(0)
    if path in EMPTY:
        expect(phone.get_by_text(EMPTY[path])).to_be_visible()
    usable_on_a_phone(phone)


def test_a_plan_on_a_phone(live: Live, phone: Page):
    """R44."""
    planned(phone, live)
    usable_on_a_phone(phone)


def test_the_read_only_key_plans_and_reserves_nothing(live: Live, reader: Page):
    """R44."""
    planned(reader, live)
    expect(reader.get_by_role("button", name="Reserve")).to_have_count(0)
    expect(reader.get_by_role("button", name="Make this reservation")).to_have_count(0)
