"""What `check_grad` says of gradients that are right, and of those that are wrong in a way that is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim.testing import GradReport
from anyoptim.testing._slopes import noise_of, significant_bits
from tests.support.libraries import HALF, Library, numpy_dtype, same_bits

pytestmark = pytest.mark.usefixtures("quickly")

RNG = np.random.default_rng(0)
X, T = RNG.normal(size=(32, 10)), RNG.integers(0, 5, 32)
Bug = Callable[[dict[str, Any]], Any]


def _network(params: Any, activation: str, bug: Bug = lambda g: None) -> tuple[Any, dict[str, Any]]:
    """The mean cross-entropy of a network with one hidden layer, all in the parameters' dtype, and its gradient."""
    x = X.astype(params["W1"].dtype)
    a = x @ params["W1"] + params["b1"]
    h = np.tanh(a) if activation == "tanh" else np.maximum(a, 0)
    z = h @ params["W2"] + params["b2"]
    e = np.exp(z - z.max(axis=1, keepdims=True))
    y = e / e.sum(axis=1, keepdims=True)
    loss = -np.log(y[np.arange(32), T]).mean()
    d = y.copy()
    d[np.arange(32), T] -= 1
    d /= 32
    back = (d @ params["W2"].T) * (1 - h * h if activation == "tanh" else a > 0)
    grads = {"W1": x.T @ back, "b1": back.sum(axis=0), "W2": h.T @ d, "b2": d.sum(axis=0)}
    bug(grads)
    return loss, grads


def _params(seed: int, dtype: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "W1": (rng.normal(size=(10, 16)) * 0.3).astype(dtype),
        "b1": np.zeros(16, dtype),
        "W2": (rng.normal(size=(16, 5)) * 0.3).astype(dtype),
        "b2": np.zeros(5, dtype),
    }


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_right_gradients_raise_no_alarm(activation: str, dtype: str) -> None:
    """Of twenty networks none is called wrong, in arithmetic of any dtype, and all of float64 are seen to be right."""
    verdicts: Counter[str] = Counter()
    for seed in range(20):
        params = _params(seed, dtype)
        report = ao.check_grad(lambda params: _network(params, activation), params, seed=seed)
        verdicts.update(check.verdict for check in report)
    assert verdicts.total() == 80
    assert verdicts["wrong"] == 0
    if dtype == "float64" or (dtype, activation) == ("float32", "tanh"):
        assert verdicts["right"] == 80
    elif dtype == "float32":  # where a kink is nearer than float32 can see
        assert verdicts["right"] >= 75


BUGS: dict[str, tuple[str, Bug, float | None, str]] = {
    "sign": ("W1", lambda g: g.update(W1=-g["W1"]), -1.0, "the sign is wrong"),
    "mean": ("W2", lambda g: g.update(W2=32 * g["W2"]), 32.0, "32 times the slope: a 1/n is missing"),
    "half": ("b2", lambda g: g.update(b2=g["b2"] / 2), 0.5, "a factor 2 is missing"),
    "twice": ("b2", lambda g: g.update(b2=g["b2"] * 2), 2.0, "a factor 2, as that of a square, too many"),
    "sum": ("W1", lambda g: g.update(W1=g["W1"] / -32), -1 / 32, "minus 1/32 times the slope"),
    "other": ("b2", lambda g: g.update(b2=g["b2"] * g["b2"].dtype.type(1.3)), 1.3, "1.3 times the slope"),
    "nothing": ("W2", lambda g: g["W2"].fill(0), None, "it is 0, but the loss changes"),
    "element": ("W2", lambda g: g["W2"].__setitem__((3, 2), g["W2"][3, 2] + 1), None, "at [3, 2]: gradient"),
    "row": ("W1", lambda g: g["W1"][-1].fill(0), None, "at [9, "),
    "NaN": ("b1", lambda g: g["b1"].__setitem__(5, np.nan), None, "1 of 16 elements are not finite, the first at [5]"),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BUGS)
def test_what_is_wrong_is_named(name: str, dtype: str) -> None:
    """The parameter, and no other; the element, where it is one; the factor, where there is one."""
    where, bug, factor, words = BUGS[name]
    report = ao.check_grad(lambda params: _network(params, "tanh", bug), _params(1, dtype))
    assert not report.ok
    assert report.wrong == [where]
    (check,) = (check for check in report if check.path == where)
    assert words in check.reason
    assert words in str(report)
    assert check.factor == (factor if factor is None else pytest.approx(factor, rel=1e-2))
    if name == "element":
        assert check.worst is not None
        assert check.worst.gradient - check.worst.slope == pytest.approx(1, rel=2e-2)


