"""Control: steps that are called off, gradients that are gathered, losses that are scaled."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import optree
import pytest

import anyoptim as ao
from tests.support import shim
from tests.support.chains import COPIES, Seen, agree, problem
from tests.support.engines import Watch
from tests.support.libraries import ENGINES, Library, numpy_dtype, same_bits
from tests.support.peers import Optax
from tests.support.states import equal_states
from tests.support.xla import quick

pytestmark = [pytest.mark.own_loops, pytest.mark.usefixtures("quickly")]  # gates are compiled in core/test_parts.py

NAN, INF = math.nan, math.inf


def _arrays(lib: Library, tree: Any, dtype: str = "float32") -> Any:
    return optree.tree_map(lambda a: None if a is None else lib.array(a, dtype), tree)


def _alike(one: Any, two: Any) -> bool:
    """Whether two trees of NumPy arrays and numbers have the same leaves."""
    a, b = (list(map(np.asarray, optree.tree_leaves(tree))) for tree in (one, two))
    return len(a) == len(b) and all(map(same_bits, a, b))


def _same(lib: Library, one: Any, two: Any) -> bool:
    return _alike(*lib.values((one, two)))


PARAMS: Any = {"W": [[1.0, -2.0], [3.0, 0.5]], "l": [{"b": [0.5, 0.25]}, {"b": [1.0, -0.75]}]}
GOOD: Any = {"W": [[0.5, 1.0], [-1.0, 2.0]], "l": [{"b": [1.0, -0.5]}, {"b": [0.25, 0.5]}]}
BAD: dict[str, tuple[Any, str]] = {
    "NaN": ({**GOOD, "W": [[0.5, NAN], [1.0, 1.0]]}, "W"),
    "infinity": ({**GOOD, "l": [{"b": [1.0, -INF]}, {"b": [NAN, 1.0]}]}, "l.0.b"),
    "the last": ({**GOOD, "l": [{"b": [1.0, 1.0]}, {"b": [1.0, INF]}]}, "l.1.b"),
}


def _offender(optimizer: Any, k: int) -> str | None:
    found: str | None = optimizer.stages[k].offender
    return found


def _tree(values: Any) -> Any:
    """Lists of numbers are arrays here; lists of dicts are lists."""
    return optree.tree_map(np.asarray, {**values, "W": np.array(values["W"])}, is_leaf=_numbers)  # type: ignore[arg-type]


def _numbers(x: Any) -> bool:
    return isinstance(x, list) and isinstance(x[0], float)


def _skipping(engine: ao.EngineName | None = None) -> ao.chain:
    return ao.chain(
        ao.SkipNonFinite(), ao.ClipGlobalNorm(1.0), ao.Adam(lr=lambda t: 0.5 / t), ao.EMA(0.5), engine=engine
    )


@pytest.mark.telling
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # Dask computes both outcomes, in threads of its own
def test_a_step_that_is_called_off_never_was(place: tuple[Library, ao.EngineName | None]) -> None:
    """The first, one between and the last, on every library: parameters, slots, counts, schedules as without them."""
    lib, engine = place
    optimizer, alone = _skipping(engine), _skipping(engine)
    params, twin, pure = (_arrays(lib, _tree(PARAMS)) for _ in range(3))
    state = optimizer.init(pure)
    skipped = consecutive = 0
    before: Any = None
    for what in ("NaN", "good", "the last") if lib.slow else (*BAD, "good", *BAD, "good"):
        values, offender = BAD.get(what, (GOOD, ""))
        grads = _arrays(lib, _tree(values))
        given = lib.values(grads)
        new = optimizer.update(params, grads)
        assert new is params
        pure, state = optimizer.step(pure, grads, state)
        if not offender:
            alone.update(twin, grads)
        trees = (params, optimizer.state), (pure, state), (twin, alone.state and alone.state[:3]), grads
        (p, of), stepped, others, taken = lib.values(trees)
        assert _alike((p, of), stepped)
        assert _alike(given, taken)
        if offender:
            skipped, consecutive = skipped + 1, consecutive + 1
            assert _offender(optimizer, 0) == offender
            if before is not None:
                assert _alike(before, (p, of[:3]))
        else:
            consecutive = 0
            assert _alike((p, of[:3]), others)
        before = p, of[:3]
        counted = {"skipped": float(skipped), "consecutive": float(consecutive)}
        assert optimizer.state is not None
        assert optimizer.state.scalars == (counted, {}, {}, {})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "complex64", "float64"])
def test_gates_of_other_dtypes(lib: Library, dtype: str) -> None:
    """Half precision overflows in the gradient itself; of a complex number either part counts."""
    optimizer, p = ao.chain(ao.SkipNonFinite(), ao.SGD(1.0)), {"w": lib.array([1.0, 2.0], dtype), "none": None}
    bad = complex(0.0, NAN) if "complex" in dtype else INF
    for value, wanted in ((bad, [1.0, 2.0]), (0.5, [0.5, 1.5]), (0.0, [0.5, 1.5])):
        optimizer.update(p, {"w": lib.array([value, value], dtype), "none": None})
        assert lib.tonumpy(p["w"]).tolist() == wanted
    assert optimizer.state is not None
    assert optimizer.state.step == 2
    assert optimizer.state.t == {"w": 2, "none": None}


@pytest.mark.parametrize("engine", ENGINES)
def test_squares_that_are_too_large_are_none_that_are_not_finite(engine: ao.EngineName) -> None:
    """The norm of 1e300 is infinite, its elements are not: the step is taken."""
    optimizer, p = ao.chain(ao.SkipNonFinite(), ao.SGD(1.0), engine=engine), np.zeros(3)
    optimizer.update(p, np.full(3, 1e300))
    assert p.tolist() == [-1e300] * 3
    assert optimizer.state is not None
    assert optimizer.state.scalars == ({"skipped": 0.0, "consecutive": 0.0}, {})
    assert _offender(optimizer, 0) is None


def test_a_gate_sees_what_flows_through_it() -> None:
    """Behind a division that makes an infinity; in front, the gradient is finite."""

    class Inverse(ao.Stage):
        rule = staticmethod(lambda xp, p, x, c: 1.0 / x)

    for stages, moved in (((Inverse(), ao.SkipNonFinite()), False), ((ao.SkipNonFinite(), Inverse()), True)):
        p = ao.chain(*stages, ao.SGD(1.0)).update(np.zeros(2), np.array([0.0, 2.0]))
        assert same_bits(p, [-INF, -0.5] if moved else [0.0, 0.0])


def test_resting_parameters_are_not_looked_at() -> None:
    """Frozen ones may have any gradient; and a gate within a method of a partition looks at its parameters alone."""
    params = {k: np.zeros(1) for k in "abc"}
    grads = {"a": np.array([NAN]), "b": np.array([INF]), "c": np.array([1.0])}
    lanes: Any = {"a": None, "b": ao.SGD(1.0), "c": ao.chain(ao.SkipNonFinite(), ao.SGD(1.0))}
    optimizer = ao.partition(lanes)
    optimizer.update(params, grads)
    assert [a[0] for a in params.values()] == [0.0, -INF, -1.0]
    params["b"][0] = 0.0
    optimizer.update(params, {**grads, "b": np.array([1.0]), "c": np.array([NAN])})  # the step of all
    assert [a[0] for a in params.values()] == [0.0, 0.0, -1.0]
    assert _offender(optimizer, 1) == "c"
    optimizer.update(params, {**grads, "b": np.array([1.0]), "c": None})
    assert [a[0] for a in params.values()] == [0.0, -1.0, -1.0]
    assert optimizer.state is not None
    assert optimizer.state.scalars == ({}, {"skipped": 1.0, "consecutive": 0.0}, {})
    assert optimizer.state.t == {"a": 0, "b": 2, "c": 1}


def test_optax_apply_if_finite(need: Callable[[str], Library]) -> None:
    """optax's, around its adam behind a clipping, over 60 steps of which some are none: equal to 1e-12."""
    optax = pytest.importorskip("optax")
    params, grads = problem(steps=60)
    for i in (0, 7, 8, 9, 33):
        grads[i]["b"][i % 7] = NAN if i % 2 else INF
    with need("jax-x64").context():
        inner = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1, eps=0.0))
        peer = Optax(optax.apply_if_finite(inner, max_consecutive_errors=10), params)
        peer.steps(grads)
        assert int(peer.state.total_notfinite) == 5
    optimizer = ao.chain(ao.SkipNonFinite(), ao.ClipGlobalNorm(0.5), ao.Adam(0.1, eps=0.0))
    for g in grads:
        optimizer.update(params, g)
    for k in params:
        np.testing.assert_allclose(params[k], peer.params[k], rtol=1e-12, atol=1e-12)
    assert optimizer.state is not None
    assert optimizer.state.scalars[0] == {"skipped": 5.0, "consecutive": 0.0}


