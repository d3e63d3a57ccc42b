"""What is built: a wheel that is pure, small and enough on its own, and an sdist that has its tests."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import anyoptim as ao

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEN_LINES = next(b for b in re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE) if "cupy" not in b)

CHECK = """
import anyoptim as ao, importlib.metadata, pathlib, sys
assert pathlib.Path(ao.__file__).is_relative_to(sys.prefix), ao.__file__
assert (pathlib.Path(ao.__file__).parent / "py.typed").exists()
assert importlib.metadata.version("anyoptim") == ao.__version__
"""

THIS = f"python3.{sys.version_info.minor}"
OTHERS = [f"python3.{minor}" for minor in range(11, 16) if minor != sys.version_info.minor]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel."""
    folder = tmp_path_factory.mktemp("built")
    build = [sys.executable, "-m", "build", "--sdist", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return folder


def _wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


def test_the_wheel_is_small_and_has_nothing_else(built: Path) -> None:
    """At most 680 KB, of 1,024 bytes; one package, its licence, and the README as its description."""
    wheel = _wheel(built)
    assert wheel.name == f"anyoptim-{ao.__version__}-py3-none-any.whl"
    assert wheel.stat().st_size <= 680 * 1024
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        assert file.read(metadata).decode().replace("\r\n", "\n").endswith(README)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"anyoptim"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.product  # makes environments
@pytest.mark.parametrize("name", [THIS, *OTHERS])
def test_the_wheel_runs_the_ten_lines(built: Path, name: str, tmp_path: Path) -> None:
    """Installed with its three dependencies into an empty environment of each Python there is, and used from there."""
    python = sys.executable if name == THIS else shutil.which(name)
    if python is None or subprocess.run([python, "-c", ""], check=False, capture_output=True).returncode:
        pytest.skip(f"there is no {name} here")
    environment = tmp_path / "environment"
    subprocess.run([python, "-m", "venv", "--without-pip", str(environment)], check=True)
    inside = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(inside), "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", str(_wheel(built))], check=True, capture_output=True)
    command = [str(inside), "-I", "-W", "error", "-c", CHECK + TEN_LINES]
    used = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert used.stdout.splitlines() == re.findall(r"^\s*print\(.*\)  # (.*)$", TEN_LINES, re.MULTILINE)


@pytest.mark.product
def test_the_sdist_has_its_tests(built: Path, tmp_path: Path) -> None:
    """Unpacked, without an index: all of its tests are found, some are run, and the same wheel comes out of it."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PIP_NO_INDEX": "1"}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=source, env=environment).stdout

    pytest_ = ["pytest", "-q", "-p", "no:cacheprovider"]
    found = run(*pytest_, "--collect-only", "-m", "product or not product", "tests")
    assert int(re.findall(r"(\d+)/?\d* tests collected", found)[0]) > 1000
    assert re.search(
        r"^\d+ passed", run(*pytest_, "tests/trace/test_trace.py", "tests/project/test_joining.py"), re.MULTILINE
    )
    run("build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "again"), str(source))
    assert _wheel(tmp_path / "again").read_bytes() == _wheel(built).read_bytes()


def _hatch_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_lead_to_the_repository_once_it_has_an_address() -> None:
    """Links to its files and pictures; others, anchors and code stay; and without an address all do."""
    absolute = _hatch_build().absolute
    text = "[a](docs/architecture.md#r) ![b](docs/benchmarks.png) [c](https://d.org/LICENSE) [e](#f) `g[0](LICENCE)`"
    wanted = (
        "[a](https://x.org/y/blob/HEAD/docs/architecture.md#r) ![b](https://x.org/y/raw/HEAD/docs/benchmarks.png) "
        "[c](https://d.org/LICENSE) [e](#f) `g[0](LICENCE)`"
    )
    assert absolute(text, ROOT, "https://x.org/y") == wanted
    assert absolute(text, ROOT, None) == text
    relative = set(re.findall(r"\]\((?!\w+:|#)([^)]+)\)", absolute(README, ROOT, "https://x.org/y")))
    assert not {link for link in relative if (ROOT / link.partition("#")[0]).exists()}


def test_the_version_is_said_once() -> None:
    """In anyoptim/__init__.py, from which the wheel has it; the changelog's newest entry is of that version."""
    newest = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[0]
    number = ao.__version__.partition(".dev")[0]
    assert re.fullmatch(rf"{re.escape(number)}, (unreleased|\d{{4}}-\d\d-\d\d)", newest)
    assert newest.endswith("unreleased") == (".dev" in ao.__version__)
