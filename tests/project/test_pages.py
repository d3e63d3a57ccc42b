"""The code of README and docs runs and prints what it says."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import mpi
from tests.support.libraries import REQUIRED, Library

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if not any(part[0] == "_" for part in p.parts)),
]
PRINTS = re.compile(r"^\s*print\(.*\)  # (.*)$", re.MULTILINE)
NEEDS = {"torch": "torch", "jax": "jax", "dask": "dask", "array_api_strict": "strict", "cupy": "cupy"}
"""Packages that code imports, and their rows in the table of libraries."""

CUPY = "import cupy as cp\n"


class Program(NamedTuple):
    """Blocks of a page that run together: one that imports anyoptim begins anew, the others go on from there."""

    name: str
    code: str


def programs() -> Iterator[Program]:
    """All there are, each with as many empty lines before it as has the page, so that errors name the line."""
    for page in PAGES:
        text, found = page.read_text(encoding="utf-8"), list[tuple[int, str]]()
        for block in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line, code = text[: block.start(1)].count("\n"), block[1]
            if found and "import anyoptim" not in code:
                begin, before = found.pop()
                line, code = begin, before + "\n" * (line - begin - before.count("\n")) + code
            found.append((line, code))
        for line, code in found:
            yield Program(f"{page.relative_to(ROOT)}:{line + 1}", "\n" * line + code)


PROGRAMS = list(programs())
LONG = re.compile("inverse-problem|five-libraries")
"""What takes seconds."""
ON_DEVICES = [program for program in PROGRAMS if CUPY in program.code]


def _prints_what_it_says(program: Program, code: str) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, program.name, "exec", dont_inherit=True), {"__name__": "page"})  # noqa: S102
    assert printed.getvalue().splitlines() == PRINTS.findall(code)
    assert PRINTS.findall(code), "wanted a line that prints, with what it prints as its comment"


@pytest.mark.parametrize(
    "program",
    [pytest.param(of, marks=pytest.mark.product if LONG.search(of.name) else ()) for of in PROGRAMS],
    ids=lambda program: program.name,
)
def test_code_prints_what_its_comments_say(
    program: Program, need: Callable[[str], Library], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each program alone, from its imports to its last line, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    for package, row in NEEDS.items():
        if re.search(rf"^\s*(import|from) {package}\b", program.code, re.MULTILINE):
            need(row)
    if "from mpi4py import MPI" in program.code:
        mpi.needed()
    _prints_what_it_says(program, program.code)


@pytest.mark.parametrize("program", ON_DEVICES, ids=lambda program: program.name)
def test_code_for_devices_runs_with_numpy(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy's programs are also NumPy's: where there is no device, that is what is known of them."""
    monkeypatch.chdir(tmp_path)
    code = program.code.replace(CUPY, "import numpy as cp\n").replace("cp.asnumpy(", "cp.asarray(")
    _prints_what_it_says(program, code)


@pytest.mark.parametrize("program", ON_DEVICES, ids=lambda program: program.name)
def test_code_for_devices_names_what_cupy_has(program: Program) -> None:
    """Functions, and methods of generators: CuPy can be imported where there is no device."""
    try:
        import cupy
    except ImportError as why:
        if "cupy-host" in REQUIRED:
            pytest.fail(f"ANYOPTIM_REQUIRE lists cupy-host: {why}")
        pytest.skip(f"cupy is not installed: {why}")
    functions = set(re.findall(r"\bcp\.([\w.]+)", program.code))
    drawn = set(re.findall(r"\b(?:rng|default_rng\(\d*\))\.(\w+)", program.code))
    assert functions
    for module, names in ((cupy, functions), (cupy.random.Generator, drawn)):
        assert [name for name in names if not _has(module, name)] == []


def _has(module: Any, name: str) -> bool:
    for part in name.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True


LINK = re.compile(r"\]\(([^):]+?)(?:#([^)]*))?\)")


def _anchors(page: Path) -> set[str]:
    """The names of a page's headings in links, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_in_the_readme_hold() -> None:
    """Each leads to a file that is there and, where it names one, to a heading in it. Sphinx checks those in docs."""
    links = LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 10
    for path, anchor in links:
        assert (ROOT / path).is_file(), path
        assert not anchor or anchor in _anchors(ROOT / path), (path, anchor)


def test_pages_are_found() -> None:
    """README's programs and those of each folder of docs."""
    folders = {name.rpartition(":")[0].rpartition("/")[0] for name, _ in PROGRAMS}
    assert folders >= {"", "docs", "docs/guide", "docs/recipes"}
    assert len(ON_DEVICES) > 1
