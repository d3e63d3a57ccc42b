"""Updates of parts: rows as if each were a parameter of its own, windows as NumPy's, or a refusal by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, basic_indices

import anyoptim as ao
from tests.reference import textbook
from tests.support.chains import CHAINS, Asking
from tests.support.internals import Dispatch
from tests.support.internals import rows_plan as _rows_plan
from tests.support.interruptions import LOOKS, interrupted, places
from tests.support.libraries import DISCOVERED, ENGINES, METHODS, WHOLE, Library, same_bits
from tests.support.states import equal_states

pytestmark = pytest.mark.usefixtures("quickly")

N, D = 7, 3
"""The rows of the parameter `W`, and the elements of each."""

STEPS: list[Any] = [
    [4, 0, 6],
    slice(1, 5),
    None,
    np.array([-1, 2]),
    np.arange(N) % 2 == 0,
    None,
    slice(None, None, -3),
    range(N),
]
"""What is updated of W, one after the other; None for the whole."""

Make = Callable[[Any], ao.Optimizer]


class Twins:
    """The same steps by `at`, by `at` in the pure form, and of rows that are parameters of their own."""

    def __init__(self, make: Callable[[], ao.Optimizer], lib: Library, dtype: str = "float32") -> None:
        self.lib, self.dtype, self.rng = lib, dtype, np.random.default_rng(3)
        w = self._drawn(N)
        self.ours, self.pure, self.theirs = make(), make(), make()
        self.p = {"W": self._array(w), "c": self._array(w[0])}
        self.q = {"W": self._array(w), "c": self._array(w[0])}
        self.rows = {**{f"r{i}": self._array(w[i]) for i in range(N)}, "c": self._array(w[0])}
        self.state = self.pure.init(self.q)

    def _drawn(self, n: int) -> Any:
        a = self.rng.normal(size=(n, D))
        return a + 1j * self.rng.normal(size=(n, D)) if self.dtype.startswith("complex") else a

    def _array(self, a: Any) -> Any:
        return self.lib.array(a, self.dtype)

    def step(self, at: Any, scale: float = 1.0) -> None:
        """One step of each; every other one moves another parameter, too."""
        rows = np.arange(N) if at is None else np.arange(N)[at]
        g, c = self._drawn(len(rows)) * scale, self._array(self._drawn(1)[0]) if len(rows) % 2 else None
        grads, parts = {"W": self._array(g), "c": c}, None if at is None else {"W": at}
        self.ours.update(self.p, grads, at=parts)
        self.q, self.state = self.pure.step(self.q, grads, self.state, at=parts)
        own: dict[str, Any] = {f"r{i}": None for i in range(N)} | {"c": c}
        self.theirs.update(self.rows, own | {f"r{r}": self._array(a) for r, a in zip(rows, g, strict=True)})

    def check(self, *, pure_bits: bool = True) -> None:
        """The parameters, slots and counts are the same."""
        values = self.lib.values
        w = np.stack([values(self.rows[f"r{i}"]) for i in range(N)])
        assert same_bits(values(self.p["W"]), w)
        assert same_bits(values(self.p["c"]), values(self.rows["c"]))
        assert same_bits(values(self.q["W"]), w) if pure_bits else np.allclose(values(self.q["W"]), w, atol=1e-6)
        ours, theirs = self.ours.state, self.theirs.state
        assert ours is not None
        assert theirs is not None
        counts = [theirs.t[f"r{i}"] for i in range(N)]
        for state in (ours, self.state):
            assert int(state.step) == int(theirs.step)
            assert np.broadcast_to(state.t["W"], N).tolist() == counts
            assert int(state.t["c"]) == theirs.t["c"]
        slots = theirs.slots if isinstance(theirs.slots, tuple) else (theirs.slots,)
        for mine, of in zip(ours.slots if isinstance(ours.slots, tuple) else (ours.slots,), slots, strict=True):
            for name, rows in of.items():
                if rows["r0"] is not None:  # of another branch of a partition
                    assert same_bits(values(mine[name]["W"]), np.stack([values(rows[f"r{i}"]) for i in range(N)]))


@pytest.mark.covering(1)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("engine", ENGINES)
def test_rows_are_parameters(name: str, engine: ao.EngineName, need: Callable[[str], Library]) -> None:
    """Of every method of elements: the bits, slots and counts of as many parameters, with None for those at rest."""
    twins = Twins(lambda: METHODS[name](engine=engine), need("numpy"))
    for at in STEPS:
        twins.step(at)
    twins.check()


@pytest.mark.covering(1)  # most on the first engine, which runs what is traced as the compiled one does
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("engine", ["blocked", "compiled", "portable"])
def test_rows_in_chains(name: str, engine: ao.EngineName, need: Callable[[str], Library]) -> None:
    """So do the chains; those that look at a parameter as a whole say so before anything is written."""
    twins = Twins(lambda: CHAINS[name](engine), need("numpy"))
    stages = twins.ours.stages
    if any(of.over == "each" for stage in stages for of in stage.reductions.values()):
        before = deepcopy(twins.p)
        with pytest.raises(ValueError, match=r"at\['W'\] is a part of params\['W'\], at which .* looks as a whole"):
            twins.step([0])
        assert all(same_bits(before[k], twins.p[k]) for k in before)
        assert twins.ours.state is None
        return
    for at in STEPS:
        twins.step(at)
    twins.check()


class _Signed(ao.SGD):
    """A method whose kernel has a static option, which is another for every third step of a row."""

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"lr": hyper.lr, "signed": t % 3 == 0}

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return c.lr * (xp.sign(x) if c.signed else x)


class _Warm(ao.Stage):
    """A stage that asks what the count is, which is promised to be an integer on the host."""

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"scale": min(1.0, t / 3) if isinstance(t, int) else 100.0}

    rule = staticmethod(lambda xp, p, x, c: c.scale * x)


SPECIAL: dict[str, Make] = {
    "a look at the count": lambda e: ao.chain(_Warm(), ao.SGD(lr=0.1), engine=e),
    "an option of the count": lambda e: _Signed(engine=e),
    "a norm of what counts decide": lambda e: ao.chain(ao.Adam(lr=0.1), Asking(), engine=e),
    "a norm before counts decide": lambda e: ao.chain(ao.ClipGlobalNorm(0.1), ao.Adam(lr=0.1), ao.EMA(0.9), engine=e),
    "a schedule": lambda e: ao.Adam(ao.schedules.warmup_cosine(0.1, 10, 2), engine=e),
    "groups": lambda e: ao.chain(ao.Adam(lr=0.1), ao.groups({"c": {"lr": 0.2}, ...: {}}), engine=e),
    "a partition": lambda e: ao.partition({"c": ao.LAMB(), ...: ao.Adam(lr=0.1)}, engine=e),
}


@pytest.mark.covering(1)
@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("engine", ENGINES)
def test_rows_of_different_counts(name: str, engine: ao.EngineName, need: Callable[[str], Library]) -> None:
    """Where coefficients differ between the rows of one update, whatever they decide: options, norms, groups."""
    twins = Twins(lambda: SPECIAL[name](engine), need("numpy"))
    for at in STEPS:
        twins.step(at)
    twins.check()


@pytest.mark.covering(1)
@pytest.mark.parametrize("engine", [*ENGINES, None])
@pytest.mark.parametrize("many", [False, True])
def test_rows_of_whole_elements(many: bool, engine: ao.EngineName | None, need: Callable[[str], Library]) -> None:
    """Complex elements as a whole, of one count and of several."""
    twins = Twins(
        lambda: ao.chain(ao.Adam(lr=0.1, joint=True), ao.prox.L1(0.1), engine=engine), need("numpy"), "complex64"
    )
    for at in STEPS if many else [[3, 1], [3, 1], [1, 3]]:
        twins.step(at)
    twins.check()


@pytest.mark.covering(1)
@pytest.mark.parametrize("engine", [*ENGINES, None])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_rows_of_arrays_beside_them(dtype: str, engine: ao.EngineName | None, need: Callable[[str], Library]) -> None:
    """Learning rates, thresholds and supports by element go with the rows; and so do moduli of whole elements."""
    rng = np.random.default_rng(0)
    rates, mask = np.abs(rng.normal(size=(N, D))), rng.random((N, D)) > 0.3

    def make(lr: Any, support: Any) -> ao.Optimizer:
        joint = dtype == "complex64"
        return ao.chain(ao.Adam(lr=lr, joint=joint), ao.prox.L1(0.1), ao.Support(support), engine=engine)

    twins = Twins(lambda: make({"W": rates, "c": 0.1}, {"W": mask, "c": 1.0}), need("numpy"), dtype)
    of_rows = [{**{f"r{i}": a[i] for i in range(N)}, "c": c} for a, c in ((rates, 0.1), (mask, 1.0))]
    twins.theirs = make(*of_rows)
    for at in [[3, 1], [1, 3], [5, 6], *STEPS]:  # at first of the same shape and count
        twins.step(at)
    twins.check()


@pytest.mark.covering(1)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float16", "float64", "complex64"])
def test_rows_of_dtypes(dtype: str, engine: ao.EngineName, need: Callable[[str], Library]) -> None:
    """Half precision is widened and rounded once, and complex elements have both parts, by rows, too."""
    twins = Twins(lambda: ao.Adam(lr=0.1, engine=engine), need("numpy"), dtype)
    for at in STEPS:
        twins.step(at)
    twins.check()


@pytest.mark.parametrize("lib", ["strict", "torch", "jax", "cuda-shim", "mlx", "cupy", "torch-cuda"])
@pytest.mark.parametrize("name", [pytest.param("a norm before counts decide", marks=pytest.mark.product), "a schedule"])
def test_rows_of_libraries(lib: str, name: str, need: Callable[[str], Library]) -> None:
    """Also those that can't assign to several rows, and those whose arrays are replaced; JAX's pure form rounds so."""
    library = need(lib)
    twins = Twins(lambda: SPECIAL[name](None), library)
    for at in STEPS[: 4 if library.compiles else None]:
        twins.step(at)
    twins.check(pure_bits=library.writable and lib != "torch")


@pytest.mark.parametrize("elements", [2, 8])
def test_blocks_of_rows(elements: int, need: Callable[[str], Library], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows at a time, or, where a row is longer than a block, the rows of each count by themselves."""
    monkeypatch.setattr(_rows_plan, "BLOCK", elements)
    planned, original = [], _rows_plan.RowsPlan.prepare_anew

    def prepared(*arguments: Any) -> Any:
        planned.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(_rows_plan.RowsPlan, "prepare_anew", prepared)
    twins = Twins(lambda: ao.Adam(lr=0.1, engine="blocked"), need("numpy"))
    for at in STEPS:
        twins.step(at)
    twins.check()
    assert bool(planned) is (elements > D)