@pytest.mark.parametrize("options", [{}, {"growth": 4.0, "backoff": 0.25, "interval": 3, "initial": 1024.0}])
def test_torch_grad_scaler(options: dict[str, Any], need: Callable[[str], Library]) -> None:
    """torch's, with its own clipping and AdamW between: the same scale after each step, and parameters to 1e-12."""
    need("torch")
    import torch

    rng = np.random.default_rng(21)
    start = rng.normal(size=5)
    theirs = torch.nn.Parameter(torch.tensor(start))
    peer = torch.optim.SGD([theirs], lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler(
        "cpu",
        init_scale=options.get("initial", 65536.0),
        growth_factor=options.get("growth", 2.0),
        backoff_factor=options.get("backoff", 0.5),
        growth_interval=options.get("interval", 2000),
    )
    optimizer = ao.chain(ao.LossScale(**options), ao.ClipGlobalNorm(1.0), ao.Momentum(0.1))
    ours = start.copy()
    for i in range(40):
        g = rng.normal(size=5)
        if i in {0, 11, 12, 30}:
            g[i % 5] = (INF, -INF, NAN)[i % 3]
        scaler.scale(torch.zeros(()))  # it makes its scale here
        assert optimizer.loss_scale == scaler.get_scale()
        theirs.grad = torch.tensor(g) * scaler.get_scale()
        scaler.unscale_(peer)
        torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        scaler.step(peer)
        scaler.update()
        optimizer.update(ours, g * optimizer.loss_scale)
        assert optimizer.loss_scale == scaler.get_scale()
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-5)  # it adds 1e-6 to the norm


def test_the_scale_is_undone_exactly(lib: Library) -> None:
    """Powers of two round nothing: the bits of a chain without it, whose losses are not scaled."""

    def make(*first: Any) -> Any:
        return ao.chain(*first, ao.ClipGlobalNorm(1.0), ao.Momentum(0.1))

    scaled, plain = make(ao.LossScale(interval=2, initial=2.0**20)), make()
    p, q = lib.array([1.0, -2.0, 3.0]), lib.array([1.0, -2.0, 3.0])
    scales = []
    for i in range(5):
        g = np.array([0.1, -0.3, 0.7]) * (i + 1)
        scales.append(scaled.loss_scale)
        p = scaled.update(p, lib.array(g * scaled.loss_scale))
        q = plain.update(q, lib.array(g))
    assert scales == [2.0**20, 2.0**20, 2.0**21, 2.0**21, 2.0**22]
    assert same_bits(lib.tonumpy(p), lib.tonumpy(q))
    assert plain.loss_scale == 1.0


def test_the_scale_stays_a_float32() -> None:
    """It neither vanishes, whose inverse would be none, nor becomes infinite, whose gradients would be."""
    optimizer, p = ao.chain(ao.LossScale(initial=2.0**-120, backoff=0.125), ao.SGD()), np.zeros(1)
    scales = []
    for _ in range(5):
        optimizer.update(p, np.array([NAN]))
        scales.append(optimizer.loss_scale)
    assert scales == [2.0**-123, *[2.0**-126] * 4]
    optimizer = ao.chain(ao.LossScale(initial=2.0**120, growth=16.0, interval=1), ao.SGD())
    scales = [optimizer.update(p, p) is p and optimizer.loss_scale for _ in range(4)]
    assert scales == [2.0**124, *[2.0**124] * 3]


def test_schedules_of_a_scale() -> None:
    """Its hyperparameters are those of the step at hand."""
    scaler = ao.LossScale(growth=lambda t: 2.0**t, backoff=0.5, interval=1, initial=1.0)
    optimizer, p = ao.chain(scaler, ao.SGD()), np.zeros(1)
    found = []
    for g in (0.0, 0.0, NAN, 0.0):
        optimizer.update(p, np.array([g]))
        found.append(optimizer.loss_scale)
    scaler.interval = 2.0
    for _ in range(2):
        optimizer.update(p, np.zeros(1))
        found.append(optimizer.loss_scale)
    assert found == [2.0, 8.0, 4.0, 32.0, 32.0, 32.0 * 2.0**5]


def test_a_scale_that_is_set(place: tuple[Library, ao.EngineName | None]) -> None:
    """Before the first update and between two: that of the next loss, exactly undone, and adapted from there on."""
    lib, engine = place
    optimizer = ao.chain(ao.LossScale(interval=2), ao.SGD(1.0), engine=engine)
    w: Any = lib.array([0.0])
    optimizer.loss_scale = 8.0
    scales = []
    for i, g in enumerate((1.0, 1.0, 1.0, NAN, 1.0, 1.0)):
        if i == 3:
            optimizer.loss_scale = 3  # after a good step, which was one of the old scale
        scales.append(optimizer.loss_scale)
        w = optimizer.update(w, lib.array([g * optimizer.loss_scale]))
    scales.append(optimizer.loss_scale)
    assert scales == [8.0, 8.0, 16.0, 3.0, 1.5, 1.5, 3.0]
    assert lib.tonumpy(w)[0] == pytest.approx(-5.0)
    optimizer.loss_scale = np.float32(4.0)  # type: ignore[assignment] # a number all the same
    assert type(optimizer.loss_scale) is float
    assert optimizer.state is not None
    assert optimizer.state.scalars[0]["good"] == 0.0


