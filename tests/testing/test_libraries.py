"""Anybody's test over the installed array libraries: what runs, what is skipped, and what fails."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim.testing import LIBRARIES, ArrayLibrary, MissingError
from tests.support.libraries import Library, numpy_dtype, same_bits
from tests.support.public import about

pytestmark = pytest.mark.usefixtures("quickly")

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


@pytest.mark.product  # the next runs the same, and is refused
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


@pytest.mark.parametrize("dtype", ["bool", "int32", "uint8"])
def test_integers_are_made_too(lib: Library, dtype: str) -> None:
    assert lib.values([lib.array([0, 1], dtype)])[0].dtype == dtype


def test_numbers_are_of_float32_unless_another_dtype_is_named(lib: Library) -> None:
    for values in (np.ones(2), np.ones(2, int), np.ones(2, bool), [1, 1]):
        assert lib.values([lib.array(values)])[0].dtype == np.float32


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_dtype_that_is_told_is_made(name: str, need: Callable[[str], Library]) -> None:
    """And not another one in silence, as JAX makes float32 of float64."""
    lib = need(name)
    with lib.context():
        for dtype in (*lib.dtypes, "bool", "int8", "int16", "int32", "uint8"):
            assert lib.values([lib.array([1], dtype)])[0].dtype.name == dtype


def test_values_that_a_dtype_would_cut_off_are_refused(lib: Library) -> None:
    """Complex ones in a real dtype, fractions in integers."""
    for values in (np.array([1 + 2j]), [1 + 2j]):
        with pytest.raises(ValueError, match=r"^values are complex128, of which float32 would lose a part; wanted"):
            lib.array(values)
    with pytest.raises(
        ValueError, match=r"^values are float64, of which int32 would lose a part; wanted another dtype$"
    ):
        lib.array([1.5], "int32")
    assert lib.values([lib.array([1 + 2j], "complex64")])[0].tolist() == [1 + 2j]


def test_a_dtype_that_a_library_has_not_is_refused(need: Callable[[str], Library]) -> None:
    """With the names of those that it has."""
    for dtype in ("float63", "float64", "int64", "complex128"):
        with pytest.raises(ValueError, match=f"^jax has no dtype '{dtype}'; wanted one of float16, bfloat16, float32,"):
            need("jax").array([1.0], dtype)
    with pytest.raises(ValueError, match=r"^strict has no dtype 'bfloat16'; wanted one of float32, float64, complex64"):
        need("strict").array([1.0], "bfloat16")


def test_64_bits_of_jax_want_their_context(need: Callable[[str], Library]) -> None:
    lib = need("jax-x64")
    with pytest.raises(
        ValueError, match=r"^jax-x64 made float32 of float64; wanted `with library.context\(\):` around"
    ):
        lib.array([1.0], "float64")


def test_dask_has_two_chunks_along_each_axis(need: Callable[[str], Library]) -> None:
    """Its own asarray makes one."""
    lib, a = need("dask"), np.ones((4, 5))
    assert lib.array(a).chunks == ((2, 2), (3, 2))
    assert lib.xp.asarray(a).chunks == ((4,), (5,))


def test_functions_of_a_library_are_no_methods_of_its_class() -> None:
    """So that the reference has what is written about them, no alias of something else; and whole first sentences."""
    assert not {"computed", "context"} & {*vars(ArrayLibrary)}
    assert about("anyoptim.testing.LIBRARIES").splitlines()[0].endswith(".")


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
