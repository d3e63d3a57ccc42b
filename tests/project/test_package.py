"""The wheel: pure Python, small, and enough on its own."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

CHECK = """
import numpy as np, anyoptim as ao, importlib.metadata as metadata, pathlib, sys
assert pathlib.Path(ao.__file__).is_relative_to(sys.prefix), ao.__file__
assert (pathlib.Path(ao.__file__).parent / "py.typed").exists()
params = {"w": np.ones(3)}
ao.Adam(lr=0.5).update(params, {"w": np.ones(3)})
print(metadata.version("anyoptim"), params["w"].round(3).tolist())
"""


def test_the_wheel_works_in_a_fresh_environment(tmp_path: Path) -> None:
    """Built, installed with its three dependencies into an empty environment, imported from there, used."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert wheel.stat().st_size < 500_000  # half a megabyte, beside NumPy's dozens
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"anyoptim"}
    assert any(name.endswith("licenses/LICENSE") for name in names)

    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
    install = [*pip, "install", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    used = subprocess.run([str(python), "-I", "-c", CHECK], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert used.stdout.split(maxsplit=1)[1].strip() == "[0.5, 0.5, 0.5]"
