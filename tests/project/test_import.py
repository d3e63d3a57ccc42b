"""Importing anyoptim brings no array library along, and little code is loaded before the first step."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from types import FunctionType
from typing import Any

import pytest

import anyoptim as ao

PROBE = """
import marshal, sys
from importlib.machinery import SourceFileLoader

def code(names):
    specs = [getattr(sys.modules[name], "__spec__", None) for name in names]
    ours = [spec for spec in specs if spec and isinstance(spec.loader, SourceFileLoader)]
    return sum(len(marshal.dumps(spec.loader.get_code(spec.name))) for spec in ours)

import numpy
before = {*sys.modules}
import anyoptim
anyoptim.Adam().update({"W": numpy.ones((3, 4)), "b": numpy.ones(4)}, {"W": numpy.ones((3, 4)), "b": numpy.ones(4)})
anyoptim.Dropout().forward(numpy.ones((3, 4)))
print(code({*sys.modules} - before) / code(before))
"""


def _fresh(code: str) -> Any:
    # With bytecode written, as where a package is installed.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    return json.loads(run.stdout)


def test_import_brings_no_library() -> None:
    """A fresh process that imports anyoptim has none of the optional libraries loaded."""
    modules = set(_fresh("import anyoptim, json, sys; print(json.dumps(sorted(sys.modules)))"))
    assert not {"torch", "jax", "cupy", "dask", "numba", "cuda", "safetensors", "matplotlib"} & modules


def test_conventions_are_imported_where_they_are_asked_for() -> None:
    """Not with anyoptim, each by itself, and without the framework whose they are."""
    code = """
import json, sys
import anyoptim as ao
first = sorted(sys.modules)
ao.compat.torch
second = sorted(sys.modules)
from anyoptim.compat import keras, optax
print(json.dumps([first, second, sorted(sys.modules)]))
"""
    first, second, third = (set(modules) for modules in _fresh(code))
    assert not any(m.startswith("anyoptim.compat") for m in first)
    assert {m for m in second if m.startswith("anyoptim.compat.") and m.count(".") == 2} >= {"anyoptim.compat.torch"}
    assert not {"anyoptim.compat.keras", "anyoptim.compat.optax"} & second
    assert not {"torch", "keras", "optax", "jax"} & third


def test_completion_offers_what_is_public() -> None:
    """`dir` has all public names, those too that are imported where they are asked for, and no other."""
    assert {name for name in dir(ao) if not name.startswith("_")} == set(ao.__all__)
    assert {"__version__", "__doc__", "__file__"} <= set(dir(ao))


def test_starting_loads_less_than_six_tenths_of_the_code_that_numpy_loads() -> None:
    """To import, to take a first step and to drop out first: what these take is measured in `benchmarks/startup.py`."""
    assert 0.1 < _fresh(PROBE) < 0.6


def test_first_update_brings_no_library() -> None:
    """NumPy arrays and floats are met by NumPy alone, plain containers without optree."""
    code = """
import json, sys
import numpy, anyoptim
anyoptim.Adam().update({"w": numpy.ones(3), "x": 1.0}, {"w": numpy.ones(3), "x": 1.0})
anyoptim.Dropout().forward(numpy.ones(3))
print(json.dumps(sorted({m.partition(".")[0] for m in sys.modules})))
"""
    assert not {"torch", "jax", "cupy", "dask", "numba", "optree", "array_api_compat"} & set(_fresh(code))


MODULES = ["anyoptim", *(m.name for m in pkgutil.walk_packages(ao.__path__, "anyoptim."))]


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_offers(name: str) -> None:
    """`__all__` is there, sorted as the linter wants it, names what exists, and public things have docstrings."""
    module = importlib.import_module(name)
    assert module.__doc__
    for public in module.__all__:
        value = getattr(module, public)
        assert value.__doc__ or not isinstance(value, type | FunctionType), public
