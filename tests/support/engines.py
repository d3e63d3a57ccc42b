"""The engines as tests of other rooms need them: as in a new process, with small blocks, and watched."""

from __future__ import annotations

import functools
from collections import Counter
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest

from anyoptim._engines import _base
from anyoptim._engines.blocked import _plan as blocked
from anyoptim._engines.blocked import _tiles
from anyoptim._engines.compiled import _plan as compiled
from anyoptim._engines.portable import _plan as portable
from anyoptim._machine import _elsewhere, _threads, _warmup
from anyoptim.random import _compiled, _dropout

LATER = _warmup.LATER
"""The reason why what the compiled engine would take is not yet worth compiling."""


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not updated or drawn anything yet."""
    monkeypatch.setattr(_warmup, "_worked", {})
    monkeypatch.setattr(_dropout, "_drawn", Counter())
    monkeypatch.setattr(_dropout, "_compilations", {})
    # What is due is compiled in this process, and so at once.
    monkeypatch.setattr(_elsewhere.Compilation, "done", lambda _: True)
    dropout_on(None, monkeypatch)
    monkeypatch.setattr(_compiled, "_LOADED", {})
    monkeypatch.setattr(_compiled, "_LOADED_IN_PLACE", {})


def look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have engines say what is missing now, not what they found before."""
    monkeypatch.setattr(_base, "installed", _base.installed.__wrapped__)


def dropout_on(engine: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout and the numbers of `random` on this engine, where a layer has none of its own; or on the best again."""
    monkeypatch.setattr(_dropout, "_engine_name", ContextVar("the engine of Dropout", default=engine))


def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """On any machine."""
    monkeypatch.setattr(_threads, "threads", lambda: 2)


def blocks_of(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is worked on at a time, by the blocked engine and by the compiled one."""
    monkeypatch.setattr(_tiles, "TILE", elements)
    monkeypatch.setattr(compiled, "CHUNK", elements)


class Watch:
    """What an engine does from now on: each pass over the elements, and the different kernels it ran."""

    def __init__(self, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes: list[Any] = []
        self.kernels: list[Any] = []
        if engine == "portable":
            for name in ("terms", "_result"):
                monkeypatch.setattr(portable, name, self._passing(name, getattr(portable, name)))
            return
        module: Any
        module, name = (blocked, "block_function") if engine == "blocked" else (compiled, "load")
        made = getattr(module, name)

        def watched(program: Any, k: int | None, *rest: Any) -> Any:
            kernel = made(program, k, *rest)
            if not any(kernel is other for other in self.kernels):
                self.kernels.append(kernel)
            if engine == "compiled":
                return kernel._replace(native=self._watched(k, kernel.native))
            # Of a step these are the calls, to be made then.
            return kernel._replace(call=self._marked(kernel.call) if k is None else self._passing(k, kernel.call))

        monkeypatch.setattr(module, name, watched)
        # What was loaded for reductions together is kept: here it is loaded anew, and watched.
        monkeypatch.setattr(compiled, "_asked", compiled._asked.__wrapped__)

    def _marked(self, call: Any) -> Any:
        return lambda *arguments: [functools.partial(self.passes.append, None), *call(*arguments)]

    def _watched(self, what: Any, native: Any) -> Any:
        def bind(*arrays: Any, **numbers: int) -> Any:
            bound = native.bind(*arrays, **numbers)
            bound.run = self._passing(what, bound.run)
            return bound

        return SimpleNamespace(bind=bind)

    def _passing(self, what: Any, run: Any) -> Any:
        def passing(*arguments: Any) -> Any:
            self.passes.append(what)
            return run(*arguments)

        return passing