@pytest.mark.parametrize("lib", ["numpy", "strict", "torch", "jax", "mlx", "cupy", "torch-cuda"])
def test_rows_in_arrays(lib: str, need: Callable[[str], Library]) -> None:
    """The rows themselves may be integers or bools of any library, of the parameter's or another."""
    library, w = need(lib), np.zeros((4, 2))
    for rows in (library.array([3, 1], "int32"), library.array([1, 0], "uint8"), library.array([0, 1, 0, 1], "bool")):
        ao.SGD(lr=1.0).update({"W": w}, {"W": -np.ones((2, 2))}, at={"W": rows})
    assert w[:, 0].tolist() == [1, 3, 0, 2]


def _turned(number: int, a: Any) -> Any:
    """A gradient in a form that changes now and then."""
    array = a.astype(np.float64 if number % 7 == 6 else np.float32)
    return np.asfortranarray(array) if number % 5 == 4 else array


@pytest.mark.parametrize("engine", ["compiled", "blocked"])
@pytest.mark.parametrize("method", [ao.Momentum, ao.Adam])
def test_engines_are_kept(method: type[Any], engine: ao.EngineName, monkeypatch: pytest.MonkeyPatch) -> None:
    """For parts of the same shape, which lie in the same arrays then; whatever comes between, the bits stay."""
    rng, chosen = np.random.default_rng(0), []
    original = Dispatch.__init__

    def counted(self: Any, *arguments: Any) -> None:
        chosen.append(self)
        original(self, *arguments)

    monkeypatch.setattr(Dispatch, "__init__", counted)
    ours, pure = method(engine=engine), method(engine="portable")
    p = {k: rng.normal(size=(6, 5)).astype(np.float32) for k in "abc"}
    q, state = deepcopy(p), pure.init(p)
    one, two, three = ((slice(y, y + 3), slice(x, x + 2)) for y, x in ((0, 0), (3, 1), (2, 2)))
    steps: list[Any] = [{"a": one}, {"a": two}, {"a": three}, {"b": [1, 2]}, {"a": one, "b": [2, 4]}, {"a": one}]
    steps += [{"a": two, "b": [0, 5]}, {"a": three, "b": [1, 2]}, {"a": (slice(4), 0)}, {"a": two}, {"a": three}, {}]
    steps += [{"b": [5, 0, 3]}, {"b": [1, 2, 4]}, {"b": slice(1, 4)}, {"b": [0, 2, 3]}, {"a": one}, {"a": two}]
    steps = [*steps, {"c": [0, 1]}, {"c": [2, 3]}, {"c": [1, 4]}, {"c": [4, 2]}, *steps, {"c": [1, 5]}, {"c": [5, 0]}]
    numbers = []
    for number, at in enumerate(steps):
        form = 0 if "c" in at else number
        shapes = {k: p[k][at[k] if at else ...].shape if k in (at or p) else None for k in p}
        grads = {k: None if shape is None else _turned(form, rng.normal(size=shape)) for k, shape in shapes.items()}
        chosen.clear()
        ours.update(p, grads, at=at or None)
        numbers.append(len(chosen))
        before, copied = state, deepcopy(state)
        q, state = pure.step(q, grads, state, at=at or None)
        assert equal_states(before, copied)
        assert all(same_bits(p[k], q[k]) for k in p)
    assert numbers[:4] == [1, 0, 0, 1]