A = RNG.normal(size=(20, 4)) + 1j * RNG.normal(size=(20, 4))

TWISTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "conjugate": (np.conj, "the slope is the conjugate of it"),
    "minus conjugate": (lambda g: -g.conj(), "the slope is minus the conjugate of it"),
    "i": (lambda g: 1j * g, "the slope is minus i times it"),
    "Wirtinger": (lambda g: g / 2, "a factor 2 is missing, as that of a square, or of dL/dconj(z)"),
    "transpose": (lambda g: g.T, "the slope is the transpose of it"),
    "adjoint": (lambda g: g.conj().T, "the slope is the conjugate transpose of it"),
}


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("name", ["right", *TWISTS])
def test_complex_gradients(name: str, dtype: str) -> None:
    """dL/dRe + i dL/dIm is right; the other conventions are named."""
    twist, words = TWISTS.get(name, (lambda g: g, ""))

    def least_squares(Z: Any) -> Any:
        r = A.astype(dtype) @ Z - 1
        return np.vdot(r, r).real / 2, twist(A.astype(dtype).conj().T @ r)

    (check,) = ao.check_grad(least_squares, (RNG.normal(size=(4, 4)) + 1j * RNG.normal(size=(4, 4))).astype(dtype))
    assert check.verdict == ("wrong" if words else "right")
    assert words in check.reason


def _cubic(lib: Library, params: Any, dtype: str, factor: float = 1) -> tuple[Any, Any]:
    """Of two parameters the sum of cubes, or of squares of the modulus of complex ones."""
    xp = lib.xp
    a, b = params["a"], params["nest"][0]
    if dtype.startswith("complex"):
        return sum(xp.sum(xp.real(x * xp.conj(x))) for x in (a, b)) / 2, {"a": a, "nest": [factor * b]}
    wide = [xp.astype(x, xp.float32) if dtype in HALF else x for x in (a, b)]  # as in training
    return sum(xp.sum(x * x * x) for x in wide) / 3, {"a": a * a, "nest": [factor * b * b]}


@pytest.mark.covering(1)  # it computes on the host, in float64
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"])
def test_every_library(lib: Library, dtype: str) -> None:
    """Right and wrong gradients are told apart in all dtypes, and everything is as it was afterwards."""
    values = [np.array([0.5, 1.25, 0.75], numpy_dtype(dtype)), np.array([1.5, 1.0], numpy_dtype(dtype))]
    params = {"a": lib.asarray(values[0]), "nest": [lib.asarray(values[1])]}
    leaves = params["a"], params["nest"][0]
    report = ao.check_grad(lambda p: _cubic(lib, p, dtype), params)
    assert report.ok, report
    if dtype == "float32" or not lib.slow:
        wrong = ao.check_grad(lambda p: _cubic(lib, p, dtype, 3), params)
        assert wrong.wrong == ["nest.0"]
        assert wrong[1].factor == pytest.approx(3, rel=0.2 if dtype in HALF else 0.01)
    assert params["a"] is leaves[0]
    assert params["nest"][0] is leaves[1]
    assert all(same_bits(a, b) for a, b in zip(lib.values(leaves), values, strict=True))


def _locked(a: Any) -> Any:
    a.flags.writeable = False
    return a


def test_places_that_cannot_be_written_to() -> None:
    """Read-only arrays, Python numbers and tuples are replaced in the container, or in another one."""
    params = {"w": _locked(np.array([1.0, 2.0])), "x": 3.0, "pair": (np.float64(2.0), np.ones(2))}
    w = params["w"]

    def loss(p: Any) -> Any:
        a, b = p["pair"]
        grads = {"w": 2 * p["w"], "x": 2 * p["x"], "pair": (b.sum(), a * np.ones(2))}
        return (p["w"] ** 2).sum() + p["x"] ** 2 + a * b.sum(), grads

    assert ao.check_grad(loss, params).ok
    assert params["w"] is w
    assert params["x"] == 3.0
    assert params["pair"][1].tolist() == [1.0, 1.0]
    assert ao.check_grad(lambda x: (x * x, 2 * x), 3.0).ok
    assert ao.check_grad(lambda x: (x * x, x), 3.0)[0].factor == 0.5


