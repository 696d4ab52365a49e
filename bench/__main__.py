"""`python -m bench` lists the benches, `python -m bench NAME …` runs one."""

import ast
import runpy
import sys
from pathlib import Path

_FOLDER = Path(__file__).parent


def found() -> dict[str, str]:
    """Name and first line of every module or package here that can be run."""
    runnable = [path for path in _FOLDER.glob("*.py") if '__name__ == "__main__"' in path.read_text()]
    packages = [path.parent / "__init__.py" for path in _FOLDER.glob("*/__main__.py")]
    benches = {path.parent.name if path.name == "__init__.py" else path.stem: path for path in [*runnable, *packages]}
    benches.pop("__main__", None)
    return {name: _summary(path) for name, path in sorted(benches.items())}


def _summary(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]


def main() -> None:
    benches = found()
    if len(sys.argv) > 1 and sys.argv[1] in benches:
        del sys.argv[0]
        runpy.run_module(f"bench.{sys.argv[0]}", run_name="__main__", alter_sys=True)
        return
    print("make bench NAME=… with one of:")
    for name, summary in benches.items():
        print(f"  {name:12} {summary}")
    if len(sys.argv) > 1:
        sys.exit(f"there is no bench {sys.argv[1]!r}")


if __name__ == "__main__":
    main()
