"""What an operator makes and changes in the console: projects, keys, quotas, budgets, reservations, workloads, routes."""

import re
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.console import MODEL, OTHER, Live, bearer, choose, row_of, visit
from tests.e2e.gateway import chat

SECRET = re.compile(r"fc_key_\w+")


def test_a_project_and_a_key_whose_secret_is_shown_once(live: Live, page: Page):
    """R51: the secret is in one dialog, works, and is nowhere once that is closed.

    What is wrong stands at its field, in the control plane's own words.
    """
    live.project("taken")
    visit(page, live, "/projects")
    page.get_by_role("button", name="New project").click()
    dialog = page.get_by_role("dialog")
    page.get_by_label("Name").fill("taken")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("taken")
    expect(dialog.get_by_role("alert").first).to_be_visible()
    page.get_by_label("Weight").fill("many")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("weight must be a whole number")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="New project").click()
    page.get_by_label("Name").fill("bank")
    page.get_by_label("Weight").fill("3")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("bank")
    expect(page.get_by_text("No key yet")).to_be_visible()
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Name").fill("counter")
    page.get_by_label("Tags").fill("product=deposit, team=core")
    choose(page, "Default tier", "flex")
    page.get_by_role("button", name="Make key").click()
    shown = page.get_by_label("The key")
    expect(shown).to_have_text(SECRET)
    secret = shown.inner_text()
    answer = httpx.post(f"{live.gateway.url}/v1/chat/completions", json=chat(), headers=bearer(secret), timeout=30)
    assert (answer.status_code, answer.headers["x-fareclass-served-tier"]) == (200, "flex")
    page.get_by_role("button", name="I have it").click()
    expect(shown).to_have_count(0)
    expect(row_of(page, "counter")).to_contain_text("product=deposit, team=core")
    assert secret not in page.content()
    page.reload()
    expect(row_of(page, "counter")).to_be_visible()
    assert secret not in page.content()
    visit(page, live, "/audit")
    expect(row_of(page, "key.create")).to_be_visible()
    assert secret not in page.content()


def test_a_key_is_changed_and_revoked_quotas_and_budgets_are_set(live: Live, page: Page):
    project = live.project("limited")
    made = live.api.post("/keys", json={"project": project["id"], "name": "editor"}).json()
    visit(page, live, f"/projects/{project['id']}")
    page.get_by_role("button", name="Change editor").click()
    choose(page, "Default tier", "priority")
    page.get_by_role("button", name="Change", exact=True).last.click()
    expect(row_of(page, "editor")).to_contain_text("priority")
    page.get_by_role("button", name="Revoke editor").click()
    page.get_by_role("button", name="Revoke", exact=True).last.click()
    expect(page.get_by_text("No key yet")).to_be_visible()
    page.get_by_role("checkbox", name="Revoked too").click()
    expect(row_of(page, "editor")).to_contain_text("revoked")
    assert live.api.get(f"/keys/{made['id']}").json()["revoked_at"]
    page.get_by_role("button", name="Set quota").click()
    choose(page, "Model", MODEL)
    page.get_by_label("Tokens a minute").fill("120,000")
    page.get_by_label("Of the tokens, kept for priority").fill("20")
    page.keyboard.press("Enter")
    expect(row_of(page, "120,000")).to_contain_text("no limit")
    page.get_by_role("button", name="Set budget").click()
    page.get_by_label("USD").fill("12.50")
    choose(page, "Per", "day")
    page.get_by_role("button", name="Set budget").last.click()
    expect(row_of(page, "$12.50")).to_contain_text("the whole project")
    quota = live.api.get("/quotas", params={"project": "limited"}).json()["data"][0]
    assert (quota["tpm"], quota["rpm"], float(quota["priority_share"])) == (120_000, None, 0.2)
    budget = live.api.get("/budgets", params={"project": "limited"}).json()["data"][0]
    assert (budget["usd"], budget["per"]) == ("12.5", "day")
    visit(page, live, "/audit")
    expect(row_of(page, "budget.set")).to_contain_text("budget $12.50 / day")
    visit(page, live, f"/projects/{project['id']}")
    page.get_by_role("button", name="Lift").click()
    page.get_by_role("button", name="Lift", exact=True).last.click()
    expect(page.get_by_text("No budget: nothing is refused for its cost.")).to_be_visible()


