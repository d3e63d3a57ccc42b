"""Anybody's test over the installed array libraries: what runs, what is skipped, and what fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim.testing import LIBRARIES, ArrayLibrary, MissingError
from tests.support.libraries import Library, numpy_dtype, same_bits

CONFTEST = 'pytest_plugins = ["anyoptim.testing.pytest_plugin"]\n'

TEST = """
import numpy as np, pytest
import anyoptim as ao

@pytest.mark.parametrize("array_library", ["numpy", "strict", "{missing}"], indirect=True)
def test_step(array_library):
    w = {{"w": array_library.array([1.0, 2.0])}}
    ao.SGD(lr=0.5).update(w, {{"w": array_library.array([2.0, 2.0])}})
    np.testing.assert_array_equal(array_library.values(w)["w"], [0.0, 1.0])
"""


def _run(folder: Path, require: str, missing: str = "cupy") -> tuple[int, str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_mine.py").write_text(TEST.format(missing=missing))
    paths = os.pathsep.join([str(Path(ao.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "."],
        cwd=folder,
        env={**os.environ, "ANYOPTIM_REQUIRE": require, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return run.returncode, run.stdout + run.stderr


def test_a_missing_library_is_skipped_with_the_reason(tmp_path: Path) -> None:
    code, text = _run(tmp_path, "numpy,strict")
    assert code == 0
    assert "2 passed, 1 skipped" in text
    assert "cupy" in text


def test_a_missing_library_fails_where_it_is_required(tmp_path: Path) -> None:
    code, text = _run(tmp_path, "numpy, cupy")
    assert code == 1
    assert "ANYOPTIM_REQUIRE lists cupy: cupy" in text


def test_a_slip_of_the_pen_requires_nothing_in_silence(tmp_path: Path) -> None:
    """In the variable, or in the name of a library."""
    code, text = _run(tmp_path, "numpi")
    assert code != 0
    assert "ANYOPTIM_REQUIRE names ['numpi']; wanted some of numpy, strict, torch" in text
    with pytest.raises(ValueError, match="'numpi' is no library that is known here; wanted one of numpy, strict"):
        ao.testing.load_library("numpi")


def test_the_fixture_gives_each_library(array_library: ArrayLibrary) -> None:
    """Arrays of it, made and read, with a namespace of the standard, in a writable place or not as it says."""
    assert array_library.name in LIBRARIES
    assert str(array_library) == array_library.name
    w = array_library.array([[1.0, 2.0], [3.0, 4.0]])
    assert array_library.values({"sum": [array_library.xp.sum(w)]}) == {"sum": [np.float32(10)]}
    params = {"w": w}
    ao.SGD(lr=1.0).update(params, {"w": w})
    assert (params["w"] is w) == array_library.writable


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"])
def test_values_come_back(lib: Library, dtype: str) -> None:
    """Every dtype that a row says it has, there and back, as a copy."""
    values = np.array([0.5, -2.0, 1.25]).astype(numpy_dtype(dtype))
    array = lib.asarray(values)
    kept = values.copy()
    values[:] = 0
    assert same_bits(lib.values([array])[0], kept)


def test_missing_says_why() -> None:
    """Of a package that is not there, and of one without a device."""
    found: dict[str, Any] = {}
    for name in LIBRARIES:
        try:
            found[name] = ao.testing.load_library(name)
        except MissingError as why:
            assert name.partition("-")[0] in str(why)  # noqa: PT017
    assert "numpy" in found


def test_testing_brings_no_library_along() -> None:
    """Neither pytest nor any array library but NumPy, until it is asked for."""
    code = """
import sys
import anyoptim as ao
assert "anyoptim.testing" not in sys.modules
ao.testing.check_grad, ao.check_grad
loaded = {name.partition(".")[0] for name in sys.modules}
assert not {"pytest", "torch", "jax", "dask", "cupy", "optree", "ml_dtypes"} & loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)