def test_a_first_scale_that_is_set_travels() -> None:
    """To `init`, and in what is saved of it and shown."""
    optimizer, p = ao.chain(ao.LossScale(), ao.SGD()), np.zeros(1)
    optimizer.loss_scale = 8.0
    assert optimizer.init(p).scalars[0]["scale"] == 8.0
    assert "initial=8.0" in repr(optimizer)
    assert deepcopy(optimizer).loss_scale == 8.0
    other = ao.chain(ao.LossScale(initial=8.0), ao.SGD())
    assert other.load_state_dict(optimizer.state_dict(), p) == []
    with pytest.raises(ValueError, match=r"\['initial'\] is 8.0, not 65536.0"):
        ao.chain(ao.LossScale(), ao.SGD()).load_state_dict(optimizer.state_dict(), p)


def _after(optimizer: Any, *grads: float) -> Any:
    for g in grads:
        optimizer.update(np.zeros(1), np.array([g]))
    return optimizer


SCALES: dict[str, tuple[Callable[[], Any], Any, type[Exception], str]] = {
    "0": (lambda: ao.chain(ao.LossScale(), ao.SGD()), 0.0, ValueError, "is 0.0; wanted above 0 and finite"),
    "0 later": (
        lambda: _after(ao.chain(ao.LossScale(), ao.SGD()), 1.0),
        0.0,
        ValueError,
        "loss_scale is 0.0; wanted above 0 and finite",
    ),
    "infinite": (lambda: _after(ao.chain(ao.LossScale(), ao.SGD()), 1.0), INF, ValueError, "loss_scale is inf"),
    "a text": (lambda: _after(ao.chain(ao.LossScale(), ao.SGD()), 1.0), "8", TypeError, "loss_scale is '8'"),
    "of nobody": (
        ao.SGD,
        8.0,
        ValueError,
        r"loss_scale is that of 0 stages of SGD\(lr=0.01\); wanted one ao.LossScale",
    ),
    "of two": (
        lambda: ao.chain(ao.LossScale(), ao.LossScale(), ao.SGD()),
        8.0,
        ValueError,
        "loss_scale is that of 2 stages",
    ),
    "within a window": (
        lambda: _after(ao.chain(ao.Accumulate(3), ao.LossScale(initial=4.0), ao.SGD()), 1.0, 1.0),
        8.0,
        RuntimeError,
        r"Accumulate\(every=3\) has gathered gradients of 2 updates, of losses times 4; wanted .*flush",
    ),
}


@pytest.mark.parametrize("name", SCALES)
def test_scales_that_can_not_be_set(name: str) -> None:
    """By name, with nothing changed."""
    make, scale, error, match = SCALES[name]
    optimizer = make()
    before = deepcopy((optimizer.state, optimizer.loss_scale))
    with pytest.raises(error, match=match):
        optimizer.loss_scale = scale
    assert equal_states((optimizer.state, optimizer.loss_scale), before)


def test_a_scale_between_windows() -> None:
    """After a step, a flush, or an update without any gradient, which has no scale."""
    optimizer, p = ao.chain(ao.Accumulate(2), ao.LossScale(initial=4.0), ao.SGD(1.0)), {"w": np.zeros(1)}

    def update(g: float | None) -> None:
        optimizer.update(p, {"w": None if g is None else np.array([g])})

    update(4.0)
    update(4.0)
    optimizer.loss_scale = 8.0
    update(8.0)
    optimizer.flush(p)
    optimizer.loss_scale = 16.0
    update(None)
    optimizer.loss_scale = 32.0
    update(64.0)
    assert p["w"].tolist() == [-3.0]


def test_under_jit_the_scale_is_a_number_of_the_state(need: Callable[[str], Library]) -> None:
    """Setting it there would freeze it."""
    lib = need("jax")
    import jax

    optimizer = ao.chain(ao.LossScale(), ao.SGD())

    def set_to(scale: Any) -> Any:
        optimizer.loss_scale = scale
        return scale

    with pytest.raises(TypeError, match="loss_scale is traced"):
        jax.jit(set_to)(lib.array(8.0))
    assert optimizer.loss_scale == 65536.0


@pytest.mark.parametrize("engine", ENGINES)
def test_the_least_scale(engine: ao.EngineName) -> None:
    """It shrinks to it and stays; it is live, and one that was set below it stays where it is."""
    scaler = ao.LossScale(initial=16.0, min_scale=4.0)
    optimizer, p = ao.chain(scaler, ao.SGD(), engine=engine), np.zeros(1)

    def skipped() -> float:
        optimizer.update(p, np.array([NAN]))
        return optimizer.loss_scale

    assert [skipped() for _ in range(3)] == [8.0, 4.0, 4.0]
    scaler.min_scale = 3.0
    assert [skipped() for _ in range(2)] == [3.0, 3.0]
    optimizer.loss_scale = 0.5
    assert skipped() == 0.5
    assert p.tolist() == [0.0]


GATES: dict[str, Callable[..., Any]] = {"LossScale": ao.LossScale, "SkipNonFinite": ao.SkipNonFinite}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # Dask computes both outcomes, in threads of its own
@pytest.mark.covering(1)  # how many there were is for the host to count, by both in one way
@pytest.mark.parametrize("name", GATES)
def test_too_many_skips(name: str, place: tuple[Library, ao.EngineName | None]) -> None:
    """More than so many in a row raise, with nothing moved; who catches it may go on, and good steps begin anew."""
    lib, engine = place
    optimizer = ao.chain(GATES[name](max_consecutive_skips=2), ao.Momentum(1.0), engine=engine)
    params = {"a": lib.array([1.0]), "b": lib.array([2.0])}
    good, bad = ({"a": lib.array([1.0]), "b": lib.array([v])} for v in (1.0, NAN))
    for grads in (good, bad, bad, good, bad, bad):
        optimizer.update(params, grads)
    assert optimizer.state is not None
    before, pure = lib.values((params, optimizer.state[:3])), optimizer.state
    for _ in range(2):
        match = rf"what {name}\(.*max_consecutive_skips=2\) is given for params\['b'\] is not finite, at more updates"
        with pytest.raises(FloatingPointError, match=match):
            optimizer.update(params, bad)
        if not lib.slow:
            with pytest.raises(FloatingPointError, match=match):
                optimizer.step(params, bad, pure)
        assert optimizer.state is not None
        assert _alike(before, lib.values((params, optimizer.state[:3])))
        assert optimizer.state.scalars[0]["consecutive"] == 0.0
        for _ in range(2):
            optimizer.update(params, bad)
    assert optimizer.state is not None
    assert optimizer.state.scalars[0]["skipped"] == 10.0
    assert _offender(optimizer, 0) == "b"
    optimizer.update(params, good)
    assert optimizer.state is not None
    assert (optimizer.state.step, optimizer.state.scalars[0]["consecutive"]) == (3, 0.0)


def test_too_many_skips_of_windows() -> None:
    """The window that can't be saved is dropped, even where no skip is allowed; and the limit is live."""
    gate = ao.SkipNonFinite(max_consecutive_skips=0)
    optimizer, p = ao.chain(ao.Accumulate(2), ao.LossScale(), gate, ao.SGD(1.0)), np.zeros(1)
    optimizer.loss_scale = 1.0
    optimizer.stages[1].max_consecutive_skips = 0
    optimizer.update(p, np.array([NAN]))
    with pytest.raises(FloatingPointError, match=r"what LossScale\(.*max_consecutive_skips=0\) is given for params is"):
        optimizer.update(p, np.array([1.0]))
    assert optimizer.loss_scale == 0.5
    optimizer.update(p, np.array([0.5]))
    optimizer.update(p, np.array([0.5]))
    assert p.tolist() == [-1.0]
    optimizer.stages[1].max_consecutive_skips = 3
    for _ in range(6):
        optimizer.update(p, np.array([NAN]))
    optimizer.update(p, np.array([NAN]))
    with pytest.raises(FloatingPointError):
        optimizer.flush(p)


