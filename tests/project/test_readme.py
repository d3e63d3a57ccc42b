"""The README is short, and its commands are whole."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_it_is_read_in_one_sitting() -> None:
    """What a newcomer needs, and where the rest is."""
    assert len(README.splitlines()) <= 166


def test_the_first_two_commands_are_whole() -> None:
    """One runs the main job, one the tests; each sets up what it needs. `.ci/run` runs both as they stand."""
    assert len(COMMANDS) == 2
    assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install -e ") for command in COMMANDS)
    assert "examples/train_digits.py" in COMMANDS[0]
    assert "-m pytest" in COMMANDS[1]