def test_quota_and_budget_forms_begin_with_what_is_held(live: Live, page: Page):
    """Of the model or key that is chosen: sending the form unread changes nothing."""
    project = live.project("held")
    key = live.api.post("/keys", json={"project": project["id"], "name": "spender"}).raise_for_status().json()
    quota = {"tpm": 90_000, "rpm": 70, "concurrency": 5, "priority_share": "0.25"}
    live.api.put(f"/quotas/{project['id']}/{MODEL}", json=quota).raise_for_status()
    live.api.put(f"/budgets/{project['id']}/{key['id']}", json={"usd": "7.25", "per": "day"}).raise_for_status()
    visit(page, live, f"/projects/{project['id']}")
    page.get_by_role("button", name="Set quota").click()
    tokens, dialog = page.get_by_label("Tokens a minute"), page.get_by_role("dialog")
    expect(tokens).to_have_value("90000")
    choose(page, "Model", OTHER)
    expect(tokens).to_have_value("")
    choose(page, "Model", MODEL)
    expect(tokens).to_have_value("90000")
    dialog.get_by_role("button", name="Set quota").click()
    expect(dialog).to_have_count(0)
    (held,) = live.api.get("/quotas", params={"project": "held"}).json()["data"]
    assert (held["tpm"], held["rpm"], held["concurrency"], float(held["priority_share"])) == (90_000, 70, 5, 0.25)
    page.get_by_role("button", name="Set budget").click()
    amount = page.get_by_label("USD")
    expect(amount).to_have_value("")
    choose(page, "Of", "spender")
    expect(amount).to_have_value("7.25")
    dialog.get_by_role("button", name="Set budget").click()
    expect(dialog).to_have_count(0)
    (budget,) = live.api.get("/budgets", params={"project": "held"}).json()["data"]
    assert (budget["key"], budget["usd"], budget["per"]) == (key["id"], "7.25", "day")


def test_names_are_text(live: Live, page: Page):
    """What somebody calls a project is never markup."""
    name = "<img src=x onerror=alert(1)> {{ 7 * 7 }}"
    live.project(name)
    for path in ("/projects", "/audit"):
        visit(page, live, path)
        expect(page.get_by_text(name).first).to_be_visible()
        assert page.locator("img[src=x]").count() == 0