def test_too_many_skips_under_jit(need: Callable[[str], Library]) -> None:
    """Can't raise; a number of the state says how many there were, and a step without jit raises."""
    lib = need("jax")
    import jax

    optimizer, p = ao.chain(ao.LossScale(max_consecutive_skips=1), ao.SGD(1.0)), {"w": lib.array([1.0])}
    state, bad = optimizer.init(p), {"w": lib.array([INF])}
    for i in range(1, 5):
        p, state = jax.jit(optimizer.step)(p, bad, state)
        assert float(state.scalars[0]["consecutive"]) == i
    with pytest.raises(FloatingPointError):
        optimizer.step(p, bad, state)
    p, state = optimizer.step(p, {"w": lib.array([32768.0 / 8])}, state)
    assert p["w"].tolist() == [0.0]


# Gathering -------------------------------------------------------------------------------------------------------


def _rate(t: Any) -> Any:
    return 0.1 / t


def _gathering(engine: ao.EngineName | None = None, *more: Any, every: Any = 4) -> ao.chain:
    return ao.chain(ao.Accumulate(every), *more, ao.ClipGlobalNorm(1.0), ao.Adam(_rate), ao.EMA(0.5), engine=engine)


@pytest.mark.omit(
    "arrays/test_libraries.py has the dtypes of all",
    lambda place, dtype: place[0] in {"jax-x64", "dask"} and dtype != "float32",
)
@pytest.mark.parametrize("dtype", ["float32", "float16", "complex64"])
def test_gathered_gradients_are_their_mean(place: tuple[Library, ao.EngineName | None], dtype: str) -> None:
    """The bits of steps with the mean, added in turn in the compute dtype; between them nothing moves.

    And the pure form writes to no state that it was given.
    """
    lib, engine = place
    start, more = problem(dtype, lib.steps(8))
    params, *grads = ({k: of[k] for k in ("W", "s")} for of in (start, *more))
    optimizer, means = _gathering(engine), ao.chain(*_gathering().stages[1:], engine=engine)
    p: Any = {k: lib.asarray(a) for k, a in params.items()}
    q: Any = {k: lib.asarray(lib.tonumpy(a)) for k, a in p.items()}
    pure, state = q, optimizer.init(q)
    wide = "complex64" if dtype == "complex64" else "float32"
    sums = {k: np.zeros(a.shape, wide) for k, a in params.items()}
    for i, g in enumerate(grads, 1):
        given = {k: lib.asarray(a) for k, a in g.items()}
        first, (before, held) = state, lib.values((p, state))
        p = optimizer.update(p, given)
        pure, state = optimizer.step(pure, given, state)
        sums = {k: sums[k] + g[k].astype(wide) for k in g}
        assert optimizer.state is not None
        if i % 4 == 0:
            mean = {k: lib.asarray(np.asarray(a * sums[k].real.dtype.type(0.25))) for k, a in sums.items()}
            q = means.update(q, mean)
        trees = (p, optimizer.state), (pure, state), (q, means.state), first
        (new, of), stepped, others, same = lib.values(trees)
        assert _alike((new, of), stepped)
        assert _alike(held, same)
        if i % 4:
            assert _alike(before, new)
            assert optimizer.state[:2] == (i // 4, dict.fromkeys(params, i // 4))
            assert optimizer.state.scalars[0]["gathered"] == i % 4
            assert _alike(of.slots[0]["total"], sums)
        else:
            assert means.state is not None
            assert _alike((new, of.slots[1:]), (others[0], others[1].slots))
            assert optimizer.state[:2] == means.state[:2]
            sums = {k: np.zeros(a.shape, wide) for k, a in params.items()}


def test_optax_multi_steps(need: Callable[[str], Library]) -> None:
    """optax's, around its adam behind a clipping, over 60 gradients: equal to 1e-12."""
    optax = pytest.importorskip("optax")
    params, grads = problem(steps=60)
    with need("jax-x64").context():
        inner = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1, eps=0.0))
        every_k = {"every_k_schedule": lambda step: 3 + step % 2, "accumulator_dtype": "float64"}
        peer = Optax(optax.MultiSteps(inner, **every_k), params)
        peer.steps(grads)

    def every(t: Any) -> Any:
        return 3 + (t - 1) % 2

    optimizer = ao.chain(ao.Accumulate(every), ao.ClipGlobalNorm(0.5), ao.Adam(0.1, eps=0.0))
    for g in grads:
        optimizer.update(params, g)
    for k in params:
        np.testing.assert_allclose(params[k], peer.params[k], rtol=1e-12, atol=1e-12)
    assert optimizer.state is not None
    assert optimizer.state.step == int(peer.state.gradient_step)


@pytest.mark.parametrize("engine", ENGINES)
def test_parameters_without_some_gradients(engine: ao.EngineName) -> None:
    """What is None counts as 0, whenever it is; who has no gradient in a whole window rests, and so may all."""
    optimizer = ao.chain(ao.Accumulate(2), ao.SGD(1.0), engine=engine)
    w = np.zeros(1)
    params = {"a": np.zeros(1), "b": np.zeros(1), "in": w, "out": w, "x": 0.0}

    def one(v: Any) -> Any:
        return np.array([v])

    def update(a: Any, b: Any, out: Any) -> list[float]:
        optimizer.update(params, {"a": a, "b": b, "in": None, "out": out, "x": 1.0})
        return [float(np.asarray(v).ravel()[0]) for v in params.values()]

    assert update(one(2.0), one(4.0), one(6.0)) == [0.0] * 5
    assert update(one(2.0), None, one(2.0)) == [-2.0, -2.0, -4.0, -4.0, -1.0]
    assert update(None, one(8.0), None) == [-2.0, -2.0, -4.0, -4.0, -1.0]
    assert optimizer.state is not None
    assert optimizer.state.pending == {"a": 0, "b": 1, "in": 0, "out": 0, "x": 1}
    assert update(one(6.0), one(2.0), one(2.0)) == [-5.0, -7.0, -5.0, -5.0, -2.0]
    assert update(one(2.0), None, one(1.0)) == [-5.0, -7.0, -5.0, -5.0, -2.0]
    assert optimizer.state.pending == {"a": 1, "b": 0, "in": 1, "out": 1, "x": 1}
    assert update(None, None, one(1.0)) == [-6.0, -7.0, -6.0, -6.0, -3.0]
    assert optimizer.state.t == {"a": 3, "b": 2, "in": 3, "out": 3, "x": 3}
    optimizer.update(params, {"a": one(1.0), "b": None, "in": None, "out": None, "x": None})
    optimizer.update(params, dict.fromkeys(params))
    assert [float(np.asarray(v).ravel()[0]) for v in params.values()] == [-6.5, -7.0, -6.0, -6.0, -3.0]
    assert (optimizer.state.step, optimizer.state.t["a"]) == (4, 4)
    optimizer.update(params, dict.fromkeys(params))
    assert optimizer.state.scalars[0]["gathered"] == 1.0
    before = deepcopy((params, optimizer.state[:3]))
    optimizer.update(params, dict.fromkeys(params))  # a window with nothing in it
    assert equal_states((params, optimizer.state[:3]), before)
    assert optimizer.state.scalars[0] == {"gathered": 0.0, "share": 0.5}
    assert update(one(1.0), one(0.0), one(0.0)) == [-6.5, -7.0, -6.0, -6.0, -3.0]
    assert update(one(0.0), one(0.0), one(0.0)) == [-7.0, -7.0, -6.0, -6.0, -4.0]


