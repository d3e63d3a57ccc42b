"""What type checkers say to users: the mistakes, and nothing else; and how much of the package has a type."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USER_CODE = ROOT / "tests/support/user_code.py"
PYRIGHT = ("basedpyright", "--pythonpath", sys.executable, "--outputjson")


def _mistakes() -> set[int]:
    lines = USER_CODE.read_text().splitlines()
    found = {i for i, line in enumerate(lines, 1) if line.endswith("  # mistake")}
    assert len(found) >= 20
    return found


def _run(*command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, check=False, capture_output=True, text=True
    )
    assert ran.returncode in {0, 1}, ran.stderr
    return ran.stdout


@pytest.mark.product  # mypy reads NumPy anew, which takes 20 s
def test_mypy_finds_the_mistakes_of_users_and_nothing_else(tmp_path: Path) -> None:
    """With its default settings, at the line of each."""
    settings = ("--config-file=", f"--cache-dir={tmp_path}", "--follow-imports=silent", "--output=json")
    said = [json.loads(line) for line in _run("mypy", *settings, str(USER_CODE)).splitlines() if line[:1] == "{"]
    assert {message["line"] for message in said if message["severity"] == "error"} == _mistakes()


@pytest.mark.product  # seconds, as mypy takes
def test_pyright_finds_the_mistakes_of_users_and_nothing_else(tmp_path: Path) -> None:
    """In its standard mode, at the line of each."""
    settings = tmp_path / "pyrightconfig.json"
    settings.write_text(
        json.dumps({"include": [str(USER_CODE)], "extraPaths": [str(ROOT)], "typeCheckingMode": "standard"})
    )
    said = json.loads(_run(*PYRIGHT, "-p", str(settings)))
    errors = said["generalDiagnostics"]
    assert {e["range"]["start"]["line"] + 1 for e in errors if e["severity"] == "error"} == _mistakes()


@pytest.mark.product
def test_nearly_all_that_is_public_has_a_type() -> None:
    """As `pyright --verifytypes` counts it: 96 % today."""
    said = json.loads(
        _run(
            "basedpyright",
            "--pythonpath",
            sys.executable,
            "--verifytypes",
            "anyoptim",
            "--ignoreexternal",
            "--outputjson",
        )
    )
    assert said["typeCompleteness"]["completenessScore"] >= 0.95
