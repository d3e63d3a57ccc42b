"""The tests that the recipes show are tests that pass, and their workflows install what they test with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


FIVE = (ROOT / "docs" / "recipes" / "five-libraries.md").read_text(encoding="utf-8")


def test_a_library_that_is_misspelt_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the fixture of the page on five libraries, in the variable that names what must be there."""
    (block,) = re.findall(r"^```python\n(import importlib\n.*?)^```", FIVE, re.DOTALL | re.MULTILINE)
    for value in ("", "numpy,torch"):
        monkeypatch.setenv("REQUIRE_LIBRARIES", value)
        exec(block, {"__name__": "page", "pytest": pytest})  # noqa: S102
    monkeypatch.setenv("REQUIRE_LIBRARIES", "numpy,pytorch")
    with pytest.raises(AssertionError, match="pytorch"):
        exec(block, {"__name__": "page", "pytest": pytest})  # noqa: S102


@pytest.mark.parametrize("page", [PAGE, FIVE], ids=["testing", "five-libraries"])
def test_workflows_have_anyoptim(page: str) -> None:
    """From a clone, before it is installed: there is no release so far."""
    (workflow,) = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert "git clone" in workflow.partition("pip install ../anyoptim ")[0]
    assert "pip install ../anyoptim " in workflow
    assert not re.search(r"pip install.* anyoptim\b", workflow)
