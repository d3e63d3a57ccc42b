"""Compiling with XLA in a fraction of the usual time, for tests that run what they compile for milliseconds.

What it makes of a program is kept in a folder, as Numba's kernels are: for the other process of these tests, for the
test that compiles the same anew, and for the next run.

XLA makes fast code of a peer, of a function of NumPy's kind, or of our own pure form, and takes most of a test's time
for it. Here it is told not to. That is for what is compared to a tolerance, or counted: where bits or the accuracy of
what users get are tested, the tests use `jax.jit`; and `as_users_compile` if they run single operations, too, because
JAX keeps what was compiled quickly before.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

QUICK: Mapping[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,  # they would make a module of LLVM of each fusion
    "xla_cpu_parallel_codegen_split_count": 1,
}


@functools.cache
def _known() -> dict[str, Any]:
    """The options that this XLA has; another may have others."""
    import jax

    def known(name: str) -> bool:
        try:
            jax.jit(lambda: 0, compiler_options={name: QUICK[name]})()
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: value for name, value in QUICK.items() if known(name)}


@functools.cache
def keep(folder: Path) -> None:
    """Keep machine code in this folder, under what it depends on: the program, all options, this XLA, the processor.

    JAX can do so itself, but writes to its files in place, where another process may find half of one. That is changed
    here by what is not public: where a release has another function, it compiles each time.
    """
    import jax
    from jax._src import compilation_cache, lru_cache
    from jax.experimental.compilation_cache import compilation_cache as public

    if not hasattr(compilation_cache, "get_file_cache"):
        return

    class Files(lru_cache.LRUCache):  # type: ignore[misc] # of which JAX says no types
        def put(self, key: str, value: bytes) -> None:
            part = self.path / f"{key}.{os.getpid()}.{threading.get_ident()}"
            part.write_bytes(value)
            part.replace(self.path / f"{key}-cache")

    compilation_cache.get_file_cache = lambda path: (Files(path, max_size=-1), path)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    public.reset_cache()


def quick(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit`, for less time to compile and more to run."""
    import jax

    return jax.jit(function, compiler_options=_known(), **options)


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """The same for all that is compiled within, operations one by one, too.

    JAX has no public way to say so: where a release has another function here, it takes its time.
    """
    from jax._src import compiler

    original: Any = getattr(compiler, "get_compile_options", None)
    known = _known()

    def options(*of: Any, env_options_overrides: Any = None, **more: Any) -> Any:
        return original(*of, env_options_overrides={**known, **(env_options_overrides or {})}, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", options, raising=original is not None)
        yield


def compiler(name: str) -> Callable[..., Any]:
    """What compiles a test of each method: for one of them, Adam, as users compile it, and for the others quickly."""
    import jax

    return jax.jit if name == "Adam" else quick


def loop(step: Callable[[Any, Any], Any]) -> Callable[[Any, Sequence[Any]], Any]:
    """A loop of `carry = step(carry, each)` over a list of trees, compiled once for all lists of a length."""
    import jax

    scanned = quick(lambda carry, each: jax.lax.scan(lambda *of: (step(*of), None), carry, each)[0])
    return lambda carry, each: scanned(carry, jax.tree.map(lambda *leaves: np.stack(leaves), *each))
