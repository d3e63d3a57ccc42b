"""Fixtures: every library in turn, every method in turn."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Two devices on one CPU, so that tests can mix them. Read when JAX is first imported.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("KERAS_BACKEND", "jax")

import anyoptim as ao
from tests.support import engines, libraries
from tests.support.libraries import Library, MissingError

# Time limits of single examples fail on a busy machine; the fixtures below have no state for examples to share.
settings.register_profile(
    "anyoptim", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("anyoptim")


def pytest_configure() -> None:
    unknown = libraries.REQUIRED - libraries.REQUIRABLE
    if unknown:
        raise pytest.UsageError(f"ANYOPTIM_REQUIRE names {sorted(unknown)}; wanted some of {libraries.REQUIRABLE}")


@pytest.fixture
def need() -> Callable[[str], Library]:
    """`need("torch")`: that row of the table. Missing, the test is skipped with the reason; required, it fails."""

    def load(name: str) -> Library:
        try:
            return libraries.load(name)
        except MissingError as why:
            if name in libraries.REQUIRED:
                pytest.fail(f"ANYOPTIM_REQUIRE lists {name}: {why}")
            pytest.skip(str(why))

    return load


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
def place(request: pytest.FixtureRequest, need: Callable[[str], Library]) -> Iterator[tuple[Library, str | None]]:
    """Each library in turn with the engine that it has by default, and with the others."""
    name, engine = request.param
    row = need(name)
    with row.context():
        yield row, engine


@pytest.fixture(params=list(libraries.METHODS))
def method(request: pytest.FixtureRequest) -> type[ao.Optimizer]:
    """Each public method in turn."""
    return libraries.METHODS[request.param]


@pytest.fixture(autouse=True)
def nothing_worked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test compiles, or works towards, is not the next one's default engine."""
    engines.forget(monkeypatch)