def test_two_parameters_of_rows(need: Callable[[str], Library]) -> None:
    """Each has its own rows in one update, small ones and ones whose slots stand side by side, beside a whole one."""
    rng, lib = np.random.default_rng(0), need("numpy")
    for engine in ENGINES:
        ours, theirs = (ao.Adam(lr=0.1, engine=engine) for _ in range(2))
        p = [lib.array(rng.normal(size=(5, 2))), {"a": lib.array(rng.normal(size=(4,))), "b": lib.array(np.ones(3))}]
        q = [[row.copy() for row in p[0]], [np.array([x]) for x in p[1]["a"]], p[1]["b"].copy()]
        for step in range(6):
            one, two = rng.permutation(5)[: 2 + step % 3], rng.permutation(4)[:2]
            g = [lib.array(rng.normal(size=(len(one), 2))), lib.array(rng.normal(size=2)), lib.array(np.ones(3))]
            ours.update(p, [g[0], {"a": g[1], "b": g[2]}], at={0: one, 1: {"a": two}})
            first, second = dict(zip(one, g[0], strict=True)), dict(zip(two, g[1], strict=True))
            own = [[first.get(i) for i in range(5)], [np.array([second[i]]) if i in second else None for i in range(4)]]
            theirs.update(q, [*own, g[2]])
        assert same_bits(p[0], np.stack(q[0]))
        assert same_bits(p[1]["a"], np.concatenate(q[1]))
        assert same_bits(p[1]["b"], q[2])


