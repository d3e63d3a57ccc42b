"""Functions of scalars: on the host, traced, and on a device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim._trace._scalars import exp, following, maximum, minimum, power, remainder, times, where, whole_number
from anyoptim._trace._symbols import Scalar, Symbol, symbol
from tests.support import shim
from tests.support.internals import coefficients, rows_of
from tests.support.libraries import Library

PAIRS = [(2.0, 3.0), (0.5, 0.0), (1.0, 7.0), (1.0003, 0.75), (1e-3, 2.5), (7.0, -1.5), (4.0, 0.5)]
COUNTS = [(0, 1), (1, 1), (1, 5), (5, 5), (6, 5), (24, 5), (1_000_000, 7), (2**31 - 1, 1000)]


def _numbers_of(values: list[Symbol], device: list[float]) -> tuple[list[float], str]:
    """The values of expressions on a device, and the text of the kernel."""
    shim.install(shim.Machine())
    scalars = [Scalar("coefficient", (0, str(k))) for k in range(len(values))]
    numbers, expressions = rows_of(scalars, [({str(k): v for k, v in enumerate(values)},)], "float64")
    known, text = np.array(device), coefficients(expressions).text
    at = numbers.ctypes.data
    shim.call("coefficients", text, 1, 1, (at, at + 8 * len(values), known.ctypes.data))
    return numbers[: len(values)].tolist(), text


def test_powers_of_the_host_are_pythons() -> None:
    """Powers of Python numbers are Python's, and infinite where they are too large."""
    assert [power(a, x) for a, x in PAIRS] == [a**x for a, x in PAIRS]
    assert power(2, 3) == 8.0
    assert type(power(2, 3)) is float
    assert power(2.0, 5000) == math.inf


def test_remainders_of_the_host_are_pythons() -> None:
    assert [remainder(n, k) for n, k in COUNTS] == [n % k for n, k in COUNTS]


def test_powers_and_remainders_on_a_device(need: Callable[[str], Library]) -> None:
    """Base, exponent or both may be known on a device alone; remainders are exact."""
    need("cuda-shim")
    cell = symbol
    for a, x in PAIRS:
        found, _ = _numbers_of([power(cell(0), x), power(a, cell(1)), power(cell(0), cell(1))], [a, x])
        np.testing.assert_allclose(found, [a**x] * 3, rtol=1e-15)
    for n, k in COUNTS:
        found, _ = _numbers_of([remainder(cell(0), k), remainder(cell(0) + 1.0, k)], [float(n)])
        assert found == [n % k, (n + 1) % k]


def test_public_functions_on_a_device(need: Callable[[str], Library]) -> None:
    """Comparisons are exact there, an exponential is right to some roundings."""
    need("cuda-shim")
    a = symbol(0)
    for x in (0.5, 2.0, 7.0):
        found, _ = _numbers_of([minimum(a, 2.0), maximum(2.0, a), exp(-a), where(a > 1.0, a, 1.0)], [x])
        assert found[:2] == [min(x, 2.0), max(x, 2.0)]
        assert found[2] == pytest.approx(math.exp(-x), rel=1e-15)
        assert found[3] == max(x, 1.0)


ASKING: dict[str, tuple[Callable[[Any], Any], str]] = {
    "if": (lambda t: 1.0 if t > 1 else 0.5, "it branches on a value that is known only when it runs"),
    "**": (lambda t: 0.5**t, r"it uses \*\*"),
}


@pytest.mark.parametrize("how", ASKING)
def test_coefficients_that_a_device_can_not_compute_are_told_what_to_use(how: str) -> None:
    """What is in `ao.scalars`, and not the xp that a rule has."""
    of, why = ASKING[how]

    class Own(ao.Stage):
        coefficients = staticmethod(lambda t, hyper: {"scale": of(t)})
        rule = staticmethod(lambda xp, p, x, c: x * c.scale)

    wanted = rf"^coefficients of Own\(\) can't be computed on a device: {why}; wanted where, minimum, .* of ao.scalars"
    with pytest.raises(TypeError, match=wanted) as raised:
        Own()._coefficients(symbol(0), {})
    assert "xp" not in str(raised.value)


def test_nvrtc_compiles_powers_and_remainders(nvrtc: Any, need: Callable[[str], Library]) -> None:
    need("cuda-shim")
    _, text = _numbers_of([power(symbol(0), 0.75), remainder(symbol(0), 5)], [3.0])
    assert nvrtc.code(text, 90).startswith(b"\x7fELF")


@pytest.mark.parametrize("name", ["jax", "jax-x64"])
def test_powers_and_remainders_that_are_traced(name: str, need: Callable[[str], Library]) -> None:
    """With base, exponent or both traced by `jax.jit` a power is right to some roundings of the widest float there."""
    lib = need(name)
    import jax

    with lib.context():
        close = 2e-6 if name == "jax" else 1e-14
        bases, exponents = (list(of) for of in zip(*PAIRS, strict=True))

        def powers(traced: list[Any], traced_too: list[Any]) -> list[Any]:
            both = zip(bases, exponents, traced, traced_too, strict=True)
            return [[power(a, x), power(b, y), power(a, y)] for b, x, a, y in both]

        for found, (a, x) in zip(jax.jit(powers)(bases, exponents), PAIRS, strict=True):
            np.testing.assert_allclose(found, [a**x] * 3, rtol=close)
        assert float(jax.jit(lambda n: power(2, n))(3)) == pytest.approx(8, rel=close)
        assert float(jax.jit(lambda n: power(n, 3))(2)) == pytest.approx(8, rel=close)
        for kind in (np.int32, np.uint32):
            remainders = jax.jit(lambda ns: [remainder(n, k) for n, (_, k) in zip(ns, COUNTS, strict=True)])
            assert list(map(int, remainders([kind(n) for n, _ in COUNTS]))) == [n % k for n, k in COUNTS]


def test_whole_numbers() -> None:
    """A whole number may be of any integer type, and has a least value."""
    assert whole_number("every", np.int64(3)) == 3
    assert whole_number("start", 0, 0) == 0
    for value, error, says in [
        (0, ValueError, "every is 0; wanted at least 1"),
        (-1, ValueError, "every is -1; wanted at least 0"),
        (2.0, TypeError, "every is 2.0; wanted an integer"),
        (None, TypeError, "every is None; wanted an integer"),
    ]:
        with pytest.raises(error, match=says):
            whole_number("every", value)


def test_counts_of_other_dtypes(need: Callable[[str], Library]) -> None:
    """A count saturates where its own dtype ends; Python's have no end."""
    lib = need("jax-x64")
    import jax
    import jax.numpy as jnp

    counted = jax.jit(lambda n: (following(n), times(n, 3)))
    with lib.context():
        for dtype in ("int8", "int32", "uint32", "int64"):
            most = int(jnp.iinfo(dtype).max)
            for n in (0, most // 3, most // 3 + 1, most - 1, most):
                found = counted(jnp.asarray(n, dtype))
                assert list(map(int, found)) == [min(n + 1, most), min(3 * n, most)]
                assert {a.dtype.name for a in found} == {dtype}
    assert (following(2**63 - 1), times(2**63 - 1, 3)) == (2**63, 3 * (2**63 - 1))