def test_containers(lib: Library) -> None:
    """Lists, nests, bare arrays and numbers; where arrays can't be written they are replaced in theirs."""
    one = ao.chain(ao.Accumulate(2), ao.SGD(1.0))
    params: Any = [lib.array([1.0]), {"b": (lib.array([2.0]), 3.0) if lib.writable else [lib.array([2.0]), 3.0]}]
    grads: Any = [lib.array([1.0]), {"b": [lib.array([1.0]), 1.0]}]
    if lib.writable:
        params[1]["b"] = [*params[1]["b"]]
    for _ in range(2):
        assert one.update(params, grads) is params
    assert [float(a) for a in (lib.tonumpy(params[0])[0], lib.tonumpy(params[1]["b"][0])[0], params[1]["b"][1])] == [
        0.0,
        1.0,
        2.0,
    ]
    w: Any = lib.array([1.0])
    two = ao.chain(ao.Accumulate(2), ao.SGD(1.0))
    for _ in range(3):
        w = two.update(w, lib.array([0.5]))
    assert lib.tonumpy(w).tolist() == [0.5]
    with pytest.raises(TypeError, match="step") if not lib.writable else _Nothing():
        ao.chain(ao.Accumulate(2), ao.SGD()).update((lib.array([1.0]),), (lib.array([1.0]),))


class _Nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_gradients_are_the_callers(lib: Library) -> None:
    """Which may be written to between updates."""
    if not lib.writable:
        pytest.skip(f"a {lib.name} array can't be overwritten")
    g = lib.array([1.0, 2.0])
    optimizer, p, q = ao.chain(ao.Accumulate(3), ao.SGD(1.0)), lib.array([0.0, 0.0]), lib.array([0.0, 0.0])
    state = optimizer.init(q)
    for v in (1.0, 2.0, 6.0):
        g[...] = lib.array([v, -v])
        optimizer.update(p, g)
        q, state = optimizer.step(q, g, state)
        g[...] = lib.array([NAN, NAN])
    assert lib.tonumpy(p).tolist() == lib.tonumpy(q).tolist() == [-3.0, 3.0]