@given(st.data())
@settings(max_examples=80)
def test_parts_are_those_of_numpy(data: Any) -> None:
    """A step moves the elements at any index of slices and integers, or of rows, that NumPy takes, and no others."""
    shape = data.draw(array_shapes(max_dims=3, max_side=5))
    rows = st.lists(st.integers(-shape[0], shape[0] - 1), unique_by=lambda i: i % shape[0])
    masks = st.lists(st.booleans(), min_size=shape[0], max_size=shape[0])
    windows = basic_indices(shape, allow_newaxis=False).map(lambda i: i if isinstance(i, tuple) else (i,))
    at = data.draw(st.one_of(st.slices(shape[0]), rows, masks.map(np.array), windows))
    w = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    expected = w.copy()
    index = np.array(at, int) if isinstance(at, list) else at
    g = np.full_like(w[index], 0.5)
    backwards = isinstance(at, tuple) and any(isinstance(i, slice) and (i.step or 1) < 0 for i in at)
    optimizer = ao.Momentum(lr=1.0, engine=data.draw(st.sampled_from(ENGINES)))
    if backwards:
        with pytest.raises(ValueError, match=r"at has slice\(.*\); wanted a step of at least 1"):
            optimizer.update(w, g, at=at)
        return
    expected[index] -= 0.5
    assert optimizer.update(w, g, at=at) is w
    assert same_bits(w, expected)
    if optimizer.state is not None and g.size:
        assert same_bits(optimizer.state.slots["v"], w - np.arange(w.size).reshape(shape))


@pytest.mark.parametrize("lib", ["numpy", "strict", "torch", "jax"])
def test_windows(lib: str, need: Callable[[str], Library]) -> None:
    """Adam by hand on the elements of each window, with slots of all elements and one count; and then a whole step."""
    library, rng = need(lib), np.random.default_rng(0)
    start = rng.normal(size=(6, 8))
    w = {"psi": library.array(start)}
    hand, optimizer = textbook.Adam(lr=0.1), ao.Adam(lr=0.1)
    expected = {"psi": start.astype(np.float32).astype(np.float64)}
    m, v = np.zeros((2, 6, 8))
    for t, (y, x) in enumerate([(0, 0), (2, 3), (1, 1), (0, 0)], 1):
        window = slice(y, y + 3), slice(x, x + 4)
        g = rng.normal(size=(3, 4)).astype(np.float32)
        optimizer.update(w, {"psi": library.array(g)}, at={"psi": window})
        m[window] += (1 - hand.beta1) * (g - m[window])
        v[window] += (1 - hand.beta2) * (g * g - v[window])
        rate = 0.1 * np.sqrt(1 - hand.beta2**t) / (1 - hand.beta1**t)
        expected["psi"][window] -= rate * m[window] / (np.sqrt(v[window]) + 1e-7)
        assert np.allclose(library.values(w["psi"]), expected["psi"], rtol=1e-5, atol=1e-6)
    optimizer.update(w, {"psi": library.array(np.ones((6, 8)))})
    state = optimizer.state
    assert state is not None
    assert state.t["psi"] == 5


