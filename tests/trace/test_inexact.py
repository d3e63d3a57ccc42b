"""Rules that say `exact = False`: exponentials, logarithms and powers, whose bits are the engine's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.internals import static_options, trace
from tests.support.libraries import Library

NAN, INF = np.nan, np.inf


class Elementary(ao.Optimizer):
    """A method that keeps all three functions of its gradient, and of p as the exponent."""

    slots = ("e", "l", "w", "c")
    exact = False
    scale: ao.Positive = 0.25

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, e: Any, l: Any, w: Any, s: Any, c: Any) -> tuple[Any, ...]:  # noqa: E741
        of_numbers = xp.exp(xp.log(c.scale)) + xp.power(c.scale, 0.5)
        return 0 * x, xp.exp(x), xp.log(x), xp.power(x, p), of_numbers + 0 * x


def _found(optimizer: Elementary, lib: Library, x: Any, p: Any, dtype: str) -> dict[str, Any]:
    optimizer.update({"p": lib.array(p, dtype)}, {"p": lib.array(x, dtype)})
    assert optimizer.state is not None
    return {name: lib.tonumpy(slot["p"]) for name, slot in optimizer.state.slots.items()}


def _expected(x: Any, p: Any, dtype: str) -> dict[str, Any]:
    """The same in float64, of what the dtype holds of them."""
    x, p = (np.array(a, dtype).astype(float) for a in (x, p))
    with np.errstate(all="ignore"):
        return {"e": np.exp(x), "l": np.log(x), "w": np.power(x, p), "c": np.full(x.shape, 0.75)}


def _check(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        # Libraries give up to 4 ulp; a power that is taken as exp(p*log x) has |p*log x| of them, 7 at most below.
        eps = float(np.finfo(found[name].dtype).eps)
        np.testing.assert_allclose(found[name], value, rtol=16 * eps, atol=0, err_msg=name)


RNG = np.random.default_rng(0)
X, P = np.exp(RNG.uniform(-2, 2, 300)), RNG.uniform(-3.5, 3.5, 300)
ENGINES = ("portable", "blocked", "compiled", None)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_of_numpy(engine: ao.EngineName | None, dtype: str, need: Callable[[str], Library]) -> None:
    """All three, of arrays and of numbers, are those of float64 to round-off."""
    _check(_found(Elementary(engine=engine), need("numpy"), X, P, dtype), _expected(X, P, dtype))


# Dask computes in threads of its own, whose floating-point warnings no caller can turn off.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_each_library(lib: Library) -> None:
    """On every library, and at the edges as C has them: nothing warns, nothing raises."""
    _check(_found(Elementary(), lib, X, P, "float32"), _expected(X, P, "float32"))
    x, p = (np.array(m).ravel() for m in np.meshgrid([0.0, 1.0, -2.0, 200.0, INF, -INF, NAN], [0.0, 3.0, 0.5, -1.0]))
    found, expected = _found(Elementary(), lib, x, p, "float32"), _expected(x, p, "float32")
    expected["e"] = np.where(x == 200, INF, expected["e"])  # too large for float32
    for name in "elw":
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-6, err_msg=name)


def test_it_is_compiled_at_once(need: Callable[[str], Library]) -> None:
    """Where blocked would run the first steps, results would depend on when compiling begins to pay."""
    need("numpy")
    pytest.importorskip("numba", reason="the compiled engine is Numba's")
    w, optimizer = np.ones(3), Elementary()
    assert str(optimizer.explain(w, w)).splitlines()[1].split()[0] == "compiled"
    assert str(ao.Adam().explain(w, w)).splitlines()[1].split()[0] == "blocked"


def test_the_source_for_devices(nvrtc: Any) -> None:
    """The functions of the arithmetic's dtype: no float32 goes through doubles."""
    for dtype, suffix in (("float32", "f"), ("float64", "")):
        text = Elementary().kernel_source("cuda", dtype)  # type: ignore[arg-type]
        assert all(f"{name}{suffix}(" in text for name in ("exp", "log", "pow"))
        assert nvrtc.code(text, 90).startswith(b"\x7fELF")


@pytest.mark.parametrize("name", ["exp", "log", "power"])
def test_an_exact_rule_has_none_of_them(name: str, lib: Library) -> None:
    """On every library, with what is wanted instead; and its parameters stay."""

    class Exact(ao.Optimizer):
        rule = staticmethod(lambda xp, p, x, c: getattr(xp, name)(*[x] * (1 + (name == "power"))))

    p = {"p": lib.array([1.0])}
    with pytest.raises(TypeError, match=rf"it uses xp\.{name}; wanted exact = False in the class body"):
        Exact().update(p, {"p": lib.array([1.0])})
    assert lib.tonumpy(p["p"]) == 1


def test_in_a_chain_only_its_own_rule_may() -> None:
    """The next stage's rule is exact; the program is not; and `exp` of numbers alone is a host expression."""
    optimizer = ao.chain(Elementary(), ao.Scale(0.5))
    pipeline = optimizer._pipeline
    program = pipeline.branch.program
    assert [part.exact for part in program.parts] == [False, True, True]
    assert not program.exact
    graph = trace(program, static_options(pipeline.sample(pipeline.branch)))
    assert [node.op for node in graph.nodes].count("exp") == 1
    assert ao.Adam()._pipeline.branch.program.exact