def test_a_function_may_look_at_its_own_network() -> None:
    """Arrays are written in place, so that what ignores its argument sees them move, also strided ones."""
    base = np.arange(1.0, 13).reshape(3, 4)
    network = {"W": np.asfortranarray(base), "b": base[:, 1]}

    def loss(_: Any) -> Any:
        grads = {"W": 2 * network["W"], "b": np.ones(3)}
        return (network["W"] ** 2).sum() + network["b"].sum(), grads

    assert ao.check_grad(loss, network).ok
    assert base.tolist() == np.arange(1.0, 13).reshape(3, 4).tolist()


@pytest.mark.parametrize("locked", [False, True])
def test_an_exception_leaves_the_parameters_as_they_were(locked: bool) -> None:
    """Wherever in the check it is raised."""
    for last in range(1, 20):
        w = np.array([0.1, -0.7, 0.0, 5.0])
        params, calls = {"w": _locked(w) if locked else w}, list[int]()

        def loss(p: Any, calls: list[int] = calls, last: int = last) -> Any:
            calls.append(1)
            if len(calls) == last:
                raise ZeroDivisionError
            return (p["w"] ** 2).sum(), {"w": 2 * p["w"]}

        with pytest.raises(ZeroDivisionError):
            ao.check_grad(loss, params)
        assert params["w"] is w
        assert same_bits(w, np.array([0.1, -0.7, 0.0, 5.0]))


def test_tied_and_resting_parameters() -> None:
    """One array under two names moves under both; a gradient of None is not checked."""
    w = np.array([1.0, 2.0])
    params = {"encoder": w, "decoder": w, "rest": np.ones(2), "empty": np.ones((0, 3))}

    def loss(p: Any) -> Any:
        grads = {"encoder": None, "decoder": 2 * p["decoder"], "rest": None, "empty": p["empty"]}
        return (p["encoder"] * p["decoder"]).sum(), grads

    report = ao.check_grad(loss, params)
    assert report.ok
    assert [check.verdict for check in report if check.path in {"rest", "empty"}] == ["none", "none"]
    assert "right" in {check.verdict for check in report}


KINKS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "between the slopes": (lambda w: (np.abs(w).sum(), 0.3 * np.ones(5)), "kink"),
    "relu": (lambda w: (np.maximum(w, 0).sum(), (w > 0) * 1.0), "kink"),
    "beyond the slopes": (lambda w: (np.abs(w).sum(), 2 * np.ones(5)), "unclear"),
    "smooth": (lambda w: ((w**2).sum() + w.sum(), 2 * w + 1), "right"),
}


@pytest.mark.parametrize("name", KINKS)
def test_kinks_are_called_so(name: str) -> None:
    """At zero every gradient between the slopes on both sides will do, and none outside is called right."""
    loss, verdict = KINKS[name]
    (check,) = ao.check_grad(loss, np.zeros(5))
    assert check.verdict == verdict
    assert ("kink" in check.reason) == (name != "smooth")


def test_a_kink_beside_the_parameters_is_none() -> None:
    """At a distance of a millionth the slope is that of the nearer side."""
    for sign in (1, -1):
        (check,) = ao.check_grad(lambda w: (abs(w), np.sign(w)), sign * 1e-6)
        assert check.verdict == "right"
        (check,) = ao.check_grad(lambda w: (np.maximum(w - 1, 0), 1.0 * (w > 1)), 1 + sign * 1e-6)
        assert check.verdict == "right"


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_steps_fit_any_unit(scale: float) -> None:
    """The parameters of a physicist, and a loss that oscillates within a thousandth of them, or hardly changes."""
    w = scale * np.array([1.0, 3.0, -2.0])
    assert ao.check_grad(lambda w: (np.sin(1e3 * w / scale).sum(), 1e3 / scale * np.cos(1e3 * w / scale)), w).ok
    zero = np.zeros(20, "f4")
    data = np.float32(1e3 * scale) * np.arange(1, 21, dtype="f4")
    assert ao.check_grad(lambda w: (np.square(w - data).sum() / 2, w - data), zero).ok