def test_gradients_of_one_dtype_and_another(lib: Library) -> None:
    """Whichever engine takes them: on a device that of another dtype is not the one of the steps."""
    dtypes = [d for d in ("float32", "float64", "float16") if d in lib.dtypes]
    optimizer, p = ao.chain(ao.Accumulate(2), ao.Momentum(1.0, 0.5)), {"w": lib.array([0.0, 0.0])}
    m, wanted, total = 0.0, 0.0, 0.0
    for i in range(8):
        optimizer.update(p, {"w": lib.array([i + 1.0] * 2, dtypes[(i + i // 4) % len(dtypes)])})
        total += i + 1
        if i % 2:
            m = 0.5 * m - total / 2
            wanted, total = wanted + m, 0.0
    assert lib.tonumpy(p["w"]).tolist() == [wanted] * 2


def test_updates_that_gather_are_no_steps() -> None:
    """For schedules and for those that call steps off: nothing is known of them."""
    asked: list[int] = []
    seen: list[float] = []

    optimizer = ao.chain(
        ao.Accumulate(2),
        ao.LossScale(interval=2, initial=1.0),
        Seen(seen),
        ao.SGD(lambda t: asked.append(t) or 1.0),  # type: ignore[func-returns-value]
    )
    p = np.zeros(1)
    for g in (1.0, 2.0, NAN, 1.0, 3.0, 3.0):
        optimizer.update(p, np.array([g]))
    assert p[0] == -1.5 - 6.0  # whose scale was halved
    assert ({*asked}, seen) == ({1, 2}, [1.5, 6.0])
    assert optimizer.loss_scale == 0.5


@pytest.mark.covering(1)  # each library and each place in a window: which of them it was is for the host to know
@pytest.mark.parametrize("when", [0, 1, 2])
def test_what_is_not_finite_is_gathered_once(place: tuple[Library, ao.EngineName | None], when: int) -> None:
    """In whichever of three gradients it is: that step is called off, with all three, and the next begins anew."""
    lib, engine = place

    def make() -> Any:
        return ao.chain(ao.Accumulate(3), ao.SkipNonFinite(), ao.ClipGlobalNorm(1.0), ao.Momentum(), engine=engine)

    optimizer, alone = make(), make()
    p, q, pure = ({"a": lib.array([1.0, 2.0]), "b": lib.array([3.0])} for _ in range(3))
    state = optimizer.init(pure)
    good = {"a": lib.array([0.5, 0.25]), "b": lib.array([1.0])}
    for i in range(9):
        g = {**good, "b": lib.array([NAN])} if i == 3 + when else good
        p = optimizer.update(p, g)
        pure, state = optimizer.step(pure, g, state)
        if not 3 <= i < 6:
            q = alone.update(q, g)
    assert _same(lib, p, q)
    assert optimizer.state is not None
    assert alone.state is not None
    assert _same(lib, optimizer.state[:3], alone.state[:3])
    assert _same(lib, (p, optimizer.state), (pure, state))
    assert optimizer.state.scalars[1] == {"skipped": 1.0, "consecutive": 0.0}
    assert _offender(optimizer, 1) == "b"


def test_what_failed_has_not_been_prepared() -> None:
    """An update that is refused when all is laid ready for other parameters leaves slots where they were."""
    optimizer, p = ao.Momentum(1.0), {k: np.zeros(2) for k in "abc"}
    full, some = {k: np.ones(2) for k in "abc"}, {"a": np.ones(2), "b": np.ones(2), "c": None}
    optimizer.update(p, full)
    optimizer.update(p, some)
    optimizer.lr = lambda t: -1.0
    with pytest.raises(ValueError, match=r"lr, from its schedule at step 3, is -1.0"):
        optimizer.update(p, full)
    optimizer.lr = 1.0
    for _ in range(2):
        optimizer.update(p, full)
    assert optimizer.state is not None
    np.testing.assert_allclose(optimizer.state.slots["v"]["a"], [-3.439] * 2, rtol=1e-15)
    np.testing.assert_allclose(optimizer.state.slots["v"]["c"], [-2.71] * 2, rtol=1e-15)


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("engine", [None, *ENGINES])
def test_copies_in_the_middle(engine: ao.EngineName | None, copied: Callable[[Any], Any]) -> None:
    """With a gradient gathered, a scale that has moved and a step skipped: they go on alone, to the same bits."""
    params, grads = problem("float32", steps=14)
    grads[5]["b"][0] = NAN
    optimizer = _gathering(engine, ao.LossScale(interval=1), every=2)
    for g in grads[:9]:
        optimizer.update(params, g)
    twin, other = {k: a.copy() for k, a in params.items()}, copied(optimizer)
    assert other.loss_scale == optimizer.loss_scale == 65536.0 * 4
    assert _offender(other, 1) == "b"
    for g in grads[9:]:
        optimizer.update(params, g)
    for g in grads[9:]:
        other.update(twin, g)
    assert agree(params, twin)
    assert equal_states(optimizer.state, other.state)


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "a shape": ({"a": np.ones(3), "b": np.ones(2)}, ValueError, r"params\['b'\] has shape \(1,\)"),
    "a key": ({"a": np.ones(3), "c": np.ones(1)}, ValueError, r"grads\['b'\] is missing"),
    "a dtype": ({"a": np.ones(3), "b": np.ones(1, int)}, TypeError, r"grads\['b'\] has dtype int64"),
    "a complex": ({"a": np.ones(3), "b": np.ones(1, complex)}, TypeError, "wanted both real or both complex"),
}


@pytest.mark.parametrize("when", ["gathering", "stepping"])
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("engine", [None, *ENGINES])
def test_what_is_refused_gathers_nothing(engine: ao.EngineName | None, name: str, when: str) -> None:
    """Nor counts as an update, nor moves a scale."""
    grads, error, match = REFUSED[name]
    optimizer = _gathering(engine, ao.LossScale(interval=1), every=2)
    params, good = {"a": np.ones(3), "b": np.ones(1)}, {"a": np.full(3, 0.5), "b": np.ones(1)}
    for _ in range(2 if when == "gathering" else 3):
        optimizer.update(params, good)
    before = deepcopy((params, optimizer.state))
    with pytest.raises(error, match=match):
        optimizer.update(params, grads)
    assert equal_states((params, optimizer.state), before)
    optimizer.stages[0].every = lambda t: 0.5
    with pytest.raises(ValueError, match=r"every, from its schedule at step 2, is 0.5; wanted a whole number"):
        optimizer.update(params, good)
    assert equal_states((params, optimizer.state), before)


def test_a_rule_that_fails_leaves_all_as_it_was() -> None:
    """A stage behind the gates and the metrics, at a step of a gathering chain."""

    class Fails(ao.Stage):
        slots = ("s",)
        rule = staticmethod(lambda xp, p, x, s, c: (x, s, s))

    optimizer = ao.chain(ao.Accumulate(2), ao.LossScale(interval=1), ao.Metrics(), Fails(), ao.SGD(), engine="portable")
    p = np.ones(2)
    optimizer.update(p, np.ones(2))
    before = deepcopy((p, optimizer.state))
    with pytest.raises(TypeError, match=r"Fails.* gave 3 arrays; wanted a tuple of 2"):
        optimizer.update(p, np.ones(2))
    assert equal_states((p, optimizer.state), before)
    assert optimizer.last_metrics == {"gradient": {}}
    assert optimizer.loss_scale == 65536.0


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "every 0": (lambda: ao.Accumulate(0), ValueError, "every is 0.0; wanted a whole number, at least 1"),
    "every 2.5": (lambda: ao.Accumulate(2.5), ValueError, "every is 2.5; wanted a whole number, at least 1"),
    "every inf": (lambda: ao.Accumulate(INF), ValueError, "every is inf; wanted a whole number, at least 1"),
    "every None": (lambda: ao.Accumulate(None), TypeError, "every is None; wanted a real number"),  # type: ignore[arg-type]
    "growth": (lambda: ao.LossScale(growth=0.5), ValueError, "growth is 0.5; wanted finite and at least 1"),
    "backoff": (lambda: ao.LossScale(backoff=0.0), ValueError, "backoff is 0.0; wanted above 0 and at most 1"),
    "interval": (lambda: ao.LossScale(interval=0), ValueError, "interval is 0.0; wanted at least 1"),
    "initial": (lambda: ao.LossScale(initial=INF), ValueError, "initial is inf; wanted above 0 and finite"),
    "initial 0": (lambda: ao.LossScale(initial=0), ValueError, "initial is 0.0; wanted above 0 and finite"),
    "min_scale": (lambda: ao.LossScale(min_scale=0), ValueError, r"min_scale is 0.0; wanted finite and at least 2\*\*"),
    "half a skip": (
        lambda: ao.LossScale(max_consecutive_skips=0.5),
        ValueError,
        "max_consecutive_skips is 0.5; wanted a whole number, at least 0, or infinity",
    ),
    "no skip": (
        lambda: ao.SkipNonFinite(max_consecutive_skips=-1),
        ValueError,
        "max_consecutive_skips is -1.0; wanted a whole number, at least 0, or infinity",
    ),
    "not first": (
        lambda: ao.chain(ao.ClipValue(1.0), ao.Accumulate(2), ao.SGD()),
        ValueError,
        r"Accumulate\(every=2\) says which updates are steps; wanted it first",
    ),
    "two": (lambda: ao.chain(ao.Accumulate(2), ao.Accumulate(2), ao.SGD()), ValueError, "wanted it first, before all"),
    "alone": (lambda: ao.chain(ao.SkipNonFinite()), ValueError, "chain was given 0 methods"),
    "an argument": (lambda: ao.SkipNonFinite(3), TypeError, "was given 3; wanted max_consecutive_skips$"),  # type: ignore[call-arg]
}


@pytest.mark.parametrize("name", WRONG)
def test_refusals(name: str) -> None:
    """By name."""
    make, error, match = WRONG[name]
    with pytest.raises(error, match=match):
        make()


STATES: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "none": (lambda n: (), ValueError, "state.scalars is not a tuple of 4, one for each stage of"),
    "too few": (lambda n: n[:3], ValueError, "state.scalars is not a tuple of 4"),
    "of another order": (
        lambda n: (n[1], n[0], *n[2:]),
        ValueError,
        r"state.scalars\[0\] is \{.*'scale'.*\}; wanted a dict with \['gathered', 'share'\] for Accumulate\(every=2\)",
    ),
    "no dict": (lambda n: (n[0], None, *n[2:]), ValueError, r"state.scalars\[1\] is None; wanted a dict with \['cons"),
    "NaN": (
        lambda n: (n[0], {**n[1], "scale": NAN}, *n[2:]),
        ValueError,
        r"state.scalars\[1\]\['scale'\] is nan; wanted above 0 and finite",
    ),
    "no scale": (
        lambda n: (n[0], {**n[1], "scale": 0.0}, *n[2:]),
        ValueError,
        r"state.scalars\[1\]\['scale'\] is 0.0; wanted above 0 and finite",
    ),
    "half an update": (
        lambda n: ({**n[0], "gathered": 0.5}, *n[1:]),
        ValueError,
        r"state.scalars\[0\]\['gathered'\] is 0.5; wanted a whole number, at least 0",
    ),
    "a string": (
        lambda n: ({**n[0], "gathered": "1"}, *n[1:]),
        TypeError,
        r"state.scalars\[0\]\['gathered'\] is '1'; wanted a real number",
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_wrong_states(name: str) -> None:
    """By name, with nothing written."""
    change, error, match = STATES[name]
    optimizer, p = ao.chain(ao.Accumulate(2), ao.LossScale(), ao.SGD(), ao.EMA()), np.ones(2)
    state = optimizer.init(p)
    with pytest.raises(error, match=match):
        optimizer.step(p, np.ones(2), state._replace(scalars=change(state.scalars)))
    assert p.tolist() == [1.0, 1.0]
    restored = state._replace(scalars=[{k: np.float64(v) for k, v in n.items()} for n in state.scalars])
    assert equal_states(optimizer.step(p, np.ones(2), restored), optimizer.step(p, np.ones(2), state))


def test_a_state_without_numbers_has_none() -> None:
    """As before there were any."""
    assert ao.chain(ao.SGD(), ao.EMA()).init(np.ones(1)).scalars == ()
    assert ao.Adam().init(np.ones(1)).scalars == ()


# Under transformations, and what it costs --------------------------------------------------------------------------


def _controlled() -> ao.chain:
    return ao.chain(
        ao.Accumulate(2),
        ao.LossScale(interval=2, initial=4.0),
        ao.SkipNonFinite(),
        ao.ClipGlobalNorm(1.0),
        ao.Adam(lambda t: 0.2 / t),
        ao.EMA(0.5),
    )


def _stream(lib: Library) -> tuple[Any, list[Any]]:
    params, grads = problem("float32", steps=20)
    for i in (1, 6, 13):
        grads[i]["b"][i % 7] = NAN if i % 2 else INF

    def make(tree: Any) -> Any:
        return {k: lib.asarray(a) for k, a in tree.items()}

    return make(params), [make(g) for g in grads]


@pytest.mark.parametrize("name", ["jax", "jax-x64"])
def test_under_jit(name: str, need: Callable[[str], Library]) -> None:
    """Traced once, though scale, counts and outcomes move; agrees with NumPy's run, and so do all numbers."""
    lib = need(name)

    numpy = need("numpy")
    with lib.context():
        (p, grads), (q, same) = _stream(lib), _stream(numpy)
        optimizer, eager, traces = _controlled(), _controlled(), []

        def counted(*given: Any) -> Any:
            traces.append(1)
            return optimizer.step(*given)

        step = quick(counted)
        state = optimizer.init(p)
        for g, h in zip(grads, same, strict=True):
            p, state = step(p, g, state)
            eager.update(q, h)
            assert eager.state is not None
            assert [{k: float(v) for k, v in n.items()} for n in state.scalars] == [*map(dict, eager.state.scalars)]
            assert int(state.step) == eager.state.step
            assert {k: int(v) for k, v in state.t.items()} == eager.state.t
        assert len(traces) == 1
        assert state.scalars[1]["skipped"] == 3
        assert eager.state is not None
        for one, two in zip(
            *(optree.tree_leaves(lib.values(of)) for of in ((p, state.slots), (q, eager.state.slots))), strict=True
        ):
            assert one.dtype == two.dtype
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_in_a_scan(need: Callable[[str], Library]) -> None:
    """A training loop within `jax.lax.scan`: what goes in has the types of what comes out."""
    lib = need("jax")
    import jax
    import jax.numpy as jnp

    (params, grads), (ours, same) = _stream(lib), _stream(need("numpy"))
    optimizer, eager = _controlled(), _controlled()
    stacked = {k: jnp.stack([g[k] for g in grads]) for k in params}
    state = jax.tree.map(jnp.asarray, optimizer.init(params))
    (p, state), _ = jax.lax.scan(
        lambda carry, g: (optimizer.step(carry[0], g, carry[1]), None), (params, state), stacked
    )
    for g in same:
        eager.update(ours, g)
    for k in params:
        np.testing.assert_allclose(p[k], ours[k], rtol=1e-5, atol=1e-5)
    assert float(state.scalars[1]["scale"]) == eager.loss_scale


def test_numbers_of_a_step_that_jit_skips(need: Callable[[str], Library]) -> None:
    """Those of other stages are as before: not what a NaN made of them; a gate behind another isn't asked."""
    lib = need("jax")

    def make() -> Any:
        return ao.chain(Summed(), ao.LossScale(interval=2), Summed(), ao.SkipNonFinite(), Summed(), ao.SGD())

    optimizer, eager, lazy = make(), make(), make()
    step = quick(optimizer.step)
    p: Any = lib.array([1.0, 2.0])
    q, r, state, other = p, p, optimizer.init(p), optimizer.init(p)
    for v in (1.0, NAN, 2.0, INF, 3.0):
        g = lib.array([v, 1.0])
        p, state = step(p, g, state)
        q = eager.update(q, g)
        r, other = lazy.step(r, g, other)
    assert eager.state is not None
    assert other.scalars == eager.state.scalars
    assert [n.get("skipped") for n in other.scalars] == [None, 2.0, None, 0.0, None, None]
    for one, two in zip(state.scalars, other.scalars, strict=True):
        assert {k: float(v) for k, v in one.items()} == pytest.approx(two)


class Summed(ao.Stage):
    """Divides by one more than the sum of all norms so far."""

    scalars = {"total": 0.0}
    reductions = {"norm_of_x": ao.Norm(lambda xp, p, x: x)}
    update_scalars = staticmethod(lambda step, hyper: {"total": hyper.total + hyper.norm_of_x})
    coefficients = staticmethod(lambda t, hyper: {"scale": 1 / (1 + hyper.total)})
    rule = staticmethod(lambda xp, p, x, c: x * c.scale)


def test_lazy_steps(need: Callable[[str], Library]) -> None:
    """On Dask both outcomes are graphs, and the right one comes out."""
    need("dask")
    import dask
    import dask.array as da

    def make() -> Any:
        return ao.chain(ao.SkipNonFinite(), ao.ClipGlobalNorm(1.0), ao.Momentum(0.5))

    optimizer, plain = make(), make()
    p: Any = {"w": da.ones(5, chunks=2), "b": da.ones(3, chunks=3)}
    q: Any = {"w": np.ones(5), "b": np.ones(3)}
    state = optimizer.init(p)
    for v in (1.0, NAN, 2.0):
        p, state = optimizer.step(p, {"w": da.full(5, v, chunks=2), "b": da.ones(3, chunks=3)}, state)
        plain.update(q, {"w": np.full(5, v), "b": np.ones(3)})
    new, after = dask.compute(p, state)
    assert plain.state is not None
    assert agree(new, q)
    assert agree(after.slots, plain.state.slots)
    assert (int(after.step), float(after.scalars[0]["skipped"])) == (2, 1.0)
    assert {k: int(v) for k, v in after.t.items()} == plain.state.t


@pytest.mark.parametrize("engine", ["blocked", "compiled"])
def test_scales_that_move_compile_nothing(engine: ao.EngineName, monkeypatch: pytest.MonkeyPatch) -> None:
    """A norm, a sum and a step are all kernels there are, and a count where a step is called off."""
    watch = Watch(engine, monkeypatch)
    params, grads = problem("float32", steps=20)
    optimizer = ao.chain(
        ao.Accumulate(2), ao.LossScale(interval=1), ao.ClipGlobalNorm(1.0), ao.Momentum(), engine=engine
    )
    for g in grads[:16]:
        optimizer.update(params, g)
    assert len(watch.kernels) == 3
    grads[16]["b"][0] = NAN
    for g in grads[16:]:
        optimizer.update(params, g)
    assert len(watch.kernels) == 4
    assert optimizer.loss_scale == 65536.0 * 2**8


def test_not_in_a_cuda_graph(need: Callable[[str], Library]) -> None:
    """Whether a step is taken is for the host to say: refused by name, where gradients are gathered and at steps."""
    need("cuda-shim")
    machine = shim.install(shim.Machine())
    cases: list[tuple[ao.chain, type[Exception], str]] = [
        (ao.chain(ao.SkipNonFinite(), ao.SGD()), TypeError, r"SkipNonFinite\(\) needs the host at every step"),
        (ao.chain(ao.LossScale(), ao.SGD()), TypeError, r"LossScale\(.*\) needs the host at every step"),
        (ao.chain(ao.ClipNorm(1.0), ao.SGD()), TypeError, r"ClipNorm\(max_norm=1.0\) needs the host at every step"),
        (ao.chain(ao.Metrics(), ao.SGD()), TypeError, r"Metrics\('gradient'\) needs the host at every step"),
        (ao.chain(Summed(), ao.SGD()), TypeError, r"Summed\(\) needs the host at every step"),
        (ao.chain(Closed(), ao.SGD()), TypeError, r"Closed\(\) needs the host at every step"),
        (ao.chain(ao.Accumulate(3), ao.SGD()), RuntimeError, "gradients are accumulated by the host's count"),
        (ao.chain(ao.Accumulate(2), ao.SGD()), TypeError, r"Accumulate\(every=2\) needs the host at every step"),
    ]
    for optimizer, error, match in cases:
        p, g = shim.asarray(np.zeros(2)), shim.asarray(np.ones(2))
        optimizer.update(p, g)
        before, machine.captured = shim.tonumpy(p), []
        try:
            with pytest.raises(error, match=match):
                optimizer.update(p, g)
        finally:
            machine.captured = None
        assert same_bits(shim.tonumpy(p), before)


# Gates of one's own ------------------------------------------------------------------------------------------------


class Closed(ao.Gate):
    """A gate with no numbers, that divides."""

    rule = staticmethod(lambda xp, p, x, c: 1.0 / x)


class Halves(ao.Gate):
    """Divides by ever more each time that a step is called off."""

    scalars = {"by": 1.0}
    coefficients = staticmethod(lambda t, hyper: {"inverse": 1 / hyper.by})
    rule = staticmethod(lambda xp, p, x, c: x * c.inverse)

    @staticmethod
    def update_scalars(step: Any, hyper: Any) -> dict[str, Any]:
        return {"by": hyper.by if hyper.allowed else hyper.by * 2}


@pytest.mark.parametrize("engine", ENGINES)
def test_gates_of_ones_own(engine: ao.EngineName) -> None:
    """Without numbers, and with numbers that its coefficients see as they were before the step."""
    optimizer, p = ao.chain(Closed(), ao.SGD(1.0), engine=engine), np.zeros(2)
    for g in ([0.0, 1.0], [2.0, 4.0], [1.0, 0.0]):
        optimizer.update(p, np.array(g))
    assert p.tolist() == [-0.5, -0.25]
    optimizer, p = ao.chain(Halves(), ao.SGD(1.0), engine=engine), np.zeros(2)
    for v in (1.0, NAN, 1.0, INF, 1.0):
        optimizer.update(p, np.array([v, 1.0]))
    assert p.tolist() == [-1.75, -1.75]


@pytest.mark.parametrize("engine", ENGINES)
def test_numbers_of_ones_own(engine: ao.EngineName) -> None:
    """With totals, beside the sum written out; where nobody moves, no step; a number that is missing."""
    optimizer, p = ao.chain(Summed(), ao.SGD(1.0), engine=engine), {"a": np.zeros(2), "b": np.zeros(1)}
    total, wanted = 0.0, np.zeros(2)
    for v in (1.0, 3.0, 0.5):
        optimizer.update(p, {"a": np.array([v, 0.0]), "b": np.array([v])})
        total += math.sqrt(v * v + v * v)
        wanted -= np.array([v, 0.0]) / (1 + total)
    np.testing.assert_allclose(p["a"], wanted, rtol=1e-14)
    optimizer.update(p, {"a": None, "b": None})
    assert optimizer.state is not None
    assert optimizer.state.scalars[0]["total"] == pytest.approx(total, rel=1e-15)

    class Lacks(ao.Stage):
        scalars = {"a": 0.0, "b": 1.0}
        update_scalars = staticmethod(lambda step, hyper: {"a": hyper.a})
        rule = staticmethod(lambda xp, p, x, c: x)

    with pytest.raises(TypeError, match=r"update_scalars of Lacks\(\) gave \['a'\]; wanted \['a', 'b'\]"):
        ao.chain(Lacks(), ao.SGD()).update(np.zeros(1), np.zeros(1))


def test_numbers_are_floats_whatever_advance_gives() -> None:
    """A NumPy float64 scalar would turn float32 arrays into float64."""

    class Counts(ao.Stage):
        scalars = {"n": 0}
        update_scalars = staticmethod(lambda step, hyper: {"n": np.float64(hyper.n + step)})
        coefficients = staticmethod(lambda t, hyper: {"n": hyper.n})
        rule = staticmethod(lambda xp, p, x, c: x * c.n)

    optimizer, p = ao.chain(Counts(), ao.SGD(1.0), engine="portable"), np.zeros(2, np.float32)
    for _ in range(3):
        p = optimizer.update(p, np.ones(2, np.float32))
    assert p.dtype == np.float32
    assert p.tolist() == [-10.0] * 2
    assert optimizer.state is not None
    assert type(optimizer.state.scalars[0]["n"]) is float


def test_half_precision_is_gathered_in_float32() -> None:
    """A sum of many small gradients would stall in bfloat16."""
    p = np.zeros(3, numpy_dtype("bfloat16"))
    optimizer = ao.chain(ao.Accumulate(300), ao.SGD(1.0))
    for _ in range(300):
        optimizer.update(p, np.full(3, 1.0, p.dtype))
    assert p.astype(float).tolist() == [-1.0] * 3


def test_a_scale_of_ones_own_is_set_after_an_update() -> None:
    """Before it there is nothing to keep the scale in: that is said, and the scale is not lost in silence."""

    class Scaled(ao.Stage):
        scalars = {"scale": 4.0}
        get_loss_scale = staticmethod(lambda *, scale: scale)
        set_loss_scale = staticmethod(lambda to, *, scale: {"scale": to})

        @staticmethod
        def update_scalars(step: Any, hyper: Any) -> dict[str, Any]:
            return {"scale": hyper.scale}

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
            return x / c.scale

    p, optimizer = np.ones(2), ao.chain(Scaled(), ao.SGD(1.0))
    assert optimizer.loss_scale == 4.0
    with pytest.raises(
        RuntimeError, match=r"Scaled\(\) has no scale to begin with; wanted loss_scale set after an update"
    ):
        optimizer.loss_scale = 8.0
    optimizer.update(p, 4.0 * np.ones(2))
    optimizer.loss_scale = 8.0
    optimizer.update(p, 8.0 * np.ones(2))
    assert (optimizer.loss_scale, p.tolist()) == (8.0, [-1.0, -1.0])
    with pytest.raises(ValueError, match=r"loss_scale is 0\.0; wanted above 0"):
        optimizer.loss_scale = 0.0
