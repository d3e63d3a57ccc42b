"""What contributors read is true: a method is added as it says, links hold, and the public workflow keeps promises."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.md")]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_links_lead_to_files(page: Path) -> None:
    """Those without an address, from where the page lies."""
    links = re.findall(
        r"\]\((?!\w+:|#)([^)\s]+)\)", re.sub(r"```.*?```|`[^`]*`", "", page.read_text("utf-8"), flags=re.S)
    )
    assert not [link for link in links if not (page.parent / link.partition("#")[0]).exists()]


def test_the_workflow_runs_every_python_that_is_promised() -> None:
    """On the three systems, and with extras that there are."""
    (pythons,) = (json.loads(text) for text in re.findall(r"^ +python: (\[.*\])$", WORKFLOW, re.MULTILINE))
    promised = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if "Python :: 3." in name]
    assert pythons == promised
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    assert {"ubuntu", "macos", "windows"} == set(re.findall(r"(\w+)-latest", WORKFLOW))
    extras = {name for text in re.findall(r"'\.\[(.+?)\]'", WORKFLOW) for name in text.split(",")}
    assert {"test", "release", "docs"} <= extras <= set(PROJECT["optional-dependencies"])


def test_the_workflow_builds_the_site() -> None:
    """With what the extra brings, and with every warning as an error, as docs/conf.py says that it is built."""
    (job,) = re.findall(r"^  docs:\n(.*?)\n\n", WORKFLOW, re.DOTALL | re.MULTILINE)
    install, build = re.findall(r"^ +- run: (.*?)(?: #.*)?$", job, re.MULTILINE)
    assert install.endswith("'.[docs]'")
    said = re.findall(r"`(python -m sphinx .*) OUT`", (ROOT / "docs" / "conf.py").read_text(encoding="utf-8"))
    assert said == [build.rpartition(" ")[0]]


def test_citations_say_what_the_package_says() -> None:
    """The name, what it is, the licence; no version, which is said in one place. The site has the same title."""
    citation = dict(re.findall(r"^([\w-]+): (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE))
    assert citation["license"] == PROJECT["license"]
    assert PROJECT["description"].lower().startswith(citation["title"].strip('"').partition(": ")[2].lower())
    assert "version" not in citation
    title = citation["title"].strip('"')
    assert f"title   = {{{title}}}" in (ROOT / "docs" / "taking-part.md").read_text("utf-8")


BLOCKS = [
    (kind, textwrap.dedent(text))
    for kind, text in re.findall(r"^   ```(python|sh)\n(.*?)^   ```$", CONTRIBUTING, re.DOTALL | re.MULTILINE)
]


@pytest.mark.product
def test_a_method_is_added_as_contributing_says(tmp_path: Path) -> None:
    """In a copy: the blocks in their places, the names in both faces, then the commands, whose tests pass."""
    clone = tmp_path / "clone"
    left = shutil.ignore_patterns(".git", ".venv", ".*cache", ".hypothesis", "__pycache__", "dist", "build")

    def ignored(folder: str, names: list[str]) -> set[str]:
        made = {"gallery", "methods", "reference"} if Path(folder) == ROOT / "docs" else set()  # as the site is built
        return {*left(folder, names), *made}

    shutil.copytree(ROOT, clone, ignore=ignored)
    environment = {**os.environ, "PYTHONPATH": str(clone)}

    def run(command: str) -> str:
        program, *arguments = shlex.split(command)
        python = [sys.executable] if program.endswith("python") else [sys.executable, "-m", Path(program).name]
        ran = subprocess.run(
            [*python, *arguments], cwd=clone, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    for path, before in (("optimizers/", "\n__all__"), ("", "\nif TYPE_CHECKING")):
        face = clone / "anyoptim" / path / "__init__.py"
        imported = face.read_text("utf-8").replace(before, f"\nfrom anyoptim.optimizers.quasi import QHM\n{before}", 1)
        face.write_text(imported.replace("__all__ = [\n", '__all__ = [\n    "QHM",\n', 1), encoding="utf-8")
    printed = ""
    for kind, text in BLOCKS:
        if kind == "python":
            path, _, body = text.removeprefix("# ").partition("\n")
            body, _, row = body.partition("# in METHODS\n")
            file = clone / path
            old = file.read_text("utf-8") if row else ""
            table = re.search(r"^METHODS\b.* = \{\n", old, re.MULTILINE)
            begin, end = table.span() if table else (0, 0)
            file.write_text(old[:begin] + body + old[begin:end] + row + old[end:], encoding="utf-8")
        else:
            printed += "".join(run(command) for command in text.splitlines())
    assert "QHM: reached=(run(" in printed
    assert int(re.findall(r"(\d+) passed", printed)[0]) > 100
    assert "QHM" in (clone / "docs" / "problems.md").read_text("utf-8")
    run(".venv/bin/ruff check --fix .")