def test_a_reservation_is_made_refused_with_an_offer_and_cancelled(live: Live, page: Page):
    """R18, R19: what does not fit is refused with what would, which is one click away."""
    live.project("season")
    visit(page, live, "/reservations")
    expect(page.get_by_text("No reservation: every request takes its turn on demand.")).to_be_visible()
    expect(
        page.get_by_text("Its capacity is not known, so nothing can be reserved").locator("visible=true")
    ).to_have_count(1)
    page.get_by_role("button", name="New reservation").click()
    choose(page, "Project", "season")
    page.get_by_label("Input tokens a minute").fill("900000")
    page.get_by_label("Output tokens a minute").fill("9000")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("can't promise")
    offer = page.get_by_role("button", name="Take the largest that fits")
    offer.click()
    expect(page.get_by_text("can't promise")).to_be_hidden()
    taken = page.get_by_label("Output tokens a minute").input_value()
    page.get_by_label("Output tokens a minute").fill("-5")
    page.get_by_role("button", name="Reserve", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("output must be 0 or more")
    page.get_by_label("Output tokens a minute").fill(taken)
    page.get_by_role("button", name="Reserve", exact=True).click()
    expect(row_of(page, "season")).to_contain_text("in force")
    made = live.api.get("/reservations", params={"project": "season"}).json()["data"][0]
    assert 0 < made["input_tpm"] < 900_000 and made["project_name"] == "season"
    expect(row_of(page, "season")).to_contain_text(f"{made['input_tpm']:,}")
    page.get_by_role("button", name=f"Change {made['id']}").click()
    page.get_by_label("Input tokens a minute").fill("10000")
    choose(page, "In force", "some hours of the week")
    page.get_by_label("Time zone").fill("Europe/Vienna")
    page.get_by_role("button", name="Change", exact=True).last.click()
    expect(row_of(page, "season")).to_contain_text("mon–fri 09:00–17:00 Europe/Vienna")
    expect(row_of(page, "season")).to_contain_text("10,000")
    page.get_by_role("button", name=f"Cancel {made['id']}").click()
    page.get_by_role("button", name="Cancel it").click()
    expect(page.get_by_text("No reservation: every request takes its turn on demand.")).to_be_visible()
    page.get_by_role("checkbox", name="Past ones too").click()
    expect(row_of(page, "season")).to_contain_text("cancelled")


def test_a_workload_and_a_route(live: Live, page: Page):
    """R41, R45."""
    visit(page, live, "/workloads")
    page.get_by_role("button", name="New workload").click()
    page.get_by_label("Name").fill("nightly")
    choose(page, "Shape", "offline")
    choose(page, "Default tier", "flex")
    page.get_by_role("button", name="Set workload").click()
    expect(row_of(page, "nightly")).to_contain_text("offline")
    visit(page, live, "/routes")
    page.get_by_role("button", name="New route").click()
    page.get_by_label("Name").fill("assistant")
    page.get_by_label("Models, each with its quality").fill(f"{MODEL}=0.9, {OTHER}=0.5")
    page.get_by_label("Quality at least").fill("0.7")
    choose(page, "On priority", "fastest first")
    page.get_by_role("button", name="Set route").click()
    expect(row_of(page, "assistant")).to_contain_text("cheapest first, quality ≥ 0.7")
    route = live.api.get("/routes/assistant").json()
    assert [(one["model"], one["quality"]) for one in route["models"]] == [(MODEL, 0.9), (OTHER, 0.5)]
    assert route["by_tier"]["priority"]["order_by"] == "latency"
    page.get_by_role("button", name="Delete assistant").click()
    page.get_by_role("button", name="Delete", exact=True).last.click()
    expect(page.get_by_text("No route: callers name the model itself.")).to_be_visible()


@pytest.mark.parametrize(
    ("place", "noun", "body", "more"),
    [
        ("workloads", "workload", {"shape": "offline", "default_tier": "flex"}, ""),
        ("routes", "route", {"models": [{"model": MODEL}], "order_by": "latency"}, "Models, each with its quality"),
    ],
)
def test_a_new_one_overwrites_none_of_its_name(
    live: Live, page: Page, place: str, noun: str, body: dict[str, Any], more: str
):
    """Also one that was made after the page was drawn."""
    visit(page, live, f"/{place}")
    live.api.put(f"/{place}/occupied", json=body).raise_for_status()
    before = live.api.get(f"/{place}/occupied").json()
    page.get_by_role("button", name=f"New {noun}").click()
    page.get_by_label("Name").fill("occupied")
    if more:
        page.get_by_label(more).fill(OTHER)
    page.get_by_role("button", name=f"Set {noun}").click()
    expect(page.get_by_role("dialog")).to_contain_text("occupied exists already: change it in the list")
    assert live.api.get(f"/{place}/occupied").json() == before
    live.api.delete(f"/{place}/occupied")


def test_a_replica_drains(live: Live, page: Page):
    """R16."""
    visit(page, live, "/pools")
    page.get_by_role("button", name="Change sim-1").first.click()
    choose(page, "Work", "drains")
    page.get_by_role("button", name="Change", exact=True).last.click()
    expect(row_of(page.locator("section", has_text=MODEL).first, "sim-1")).to_contain_text("draining")
    live.api.patch(f"/pools/{MODEL}/replicas/sim-1", json={"drain": False}).raise_for_status()
