"""The tests that the recipe about testing shows are tests that pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "recipes" / "testing.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?<=```python\n)# (\w+\.py)\n.*?(?=^```)", re.DOTALL | re.MULTILINE)
FILES = {block[1]: block[0] for block in BLOCK.finditer(PAGE)}


def test_the_tests_pass(tmp_path: Path) -> None:
    """The files of the page on testing, as they stand, with NumPy and array-api-strict required."""
    assert sorted(FILES) == ["conftest.py", "test_gradient.py", "test_mine.py"]
    for name, block in FILES.items():
        (tmp_path / name).write_text(block, "utf-8")
    environment = {
        **os.environ,
        "ANYOPTIM_REQUIRE": "numpy,strict",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not jax and not torch"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert re.search(r"(\d+) passed", run.stdout)
