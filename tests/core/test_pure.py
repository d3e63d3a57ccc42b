"""The pure form: init and step, alone, under jax.jit and on lazy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optree
import pytest

import anyoptim as ao
from tests.support.libraries import Library, same_bits

pytestmark = pytest.mark.usefixtures("quickly")


def _problem(lib: Library) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rng = np.random.default_rng(9)

    def draw() -> dict[str, Any]:
        return {"W": lib.array(rng.normal(size=(2, 3))), "layers": [{"b": lib.array(rng.normal(size=3))}]}

    return draw(), [draw() for _ in range(5)]


def _values(lib: Library, tree: Any) -> list[Any]:
    return optree.tree_leaves(lib.values(tree))


@pytest.mark.covering(1)  # method and library meet in arrays/test_libraries.py, whose steps are pure ones
def test_step_equals_update_and_writes_nothing(lib: Library, method: type[ao.Optimizer]) -> None:
    """The same numbers and the same state, out of arguments that stay as they were."""
    params, grads = _problem(lib)
    grads = grads[: lib.steps(5)]
    start = _values(lib, params)
    optimizer = method()
    new, state = params, optimizer.init(params)
    for g in grads:
        before = _values(lib, (new, state.slots))
        newer, after = optimizer.step(new, g, state)
        assert all(map(same_bits, _values(lib, (new, state.slots)), before))
        new, state = newer, after
    assert all(map(same_bits, _values(lib, params), start))
    assert optimizer.state is None
    for g in grads:
        optimizer.update(params, g)
    assert optimizer.state is not None
    one, two = lib.values(((params, optimizer.state.slots), (new, state.slots)))
    assert all(map(same_bits, optree.tree_leaves(one), optree.tree_leaves(two)))
    assert optimizer.state[:2] == state[:2]
    assert optree.tree_structure(optimizer.state) == optree.tree_structure(state)


def test_the_state_of_a_stateful_run_is_a_state_to_step_from(lib: Library) -> None:
    """`optimizer.state` and `step` join the two forms."""
    params, grads = _problem(lib)
    one, two = ao.Adam(), ao.Adam()
    twin: Any = optree.tree_map(lambda a: lib.asarray(lib.tonumpy(a)), params)  # type: ignore[arg-type]
    for g in grads[:3]:
        one.update(params, g)
        two.update(twin, g)
    assert two.state is not None
    new, _ = ao.Adam().step(twin, grads[3], two.state)
    one.update(params, grads[3])
    assert all(map(same_bits, _values(lib, params), _values(lib, new)))


def test_immutable_containers_and_floats() -> None:
    """Tuples of floats come back as tuples of floats."""
    optimizer = ao.SGD(lr=0.5)
    params, state = optimizer.step((1.0, (2.0, None)), (1.0, (2.0, None)), optimizer.init((1.0, (2.0, None))))
    assert params == (0.5, (1.0, None))
    assert state == ao.State(1, (1, (1, None)), {})


def test_tied_arrays_stay_tied(lib: Library) -> None:
    """One array under two names comes back as one array under two names."""
    w = lib.array([1.0])
    optimizer = ao.Adam()
    params, _ = optimizer.step({"a": w, "b": w}, {"a": w, "b": None}, optimizer.init({"a": w, "b": w}))
    assert params["a"] is params["b"]


def test_jit_compiles_once_and_agrees(need: Callable[[str], Library]) -> None:
    """Under `jax.jit` the rule is traced once for all steps, and agrees with the eager run. All do in test_jax.py.

    To 1e-5: XLA contracts multiply-add, and the powers of beta are float32 there; over 30 steps of 0.1 that is
    a few hundred roundings of 6e-8.
    """
    lib = need("jax")
    import jax

    params, grads = _problem(lib)
    traces = []

    class Counted(ao.Adam):
        @staticmethod
        def rule(*args: Any) -> Any:
            if hasattr(args[1], "shape"):  # and not what records the rule, to see that any engine could run it
                traces.append(args)
            return ao.Adam.rule(*args)

    optimizer, eager = Counted(lr=0.1), ao.Adam(lr=0.1)
    compiled = jax.jit(optimizer.step)
    new, state = params, optimizer.init(params)
    for k in range(30):
        new, state = compiled(new, grads[k % 5], state)
        eager.update(params, grads[k % 5])
    assert len(traces) == 2  # one for each of two parameters
    for a, b in zip(_values(lib, new), _values(lib, params), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert int(state.step) == 30


def test_scan_and_a_schedule(need: Callable[[str], Library]) -> None:
    """A whole training loop inside `jax.lax.scan`, with a traced schedule, agrees with the eager loop (as above)."""
    lib = need("jax")
    import jax
    import jax.numpy as jnp

    optimizer = ao.Adam(lr=lambda t: 0.1 / (1.0 + 0.1 * t))
    params = {"w": lib.array([1.0, -2.0])}

    def one(carry: Any, _: Any) -> Any:
        p, state = carry
        return optimizer.step(p, {"w": 2 * p["w"]}, state), None

    state = jax.tree.map(jnp.asarray, optimizer.init(params))
    (scanned, _), _ = jax.lax.scan(one, (params, state), length=20)
    for _ in range(20):
        optimizer.update(params, {"w": 2 * params["w"]})
    np.testing.assert_allclose(scanned["w"], params["w"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["jax", "jax-x64"])
def test_a_strongly_typed_step_count_widens_nothing(name: str, need: Callable[[str], Library]) -> None:
    """A step count restored as an array gives coefficients that are cast to the compute dtype."""
    lib = need(name)
    with lib.context():
        import jax.numpy as jnp

        optimizer = ao.Adam()
        p = {"w": lib.array([1.0]), "h": lib.array([1.0], "float16")}
        state = optimizer.init(p)._replace(step=jnp.asarray(0), t={"w": jnp.asarray(0), "h": jnp.asarray(0)})
        import jax

        new, after = jax.jit(optimizer.step)(p, p, state)
        assert [str(a.dtype) for a in (new["w"], new["h"])] == ["float32", "float16"]
        assert {str(a.dtype) for slot in after.slots.values() for a in slot.values()} == {"float32"}


def test_powers_of_beta_near_one_under_jit(need: Callable[[str], Library]) -> None:
    """1 - beta**t keeps its digits in float32, where beta**t itself would round them away."""
    lib = need("jax")
    import jax

    optimizer, p = ao.Adam(lr=1.0, beta1=0.0, beta2=1 - 1e-6), {"w": lib.array([1.0])}
    compiled = jax.jit(optimizer.step)
    new, state = compiled(p, p, optimizer.init(p))
    # The first step is lr*g/|g| for any beta2: here the root of a2 cancels against that of 1 - beta2.
    np.testing.assert_allclose(new["w"], [0.0], atol=1e-3)
    assert int(state.step) == 1


def test_beta_zero_under_jit(need: Callable[[str], Library]) -> None:
    """The logarithm of beta = 0 is minus infinity, and 1 - 0**t is 1 all the same."""
    lib = need("jax")
    import jax

    optimizer, p = ao.Adam(lr=0.1, beta1=0.0, beta2=0.0), {"w": lib.array([1.0, -1.0])}
    new, _ = jax.jit(optimizer.step)(p, p, optimizer.init(p))
    np.testing.assert_allclose(new["w"], [0.9, -0.9], rtol=1e-6)


def test_lazy_steps_compute_nothing(method: type[ao.Optimizer], need: Callable[[str], Library]) -> None:
    """On Dask the pure form only builds a graph; asked for, it gives NumPy's bits."""
    lib = need("dask")
    import dask
    import dask.array as da

    def fails(block: Any) -> Any:
        raise AssertionError("computed too early")

    params = {"w": lib.array([[1.0, 2.0, 3.0]])}
    optimizer = method()
    bomb = params["w"].map_blocks(fails, dtype="float32", meta=np.empty((0, 0), "float32"))
    new, state = optimizer.step(params, {"w": bomb}, optimizer.init(params))
    new, state = optimizer.step(new, params, state)
    assert isinstance(new["w"], da.Array)
    assert new["w"].chunks == params["w"].chunks
    with pytest.raises(AssertionError, match="computed too early"):
        dask.compute(new["w"])
    good, _ = optimizer.step(params, params, optimizer.init(params))
    w = lib.tonumpy(params["w"])
    expected, _ = optimizer.step(w, w, optimizer.init(w))
    assert same_bits(good["w"].compute(), expected)
