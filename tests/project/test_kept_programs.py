"""What XLA makes of a program is kept for the other tests, apart from what it makes of it quickly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import xla
from tests.support.libraries import Library


@pytest.fixture
def kept(need: Callable[[str], Library], tmp_path: Path) -> Iterator[Callable[[], set[str]]]:
    """The names of the programs in an empty folder, which takes the place of the tests' own."""
    need("jax")
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.jax_compilation_cache_dir
    xla.keep(tmp_path)
    yield lambda: {path.name for path in tmp_path.iterdir()}
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def _program(factor: float) -> Callable[[Any], Any]:
    return lambda x: x * factor + x


def test_each_program_is_kept_once(kept: Callable[[], set[str]]) -> None:
    """Another function of the same text is read, and gives the same; other numbers and other options have their own."""
    import jax

    x = jax.numpy.arange(5.0)
    xla.quick(_program(1.0))(x)  # which asks for the options that there are
    found, sizes = [], [len(kept())]
    for compiled, factor in ((jax.jit, 3.0), (jax.jit, 3.0), (xla.quick, 3.0), (jax.jit, 5.0)):
        found.append(compiled(_program(factor))(x).tolist())
        sizes.append(len(kept()))
    assert found == [[4.0 * i for i in range(5)]] * 3 + [[6.0 * i for i in range(5)]]
    assert [b - a for a, b in itertools.pairwise(sizes)] == [1, 0, 1, 1]
    assert all(name.endswith("-cache") for name in kept())  # nothing half written is left


def test_what_is_kept_is_what_runs(kept: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is there is not compiled."""
    import jax
    from jax._src import compiler

    x = jax.numpy.arange(5.0)
    expected = jax.jit(_program(7.0))(x).tolist()

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("compiled anew")

    monkeypatch.setattr(compiler, "backend_compile_and_load", fail)
    assert jax.jit(_program(7.0))(x).tolist() == expected
    with pytest.raises(AssertionError, match="compiled anew"):
        jax.jit(_program(9.0))(x)
