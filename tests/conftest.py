"""Fixtures: every library in turn, every method in turn."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Two devices on one CPU, so that tests can mix them. Read when JAX is first imported.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("KERAS_BACKEND", "jax")
# Its GPU arrays are imported with it where CuPy is installed, also where there is no device. Read by pylops.
os.environ.setdefault("CUPY_PYLOPS", "0")
# Each core has a process of these tests, and torch's threads would wait for each other in vain. Read by torch, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import anyoptim as ao
from anyoptim.testing import need_library
from anyoptim.testing.pytest_plugin import array_library
from tests.support import covering, engines, libraries, xla
from tests.support.libraries import Library

__all__ = ["array_library"]  # the plugin itself would refuse to require the rows that only these tests know

# Time limits of single examples fail on a busy machine; the fixtures below have no state for examples to share.
settings.register_profile(
    "anyoptim", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("anyoptim")


def pytest_configure(config: pytest.Config) -> None:
    unknown = libraries.REQUIRED - libraries.REQUIRABLE
    if unknown:
        raise pytest.UsageError(f"ANYOPTIM_REQUIRE names {sorted(unknown)}; wanted some of {libraries.REQUIRABLE}")
    config.addinivalue_line("markers", "covering(strength): how many values of different factors are to meet, not 2")
    config.addinivalue_line("markers", "product: a case beyond those in which they do")
    config.addinivalue_line("markers", "own_loops: Numba would compile for this alone; blocked stands for compiled")
    config.addinivalue_line("markers", "telling: runs before the others, for it is quick and breaks with an equation")
    config.addinivalue_line("markers", "omit(reason, test): leave out the cases of which `test` is true")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the cases that there are not, mark those that need not run each time, begin with what tells most."""
    tests, omitted = defaultdict[str, list[Any]](list), list[pytest.Item]()
    for item in items:
        if hasattr(item, "callspec"):
            (omitted if _omitted(item) else tests[item.nodeid.partition("[")[0]]).append(item)
    config.hook.pytest_deselected(items=omitted)
    out = set(omitted)
    items[:] = [item for item in items if item not in out]
    if any("[" in argument for argument in config.args):  # one that is asked for by its name runs
        for item in items:
            item.own_markers = [mark for mark in item.own_markers if mark.name != "product"]
    else:
        for cases in tests.values():
            for item in cases:
                if _repeats(item) or _compiles(item):
                    item.add_marker("product")
            mark = cases[0].get_closest_marker("covering")
            # What may be skipped covers nothing for the others.
            for absent in (False, True):
                group = [item for item in cases if any(map(libraries.absent, _libraries(item))) is absent]
                group = [item for item in group if item.get_closest_marker("product") is None]
                chosen = covering.covering([covering.case(i.callspec) for i in group], *(mark.args if mark else ()))
                for item in (item for i, item in enumerate(group) if i not in chosen):
                    item.add_marker("product")
    items.sort(key=_turn)


def _compiles(item: Any) -> bool:
    """Whether the case is of the compiled engine, and of loops that nothing else wants."""
    params = item.callspec.params
    engine = params.get("engine") or params.get("place", (None, None))[1]
    return engine == "compiled" and item.get_closest_marker("own_loops") is not None


def pytest_collection_finish() -> None:
    """Let no collection of garbage look at the libraries and cases again, of which none is: JAX makes much garbage."""
    gc.collect()
    gc.freeze()


def _omitted(item: Any) -> bool:
    """Whether the library has no such dtype, or the test has no such case."""
    params = item.callspec.params
    dtype = params.get("dtype")
    lacking = isinstance(dtype, str) and any(dtype not in libraries.dtypes(name) for name in _libraries(item))
    return lacking or any(mark.args[1](**params) for mark in item.iter_markers("omit"))


def _turn(item: Any) -> int:
    """Whether it is among the first, the second or the last to run: what tells most, and before that on NumPy alone."""
    return 2 if item.get_closest_marker("telling") is None else int({"numpy"} < {"numpy", *_libraries(item)})


def _repeats(item: Any) -> bool:
    """Whether the library is another in all but some dtypes, and this case is of none of these."""
    dtype = item.callspec.params.get("dtype")
    return any(dtype not in libraries.OWN[name] for name in _libraries(item) if name in libraries.OWN)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip where the library of a case is missing: here, so that the report has one line for each library."""
    for name in _libraries(item):
        _row(name)
    if "jax" in sys.modules and (cache := getattr(item.config, "cache", None)) is not None:
        xla.keep(cache.mkdir("xla"))


def _libraries(item: Any) -> list[str]:
    """Those of a case: one, or none."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return [name for name in (params.get("lib"), params.get("library"), *params.get("place", ())[:1]) if name]


def _row(name: str) -> Library:
    modules = len(sys.modules)
    row: Library = need_library(name, libraries.load)
    if len(sys.modules) > modules:  # JAX and torch are some hundred thousand objects, of which none is garbage
        gc.freeze()
    return row


@pytest.fixture
def need() -> Callable[[str], Library]:
    """`need("torch")`: that row of the table. Missing, the test is skipped with the reason; required, it fails."""
    return _row


@pytest.fixture
def torch_in_float64(need: Callable[[str], Library]) -> Iterator[Any]:
    """torch with float64 as its default dtype, which NAdam's product and ASGD's rates have whatever the parameters'."""
    need("torch")
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch
    torch.set_default_dtype(before)


@pytest.fixture
def nvrtc() -> Any:
    """The module that compiles for devices. Like a library: missing or required."""
    try:
        return importlib.import_module("tests.support.nvrtc")
    except ImportError as why:
        if "cuda-shim" in libraries.REQUIRED:
            pytest.fail(f"ANYOPTIM_REQUIRE lists cuda-shim: {why}")
        pytest.skip(str(why))


@pytest.fixture(params=list(libraries.LOADERS))
def lib(request: pytest.FixtureRequest, need: Callable[[str], Library]) -> Iterator[Library]:
    """Each library in turn."""
    row = need(request.param)
    with row.context():
        yield row


PLACES = [
    *((name, None) for name in libraries.LOADERS),
    *((name, engine) for name in ("numpy", "torch") for engine in ("compiled", "portable")),
    ("cuda-shim", "portable"),
]


@pytest.fixture(params=PLACES, ids=lambda of: "-".join(filter(None, of)))
def place(
    request: pytest.FixtureRequest, need: Callable[[str], Library]
) -> Iterator[tuple[Library, ao.EngineName | None]]:
    """Each library in turn with the engine that it has by default, and with the others."""
    name, engine = request.param
    row = need(name)
    with row.context():
        yield row, engine


@pytest.fixture(params=list(libraries.METHODS))
def method(request: pytest.FixtureRequest) -> type[ao.Optimizer]:
    """Each public method in turn."""
    return libraries.METHODS[request.param]


@pytest.fixture
def quickly() -> Iterator[None]:
    """All that XLA compiles for this test takes less time: for what is compared to a tolerance, or counted."""
    with xla.quickly() if "jax" in sys.modules else contextlib.nullcontext():
        yield


@pytest.fixture(scope="module")
def as_users_compile() -> None:
    """Nothing that other tests had compiled quickly is left for this module, which tests bits."""
    if "jax" in sys.modules:
        import jax

        jax.clear_caches()


@pytest.fixture(autouse=True)
def nothing_worked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test compiles, or works towards, is not the next one's default engine."""
    engines.forget(monkeypatch)
