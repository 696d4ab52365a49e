"""The documents are true: links lead somewhere, commands and settings exist, tables are those of the code, examples run."""

import ast
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import typer.main
from msgspec import structs

from fareclass import __main__ as program
from fareclass import config
from fareclass.core import limits
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.tiers import DEFAULT_POLICIES, Tier
from fareclass.wire.admin import all_operations
from fareclass.wire.admin_guard import Guard
from fareclass.wire.errors import OPENAI, openai_error
from tests.unit.telemetry_page import Telemetry, finished

ROOT = Path(__file__).parent.parent
DOCS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "bench/*.md")
    for path in ROOT.glob(pattern)
    if ".venv" not in path.parts
)
CODE = [path for folder in ("src", "tests", "bench") for path in sorted((ROOT / folder).rglob("*.py"))]
MODEL_FILE = "/models/my-model.Q4_K_M.gguf"


class Block(NamedTuple):
    """A fenced piece of a document, and where it stands."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def blocks(language: str, *paths: Path) -> list[Block]:
    return [
        Block(path, path.read_text()[: match.start()].count("\n") + 1, match[1])
        for path in paths or DOCS
        for match in re.finditer(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
    ]


def commands(*paths: Path) -> list[tuple[str, list[str]]]:
    """Where it stands, and its words, of each command that is ours."""
    found = []
    for block in blocks("console", *paths):
        for number, line in enumerate(block.text.splitlines(), block.line + 1):
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if line.startswith("$ ") and Path(words[0]).name == "fareclass":
                found.append((f"{block.path.relative_to(ROOT)}:{number}", words[1:]))
    return found


def rows(path: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    text = (ROOT / path).read_text().partition(f"# {heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table, f"{path}: no table below {heading}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]


# What is said


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path):
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize(("where", "words"), commands(), ids=[where for where, _ in commands()])
def test_commands_exist(where: str, words: list[str], monkeypatch: pytest.MonkeyPatch):
    made = []

    def call(app: typer.Typer) -> None:
        made.append(app)

    monkeypatch.setattr(typer.Typer, "__call__", call)
    program.main()
    command: Any = typer.main.get_command(made[0])
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"{where}: no command {words[0]}"
        command = command.commands[words[0]]
        words = words[1:]
    command.make_context(where, list(words))


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for path in DOCS for name in re.findall(r"(?:`|^\$ )make ([a-z-]+)", path.read_text(), re.MULTILINE)}
    assert named
    assert named <= targets


@pytest.mark.parametrize("block", [b for b in blocks("yaml") if not b.text.startswith("# prometheus.yml")], ids=str)
def test_configurations_are_good(block: Block, tmp_path: Path):
    model = tmp_path / "model.gguf"
    model.touch()
    file = tmp_path / "fareclass.yaml"
    (tmp_path / "batches").mkdir()
    text = block.text.replace(MODEL_FILE, str(model)).replace("/srv/batches", str(tmp_path / "batches"))
    file.write_text(re.sub(r"/etc/fareclass/(cert|key)\.pem", rf"{ROOT}/tests/data/tls-\1.pem", text))
    secrets = dict.fromkeys(re.findall(r"_env: (\w+)", block.text), "secret")
    assert config.load(file, secrets).models


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_examples_compile(block: Block):
    assert ast.parse(block.text).body


def test_cited_rules_are_there():
    """Each rule that code or a document names is one of docs/rules.md: in force, or announced for later."""
    rules = (ROOT / "docs" / "rules.md").read_text()
    in_force = set(re.findall(r"^- \*\*(R\d+)\*\*", rules, re.MULTILINE))
    later = set(re.findall(r"\bR\d+\b", rules.partition("## Announced for later")[2]))
    assert not in_force & later
    for path in [*CODE, *DOCS]:
        assert set(re.findall(r"\bR[1-9]\d?\b", path.read_text())) <= in_force | later, path


def test_tests_prove_only_rules_in_force():
    """A test function that names a rule (`test_r12_…`) names one that this version keeps."""
    rules = set(re.findall(r"^- \*\*R(\d+)\*\*", (ROOT / "docs" / "rules.md").read_text(), re.MULTILINE))
    named = {
        number
        for path in CODE
        for function in re.findall(r"def (test_r\d\w*)", path.read_text())
        for number in re.findall(r"r(\d+)(?=_)", function)
    }
    assert named <= rules


def test_the_numbers_in_the_rules_are_the_codes():
    words = " ".join((ROOT / "docs" / "rules.md").read_text().split())
    for said in (
        f"After {limits.MAX_RESTARTS} restarts",
        f"at most {limits.CHEAP_CONTINUATION_TOKENS} prompt tokens again",
        f"max({limits.PROTECTION_S} s, 4 ×",
        f"After {limits.MAX_PAUSED_S:.0f} s of pauses",
        f"a comment line every {limits.SSE_COMMENT_S:.0f} s",
        f"({DEFAULT_POLICIES[Tier.FLEX].queue_limit:,} tickets a tier, {limits.QUEUE_BYTES >> 20} MiB",
        f"for {limits.CALLER_STALL_S:.0f} s counts as gone",
        f"stay within {limits.GATE_TOKENS:,};",
        f"more than {limits.YIELD_TOKENS} uncached prompt tokens",
        f"at most {limits.MAX_YIELDS} times each",
        f"Wider than {limits.WIDTH},",
        f"too large ({limits.BODY_BYTES >> 20} MiB)",
        f"deeper than {limits.JSON_DEPTH} levels",
        f"the first {limits.METRIC_PROJECTS} projects",
    ):
        assert said in words


# Tables that are the code's


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("Top level", config.Config),
        ("Model", config.Model),
        ("Replica", config.Replica),
        ("Local engine", config.LocalEngine),
        ("Simulated engine", config.SimulatedEngine),
        ("Price", config.Price),
    ],
)
def test_every_setting_is_in_the_reference(heading: str, kind: type):
    """With its default, wherever that is a plain value."""
    documented = {cells[0].strip("`"): cells[1] for cells in rows("docs/reference/configuration.md", heading)}
    fields = {field.name: field for field in structs.fields(kind)}
    assert documented.keys() == fields.keys()
    for name, shown in documented.items():
        default = fields[name].default
        if isinstance(default, str | bool | int | float):
            assert shown == f"`{str(default).lower()}`", name


def test_every_tier_setting_is_in_the_reference(tmp_path: Path):
    table = {cells[0].strip("`"): cells[1:4] for cells in rows("docs/reference/configuration.md", "Tier")}
    assert table.keys() == {field.name for field in structs.fields(config.TierSettings)}
    settings = config.load(env={})
    prices = settings.multipliers(config.DEFAULT_MODEL)
    for column, tier in enumerate((Tier.PRIORITY, Tier.DEFAULT, Tier.FLEX)):
        policy = structs.asdict(settings.policies()[tier]) | {"price": prices[tier]}
        shown = {name: cells[column].strip("`") for name, cells in table.items()}
        assert shown == {name: "none" if policy[name] is None else str(policy[name]) for name in table}


def test_the_tiers_of_the_readme_are_the_defaults():
    settings = config.load(env={})
    prices = settings.multipliers(config.DEFAULT_MODEL)
    for cells in rows("README.md", "The tiers"):
        tier = Tier[cells[0].upper()]
        wait_s = settings.policies()[tier].max_wait_s
        wait = f"{wait_s / 3600:.0f} h" if wait_s >= 3600 else f"{wait_s:.0f} s"
        assert tier is Tier.RESERVED or (cells[2], cells[3]) == (f"× {prices[tier]:.2f}", wait)


def test_every_metric_is_in_the_reference():
    telemetry = Telemetry()
    telemetry.observe(finished())
    exposed = set(re.findall(r"^# TYPE (fareclass_\w+)", telemetry.render().decode(), re.MULTILINE))
    text = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    assert set(re.findall(r"^\| `(fareclass_\w+)`", text, re.MULTILINE)) == exposed
    for path in DOCS:
        for name in re.findall(r"`(fareclass_(?!client`)\w+)", path.read_text()):
            assert name in exposed, path


def test_every_call_of_the_control_plane_is_in_the_reference():
    calls = {
        cell for cells in rows("docs/reference/http.md", "For operators") for cell in re.findall(r"`(.*?)`", cells[0])
    }
    operations = all_operations(Guard(""), None, None, None, None, None, None, None)
    assert calls == {f"{one.method} {one.path.replace(':path', '')}" for one in operations}


def test_the_table_of_refusals_is_the_wires():
    shown = {}
    for outcome, status, code, kind in rows("docs/rules.md", "Refusals"):
        shown[outcome] = (int(status), code.strip("`"), kind.strip("`"))
    for outcome in OPENAI:
        if outcome is not Outcome.CANCELLED:
            status, body = openai_error(Refusal(outcome, "why"), Tier.DEFAULT)
            assert shown.pop(outcome.value) == (status, OPENAI[outcome].code, OPENAI[outcome].type), body
    status, body = openai_error(Refusal(Outcome.EXPIRED, "why"), Tier.FLEX)
    flex = shown.pop("expired, flex")
    assert flex[0] == status
    assert f'"{flex[1]}"'.encode() in body
    for code in ("budget_exceeded", "reservation_exhausted"):
        name = next(name for name, row in shown.items() if row[1] == code)
        status, body = openai_error(Refusal(Outcome.THROTTLED, "why", code=code), Tier.DEFAULT)
        assert shown.pop(name)[0] == status and f'"{code}"'.encode() in body
    assert not shown


def test_the_code_map_names_every_module():
    code_map = blocks("text", ROOT / "ARCHITECTURE.md")[1].text
    names = set(re.findall(r"[\w*]+\.py", code_map)) | {f"{word}.py" for word in re.findall(r"\w+", code_map)}
    patterns = [name for name in names if "*" in name]
    for path in (ROOT / "src").rglob("*.py"):
        if path.name != "__init__.py" and "migrations" not in path.parts:
            assert path.name in names or any(path.match(pattern) for pattern in patterns), path
    modules = {path.name for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    assert {name for name in re.findall(r"\w+\.py", code_map) if name not in modules} == set()


def test_documents_speak_only_of_this_repository():
    for path in DOCS:
        assert "../shared" not in path.read_text(), path
        assert "/work/" not in path.read_text(), path
