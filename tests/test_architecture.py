"""The rules of the code itself. Import directions are in pyproject.toml, checked by `make check`."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
EVERYTHING = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "bench").rglob("*.py"))]
TREES = {path: ast.parse(path.read_text()) for path in EVERYTHING}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 70
LONGER_FILES: dict[str, int] = {}
"""Reviewed exceptions: path -> lines."""
LONGER_FUNCTIONS: dict[str, int] = {}
"""Reviewed exceptions: `path:function` -> lines."""

_DONE_LATER = re.compile(r"\b(TODO|FIXME|XXX|HACK|placeholder|NotImplementedError|for now(?!,| in))\b", re.IGNORECASE)
_MAKES_MUTABLE = {
    "list",
    "dict",
    "set",
    "bytearray",
    "defaultdict",
    "deque",
    "Counter",
    "OrderedDict",
    "count",
    "cycle",
}
_AT_IMPORT = {
    "open", "print", "connect", "run", "Popen", "Thread", "getenv", "create_engine", "ClientSession",
    "read_text", "read_bytes", "write_text", "mkdir", "urlopen", "now", "sleep", "basicConfig",
}  # fmt: skip


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def called(call: ast.Call) -> str:
    """The last word of what is called: `read_text` of `Path(x).read_text()`."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def run_at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported: not the bodies of functions, nor `if __name__ == …`."""
    waiting: list[ast.AST] = [
        node for node in tree.body if not (isinstance(node, ast.If) and "__name__" in ast.dump(node.test))
    ]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def test_files_are_short():
    too_long = {
        name(path): count for path in EVERYTHING if (count := len(path.read_text().splitlines())) > MAX_FILE_LINES
    }
    assert too_long == LONGER_FILES


def test_functions_are_short():
    too_long = {
        f"{name(path)}:{function.name}": length
        for path in EVERYTHING
        for function in functions(TREES[path])
        if (length := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert too_long == LONGER_FUNCTIONS


def is_mutable(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        return called(value) in _MAKES_MUTABLE
    return isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)


def test_no_module_holds_mutable_state():
    """A constant may be a literal dict or list if it is named as one and nobody in its module changes it."""
    found = []
    for path in SOURCES:
        tree = TREES[path]
        for statement in tree.body:
            if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
                continue
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            if names == ["__all__"] or not is_mutable(statement.value):
                continue
            constant = all(each.lstrip("_").isupper() for each in names) and not isinstance(statement.value, ast.Call)
            if not constant or changes(tree, set(names)):
                found.append(f"{name(path)}:{statement.lineno} {', '.join(names)}")
    assert found == []


def changes(tree: ast.Module, names: set[str]) -> bool:
    """Whether a module stores into, deletes from, or calls a changing method of one of these names."""
    changing = {
        "append",
        "add",
        "update",
        "pop",
        "setdefault",
        "clear",
        "extend",
        "remove",
        "insert",
        "popitem",
        "discard",
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Global) and names & set(node.names):
            return True
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            owner = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in changing:
            owner = node.func.value
        else:
            continue
        if isinstance(owner, ast.Name) and owner.id in names:
            return True
    return False


def test_no_global_statement():
    found = [name(path) for path in SOURCES if any(isinstance(node, ast.Global) for node in ast.walk(TREES[path]))]
    assert found == []


def test_importing_does_no_work():
    """No file, socket, process, thread, clock or print at import; a logger's name is no work."""
    found = [
        f"{name(path)}:{node.lineno} {called(node)}"
        for path in SOURCES
        if "migrations" not in path.parts
        for node in run_at_import(TREES[path])
        if isinstance(node, ast.Call) and called(node) in _AT_IMPORT
    ]
    assert found == []


@pytest.mark.parametrize("path", [path for path in EVERYTHING if path != Path(__file__)], ids=name)
def test_nothing_is_left_for_later(path):
    found = [
        f"{line}: {text.strip()}"
        for line, text in enumerate(path.read_text().splitlines(), 1)
        if _DONE_LATER.search(text)
    ]
    assert found == []


def test_the_program_stands_alone():
    """Nothing outside the repository is read, but for real traces in benches and the tests of those."""
    outside = [name(path) for path in SOURCES if "../shared" in path.read_text() or "/work/" in path.read_text()]
    assert outside == []


def test_sql_stays_in_the_store():
    """Elsewhere a connection is only handed on, and its errors are caught."""
    found = [
        f"{name(path)}:{node.lineno}"
        for path in SOURCES
        if "store" not in path.parts
        for node in ast.walk(TREES[path])
        if (isinstance(node, ast.Import) and any(alias.name.startswith("sqlalchemy") for alias in node.names))
        or (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("sqlalchemy")
            and node.module != "sqlalchemy.exc"
            and {alias.name for alias in node.names} != {"Connection"}
        )
    ]
    assert found == []


def test_no_error_is_swallowed_whole():
    """`except Exception: pass` (or wider) hides what an operator must see."""
    found = [
        f"{name(path)}:{handler.lineno}"
        for path in SOURCES
        for handler in ast.walk(TREES[path])
        if isinstance(handler, ast.ExceptHandler)
        and (handler.type is None or getattr(handler.type, "id", "") in {"Exception", "BaseException"})
        and all(isinstance(statement, ast.Pass | ast.Continue) for statement in handler.body)
    ]
    assert found == []


def test_children_import_nothing_from_the_folder_they_are_started_in():
    """`python -m` looks into the current folder first, where a `secrets.py` may lie, but not with `-P`."""
    starts = [
        (name(path), argument)
        for path in SOURCES
        for node in ast.walk(TREES[path])
        for words in (getattr(node, "args", None), getattr(node, "elts", None))
        if isinstance(words, list)
        for word, argument in pairwise([ast.unparse(each) for each in words])
        if word == "sys.executable"
    ]
    assert len(starts) >= 6
    assert {argument for _, argument in starts} == {"'-P'"}, starts