def test_where_nothing_can_be_seen_nothing_is_confirmed() -> None:
    """A loss in float16 that is large does not change with so small a parameter, whatever the gradient."""
    w = np.ones(10, "f4")
    for factor in (1, -1):

        def loss(w: Any, factor: int = factor) -> Any:
            return np.float16(1e3 + 1e-5 * w.sum()), factor * 1e-5 * np.ones(10, "f4")

        report = ao.check_grad(loss, w)
        assert [check.verdict for check in report] == ["unclear"]
        assert not report.ok
        assert "too coarse" in report[0].reason


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gradient_of_rounding_errors_is_none(dtype: str) -> None:
    """A bias before a normalisation has the gradient 0, of which rounding leaves something, in any digits."""

    def loss(p: Any) -> Any:
        x = X.astype(dtype)
        a = x @ p["W"] + p["b"]
        c = a - a.mean(axis=0)
        d = c * c - 1
        g = d * c / 16
        back = g - g.mean(axis=0)
        return (d * d).mean(axis=0).sum() / 2, {"W": x.T @ back, "b": back.sum(axis=0)}

    for seed in range(10):
        rng = np.random.default_rng(seed)
        params = {"W": (0.3 * rng.normal(size=(10, 4))).astype(dtype), "b": rng.normal(size=4).astype(dtype)}
        report = ao.check_grad(loss, params, seed=seed)
        assert report.ok, report


ERRORS: list[tuple[Callable[[Any], Any], Any, type[Exception], str]] = [
    (lambda w: (np.nan, w), np.ones(2), ValueError, "the loss is nan; wanted a finite one at these parameters"),
    (lambda w: (w, w), np.ones(2), TypeError, "value_and_grad gave a loss of shape (2,); wanted one number"),
    (lambda w: w.sum(), np.ones(2), TypeError, "wanted (loss, grads)"),
    (lambda w: (None, w), np.ones(2), TypeError, "gave a NoneType, None as the loss; wanted one real number"),
    (lambda w: (1j, w), np.ones(2), TypeError, "as the loss; wanted one real number"),
    (lambda p: (0.0, {"w": np.ones(3)}), {"w": np.ones(2)}, ValueError, "but grads['w'] has shape (3,)"),
    (lambda p: (0.0, {"v": np.ones(2)}), {"w": np.ones(2)}, ValueError, "grads['w'] is missing"),
    (lambda w: (RNG.normal(), w), np.ones(2), ValueError, "at the same parameters; wanted a function of"),
    (lambda w: (0.0, {"w": None}), {"w": np.ones(2)}, ValueError, "no parameter has a gradient; wanted one"),
    (lambda w: (0.0, w), np.ones(2, int), TypeError, "params has dtype int64; wanted one of float16"),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "params", "kind", "words"), ERRORS, ids=[words[:30] for *_, words in ERRORS])
