"""Every method on every library and dtype: its own arrays back, and the numbers of NumPy.

A method does the same operations wherever its arrays are: that it does so on every library and in every dtype,
`test_equals_numpy_step_by_step` proves. The other tests are of libraries and of methods, and have each of both once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import array_api_compat as compat
import numpy as np
import pytest

import anyoptim as ao
from anyoptim import _arrays
from anyoptim._arrays import library, named, register
from anyoptim._arrays._numpy import NumPy
from tests.support.engines import dropout_on
from tests.support.libraries import COMPLEX, HALF, PAIRS, REAL, Library, dtypes, numpy_dtype, same_bits

pytestmark = pytest.mark.usefixtures("quickly")

STEPS = 6
"""Each begins anew, from NumPy's own state: so each is a sample of its own."""
SHAPES = {"W": (3, 4), "scale": (), "none": (0, 2)}
COMPUTE = {"float16": "float32", "bfloat16": "float32"}


def _random(rng: np.random.Generator, dtype: str) -> dict[str, np.ndarray[Any, Any]]:
    def one(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        a = rng.normal(size=shape)
        if dtype in COMPLEX:
            a = a + 1j * rng.normal(size=shape)
        return np.asarray(a, numpy_dtype(dtype))

    return {key: one(shape) for key, shape in SHAPES.items()}


def _leaves(state: ao.State) -> Iterator[Any]:
    for slot in state.slots.values():
        yield from slot.values()


def _real(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    a = np.ascontiguousarray(a)
    return a.view(a.real.dtype) if np.iscomplexobj(a) else a


def _ulps(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], scale: np.ndarray[Any, Any]) -> float:
    """The largest distance, in units of the last place of the larger of b and `scale`, element by element."""
    a, b, scale = _real(a), _real(b), _real(scale)
    unit = np.spacing(np.maximum(np.abs(b), np.abs(scale)))
    wide = np.float64
    return float(np.max(np.abs(a.astype(wide) - b.astype(wide)) / unit.astype(wide), initial=0))


@pytest.mark.parametrize("dtype", HALF + REAL + COMPLEX)
def test_equals_numpy_step_by_step(lib: Library, method: type[Any], dtype: str) -> None:
    """From NumPy's own parameters and slots, each step: the same bits where the library's arithmetic is IEEE's.

    And where NumPy works on its arrays. Elsewhere at most 2 units in the last place of the larger of the parameter
    before and after. JAX flushes subnormals; torch's own float32 square root, which bfloat16 tensors meet, is 1 ulp
    off, and the quotient and the difference round after it.
    A half-precision parameter is rounded once more, and may fall to the other side: 2 of its own units. AdaDelta keeps
    the square of a quotient of two roots: their 2 units and the quotient's, doubled, and the square's own.
    """
    most = 8 if method is ao.AdaDelta else 2
    rng = np.random.default_rng(3)
    optimizer = method(lr=0.1)
    expected = _random(rng, dtype)
    exact = lib.exact or dtype in lib.reached
    state = optimizer.init(expected)
    for _ in range(lib.steps(STEPS)):
        grads = _random(rng, dtype)
        before = expected
        slots = {name: {k: lib.asarray(np.array(s)) for k, s in slot.items()} for name, slot in state.slots.items()}
        ours, ours_after = optimizer.step(
            {k: lib.asarray(p) for k, p in expected.items()},
            {k: lib.asarray(g) for k, g in grads.items()},
            ao.State(state.step, state.t, slots),
        )
        ours, ours_after = lib.computed((ours, ours_after))
        expected, state = optimizer.step(expected, grads, state)
        for key in expected:
            ours_key = lib.tonumpy(ours[key])
            assert (ours_key.dtype, ours_key.shape) == (expected[key].dtype, expected[key].shape)
            if exact:
                assert same_bits(ours_key, expected[key]), key
            elif dtype in HALF:
                p, q = (np.asarray(a[key], np.float32) for a in (before, expected))
                unit = 2.0 ** (-10 if dtype == "float16" else -7) * np.maximum(abs(p), abs(q))
                assert np.all(abs(np.asarray(ours_key, np.float32) - q) <= 2 * unit), key
            else:
                assert _ulps(ours_key, expected[key], before[key]) <= 2, key
        for a, b in zip(map(lib.tonumpy, _leaves(ours_after)), _leaves(state), strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert same_bits(a, b) if exact else _ulps(a, b, b) <= most


@pytest.mark.parametrize("dtype", HALF + REAL + COMPLEX)
@pytest.mark.parametrize(("lib", "method"), PAIRS, indirect=True)
def test_gives_each_library_its_own_arrays_back(lib: Library, method: type[ao.Optimizer], dtype: str) -> None:
    """Type, dtype, shape and device stay; writable arrays stay the same objects; slots have the compute dtype."""
    rng = np.random.default_rng(4)
    params = {k: lib.asarray(a) for k, a in _random(rng, dtype).items()}
    before = dict(params)
    optimizer = method()
    for _ in range(3):
        optimizer.update(params, {k: lib.asarray(a) for k, a in _random(rng, dtype).items()})
    assert optimizer.state is not None
    for key, p in before.items():
        assert (params[key] is p) == lib.writable
        assert type(params[key]) is type(p)
        assert params[key].shape == p.shape
        assert params[key].dtype == p.dtype
        assert library(p).device(params[key]) == library(p).device(p)
    for s, key in zip(_leaves(optimizer.state), list(before) * len(method.slots), strict=True):
        assert s.shape == before[key].shape
        assert str(s.dtype).rpartition(".")[2] == COMPUTE.get(dtype, dtype)


@pytest.mark.covering(1)
@pytest.mark.omit("these compute with NumPy itself", lambda lib, **_: lib in {"numpy", "dask"})
def test_nothing_goes_through_numpy(lib: Library, method: type[ao.Optimizer], monkeypatch: pytest.MonkeyPatch) -> None:
    """With every way out to NumPy barred, an array that isn't NumPy's is updated all the same."""
    rng = np.random.default_rng(5)
    params, grads = ({k: lib.asarray(a) for k, a in _random(rng, "float32").items()} for _ in range(2))

    def barred(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("an array was converted to NumPy")

    kind = type(params["W"])
    # Strict's memory is looked up through DLPack, which copies nothing.
    exits = ("__array__", "numpy", "tolist", "item", "__float__", "get", *(["__dlpack__"] * (lib.name != "strict")))
    for name in exits:
        if inspect.getattr_static(kind, name, None) is not None:
            monkeypatch.setattr(kind, name, barred)
    # Torch's memory on the CPU is NumPy's as well, and the faster engines write to it there.
    dropout_on("portable", monkeypatch)
    layer, optimizer = ao.Dropout(0.3), method(engine="portable")
    for _ in range(2):
        optimizer.update(params, {k: layer.forward(g) for k, g in grads.items()})


@pytest.mark.covering(1)
@pytest.mark.omit("it has no half-precision floats", lambda lib, **_: not set(HALF) & set(dtypes(lib)))
def test_half_precision_computes_in_float32(lib: Library, method: type[Any]) -> None:
    """A step of a half-precision parameter is the float32 step, rounded once: what NumPy gives for the widened run."""
    rng = np.random.default_rng(6)
    for dtype in set(HALF) & set(lib.dtypes):
        narrow = rng.normal(size=(50,)).astype(numpy_dtype(dtype))
        grad = rng.normal(size=(50,)).astype(np.float32)  # a gradient of another real dtype is cast
        optimizer = method(lr=0.01)
        ours, _ = optimizer.step(lib.asarray(narrow), lib.asarray(grad), optimizer.init(lib.asarray(narrow)))
        wide = narrow.astype(np.float32)
        expected, _ = optimizer.step(wide, grad, optimizer.init(wide))
        rounded = expected.astype(numpy_dtype(dtype))
        different = np.asarray(lib.tonumpy(ours), np.float32) != np.asarray(rounded, np.float32)
        # Where a library is an ulp of float32 off, one element in some 2**13 may round the other way.
        assert different.sum() <= (0 if lib.exact else 1)


@pytest.mark.covering(1)
def test_complex_is_two_reals(lib: Library, method: type[Any]) -> None:
    """A complex64 run equals the float32 run of its real and imaginary parts laid side by side."""
    rng = np.random.default_rng(7)
    z = _random(rng, "complex64")["W"]
    pair = {"real": lib.asarray(z.real.copy()), "imag": lib.asarray(z.imag.copy())}
    whole = {"z": lib.asarray(z)}
    one, two = method(lr=0.1), method(lr=0.1)
    for _ in range(lib.steps(10)):
        g = _random(rng, "complex64")["W"]
        one.update(whole, {"z": lib.asarray(g)})
        two.update(pair, {"real": lib.asarray(g.real.copy()), "imag": lib.asarray(g.imag.copy())})
    result = lib.tonumpy(whole["z"])
    np.testing.assert_array_equal(result.real, lib.tonumpy(pair["real"]))
    np.testing.assert_array_equal(result.imag, lib.tonumpy(pair["imag"]))


def _elsewhere(name: str) -> Callable[[Any], Any]:
    """What puts values on a device that is not the default."""
    if name == "strict":
        import array_api_strict as strict

        return lambda a: strict.asarray(a, device=strict.Device("device1"))
    import jax

    return lambda a: jax.device_put(a, jax.devices()[1])


@pytest.mark.covering(1)
@pytest.mark.parametrize(
    "of", [(name, dtype) for name in ("strict", "jax") for dtype in ("float32", "complex64")], ids="-".join
)
def test_everything_stays_on_its_device(
    of: tuple[str, str], method: type[ao.Optimizer], need: Callable[[str], Library]
) -> None:
    """On a device that is not the default: parameters, slots, Dropout, and operations with coefficients.

    Most methods with strict, which lets no operation have arrays of two devices.
    """
    name, dtype = of
    need(name)
    put = _elsewhere(name)
    params = {k: put(a) for k, a in _random(np.random.default_rng(18), dtype).items()}
    device = compat.device(params["W"])

    class Clipped(method):  # type: ignore[misc, valid-type]
        @staticmethod
        def rule(xp: Any, p: Any, x: Any, *slots_and_c: Any) -> Any:
            return method.rule(xp, p, xp.minimum(xp.maximum(x, -1.0), 1.0), *slots_and_c)

    optimizer, layer = Clipped(), ao.Dropout(inverted=True)
    for _ in range(2):
        grads = {k: put(a) for k, a in _random(np.random.default_rng(19), dtype).items()}
        optimizer.update(params, {k: layer.backward(layer.forward(g)) for k, g in grads.items()})
    assert optimizer.state is not None
    assert {compat.device(a) for a in (*params.values(), *_leaves(optimizer.state), layer.mask)} == {device}
    assert device != compat.device(need(name).array([1.0]))


@pytest.mark.covering(1)
@pytest.mark.omit("it has no float16", lambda lib, **_: "float16" not in dtypes(lib))
def test_a_scalar_gradient_keeps_the_compute_dtype(lib: Library, method: type[ao.Optimizer]) -> None:
    """A Python float that float16 would round to zero reaches a float16 parameter's float32 slots."""
    params = {"x": lib.array(1.0, "float16")}
    optimizer = method()
    optimizer.update(params, {"x": 1e-8})
    twin = method()
    twin.update({"x": lib.array(1.0)}, {"x": lib.array(1e-8)})
    assert optimizer.state is not None
    assert twin.state is not None
    both = [[lib.tonumpy(a) for a in _leaves(state)] for state in (optimizer.state, twin.state)]
    assert all(map(same_bits, *both))
    assert not both[0] or any(a != 0 for a in both[0])


def test_division_among_workers_is_the_parameters(need: Callable[[str], Library]) -> None:
    """Dask's chunks and JAX's sharding are the parameter's, whatever the gradient's."""
    need("dask")
    import dask.array as da

    params, optimizer = {"w": da.ones((4, 4), chunks=(2, 2))}, ao.Momentum()
    optimizer.update(params, {"w": da.ones((4, 4), chunks=(1, 4))})
    assert optimizer.state is not None
    slot = optimizer.state.slots["v"]["w"]
    assert params["w"].chunks == slot.chunks == ((2, 2), (2, 2))
    assert len(dict(slot.dask)) == 4  # computed, not waiting

    need("jax")
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    rows, copies = NamedSharding(mesh, PartitionSpec("d")), NamedSharding(mesh, PartitionSpec())
    for ours, theirs in ((rows, copies), (copies, rows)):
        params = {"w": jax.device_put(np.ones((4, 2), np.float32), ours)}
        optimizer = ao.Momentum()
        for _ in range(2):
            optimizer.update(params, {"w": jax.device_put(np.ones((4, 2), np.float32), theirs)})
        assert optimizer.state is not None
        for a in (params["w"], optimizer.state.slots["v"]["w"]):
            assert a.sharding.is_equivalent_to(ours, a.ndim)


def test_a_number_too_large_for_its_parameter_is_infinite(need: Callable[[str], Library]) -> None:
    """A Python float for a float16 scalar of another library overflows without a word."""
    lib = need("jax")
    p = ao.SGD().update({"x": lib.array(1.0, "float16")}, {"x": 1e300})["x"]
    assert lib.tonumpy(p) == -np.inf


def test_complex_keeps_signed_zeros_and_infinities(need: Callable[[str], Library]) -> None:
    """Parts are joined without arithmetic, which would make NaN of inf*1j and +0 of -0."""
    for name in ("numpy", "torch", "jax", "dask"):
        lib = need(name)
        p = ao.SGD(lr=1.0).update(
            {"z": lib.array([1 + 1j, 1 + 1j], "complex64")},
            {"z": lib.array([complex(1, np.inf), complex(np.inf, 1)], "complex64")},
        )
        z = lib.tonumpy(p["z"])
        assert z[0] == complex(0, -np.inf), name
        assert z[1] == complex(-np.inf, 0), name


def test_a_library_from_outside_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that registers has its own arrays, also of a type that was met before, and no others."""

    class Marked(np.ndarray[Any, Any]):
        pass

    class Outside(NumPy):
        name = "outside"

        @classmethod
        def namespace(cls, x: Any) -> Any:
            return np if isinstance(x, Marked) else None

    monkeypatch.setattr(_arrays, "_LIBRARIES", [*_arrays._LIBRARIES])
    monkeypatch.setattr(_arrays, "_BY_TYPE", {})
    x = np.zeros(2).view(Marked)
    assert library(x).name == "numpy"
    register(Outside)
    register(Outside)
    assert _arrays._LIBRARIES.count(Outside) == 1
    assert library(x).name == "outside"
    assert library(x) is library(x[:1])
    assert library(np.zeros(2)).name == "numpy"
    assert named("outside") is Outside


def test_only_jax_is_known_to_be_compiled_by_xla() -> None:
    """JAX alone wants dtypes in a state, too; a library of no known name is taken as the standard describes it."""
    names = ("numpy", "torch", "torch DTensor", "cupy", "dask", "array_api_strict", "jax")
    assert [name for name in names if named(name).compiled_by_xla] == ["jax"]
    assert [name for name in names if named(name).states_need_dtypes] == ["jax"]
