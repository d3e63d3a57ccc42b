"""What `check_adjoint` says of adjoints that are right, and of those that are wrong in a way that is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import HALF, Library

pytestmark = pytest.mark.usefixtures("quickly")

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(40, 12)), RNG.normal(size=(40, 5)) + 1j * RNG.normal(size=(40, 5))

Map = Callable[[Any], Any]


def test_right_adjoints_raise_no_alarm(lib: Library) -> None:
    """On every library, in every dtype: with two parameters, one without a gradient, and two arrays of data."""
    for dtype in lib.dtypes:
        if lib.slow and dtype not in {"float32", "complex64"}:
            continue
        a = lib.array(A + 1j * A[::-1] if dtype.startswith("complex") else A, dtype)
        xp, back = lib.xp, lib.array((A + 1j * A[::-1]).conj() if dtype.startswith("complex") else A, dtype)

        def forward(p: Any, a: Any = a, xp: Any = xp) -> Any:
            return [xp.sum(a * p["w"], axis=1), 2 * p["b"]]

        def adjoint(r: Any, a: Any = back, xp: Any = xp) -> Any:
            return {"w": xp.sum(a * r[0][:, None], axis=0), "b": 2 * r[1], "fixed": None}

        params = {"w": lib.array(np.ones(12), dtype), "b": lib.array(np.ones(3), dtype)}
        params["fixed"] = lib.array(np.ones(2), dtype)
        for seed in range(1 if lib.slow or lib.compiles else 5):
            report = ao.check_adjoint(forward, adjoint, params, seed=seed)
            assert report.ok, f"{dtype}\n{report}"
            assert [check.verdict for check in report] == ["right", "none", "right"]
        assert (lib.values(params["w"]) == 1).all()
        limit = 1e-5 if dtype not in HALF else 1e-2
        # What is off by more than the rounding is seen, in every dtype.

        def off(r: Any, adjoint: Map = adjoint) -> Any:
            return {**adjoint(r), "b": 3 * r[1]}

        wrong = ao.check_adjoint(forward, off, params)
        assert wrong.wrong == ["b"]
        assert wrong[0].factor == pytest.approx(1.5, rel=0.05 if dtype in HALF else limit)


WRONG: dict[str, tuple[Map, Map, str]] = {
    "twice": (lambda p: A @ p, lambda r: 2 * A.T @ r, "it is 2 times the adjoint"),
    "minus": (lambda p: A @ p, lambda r: -A.T @ r, "it is minus the adjoint"),
    "zero": (lambda p: A @ p, lambda r: 0 * A.T @ r, "it is 0, and forward is not"),
    "another": (lambda p: A @ p, lambda r: A[::-1].T @ r, "no one factor explains it"),
    "an element": (lambda p: A @ p, lambda r: A.T @ np.where(np.arange(40) == 7, 0, r), "no one factor explains it"),
    "where forward is 0": (lambda p: 0 * A @ p, lambda r: A.T @ r, "no one factor explains it"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name: str) -> None:
    """In words, with a factor where there is one; with every seed."""
    forward, adjoint, reason = WRONG[name]
    for seed in range(10):
        report = ao.check_adjoint(forward, adjoint, np.zeros(12), seed=seed)
        assert not report.ok
        assert report.linear
        assert report[0].reason == reason
        assert reason in str(report)


def test_the_conjugate_of_an_adjoint() -> None:
    """The transpose of a complex matrix; of a real part alone the products see that something is missing."""
    p = np.zeros(5, complex)
    assert ao.check_adjoint(lambda p: B @ p, lambda r: B.conj().T @ r, p).ok
    assert ao.check_adjoint(lambda p: B @ p, lambda r: (B.conj().T @ r).conj(), p)[0].reason == (
        "it is the conjugate of the adjoint"
    )
    assert not ao.check_adjoint(lambda p: B @ p, lambda r: B.T @ r, p).ok


def test_what_is_linear_by_reals_is() -> None:
    """A conjugate, the real part: their adjoints are those for the inner product of both parts."""
    p = np.zeros(5, complex)
    assert ao.check_adjoint(np.conj, np.conj, p).ok
    assert ao.check_adjoint(lambda p: (B @ p).real, lambda r: B.conj().T @ r, p).ok


@pytest.mark.parametrize("forward", [lambda p: A @ p + 1, lambda p: np.abs(A @ p), lambda p: (A @ p) ** 2])
def test_what_is_not_linear_is_said(forward: Map) -> None:
    report = ao.check_adjoint(forward, lambda r: A.T @ r, np.zeros(12))
    assert not report.ok
    assert not report.linear
    assert "it is not linear" in str(report)


def test_one_array_under_two_names() -> None:
    """Its gradient is the sum, and given once."""
    p = np.zeros(12)
    report = ao.check_adjoint(
        lambda p: A @ (p["a"] + p["b"]), lambda r: {"a": 2 * A.T @ r, "b": None}, {"a": p, "b": p}
    )
    assert report.ok
    assert len(report) == 1


def test_a_small_error_is_seen_and_a_large_tolerance_allows_it() -> None:
    """Unmatched operators, as projectors are that interpolate differently."""
    near = A * (1 + 1e-3 * RNG.normal(size=A.shape))
    report = ao.check_adjoint(lambda p: A @ p, lambda r: near.T @ r, np.zeros(12))
    assert not report.ok
    assert 1e-6 < report[0].error < 1e-2
    assert ao.check_adjoint(lambda p: A @ p, lambda r: near.T @ r, np.zeros(12), rtol=1e-2).ok


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"params has shape \(12,\) but adjoint\(residual\) has shape \(40,\)"):
        ao.check_adjoint(lambda p: A @ p, lambda r: r, np.zeros(12))
    with pytest.raises(ValueError, match="has a None in it"):
        ao.check_adjoint(lambda p: [A @ p, None], lambda r: r, np.zeros(12))
    with pytest.raises(ValueError, match="directions"):
        ao.check_adjoint(lambda p: p, lambda r: r, np.zeros(12), directions=0)


def test_calls_are_as_many_as_the_docstring_says() -> None:
    """One of each for each parameter and direction, and three of `forward` and one of `adjoint` besides."""
    calls = [0, 0]

    def forward(p: Any) -> Any:
        calls[0] += 1
        return A @ p["a"] + A @ p["b"]

    def adjoint(r: Any) -> Any:
        calls[1] += 1
        return {"a": A.T @ r, "b": A.T @ r}

    assert ao.check_adjoint(forward, adjoint, {"a": np.zeros(12), "b": np.zeros(12)}, directions=4).ok
    assert calls == [2 * 4 + 3, 2 * 4 + 1]
    says = " ".join(str(ao.check_adjoint.__doc__).split())
    assert "each parameter and direction, and three calls of `forward` and one of `adjoint` besides" in says
