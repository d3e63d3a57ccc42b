"""The README's code runs and prints what it says; its table and its commands are true."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.libraries import COMPLEX, HALF, REAL, Library

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
PRINTS = re.compile(r"^\s*print\(.*\)  # (.*)$", re.MULTILINE)

ROWS = {
    "NumPy": ["numpy"],
    "array-api-strict": ["strict"],
    "torch, CPU": ["torch"],
    "JAX, CPU": ["jax", "jax-x64"],
    "Dask": ["dask"],
    "MLX, CPU": ["mlx"],
    "CuPy": ["cupy"],
    "torch, CUDA": ["torch-cuda"],
}


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block{i}" for i in range(len(BLOCKS))])
def test_code_prints_what_its_comments_say(
    block: str, need: Callable[[str], Library], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block alone, from its imports to its last line, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    if "import cupy" in block:
        need("cupy")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, "README.md", "exec", dont_inherit=True), {"__name__": "readme"})  # noqa: S102
    assert printed.getvalue().splitlines() == PRINTS.findall(block)
    assert PRINTS.findall(block)


def _table() -> dict[str, list[str]]:
    section = README.partition("## What works where")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows[2:]}


def test_the_table_has_every_library() -> None:
    """No row is forgotten and none invented."""
    from tests.support.libraries import LOADERS

    assert list(_table()) == list(ROWS)
    assert sorted(name for names in ROWS.values() for name in names) == sorted({*LOADERS} - {"cuda-shim"})


@pytest.mark.parametrize("row", ROWS)
def test_the_table_says_what_the_tests_run(row: str, need: Callable[[str], Library]) -> None:
    """Dtypes and in-place or rebound, as in the table that all tests run over."""
    cells = _table()[row]
    libraries = [need(name) for name in ROWS[row]]
    dtypes = {dtype for lib in libraries for dtype in lib.dtypes}
    for cell, group in zip(cells[:4], (REAL, HALF[:1], HALF[1:], COMPLEX), strict=True):
        assert cell.startswith("yes") == (set(group) <= dtypes)
    assert cells[4].startswith("in place") == libraries[0].writable
    same = libraries[0].exact or bool(libraries[0].reached)
    assert ("same bits" in cells[5] or "reference" in cells[5]) == same


def test_the_first_two_commands_are_whole() -> None:
    """One runs the main job, one the tests; each sets up what it needs. `.ci/run` runs both as they stand."""
    assert len(COMMANDS) == 2
    assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install -e ") for command in COMMANDS)
    assert "examples/train_digits.py" in COMMANDS[0]
    assert "-m pytest" in COMMANDS[1]