def test_windows_and_rows() -> None:
    """Rows after windows have the count of the whole; windows wait until all rows have the same."""
    w, optimizer = np.zeros((4, 4)), ao.Adam()
    optimizer.update(w, np.ones((2, 2)), at=(slice(2), slice(2)))
    optimizer.update(w, np.ones((2, 4)), at=[0, 3])
    with pytest.raises(ValueError, match=r"at is a window, which counts for all of params, whose rows .* from 1 to 2"):
        optimizer.update(w, np.ones((2, 2)), at=(slice(2), slice(2)))
    optimizer.update(w, np.ones((2, 4)), at=[1, 2])
    optimizer.update(w, np.ones((2, 2)), at=(slice(2), slice(2)))
    assert optimizer.state is not None
    assert optimizer.state.t == 3


def test_what_stays() -> None:
    """Rows that rest keep their averages, do not decay, and need not be what a projection allows."""
    w = {"W": np.full((3, 2), 4.0)}
    optimizer = ao.chain(ao.SGD(lr=1.0), ao.WeightDecay(0.5), ao.Box(-1.0, 1.0), ao.EMA(0.5))
    optimizer.update(w, {"W": np.zeros((1, 2))}, at={"W": [1]})
    assert w["W"].tolist() == [[4.0, 4.0], [1.0, 1.0], [4.0, 4.0]]
    assert optimizer.eval_params(w)["W"].tolist() == [[4.0, 4.0], [2.5, 2.5], [4.0, 4.0]]
    assert optimizer.last_hyperparameters["WeightDecay.decay"] == 0.5


def test_nothing_to_move() -> None:
    """Where parts are empty no step is taken, as where all gradients are None."""
    w, optimizer = np.ones((3, 2)), ao.Adam()
    empty = np.zeros((0, 2))
    for at, g in (([], empty), (slice(3, 3), empty), (np.zeros(3, bool), empty), ((slice(0), 0), empty[:, 0])):
        optimizer.update(w, g, at=at)
    assert optimizer.state is None
    optimizer.update(w, np.ones((1, 2)), at=[0])
    assert w[1:].tolist() == [[1.0, 1.0]] * 2


