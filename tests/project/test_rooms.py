"""The tests' rooms: no test needs another, and each knows the insides of its own part of the package alone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

FILES = {str(path.relative_to(TESTS)): path for path in sorted(TESTS.rglob("*.py"))}


def _imported(text: str) -> set[str]:
    """Every module and name that a file imports, also in the code that it hands to other processes."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {
                f"{module}.{name.split()[0]}"
                for module, names in re.findall(r"^\s*from ((?:anyoptim|tests)[\w.]*) import (.+)$", node.value, re.M)
                for name in names.split(",")
            }
    return found


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_imports(name: str) -> None:
    """Of the tests only what stands in `support` and `reference`; of the package what is public, or of its room.

    All of `support` may import anything.
    """
    imported = _imported(FILES[name].read_text(encoding="utf-8"))
    ours = {module for module in imported if module.startswith("tests.")}
    itself = f"tests.{name.removesuffix('.py').replace('/', '.')}"
    assert {m for m in ours if not m.startswith(("tests.support", "tests.reference", itself))} == set()
    if not name.startswith("support/"):
        room = name.split("/", maxsplit=1)[0]
        own = (f"anyoptim._{room}", f"anyoptim.{room}")
        private = {m for m in imported if m.startswith("anyoptim.") and re.search(r"\._(?!_)", m)}
        assert {m for m in private if not any(f"{m}.".startswith(f"{one}.") for one in own)} == set()
