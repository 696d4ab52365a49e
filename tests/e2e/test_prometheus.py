"""R42: what a gateway that has served shows at `/metrics`, and that dashboard and alerts ask for nothing else."""

import asyncio
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from fareclass.core.outcomes import Outcome
from fareclass.core.tiers import TIERS
from fareclass.core.usage import KINDS
from fareclass.telemetry.metrics import CONTENT_TYPE
from tests.e2e.busy import Busy, reservable
from tests.e2e.gateway import Gateway, in_process
from tests.e2e.test_batches import ended, line, packed, submit

MONITORING = Path(__file__).parents[2] / "monitoring"
DASHBOARD = MONITORING / "grafana-dashboard.json"
ALERTS = MONITORING / "alerts.yaml"
TIER_WORDS = {tier.word for tier in TIERS}
WORDS = {
    "service_tier": TIER_WORDS,
    "resolved_service_tier": TIER_WORDS,
    "outcome": {outcome.value for outcome in Outcome},
    "kind": set(KINDS),
}
FROM_PROMETHEUS = {"job", "instance", "severity"}
"""Labels that Prometheus or a rule puts on, and not the gateway."""


class Asked(NamedTuple):
    """An expression in PromQL, where it stands, and labels that its surroundings show."""

    place: str
    expression: str
    shown: set[str]

    def __str__(self) -> str:
        return self.place


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def asked() -> list[Asked]:
    of_panels = [
        Asked(panel["title"], target["expr"], set(re.findall(r"{{(\w+)}}", target["legendFormat"])))
        for panel in panels()
        for target in panel["targets"]
    ]
    of_rules = [
        Asked(rule["alert"], rule["expr"], set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))))
        for rule in rules()
    ]
    return of_panels + of_rules


class Seen(NamedTuple):
    """The page of a gateway that has served, beside its ledger; `labels` also while a batch was under way."""

    text: str
    families: list[Metric]
    labels: dict[str, set[str]]
    rows: list[dict[str, Any]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return asyncio.run(look(tmp_path_factory.mktemp("busy")))


async def look(folder: Path) -> Seen:
    async with in_process(folder, reservable()) as gateway:
        await (await Busy.begin(gateway)).wave()
        text = await page(gateway)
        rows = gateway.rows()
        sdk = gateway.sdk()
        batch = await submit(sdk, packed([line(1, max_tokens=2_000)]))
        await gateway.speaks("batch")
        labels: dict[str, set[str]] = {}
        for family in [*parsed(text), *parsed(await page(gateway))]:
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)
        await sdk.batches.cancel(batch.id)
        await ended(sdk, batch.id)
        return Seen(text, parsed(text), labels, rows)


async def page(gateway: Gateway) -> str:
    answer = (await gateway.http.get(f"{gateway.url}/metrics")).raise_for_status()
    assert answer.headers["content-type"] == CONTENT_TYPE
    return answer.text


def parsed(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


def check_form(text: str, families: list[Metric]) -> None:
    """What Prometheus' parser would let pass, and what its users would stumble over."""
    assert text.endswith("\n")
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    samples = [(sample.name, *sorted(sample.labels.items())) for family in families for sample in family.samples]
    assert len(set(samples)) == len(samples)
    for family in families:
        assert family.documentation and family.type in {"counter", "gauge", "histogram"}, family.name
        if family.type == "histogram":
            check_buckets(family)


def check_buckets(family: Metric) -> None:
    """Cumulative, and in the end all."""
    series: dict[tuple[tuple[str, str], ...], list[float]] = {}
    counts = {}
    for sample in family.samples:
        words = tuple(sorted((name, word) for name, word in sample.labels.items() if name != "le"))
        if sample.name.endswith("_bucket"):
            series.setdefault(words, []).append(sample.value)
        elif sample.name.endswith("_count"):
            counts[words] = sample.value
    assert {words: buckets[-1] for words, buckets in series.items()} == counts
    assert all(buckets == sorted(buckets) for buckets in series.values())


def test_r42_the_page_says_what_the_ledger_says(seen):
    check_form(seen.text, seen.families)
    samples = [sample for family in seen.families for sample in family.samples]
    counted: Counter[tuple[str, str, str]] = Counter()
    for sample in samples:
        if sample.name == "fareclass_requests_total":
            labels = sample.labels
            counted[labels["service_tier"], labels["resolved_service_tier"], labels["outcome"]] += int(sample.value)
    assert counted == Counter((row["requested_tier"], row["served_tier"], row["outcome"]) for row in seen.rows)
    assert {outcome for _, _, outcome in counted} == {"completed", "not_found", "throttled", "shed"}
    assert {served for _, served, outcome in counted if outcome == "completed"} == TIER_WORDS
    assert ("reserved", "priority", "completed") in counted, "beyond its floor (R21)"
    answered = [row for row in seen.rows if row["first_token_us"] is not None]
    for kind in KINDS:
        told = [one.value for one in samples if one.name == "fareclass_tokens_total" and one.labels["kind"] == kind]
        assert sum(told) == sum(row[kind] for row in answered)


def test_r42_dashboard_and_alerts_ask_for_what_there_is(seen):
    """Every name, every label, and every word that a label is held against."""
    labels_of = seen.labels
    for one in asked():
        names = set(re.findall(r"\bfareclass_\w+", one.expression))
        assert names <= labels_of.keys(), one
        known = {label for name in names for label in labels_of[name]} | FROM_PROMETHEUS
        for group in re.findall(r"\b(?:by|on|without) \(([^)]*)\)", one.expression):
            assert set(re.split(r",\s*", group)) <= known, one
        assert one.shown <= known, one
        for name, selector in re.findall(r"\b(fareclass_\w+){([^}]*)}", one.expression):
            for label, word in re.findall(r'(\w+)\s*=~?\s*"([^"]*)"', selector):
                assert label in labels_of[name] | FROM_PROMETHEUS, one
                assert label not in WORDS or set(word.split("|")) <= WORDS[label], one


def test_the_dashboard_can_be_imported():
    """Each panel has a place of its own and the data source that was chosen; variables ask for what there is."""
    board = json.loads(DASHBOARD.read_text())
    everything = board["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels())
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$(\w+)", " ".join(one.expression for one in asked()))) - {"__rate_interval"}
    assert {"model", "project"} <= used <= variables


def test_every_alert_is_tested_and_says_what_it_means():
    tests = yaml.safe_load((MONITORING / "alerts_test.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    for rule in rules():
        of_it = [bool(case["exp_alerts"]) for case in cases if case["alertname"] == rule["alert"]]
        assert {True, False} <= set(of_it), rule["alert"]
        assert rule["labels"]["severity"] in {"info", "warning", "critical"} and rule["annotations"]["summary"]


def test_the_example_of_a_configuration_names_these_rules():
    example = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    assert example["rule_files"] == [ALERTS.name]
