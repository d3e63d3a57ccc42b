"""Hyperparameters given element by element: bounds, a support, a preconditioner and learning rates as arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.chains import COPIES
from tests.support.engines import Watch
from tests.support.libraries import COMPOSED, DISCOVERED, ENGINES, METHODS, Library, same_bits
from tests.support.states import equal_states

Array = np.ndarray[Any, Any]

KEPT = {"ASGD", "Prodigy", "ScheduleFreeAdamW", "ScheduleFreeSGD"}
"""The methods that make powers, or numbers for all parameters, of their learning rates: these are numbers."""

POWERS = {"beta1", "beta2", "beta3", "decay", "alpha", "lambd", "t0", "threshold", "warmup", "momentum_decay"}
"""Hyperparameters of which methods may make powers or logarithms, which arrays have not."""


def _drawn(seed: int, dtype: str = "float64", order: Any = "C", n: int = 4) -> tuple[dict[str, Array], list[Any]]:
    """Parameters and gradients."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Array:
        a = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if "complex" in dtype else 0)
        return np.asarray(a.astype(dtype), order=order)

    each = [{"W": draw(5, 7), "b": draw(5), "s": draw()} for _ in range(n + 1)]
    return each[0], each[1:]


def _constrained(array: Any, mask: Any, engine: Any = None) -> ao.Optimizer:
    """A chain with a preconditioner, a learning rate, bounds and a support as arrays, for parameters of `_drawn`."""
    return ao.chain(
        ao.ClipGlobalNorm(1.0),
        ao.Scale({"W": array, "b": 2.0, "s": 1.0}),
        ao.Momentum(lr={"W": array, "b": 0.1, "s": 0.5}),
        ao.Box({"W": 0 - array, "b": -1.0, "s": -0.5}, 1.5),
        ao.Support({"W": mask, "b": 1.0, "s": 1}),
        ao.EMA(0.5),
        engine=engine,
    )


def _run(optimizer: Any, params: Any, grads: list[Any]) -> Any:
    for g in grads:
        params = optimizer.update(params, g)
    return params


def _refusal(optimizer: Any, params: Any, grads: list[Any]) -> str | None:
    """What is said of hyperparameters that can't be arrays, or None after these steps."""
    try:
        _run(optimizer, params, grads)
    except TypeError as error:
        return str(error)
    return None


@pytest.mark.telling
@pytest.mark.parametrize("name", [name for name in METHODS if name not in KEPT])
def test_each_element_has_its_learning_rate(name: str) -> None:
    """To the last bit what the method does to that element alone, with that number."""
    rates, p = np.array([0.5, 0.0, 0.125, 1e-3]), np.array([1.0, -2.0, 0.5, 4.0])
    grads = list(np.random.default_rng(3).standard_normal((5, 4)))
    each = [(METHODS[name](lr=float(rate)), slice(i, i + 1)) for i, rate in enumerate(rates)]
    alone = [_run(optimizer, p[one].copy(), [g[one] for g in grads]) for optimizer, one in each]
    assert same_bits(_run(METHODS[name](lr=rates), p.copy(), grads), np.concatenate(alone))


@pytest.mark.telling
@pytest.mark.parametrize("name", DISCOVERED)
def test_every_hyperparameter_as_an_array(name: str) -> None:
    """An array of one number is that number, or it is refused by name and nothing is written."""
    method = DISCOVERED[name]
    grads = list(np.random.default_rng(0).standard_normal((3, 4, 3)))
    expected, taken = _run(method(), np.ones((4, 3)), grads), set()
    for key in method.hyperparameters:
        number = getattr(method(), key)
        if not np.isfinite(number):
            continue
        optimizer, p = method(**{key: np.full((4, 3), number)}), np.ones((4, 3))
        says = _refusal(optimizer, p, grads)
        if says is None:
            taken.add(key)
            np.testing.assert_allclose(p, expected, rtol=1e-10, err_msg=key)
        else:
            assert key in says
            assert "array" in says or "no single number" in says
            if key != "growth":  # of which Prodigy makes something from the second step on
                assert same_bits(p, np.ones((4, 3)))
                assert optimizer.state is None
    assert ("lr" in taken) == (name not in KEPT)
    if name not in {*COMPOSED, *KEPT} and not method.array_rule:
        assert {*method.hyperparameters} - taken <= POWERS


