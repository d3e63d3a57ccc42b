"""A plugin for pytest: the fixture `array_library`, each array library in turn.

In the `conftest.py` at the top of your tests::

    pytest_plugins = ["anyoptim.testing.pytest_plugin"]
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anyoptim.testing._libraries import LIBRARIES, ArrayLibrary, need_library, required

__all__ = ["array_library", "pytest_configure"]


def pytest_configure() -> None:
    """Refuse a name in ANYOPTIM_REQUIRE that is none: with a slip of the pen, nothing would be required."""
    if unknown := sorted(required() - {*LIBRARIES}):
        raise pytest.UsageError(f"ANYOPTIM_REQUIRE names {unknown}; wanted some of {', '.join(LIBRARIES)}")


@pytest.fixture(params=LIBRARIES)
def array_library(request: pytest.FixtureRequest) -> Iterator[ArrayLibrary]:
    """Each array library in turn, in its context; one that is missing is skipped, or fails if it is required.

    `@pytest.mark.parametrize("array_library", ["numpy", "torch"], indirect=True)` takes some.
    """
    row: ArrayLibrary = need_library(request.param)
    with row.context():
        yield row
