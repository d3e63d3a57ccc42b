"""The package's rooms, which are what stands directly in it: few, and imports go one way."""

from __future__ import annotations

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import anyoptim as ao

ROOT = Path(ao.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
FLOORS = 9
"""The longest way down from a room, within the package or within a room."""
METHOD_LINES = 1900
"""What the 34 methods have, at most, with what they share."""


@functools.cache
def nodes(name: str) -> list[ast.AST]:
    """All of a module's text."""
    return list(ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))))


def _imported(name: str) -> Iterator[str]:
    """The modules of ours that a module imports, wherever in it, but for type checkers alone."""
    ifs = [node for node in nodes(name) if isinstance(node, ast.If)]
    typing = {id(n) for node in ifs if ast.unparse(node.test) == "TYPE_CHECKING" for n in ast.walk(node)}
    for node in nodes(name):
        if isinstance(node, ast.ImportFrom) and node.module is not None and id(node) not in typing:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found = inner if inner in MODULES else node.module
                if found in MODULES and found != name:
                    yield found


@functools.cache
def imports() -> Mapping[str, set[str]]:
    return {name: set(_imported(name)) for name in MODULES}


def rooms(of: str) -> Mapping[str, set[str]]:
    """What stands directly in a package, and for each what it imports of the others. Its own face is `__init__`."""

    def room(name: str) -> str:
        return name.removeprefix(of).removeprefix(".").partition(".")[0] or "__init__"

    inside = [name for name in MODULES if name == of or name.startswith(f"{of}.")]
    found: defaultdict[str, set[str]] = defaultdict(set)
    for name in inside:
        found[room(name)] |= {room(other) for other in imports()[name] if other in inside} - {room(name)}
    return found


def floors(arrows: Mapping[str, set[str]]) -> dict[str, int]:
    """How far up each room is. Raises CycleError where imports go in a circle."""
    found: dict[str, int] = {}
    for room in TopologicalSorter(arrows).static_order():
        found[room] = 1 + max((found[other] for other in arrows[room]), default=0)
    return found


PACKAGES = [name for name, path in MODULES.items() if path.name == "__init__.py"]


@pytest.mark.parametrize("name", PACKAGES)
def test_imports_go_one_way(name: str) -> None:
    """Between rooms, and between what stands in a room: no circle, and few floors."""
    assert max(floors(rooms(name)).values()) <= FLOORS


def test_few_rooms_and_arrows() -> None:
    arrows = rooms("anyoptim")
    assert len(arrows.keys() - {"__init__"}) <= 17
    assert sum(map(len, arrows.values())) <= 69
    assert {room for room in arrows if (ROOT / f"{room}.py").exists()} == {"__init__"}


def test_no_room_is_too_large() -> None:
    """But compat, which is as large as what it is compatible with. Examples in docstrings do not count."""
    sizes: defaultdict[str, int] = defaultdict(int)
    for path in MODULES.values():
        lines = path.read_text(encoding="utf-8").splitlines()
        sizes[path.relative_to(ROOT).parts[0]] += sum(not line.lstrip().startswith((">>> ", "... ")) for line in lines)
    assert {room: n for room, n in sizes.items() if n > 4000 and room != "compat"} == {}


def _examples(node: ast.AST) -> int:
    """The lines of examples in the docstring of a module, a class or a function: each up to the next empty line."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        return 0
    blocks = (ast.get_docstring(node) or "").split("\n\n")
    return sum(len(block.strip().splitlines()) for block in blocks if block.lstrip().startswith(">>>"))


def test_methods_are_short() -> None:
    """So many lines for 34 methods, with what they share, and as many for each more. Examples do not count."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "optimizers").glob("*.py")]
    examples = sum(_examples(node) for text in texts for node in ast.walk(ast.parse(text)))
    lines = sum(len(text.splitlines()) for text in texts) - examples
    assert lines * 34 <= METHOD_LINES * len(ao.optimizers.__all__)


def test_rooms_know_what_the_page_says() -> None:
    """The table in docs/architecture.md has each room's imports, and only of those above it on the page."""
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", page, re.M)
    says = {room: set(re.findall(r"`(\w+)`", imports)) for room, imports in rows}
    assert says == {room: others for room, others in rooms("anyoptim").items() if room != "__init__"}
    assert all({*others} <= {*list(says)[: list(says).index(room)]} for room, others in says.items())


def test_engines_know_no_container_and_no_other_engine() -> None:
    """They are given leaves that were checked."""
    found = {other for name in MODULES if name.startswith("anyoptim._engines") for other in imports()[name]}
    assert not found & {f"anyoptim._arrays.{inside}" for inside in ("_checks", "_plain", "_tree", "_optree")}
    engines = {"blocked", "compiled", "cuda", "jax", "portable"}
    assert {(a, b) for a, others in rooms("anyoptim._engines").items() for b in others if {a, b} <= engines} == set()


@pytest.mark.parametrize("name", MODULES)
def test_only_arrays_tells_libraries_apart(name: str) -> None:
    """And the table of `testing`, which makes arrays where there are none to ask."""
    text = MODULES[name].read_text(encoding="utf-8")
    imported = {alias.name for node in nodes(name) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in nodes(name) if isinstance(node, ast.ImportFrom)}
    if not name.startswith("anyoptim._arrays") and name != "anyoptim.testing._libraries":
        assert not {module.partition(".")[0] for module in imported} & {"torch", "jax", "cupy", "dask"}
        assert "sys.modules" not in text
