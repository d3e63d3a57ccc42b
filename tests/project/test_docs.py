"""The documentation: every public name has an example that runs; the site builds, and no link in it is broken."""

from __future__ import annotations

import doctest
import importlib.util
import subprocess
import sys
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urldefrag

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import REQUIRED, Library
from tests.support.public import MODULES, NAMES, about

ROOT = Path(__file__).parents[2]
PEERS = ("torch", "optax", "keras")


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_an_example_that_runs(
    name: str, need: Callable[[str], Library], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands behind the prompts of its docstring, from the two imports that the reference names."""
    monkeypatch.chdir(tmp_path)
    text = about(name)
    test = doctest.DocTestParser().get_doctest(text, {"np": np, "ao": ao}, name, None, None)
    assert any(example.want for example in test.examples), f"wanted an example in the docstring of {name}"
    if ">>> import torch" in text:
        need("torch")
    for peer in PEERS[1:]:
        if f">>> import {peer}" in text:
            need("jax")  # which both compute with
            pytest.importorskip(peer, reason=f"{peer} is not installed")
    report: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert not report, "".join(report)


def test_an_example_that_is_wrong_is_found() -> None:
    """The parser and the runner above say so."""
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3", {}, "wrong", None, None)
    assert doctest.DocTestRunner(verbose=False).run(test, out=lambda text: None).failed == 1


def test_all_public_modules_are_known() -> None:
    """Each room that a user imports, and what is within; nothing whose name begins with an underscore."""
    rooms = {path.parent.name for path in (ROOT / "anyoptim").glob("[!_]*/__init__.py")}
    assert {f"anyoptim.{room}" for room in rooms} <= {*MODULES}
    assert {"anyoptim.compat.torch.lr_scheduler", "anyoptim.compat.optax.contrib"} <= {*MODULES}
    assert not any("._" in name for name in [*MODULES, *NAMES])
    values = {name: getattr(ao, name) for name in ao.__all__}
    homes = {of.__name__ if isinstance(of, ModuleType) else f"anyoptim.{name}" for name, of in values.items()}
    assert homes <= {*MODULES, *NAMES}


class Page(HTMLParser):
    """The places that a page has, and those that it leads to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids, self.links = set[str](), set[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key == "id":
                self.ids.add(str(value))
            elif key in {"href", "src"}:
                self.links.add(str(value))


def broken(folder: Path) -> list[str]:
    """The links within a site that lead nowhere."""
    pages = {path: Page(path) for path in folder.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for link in page.links:
            if link.startswith(("http:", "https:", "mailto:", "data:")):
                continue
            address, fragment = urldefrag(unquote(link))
            to = (path.parent / address.partition("?")[0]).resolve() if address else path
            if not to.exists() or (fragment and to in pages and fragment not in pages[to].ids):
                found.append(f"{path.relative_to(folder)}: {link}")
    return found


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    """To a file or to a place within one."""
    (tmp_path / "a.html").write_text('<p id="x"><a href="a.html#x"><a href="b.html"><a href="#y"><img src="c.png">')
    assert sorted(broken(tmp_path)) == ["a.html: #y", "a.html: b.html", "a.html: c.png"]


@pytest.mark.product
def test_the_site(tmp_path: Path) -> None:
    """Built without a warning, with every public name, a page and a picture for every method, and no broken link."""
    if importlib.util.find_spec("sphinx") is None:
        assert "docs" not in REQUIRED, "ANYOPTIM_REQUIRE lists docs: Sphinx is not installed"
        pytest.skip("Sphinx is not installed")
    build = [sys.executable, "-m", "sphinx", "-W", "-q", "--fresh-env", "docs", str(tmp_path)]
    run = subprocess.run(build, check=False, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
    inventory = (tmp_path / "objects.inv").read_bytes().split(b"\n", 4)[4]
    entries = {line.split(" ")[0] for line in zlib.decompress(inventory).decode().splitlines() if " py:" in line}
    assert {*NAMES, *MODULES} - {"anyoptim.optimizers"} <= entries
    for name in ao.optimizers.__all__:
        assert f"_images/{name}.png" in (tmp_path / "methods" / f"{name}.html").read_text(encoding="utf-8")
    assert broken(tmp_path) == []