DTYPES = ("float64", "float32", "float16", "complex64")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("of", ["float64", "float32", "bool", "int32"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_on_every_engine(dtype: str, of: str, order: Any, need: Callable[[str], Library]) -> None:
    """Whatever the dtype and the order of arrays and parameters; a change in place counts from the next step."""
    found = []
    for engine in ENGINES if dtype != "float16" else ("portable", "blocked"):
        if engine == "compiled":
            need("numpy")
            pytest.importorskip("numba", reason="the compiled engine needs it")
        params, grads = _drawn(1, dtype, order)
        rng = np.random.default_rng(2)
        array = np.asarray(2 * rng.random((5, 7)), order="C").astype(of)
        mask = rng.random((5, 7)) > 0.3
        optimizer = _constrained(array, mask, engine)
        _run(optimizer, params, grads[:2])
        array[...] = array[::-1].copy()
        mask[0] = ~mask[0]
        _run(optimizer, params, grads[2:])
        found.append((params, optimizer.state))
    for params, state in found[1:]:
        assert all(same_bits(params[k], found[0][0][k]) for k in params)
        assert equal_states(state, found[0][1])


@pytest.mark.covering(1)  # the dtypes of each library: arrays/test_libraries.py
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_libraries(lib: Library, dtype: str, quickly: None) -> None:
    """NumPy's bits, or its values where the library's arithmetic is another; so is the pure form."""
    params, grads = _drawn(1, dtype)
    rng = np.random.default_rng(2)
    array, mask = rng.random((5, 7)).astype("float32"), rng.random((5, 7)) > 0.3
    expected = _run(_constrained(array, mask, "portable"), {k: a.copy() for k, a in params.items()}, grads)

    def there(tree: Any) -> Any:
        return {k: lib.asarray(a) for k, a in tree.items()}

    optimizer = _constrained(lib.asarray(array), lib.asarray(mask))
    moved, state, ps = there(params), optimizer.init(there(params)), there(params)
    for g in grads[: lib.steps(len(grads))]:
        ps, state = optimizer.step(ps, there(g), state)
    if lib.steps(len(grads)) < len(grads):
        expected = _run(_constrained(array, mask, "portable"), params, grads[: lib.steps(len(grads))])
    _run(optimizer, moved, [there(g) for g in grads[: lib.steps(len(grads))]])
    for found in (lib.values(moved), lib.values(ps)):
        for k in expected:
            if lib.exact or dtype in lib.reached:
                assert same_bits(found[k], expected[k])
            np.testing.assert_allclose(found[k], expected[k], rtol=1e-5, atol=1e-6)


def test_one_pass_that_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds, support and preconditioner are one pass, the norm another that reads none of them; nothing is planned."""
    params, grads = _drawn(1, n=8)
    array, mask = np.ones((5, 7)), np.ones((5, 7), bool)
    optimizer = _constrained(array, mask, "blocked")
    _run(optimizer, params, grads[:2])
    watch = Watch("blocked", monkeypatch)
    _run(optimizer, params, grads[2:4])
    assert len(watch.kernels) <= 4  # of the parameters with arrays, and of those without
    shares = optimizer.explain(params, grads[0])
    assert {share.guard for share in shares} == {None}
    # p, g, the momentum and the average, of which three are written; the gradient once more, for the norm; and three
    # arrays of float64 and one of bools.
    assert sum(share.bytes for share in shares) == 8 * (4 + 3 + 1) * 41 + 35 * (3 * 8 + 1)
    source = optimizer.kernel_source("compiled")
    assert source.count("for _i in range(_n)") <= 4


def test_what_is_live() -> None:
    """An item of a container and an attribute, as numbers or arrays, count from the next step; memory may move."""
    p, g = {"W": np.zeros(2), "b": np.zeros(1)}, {"W": np.ones(2), "b": np.ones(1)}
    optimizer = ao.SGD(lr=1.0)

    def step() -> Any:
        before = np.concatenate([p["W"], p["b"]])
        optimizer.update(p, g)
        optimizer.update(p, g)
        return ((before - np.concatenate([p["W"], p["b"]])) / 2).tolist()

    assert step() == [1, 1, 1]
    optimizer.lr = {"W": np.array([2.0, 3.0]), "b": 4.0}
    assert step() == [2, 3, 4]
    optimizer.lr["W"][1] = 5.0
    assert step() == [2, 5, 4]
    optimizer.lr["W"] = 6.0
    assert step() == [6, 6, 4]
    optimizer.lr["b"] = np.array([7.0])
    assert step() == [6, 6, 7]
    optimizer.lr["b"].resize(9, refcheck=False)
    optimizer.lr["b"].resize(1, refcheck=False)
    assert step() == [6, 6, 7]
    optimizer.lr = 8.0
    assert step() == [8, 8, 8]
    assert optimizer.explain(p, g)[0].guard is None


def test_a_prefix_and_a_bare_array() -> None:
    """A number or an array stands for all below its place."""
    rates = {"encoder": 0.5, "head": {"W": np.array([1.0, 2.0]), "b": 3.0}}
    params = {"encoder": {"W": np.zeros(2), "b": np.zeros(1)}, "head": {"W": np.zeros(2), "b": np.zeros(1)}}
    ao.SGD(lr=rates).update(params, {k: {n: np.ones_like(a) for n, a in of.items()} for k, of in params.items()})
    assert {k: {n: a.tolist() for n, a in of.items()} for k, of in params.items()} == {
        "encoder": {"W": [-0.5, -0.5], "b": [-0.5]},
        "head": {"W": [-1.0, -2.0], "b": [-3.0]},
    }
    assert ao.SGD(lr=np.array([1.0, 2.0])).update(np.zeros(2), np.ones(2)).tolist() == [-1, -2]
    with pytest.raises(ValueError, match=r"SGD.lr\[0\], SGD.lr\[1\] have no match in params \(np.asarray"):
        ao.SGD(lr=[1.0, 2.0]).update(np.zeros(2), np.ones(2))
    both = [np.zeros(2), np.zeros(2)]
    ao.SGD(lr=np.array([1.0, 2.0])).update(both, [np.ones(2), np.ones(2)])
    assert [a.tolist() for a in both] == [[-1, -2], [-1, -2]]


REFUSED: dict[str, tuple[Any, str]] = {
    "shape": ({"W": np.ones(3), "b": 1.0}, r"params\['W'\] has shape \(2,\) but SGD\.lr\['W'\] has shape \(3,\)"),
    "one element": ({"W": np.ones(1), "b": 1.0}, r"SGD\.lr\['W'\] has shape \(1,\)"),
    "missing": ({"W": np.ones(2)}, r"SGD\.lr\['b'\] is missing; wanted a number or an array for params\['b'\]"),
    "unexpected": ({"W": 1.0, "b": 1.0, "c": 1.0}, r"SGD\.lr\['c'\] has no match in params"),
    "None": ({"W": np.ones(2), "b": None}, r"SGD\.lr\['b'\] is None but params\['b'\] is not"),
    "library": ({"W": "strict", "b": 1.0}, r"SGD\.lr\['W'\] is a array_api_strict array but params\['W'\] is a numpy"),
    "list": ([1.0, 2.0], r"SGD\.lr\[0\], SGD\.lr\[1\] have no match"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_misfits_are_refused_by_name(name: str, need: Callable[[str], Library]) -> None:
    """Before anything is written, at the first step and later."""
    value, says = REFUSED[name]
    if name == "library":
        value = {"W": need("strict").asarray(np.ones(2)), "b": 1.0}
    p, g = {"W": np.zeros(2), "b": np.zeros(2)}, {"W": np.ones(2), "b": np.ones(2)}
    with pytest.raises((TypeError, ValueError), match=says):
        ao.SGD(lr=value).update(p, g)
    optimizer = ao.SGD(lr=0.0)
    optimizer.update(p, g)
    optimizer.lr = value
    with pytest.raises((TypeError, ValueError), match=says):
        optimizer.update(p, g)
    assert [a.tolist() for a in p.values()] == [[0, 0], [0, 0]]
    assert optimizer.state is not None
    assert optimizer.state.step == 1
    optimizer.lr = 1.0
    assert optimizer.update(p, g)["W"].tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.array([0.5, -1.0]), r"^lr has -1 among its elements; wanted finite and at least 0"),
        ({"W": np.array([0.5, np.nan])}, r"^lr\['W'\] has nan among its elements"),
        ({"W": np.array([1, -2])}, r"^lr\['W'\] has -2 among its elements"),
        ({"W": -1.0}, r"^lr\['W'\] is -1\.0; wanted finite"),
        ({"W": np.ones(2, complex)}, r"^lr\['W'\] has dtype complex128; wanted real numbers, integers or bools"),
        ({"W": np.array(["a"])}, r"^lr\['W'\] has dtype <U1"),
        ({"W": lambda t: 0.1}, r"^lr\['W'\] is .*a schedule stands for all parameters, or in ao.groups for some"),
        ({"W": "fast"}, r"^lr\['W'\] is 'fast'; wanted a real number"),
    ],
)
def test_values_are_checked_when_they_are_set(value: Any, says: str) -> None:
    """The domain, of the least and the largest element of an array, and the kind."""
    optimizer = ao.SGD()
    with pytest.raises((TypeError, ValueError), match=says):
        ao.SGD(lr=value)
    with pytest.raises((TypeError, ValueError), match=says):
        optimizer.lr = value
    assert optimizer.lr == 0.01


def test_what_decides_for_all_takes_numbers() -> None:
    with pytest.raises(TypeError, match=r"every of Accumulate is <float64 array of shape \(2,\)>; wanted a number"):
        ao.Accumulate(np.array([1.0, 2.0]))
    with pytest.raises(TypeError, match="lr of 'W' is array"):
        ao.chain(ao.SGD(), ao.groups({"W": {"lr": np.ones(2)}, ...: {}}))


class Branching(ao.Stage):
    """A stage whose coefficients look at a number, or whose rule does."""

    share: ao.Nonnegative
    coefficients = staticmethod(lambda t, hyper: {"share": hyper.share if hyper.share > 0 else 1.0})
    rule = staticmethod(lambda xp, p, x, c: c.share * x)


class Deciding(ao.Stage):
    share: ao.Nonnegative
    rule = staticmethod(lambda xp, p, x, c: x if c.share > 1 else -x)


@pytest.mark.parametrize("engine", ENGINES)
def test_rules_that_look_at_an_array(engine: Any) -> None:
    """The error says which hyperparameter it is, or which rule."""
    p, says = np.zeros(2), "computed of share, which is given as an array"
    with pytest.raises(TypeError, match=says):
        ao.chain(ao.SGD(), Branching(np.ones(2)), engine=engine).update(p, np.ones(2))
    with pytest.raises(TypeError, match=r"the rule Deciding.<lambda> does what no kernel can: it branches"):
        ao.chain(ao.SGD(), Deciding(np.ones(2)), engine=engine).update(p, np.ones(2))
    assert p.tolist() == [0, 0]


@pytest.mark.parametrize("engine", ENGINES)
def test_arrays_that_the_step_writes_to(engine: Any) -> None:
    """What is read is read as it was before the step: the parameter as its own bound, turned round, or another's."""
    w = np.array([1.0, 2.0, 3.0])
    ao.chain(ao.SGD(lr=1.0), ao.Box(lo=w, hi=9.0), engine=engine).update(w, np.array([1.0, -1.0, 0.0]))
    assert w.tolist() == [1, 3, 3]
    w = np.arange(6.0)
    ao.chain(ao.SGD(lr=1.0), ao.Box(lo=w[::-1], hi=9.0), engine=engine).update(w, np.zeros(6))
    assert w.tolist() == [5, 4, 3, 3, 4, 5]
    p = {"a": np.arange(3.0), "b": np.zeros(3)}
    optimizer = ao.chain(ao.SGD(lr=1.0), ao.Box(lo={"a": -1.0, "b": p["a"]}, hi=9.0), engine=engine)
    optimizer.update(p, {"a": np.full(3, 9.0), "b": np.zeros(3)})
    assert [a.tolist() for a in p.values()] == [[-1, -1, -1], [0, 1, 2]]


def test_bounds_in_order() -> None:
    """Arrays too, when the stage is made; equal ones, infinite ones and a schedule pass."""
    wrong: list[tuple[Any, Any, str]] = [
        (np.array([0.0, 2.0]), np.array([1.0, 1.0]), "lo is above hi for some elements"),
        ({"W": np.array([0.0, 2.0]), "b": 0.0}, 1.0, r"lo\['W'\] is above hi for some"),
        (0.0, [1.0, np.array([0.0, -1.0])], r"lo is above hi\[1\]"),
        ({"W": {"x": np.ones(1)}}, {"W": 0.0}, r"lo\['W'\]\['x'\] is above hi\['W'\]"),
        ({"W": 1.0}, {"W": {"x": np.zeros(1), "y": 2.0}}, r"lo\['W'\] is above hi\['W'\]\['x'\]"),
    ]
    for lo, hi, says in wrong:
        with pytest.raises(ValueError, match=says):
            ao.Box(lo, hi)
    right: list[tuple[Any, Any]] = [
        (np.array([0.0, 1.0]), np.array([np.inf, 1.0])),
        ({"W": np.array([0.0])}, {"b": -1.0}),
        (np.array([5.0]), lambda t: 0.0),
        (np.ones(2), np.zeros(3)),
    ]
    for lo, hi in right:
        ao.Box(lo, hi)


@pytest.mark.parametrize("engine", ENGINES)
def test_support_sets_to_zero_whatever_is_there(engine: Any) -> None:
    """NaN and infinities too; a NaN within the support stays, and numbers are factors."""
    w = np.array([np.nan, np.inf, -2.0, np.nan, 4.0])
    mask = np.array([0.0, 0.0, 0.5, 1.0, 1.0])
    ao.chain(ao.SGD(lr=1.0), ao.Support(mask), engine=engine).update(w, np.zeros(5))
    assert same_bits(w, np.array([0.0, 0.0, -1.0, np.nan, 4.0]))


@pytest.mark.parametrize("copied", COPIES)
def test_copies_have_arrays_of_their_own(copied: Callable[[Any], Any]) -> None:
    """And go on alone, live like the first."""
    rates = np.array([1.0, 2.0])
    optimizer, w = ao.SGD(lr=rates), np.zeros(2)
    optimizer.update(w, np.ones(2))
    twin, v = copied(optimizer), w.copy()
    rates *= 0
    assert optimizer.update(w, np.ones(2)).tolist() == [-1, -2]
    assert twin.update(v, np.ones(2)).tolist() == [-2, -4]
    twin.lr[0] = 5.0
    assert twin.update(v, np.ones(2)).tolist() == [-7, -6]
    assert repr(twin) == "SGD(lr=<float64 array of shape (2,)>)"


@pytest.mark.parametrize("name", ["numpy", "torch", "jax", "strict", "dask", "cuda-shim"])
def test_a_checkpoint_goes_on_with_another_library(
    name: str, need: Callable[[str], Library], tmp_path: Any, quickly: None
) -> None:
    """With the arrays that were saved, in the place of those that are there, and the same bits."""
    lib = need(name)
    params, grads = _drawn(1, "float32")
    rng = np.random.default_rng(2)
    array, mask = rng.random((5, 7)).astype("float32"), rng.random((5, 7)) > 0.3
    optimizer = _constrained(array, mask)
    _run(optimizer, params, grads[:2])
    ao.save(tmp_path / "run.safetensors", params=params, optimizer=optimizer)
    zeros, ones = lib.asarray(np.zeros_like(array)), lib.asarray(np.ones_like(mask))
    other, there = _constrained(zeros, ones), {k: lib.asarray(a) for k, a in params.items()}
    checkpoint = ao.load(tmp_path / "run.safetensors", like=there)
    assert checkpoint.optimizer is not None
    assert other.load_state_dict(checkpoint.optimizer, checkpoint.params) == []
    assert not np.any(lib.tonumpy(zeros))  # the caller's own array is left alone
    assert type(other.stages[4].mask["W"]) is type(ones)
    moved = _run(other, checkpoint.params, [{k: lib.asarray(a) for k, a in grads[2].items()}])
    expected, found = _run(optimizer, params, grads[2:3]), lib.values(moved)
    for k in expected:
        if lib.exact or "float32" in lib.reached:
            assert same_bits(found[k], expected[k])
        np.testing.assert_allclose(found[k], expected[k], rtol=1e-5, atol=1e-6)


def test_saved_arrays_that_differ_are_refused() -> None:
    """With the key, what came and what was wanted; not strictly, what differs stays as it is."""
    saved = ao.SGD(lr={"W": np.array([1.0, 2.0]), "b": 0.5}).state_dict()
    assert saved["stages"][0]["hyperparameters"]["lr"]["elements"]["b"] == 0.5
    root = r"state\['stages'\]\[0\]\['hyperparameters'\]\['lr'\]"
    for lr, says in (
        (0.1, root + " is given element by element, not 0.1"),
        ({"W": np.ones(2), "b": {"c": 0.5}}, root + r" has \['W', 'b'\], not \['W', 'b.c'\]"),
        (
            {"W": np.ones(3), "b": 0.5},
            root + r"\['elements'\]\['W'\] is <float64 array of shape \(2,.*3,\)>",
        ),
        ({"W": np.ones(2, "float32"), "b": 0.5}, r"\['W'\] is <float64 .*, not <float32 "),
        ({"W": 1.0, "b": 0.5}, r"\['W'\] is <float64 array of shape \(2,\)>, not 1.0"),
    ):
        optimizer = ao.SGD(lr=lr)
        p = {"W": np.zeros(3 if "2,.*3," in says else 2), "b": {"c": np.zeros(1)}}
        with pytest.raises(ValueError, match=says):
            optimizer.load_state_dict(saved, p)
        assert optimizer.lr is lr
        assert len(optimizer.load_state_dict(saved, p, strict=False)) == 1
    with pytest.raises(ValueError, match=r"\['lr'\] is 0.1, not \{'W': <float64"):
        ao.SGD(lr={"W": np.ones(2), "b": 1.0}).load_state_dict(ao.SGD(lr=0.1).state_dict(), p)
    bad = ao.SGD(lr={"W": np.ones(2), "b": 1.0})
    saved["stages"][0]["hyperparameters"]["lr"]["elements"]["W"][0] = -1.0
    with pytest.raises(ValueError, match=r"\['lr'\]\['W'\] has -1 among its elements"):
        bad.load_state_dict(saved, p)


def test_complex_elements_meet_real_arrays() -> None:
    """A real array meets both parts alike: a rate scales the whole, a support takes it, bounds are of each part."""
    z, g = np.array([3 + 4j, 3 + 4j, 3 + 4j]), np.array([1 + 2j, 1 + 2j, 1 + 2j])
    chain = ao.chain(
        ao.SGD(lr=np.array([1.0, 0.5, 0.0])),
        ao.Support(np.array([1.0, 0.0, 1.0])),
        ao.Box(-9, np.array([9.0, 9.0, 3.5])),
    )
    assert chain.update(z, g).tolist() == [2 + 2j, 0j, 3 + 3.5j]


def test_a_number_for_each_parameter() -> None:
    """Also where arrays can't be: each is what it is alone."""
    p = {"W": np.zeros(2), "b": np.zeros(2)}
    _run(ao.Adam(lr=1.0, beta1={"W": 0.5, "b": np.array(0.9)}), p, [{"W": np.ones(2), "b": np.ones(2)}] * 3)
    for key, beta in (("W", 0.5), ("b", 0.9)):
        assert same_bits(p[key], _run(ao.Adam(lr=1.0, beta1=beta), np.zeros(2), [np.ones(2)] * 3))


def test_with_the_rest() -> None:
    """Groups go before; a partition's stage asks for its own parameters alone; gathered gradients; averages; tied."""
    p, g = {"W": np.zeros(2), "b": np.zeros(1)}, {"W": np.ones(2), "b": np.ones(1)}
    rates = {"W": np.array([1.0, 2.0]), "b": 3.0}
    grouped = ao.chain(ao.SGD(lr=rates), ao.groups({"b": {"lr": 0.5}, ...: {}}))
    assert [a.tolist() for a in grouped.update(p, g).values()] == [[-1, -2], [-0.5]]
    assert grouped.last_hyperparameters == {"lr": rates, "groups": {"b": {"lr": 0.5}, ...: {}}}
    split = ao.partition({"W": ao.SGD(lr={"W": np.array([1.0, 0.0])}), ...: ao.SGD(1.0)})
    assert [a.tolist() for a in split.update(p, g).values()] == [[-2, -2], [-1.5]]
    gathering = ao.chain(ao.Accumulate(2), ao.SGD(lr=np.array([1.0, 0.5])))
    w = np.zeros(2)
    assert [gathering.update(w, np.ones(2)).tolist() for _ in range(3)] == [[0, 0], [-1, -0.5], [-1, -0.5]]
    averaged, w = ao.chain(ao.SGD(lr=1.0), ao.EMA(np.array([0.5, 0.75]))), np.zeros(2)
    averaged.update(w, np.ones(2))
    assert averaged.eval_params(w).tolist() == [-0.5, -0.25]
    free, w = ao.ScheduleFreeSGD(lr=1.0, beta=np.array([0.5, 0.75])), np.zeros(2)
    _run(free, w, [np.ones(2)] * 3)
    each = [ao.ScheduleFreeSGD(lr=1.0, beta=b) for b in (0.5, 0.75)]
    alone = [[_run(one, v := np.zeros(1), [np.ones(1)] * 3), one.eval_params(v)] for one in each]
    np.testing.assert_allclose([w, free.eval_params(w)], np.concatenate(alone, axis=1))
    tied = ao.SGD(lr=[np.ones(2), 1.0])
    with pytest.raises(ValueError, match=r"params\[0\] and params\[1\] are one array; wanted one value for both"):
        tied.update([w, w], [np.ones(2), None])
    assert "W" in str(ao.SGD(lr=rates).diagnose(p, g))


def test_under_jit(need: Callable[[str], Library]) -> None:
    """Arrays that are traced, numbers in a tree too: one function for all rates. `update` refuses them."""
    lib = need("jax")
    import jax

    params = {"W": lib.asarray(np.zeros(2, "float32")), "b": lib.asarray(np.zeros(1, "float32"))}

    @jax.jit  # type: ignore[untyped-decorator]
    def step(rates: Any) -> Any:
        optimizer = ao.Adam(lr=rates)
        return optimizer.step(params, {"W": params["W"] + 1, "b": params["b"] + 1}, optimizer.init(params))[0]

    found = lib.values(step({"W": lib.asarray(np.array([1.0, 2.0], "float32")), "b": 3.0}))
    np.testing.assert_allclose(np.concatenate([found["W"], found["b"]]), [-1, -2, -3], rtol=1e-5)
    with pytest.raises(TypeError, match=r"the update of params\['W'\] is traced"):
        jax.jit(lambda rate: ao.SGD(lr={"W": rate, "b": 1.0}).update(dict(params), params))(params["W"])


def test_torch_has_none(need: Callable[[str], Library]) -> None:
    lib = need("torch")
    params = {"W": lib.asarray(np.ones(2))}
    optimizer: Any = ao.compat.torch.SGD(lr=0.1)
    optimizer.lr = {"W": lib.asarray(np.ones(2))}
    optimizer.update(params, params)
    with pytest.raises(ValueError, match="has lr element by element, which torch has not"):
        ao.compat.torch.to_torch(optimizer, ["W"])


@pytest.mark.own_loops
@pytest.mark.parametrize("engine", [*ENGINES, None])
def test_a_number_of_zero_among_masks(engine: ao.EngineName | None) -> None:
    """A parameter whose mask is one number is all kept or all 0, whatever runs it: rules of whole arrays, too."""
    for more in ([], [ao.prox.L1(0.1)], [ao.prox.L21(0.1)]):
        params = {k: np.ones((2, 2)) for k in "ab"}
        stages = [ao.SGD(lr=1.0), ao.Support({"a": np.eye(2), "b": 0.0}), *more]
        ao.chain(*stages, engine=engine).update(params, {k: np.zeros((2, 2)) for k in "ab"})
        assert params["b"].tolist() == [[0, 0], [0, 0]]
        assert (params["a"] > 0).tolist() == [[True, False], [False, True]]


def test_truths_of_numbers_beside_those_of_arrays() -> None:
    """A comparison of numbers meets one of arrays in coefficients, on each engine with the same bits."""
    found = []
    for engine in ENGINES:
        w = np.array([1.0, 2.0, 3.0])
        optimizer = ao.LARS(lr=0.1, weight_decay=np.array([0.0, 0.1, 0.2]), engine=engine)
        for _ in range(3):
            optimizer.update(w, np.array([0.5, -1.0, 2.0]))
        found.append(w.tolist())
    assert found[0] == found[1] == found[-1]