def test_errors_say_what_came_and_what_was_wanted(loss: Any, params: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as error:
        ao.check_grad(loss, params)
    assert words in str(error.value)


def test_options() -> None:
    """A wider tolerance lets more pass; numbers below their least are refused."""

    def loss(w: Any) -> Any:
        return (w**2).sum(), 2.02 * w

    assert not ao.check_grad(loss, np.ones(9)).ok
    assert ao.check_grad(loss, np.ones(9), rtol=0.05).ok
    bad: dict[str, Any] = {"directions": 0, "elements": -1, "rtol": 0.0}
    for options, words in (({name: value}, f"{name} is {value}") for name, value in bad.items()):
        with pytest.raises(ValueError, match=words):
            ao.check_grad(loss, np.ones(9), **options)
    assert len(ao.check_grad(lambda w: ((w**2).sum(), 2 * w), np.ones(9), elements=0)) == 1


def test_a_factor_near_one_is_told_from_a_sign() -> None:
    """In float64, a hundredth of a percent is seen, and called what it is."""
    report = ao.check_grad(lambda w: ((w**2).sum(), 2.0002 * w), np.arange(1.0, 10))
    assert "it is 1.0001 times the slope" in report[0].reason


def test_the_slope_at_an_element_has_its_sign() -> None:
    """Whether it was chosen or found by halving, whose directions have signs of their own, or is the only one."""
    w = np.linspace(1, 2, 40)
    for k in range(40):
        e = np.ones(40)
        e[k] = 1.01
        (check,) = ao.check_grad(lambda p, e=e: ((p**2).sum(), 2 * p * e), w)  # type: ignore[misc]
        assert check.worst is not None
        assert check.worst.at == (k,)
        assert check.worst.slope == pytest.approx(2 * w[k], rel=1e-6)
    for seed in range(4):
        (check,) = ao.check_grad(lambda w: ((w**2).sum(), 3 * w), np.ones(1), elements=0, seed=seed)
        assert check.worst is not None
        assert check.worst.slope == pytest.approx(2, rel=1e-6)


def _normalised(dtype: Any) -> Callable[[Any], Any]:
    """A layer of a bias, which batch normalisation undoes, and what comes after it, as a loss and its gradient."""
    x, target = X.astype(dtype), RNG.normal(size=(32, 5)).astype(dtype)

    def value_and_grad(p: Any) -> Any:
        a = x @ p["W"] + p["b"]
        std = np.sqrt(a.var(axis=0) + dtype(1e-6))
        n = (a - a.mean(axis=0)) / std
        d = p["gamma"] * n + p["beta"] - target
        loss = (d**2).sum() / 2 / 32
        d = d / 32
        dn = d * p["gamma"]
        da = (dn - dn.mean(axis=0) - n * (dn * n).mean(axis=0)) / std
        return loss, {"W": x.T @ da, "b": da.sum(axis=0), "gamma": (d * n).sum(axis=0), "beta": d.sum(axis=0)}

    return value_and_grad


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_zero_whose_gradient_is_rounding_moves_no_farther_than_the_others(dtype: Any) -> None:
    """A bias before a normalisation, which begins at 0, is right, and is never moved to where numbers are huge."""
    value_and_grad, largest = _normalised(dtype), [0.0]

    def watched(p: Any) -> Any:
        largest.append(float(abs(p["b"]).max()))
        return value_and_grad(p)

    for seed in range(12):
        W = np.random.default_rng(seed).normal(size=(10, 5)) / 3
        params = {"W": W, "b": np.zeros(5), "gamma": np.ones(5), "beta": np.zeros(5)}
        report = ao.check_grad(watched, {key: p.astype(dtype) for key, p in params.items()}, seed=seed)
        assert [check.verdict for check in report] == ["right"] * 4, report
    assert 0 < max(largest) < 1e4


def test_right_gradients_of_a_coarse_start_are_not_called_wrong() -> None:
    """In float32, with small weights, biases of 0 and `relu`, whose kinks are nearer than the loss can see."""
    verdicts: Counter[str] = Counter()
    for seed in range(40):
        params = {key: p * np.float32(0.03) for key, p in _params(seed, np.float32).items()}
        report = ao.check_grad(lambda params: _network(params, "relu"), params, seed=seed)
        verdicts.update(check.verdict for check in report)
    assert verdicts["wrong"] == 0
    assert verdicts["right"] >= 130


def test_a_loss_that_looks_at_other_arrays_is_named() -> None:
    """Copies of the parameters, a constant, and one parameter of several; a right 0 is none of them."""
    w = RNG.normal(size=(20, 10))
    for loss in (lambda p: ((w**2).sum(), 2 * w), lambda p: (2.0, np.ones((20, 10)))):
        for seed in range(4):
            (check,) = ao.check_grad(loss, w.copy(), seed=seed)
            assert check.verdict == "wrong"
            assert check.reason == "the loss does not change when it is moved: does the function look at these arrays?"
            assert check.worst is not None
            # NumPy adds w**2 up in an order that depends on where the temporary lies: a last digit may differ.
            assert abs(check.worst.slope) < 1e-12
    copied = {"a": np.ones(3), "b": w}
    report = ao.check_grad(
        lambda p: ((p["a"] ** 2).sum() + (w**2).sum(), {"a": 2 * p["a"], "b": 2 * w}), {**copied, "b": w + 0}
    )
    assert report.wrong == ["b"]
    assert ao.check_grad(lambda p: ((p["a"] ** 2).sum(), {"a": 2 * p["a"], "b": 0 * w}), copied).ok


FACTORS: dict[float, str] = {
    1797.0: "it is 1797 times the slope: a 1/n is missing",
    60_000.0: "it is about 60000 times the slope: a 1/n is missing",
    1e9: "it is 1e+09 times the slope;",
    2.5e8: "it is 2.5e+08 times the slope;",
}


@pytest.mark.parametrize("factor", FACTORS)
def test_only_what_may_be_a_number_of_samples_is_called_one(factor: float) -> None:
    (check,) = ao.check_grad(lambda w: ((w**2).sum(), factor * 2 * w), np.arange(1.0, 10))
    assert FACTORS[factor] in check.reason


def test_a_small_term_that_is_missing() -> None:
    """The eps within a logarithm, which the gradient of softmax and cross-entropy together leaves out."""

    def loss(z: Any, eps: float = 1e-7) -> Any:
        y = np.exp(z)
        y /= y.sum()
        t = np.eye(8)[2]
        return -(t * np.log(y + eps)).sum(), y - t

    z = np.linspace(0, 7, 8)
    (check,) = ao.check_grad(loss, z)
    assert check.verdict == "wrong"
    assert "of the slope: a small term may be missing, such as an eps within a log" in check.reason
    assert check.reason.startswith("it is off by ")
    assert 1e-5 < float(check.reason.split()[4]) < 5e-5
    assert ao.check_grad(loss, z, rtol=1e-4).ok


def test_torch_and_jax_gradients(need: Callable[[str], Library]) -> None:
    """Those of autograd, in place and pure: a module with a bias that normalisation undoes; a complex parameter."""
    need("torch")
    need("jax")
    import jax
    import torch

    torch.manual_seed(0)
    layers = (torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    model, x, y = torch.nn.Sequential(*layers), torch.randn(32, 8), torch.randint(0, 3, (32,))
    params = dict(model.named_parameters())

    def loss(_: Any) -> Any:
        model.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss, {name: p.grad for name, p in params.items()}

    report = ao.check_grad(loss, params)
    assert report.ok, report

    def modulus(z: Any) -> Any:
        return (abs(z - 1) ** 2 * (1 + z.real)).sum()

    z = jax.numpy.array([1 + 2j, 0.5 - 1j, 2 + 0.3j])
    (check,) = ao.check_grad(jax.value_and_grad(modulus), z)
    assert "the slope is the conjugate of it" in check.reason
    assert ao.check_grad(lambda z: (modulus(z), jax.grad(modulus)(z).conj()), z).ok
    with pytest.raises(TypeError, match="params is traced; wanted check_grad outside of the transformed function"):
        jax.jit(lambda z: ao.check_grad(jax.value_and_grad(modulus), z).ok)(z)


def test_one_element_among_many() -> None:
    """Halving finds it: of 90,000, the one that is wrong by less than a hundredth of the gradient's norm."""
    w = RNG.normal(size=(300, 300))

    def loss(w: Any) -> Any:
        g = 2 * w
        g[123, 45] += 3
        return (w**2).sum(), g

    (check,) = ao.check_grad(loss, w)
    assert check.worst is not None
    assert check.worst.at == (123, 45)
    assert check.worst.gradient - check.worst.slope == pytest.approx(3, rel=1e-4)


def test_a_report_can_be_asserted() -> None:
    """`assert_grad` raises with the table; a report is a sequence that shows itself where an assertion fails."""
    ao.testing.assert_grad(lambda w: ((w**2).sum(), 2 * w), np.ones(3))
    with pytest.raises(AssertionError, match=r"not that of the loss:\nparameter .*\n\(params\) .* 1/2 times the slope"):
        ao.testing.assert_grad(lambda w: ((w**2).sum(), w), np.ones(3))
    report = ao.check_grad(lambda w: ((w**2).sum(), 2 * w), np.ones(3))
    assert isinstance(report, GradReport)
    assert repr(report) == f"GradReport(ok=True, evaluations={report.evaluations})\n{report}"
    assert str(report).splitlines()[0].split() == ["parameter", "verdict", "|g|", "off", "by"]
    assert report.evaluations < 30


def test_noise_is_measured() -> None:
    """The standard deviation of errors that are known, on a curve; the digits of numbers of each dtype."""
    rng = np.random.default_rng(1)
    t = np.arange(7.0)
    found = [noise_of((1 + 1e-3 * t + 1e-5 * t**2 + 1e-7 * rng.normal(size=7)).tolist()) for _ in range(200)]
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(1e-7, rel=0.1)
    for name, bits in (("bfloat16", 8), ("float16", 11), ("float32", 24), ("float64", 53)):
        values = (1 + rng.random(20)).astype(numpy_dtype(name)).astype(float)
        assert significant_bits(values.tolist()) == bits