REFUSED: dict[str, tuple[Any, str]] = {
    "twice": ([1, 0, 1], r"at\['W'\] has row 1 more than once; wanted each once, with the sum of its gradients"),
    "twice from behind": ([-1, 2], r"at\['W'\] has row 2 more than once"),
    "too large": ([0, 3], r"at\['W'\] has row 3, but params\['W'\] has 3 rows"),
    "too small": ([0, -4], r"at\['W'\] has row -4, but params\['W'\] has 3 rows"),
    "floats": (
        np.ones(2),
        r"at\['W'\] has shape \(2,\) and dtype float64, of 3 rows; wanted rows, as a slice, integers",
    ),
    "two axes": (np.ones((2, 1), int), r"at\['W'\] has shape \(2, 1\) and dtype int64"),
    "a short mask": (np.ones(2, bool), r"at\['W'\] has shape \(2,\) and dtype bool, of 3 rows"),
    "a number": (1, r"at\['W'\] is 1; wanted rows, as a slice"),
    "a name": ("row", r"at\['W'\] is 'row'; wanted rows"),
    "a slice of floats": (slice(0.5), r"at\['W'\] is slice\(None, 0.5, None\): slice indices must be integers"),
    "no step": (slice(0, 2, 0), r"at\['W'\] is slice\(0, 2, 0\): slice step cannot be zero"),
    "backwards": ((slice(None, None, -1),), r"at\['W'\] has slice\(None, None, -1\); wanted a step of at least 1"),
    "arrays in a window": ((np.arange(2), 0), r"at\['W'\] has array\(\[0, 1\]\); wanted rows"),
    "bools in a window": ((True, 0), r"at\['W'\] has True; wanted rows"),
    "too many axes": ((0, 0, 0), r"at\['W'\] has 3 indices and 0 ellipses, but params\['W'\] has shape \(3, 2\)"),
    "out of the window": ((5, 0), r"at\['W'\] has 5, but params\['W'\] has shape \(3, 2\)"),
    "another part": ([0], r"params\['W'\]\[at\['W'\]\] has shape \(1, 2\) but grads\['W'\] has shape \(2, 2\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_parts(name: str) -> None:
    """By name, with what is wanted, before anything is written or counted: in the first update and later."""
    at, message = REFUSED[name]
    params, grads = {"W": np.ones((3, 2)), "b": np.ones(2)}, {"W": np.ones((2, 2)), "b": np.ones(2)}
    optimizer = ao.Adam()
    for _ in range(2):
        before, state = deepcopy(params), deepcopy(optimizer.state)
        with pytest.raises((TypeError, ValueError), match=message):
            optimizer.update(params, grads, at={"W": at})
        assert all(same_bits(params[k], before[k]) for k in params)
        assert equal_states(optimizer.state, state)
        optimizer.update(params, grads, at={"W": [0, 1]})


def test_refused_containers() -> None:
    """Parts of what is not there, of None, of numbers, of one array under two names; and the kind of container."""
    w = np.ones((3, 2))
    cases: list[tuple[Any, Any, str]] = [
        ({"W": w}, {"V": [0]}, r"at\['V'\] has no match in params"),
        ({"W": {"a": w}}, {"W": [0]}, r"at\['W'\]\[0\] has no match in params"),
        ({"W": {"a": w}}, {"W": slice(2)}, r"at\['W'\] is a slice; wanted a dict or list like that of params"),
        ({"W": None}, {"W": [0]}, r"at\['W'\] is given, but params\['W'\] is None"),
        ({"W": 1.0}, {"W": [0]}, r"at\['W'\] is given, but params\['W'\] has no axis"),
        ({"W": w, "V": w}, {"W": [0], "V": [0]}, r"params\['V'\] and params\['W'\] are one array"),
    ]
    for params, at, message in cases:
        with pytest.raises((TypeError, ValueError), match=message):
            ao.Adam().update(params, dict.fromkeys(params), at=at)
    tied = {"encoder": w, "decoder": w}
    ao.SGD(lr=1.0).update(tied, {"encoder": None, "decoder": np.ones((1, 2))}, at={"encoder": [2]})
    assert w.tolist() == [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]


def test_stages_of_whole_arrays_refuse() -> None:
    """By name, methods too; and what gathers gradients, reports on parameters, or is lazy."""
    w, g = {"W": np.ones((4, 4), np.float32)}, {"W": np.ones((2, 4), np.float32)}
    whole = [*WHOLE.values(), ao.LARS, ao.LAMB]
    assert len(whole) > 3
    for method in whole:
        assert method in DISCOVERED.values()
        with pytest.raises(ValueError, match=rf"at\['W'\] is a part of .*{method.__name__}\(.*looks as a whole"):
            method().update(w, g, at={"W": [0, 1]})
    for stage in (ao.ClipNorm(1.0), ao.TrustRatio(), ao.Cautious(), ao.Metrics(), ao.Centralize(), ao.AdaptiveClip()):
        name = type(stage).__name__
        chain = ao.chain(ao.SGD(), stage) if name in {"Cautious", "TrustRatio"} else ao.chain(stage, ao.SGD())
        with pytest.raises(ValueError, match=rf"at which {name}\(.* looks as a whole"):
            chain.update(w, g, at={"W": [0, 1]})
    with pytest.raises(ValueError, match=r"but Accumulate\(every=2\) gathers gradients of the whole"):
        ao.chain(ao.Accumulate(2), ao.SGD()).update(w, g, at={"W": [0, 1]})
    assert w["W"].tolist() == np.ones((4, 4)).tolist()


def test_lazy_and_traced_arrays_refuse(need: Callable[[str], Library]) -> None:
    """Dask's, those of several devices, and those under jax.jit, whose values are not known."""
    dask = need("dask")
    with pytest.raises(TypeError, match=r"params\['W'\] is a dask array that is lazy, of which no part"):
        ao.SGD().update({"W": dask.array(np.ones((4, 2)))}, {"W": dask.array(np.ones((1, 2)))}, at={"W": [0]})
    need("jax")
    import jax
    import jax.numpy as jnp

    optimizer, w = ao.SGD(), jnp.ones((4, 2))
    state = optimizer.init(w)
    with pytest.raises(TypeError, match="params is a jax array that is traced"):
        jax.jit(lambda p, g, s: optimizer.step(p, g, s, at=[0]))(w, jnp.ones((1, 2)), state)
    with pytest.raises(TypeError, match="at is traced; wanted rows whose values are known"):
        jax.jit(lambda rows: optimizer.step(w, jnp.ones((1, 2)), state, at=rows))(jnp.arange(1))
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    cut = jax.device_put(w, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x")))
    with pytest.raises(TypeError, match="params is a jax array on several devices, of which no part"):
        optimizer.update(cut, jnp.ones((1, 2)), at=[0])


def test_a_part_given_as_a_parameter() -> None:
    """Of another size it is refused, and the error says what there is for it; of another kind there is nothing."""
    positions, optimizer = np.zeros((5, 2)), ao.Adam()
    optimizer.update(positions, np.ones((5, 2)))
    with pytest.raises(
        ValueError, match=r"a new optimizer, or, for a part of that array, the array itself and at=\.\.\."
    ):
        optimizer.update(positions[[1, 3]], np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"wanted a new optimizer$"):
        optimizer.update(positions.astype(np.float32), np.ones((5, 2), np.float32))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_that_is_called_off(engine: ao.EngineName, need: Callable[[str], Library]) -> None:
    """Gates see the gradients of the parts: nothing moves or counts, and the parameter is named."""
    twins = Twins(lambda: ao.chain(ao.LossScale(initial=4.0), ao.Adam(lr=0.1), engine=engine), need("numpy"))
    for scale in (1.0, np.inf, 1.0, np.inf, 1.0):
        with np.errstate(invalid="ignore"):
            for at in STEPS[:2]:
                twins.step(at, scale)
    twins.check()
    assert twins.ours.stages[0].offender == "W"
    assert twins.ours.loss_scale == twins.theirs.loss_scale == 0.25


def test_gradients_in_the_memory_of_parameters(need: Callable[[str], Library]) -> None:
    """Whatever is written before they are read: as with copies of them."""
    lib = need("numpy")
    for engine, at in itertools.product(ENGINES, [slice(1, 3), [3, 0]]):
        results = []
        for copy in (True, False):
            w, b = lib.array(np.arange(12.0).reshape(4, 3)), lib.array(np.ones(3))
            v, d = lib.array(np.arange(6.0).reshape(2, 3)), lib.array(np.ones((2, 3)))
            grads = {"W": w[:2], "b": w[1], "v": d, "d": v, "U": v}
            params = {"W": w, "b": b, "v": v, "d": d, "U": lib.array(np.ones((2, 3)))}
            optimizer = ao.Momentum(lr=0.5, engine=engine)
            for _ in range(2):
                given = {k: g.copy() for k, g in grads.items()} if copy else grads
                optimizer.update(params, given, at={"W": at, "U": [1, 0]})
            results.append((w, b, v, d, params["U"]))
        assert all(map(same_bits, *results))


def test_autograd_of_torch_notices(need: Callable[[str], Library]) -> None:
    """Rows, slices and windows are written to the parameter, whose version counts it."""
    need("torch")
    import torch

    w, optimizer = torch.nn.Parameter(torch.ones(4, 2)), ao.Adam(lr=0.5)
    for at, shape in (([3, 0], (2, 2)), (slice(1, 3), (2, 2)), ((slice(2), 0), (2,)), (torch.tensor([1]), (1, 2))):
        before = w._version
        loss = (w * w).sum()
        assert optimizer.update({"w": w}, {"w": torch.ones(shape)}, at={"w": at})["w"] is w
        assert w._version > before
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    assert not w.detach().eq(1).all(1).any()


@pytest.mark.covering(1)
@pytest.mark.parametrize("engine", ["compiled", "blocked", "portable"])
@pytest.mark.parametrize("name", ["rows", "slice", "window", "beside a whole one"])
def test_interrupted_anywhere(engine: ao.EngineName, name: str) -> None:
    """By exceptions from handlers of signals: all is moved and counted, or nothing is."""
    at: Any = {"rows": [2, 0], "slice": slice(1, 3), "window": (slice(2), slice(1, 3))}.get(name, [2, 0])
    rng = np.random.default_rng(0)

    def made() -> tuple[dict[str, Any], dict[str, Any], ao.Optimizer]:
        params = {"W": np.arange(12.0).reshape(4, 3), "b": np.ones(2)}
        optimizer = ao.chain(ao.Adam(lr=0.1), ao.EMA(0.5), engine=engine)
        if name == "window":
            optimizer.update(params, {"W": np.ones((2, 2)), "b": None}, at={"W": (slice(1, 3), slice(2))})
        else:
            optimizer.update(params, {"W": np.ones((2, 3)), "b": np.ones(2)}, at={"W": [0, 1]})
        b = np.full(2, 0.5) if name == "beside a whole one" else None
        return params, {"W": rng.normal(size=params["W"][at].shape), "b": b}, optimizer

    params, grads, optimizer = made()
    number = places(lambda: optimizer.update(params, grads, at={"W": at}))
    outcomes = set()
    for place in range(0, number, 1 + number // 40):
        params, grads, optimizer = made()
        before = deepcopy(params), deepcopy(optimizer.state_dict())
        twin = deepcopy(optimizer)
        interrupted(partial(optimizer.update, params, grads, at={"W": at}), place, looks=LOOKS)
        after = deepcopy(params)
        taken = optimizer.state_dict()["step"] > before[1]["step"]
        outcomes.add(taken)
        expected = before[0]
        if taken:
            twin.update(expected, grads, at={"W": at})
        assert all(same_bits(expected[k], after[k]) for k in after)
        assert equal_states(optimizer.state_dict(), twin.state_dict())
    assert outcomes == {True, False}


def test_counts_travel(need: Callable[[str], Library], tmp_path: Any) -> None:
    """Those of rows are saved, and loaded on another library, where training goes on with the same numbers."""
    rng, torch = np.random.default_rng(0), need("torch")
    params, optimizer = {"W": rng.normal(size=(4, 3)).astype(np.float32), "b": np.ones(2, np.float32)}, ao.Adam(lr=0.1)
    for at in ([0, 1], [1, 3]):
        optimizer.update(params, {"W": rng.normal(size=(2, 3)).astype(np.float32), "b": np.ones(2)}, at={"W": at})
    path = tmp_path / "run.safetensors"
    ao.save(path, params=params, optimizer=optimizer)
    theirs, other = {k: torch.array(a) for k, a in params.items()}, ao.Adam(lr=0.1)
    checkpoint = ao.load(path, like=theirs)
    theirs = checkpoint.params
    assert checkpoint.optimizer is not None
    other.load_state_dict(checkpoint.optimizer, theirs)
    g = rng.normal(size=(2, 3)).astype(np.float32)
    optimizer.update(params, {"W": g, "b": None}, at={"W": [3, 2]})
    other.update(theirs, {"W": torch.array(g), "b": None}, at={"W": [3, 2]})
    assert same_bits(params["W"], torch.values(theirs["W"]))
    assert optimizer.state_dict()["t"]["W"].tolist() == other.state_dict()["t"]["W"].tolist() == [1, 2, 1, 2]
    twin = deepcopy(optimizer)
    assert equal_states(twin.state, optimizer.state)


def test_counts_that_do_not_fit() -> None:
    """Are refused by name in a saved state and in one of the pure form, and by what has one count for a parameter."""
    params, optimizer = {"W": np.ones((3, 2), np.float32)}, ao.Adam()
    optimizer.update(params, {"W": np.ones((1, 2), np.float32)}, at={"W": [0]})
    saved = optimizer.state_dict()
    for counts, message in (
        (np.ones(2, int), r"it has counts of 2 rows of params\['W'\], of shape \(3, 2\)"),
        (np.array([1, 0, -1]), r"state\['t'\]\['W'\] has counts from -1 to 1; wanted at least 0"),
        (np.ones(3), r"state\['t'\]\['W'\] has shape \(3,\) and dtype float64; wanted integers, one for each row"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            ao.Adam().load_state_dict({**saved, "t": {"W": counts}}, params)
    state = optimizer.state
    assert state is not None
    with pytest.raises(ValueError, match=r"state.t\['W'\] has shape \(2,\); wanted one count, or one for each row"):
        optimizer.step(params, {"W": None}, state._replace(t={"W": np.ones(2, int)}))
    gathering = ao.chain(ao.Accumulate(2), ao.Adam())
    first = gathering.init(params)
    with pytest.raises(ValueError, match=r"state.t has counts by row, but Accumulate\(every=2\) gathers"):
        gathering.step(params, {"W": None}, first._replace(t={"W": np.ones(3, int)}))
    pytest.importorskip("torch", reason="its optimizers have one count")
    ours = ao.compat.torch.Adam(lr=0.1)
    ours.update(params, {"W": np.ones((1, 2), np.float32)}, at={"W": [0]})
    with pytest.raises(ValueError, match=r"the rows of 'W' have taken 0 to 1 steps by update\(at=\.\.\.\)"):
        ao.compat.torch.to_torch(ours, ["W"])


def test_explained_and_diagnosed() -> None:
    """The guard says why the next step is planned; whole steps are told of rows of several counts, too."""
    params, grads = {"W": np.ones((3, 2)), "b": np.ones(2)}, {"W": np.ones((3, 2)), "b": np.ones(2)}
    optimizer = ao.Adam(engine="blocked")
    for _ in range(2):
        optimizer.update(params, grads)
    assert [share.guard for share in optimizer.explain(params, grads)] == [None]
    optimizer.update(params, {"W": np.ones((1, 2)), "b": None}, at={"W": [0]})
    assert [share.guard for share in optimizer.explain(params, grads)] == ["part"]
    assert {row.path for row in optimizer.diagnose(params, grads)} == {"W", "b"}
    optimizer.update(params, {"W": None, "b": np.ones(2)})
    optimizer.update(params, {"W": None, "b": np.ones(2)})
    assert [share.guard for share in optimizer.explain(params, {"W": None, "b": np.ones(2)})] == [None]
