"""`update` on JAX arrays: one function that XLA compiles once, with the bits of JAX's own operations one by one."""

from __future__ import annotations

import copy
import gc
import re
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import optree
import pytest

import anyoptim as ao
from tests.support.chains import CHAINS, problem
from tests.support.internals import ENGINES
from tests.support.libraries import DISCOVERED, METHODS, WHOLE, Library, same_bits

pytestmark = pytest.mark.usefixtures("as_users_compile")

CHAINED = [name for name in CHAINS if name not in DISCOVERED]
DTYPES = ("float32", "float16", "bfloat16", "complex64", "float64", "complex128")


def _make(name: str, engine: ao.EngineName | None) -> Any:
    return CHAINS[name](engine) if name in CHAINS else DISCOVERED[name](engine=engine)


def _problem(
    lib: Library, dtype: str = "float32", steps: int = 8, names: str = "Wbs"
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Of as few parameters as will do: for each XLA compiles a rule anew."""
    params, grads = problem("complex128" if "complex" in dtype else "float64", steps=steps)
    return (
        {k: lib.array(params[k], dtype) for k in names},
        [{k: lib.array(g[k], dtype) for k in names} for g in grads],
    )


def _values(tree: Any) -> list[Any]:
    return [np.array(a) for a in optree.tree_leaves(tree)]


def _compiled() -> list[str]:
    """What XLA compiles from now on, by name."""
    import jax

    names: list[str] = []

    def listen(event: str, _: float, **given: Any) -> None:
        if event.endswith("backend_compile_duration"):
            names.append(str(given.get("fun_name", "")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.jit(lambda a: a + 1)(1)
    assert names  # it does listen
    names.clear()
    return names


FEW = ("clip, Adam, EMA", "LAMB")
"""Chains with a norm of all and of each; the others run among the products."""


@pytest.mark.parametrize(
    "name",
    [*METHODS, *(pytest.param(name, marks=() if name in FEW else pytest.mark.product) for name in CHAINS)],
)
def test_the_bits_of_operations_one_by_one(name: str, need: Callable[[str], Library]) -> None:
    """XLA makes one rounding of a product and a sum, and products of quotients, where nothing stands between."""
    lib = need("jax")
    params, grads = _problem(lib, names="Wb" if re.search("clip|decay|Prodigy", name) else "W")
    others = dict(params)
    one, two = _make(name, None), _make(name, "portable")
    for g in grads:
        one.update(params, g)
        two.update(others, g)
    assert one.state is not None
    assert two.state is not None
    assert [share.engine for share in one.explain(params, grads[0])] == ["jax"]
    assert [share.engine for share in two.explain(params, grads[0])] == ["portable"]
    assert all(map(same_bits, _values(params), _values(others)))
    assert all(map(same_bits, _values(one.state.slots), _values(two.state.slots)))
    assert one.state.scalars == two.state.scalars


@pytest.mark.covering(1)  # a dtype is cast before a rule, and a reduction, whichever it is
@pytest.mark.parametrize(
    "dtype",
    ["float16", "complex128", *(pytest.param(of, marks=pytest.mark.product) for of in DTYPES[:5] if of != "float16")],
)
@pytest.mark.parametrize("name", FEW)
def test_every_dtype(name: str, dtype: str, need: Callable[[str], Library]) -> None:
    """Half precision is cast, and complex is two reals: with x64 the numbers of NumPy, to their bits."""
    lib = need("jax-x64")
    with lib.context():
        params, grads = _problem(lib, dtype, names="Ws")
        ours: Any = {k: lib.tonumpy(a).copy() for k, a in params.items()}
        one, two = _make(name, None), _make(name, "portable")
        for g in grads:
            one.update(params, g)
            two.update(ours, {k: lib.tonumpy(a) for k, a in g.items()})
        assert {share.engine for share in one.explain(params, grads[0])} == {"jax"}
        for k, a in ours.items():
            assert same_bits(lib.tonumpy(params[k]), a), k


class Halved(ao.Optimizer):
    """One operation after another that XLA would put together, and a static option that changes with the step."""

    lr: ao.Nonnegative
    slots = ("a", "b", "same")

    @staticmethod
    def coefficients(t: int, hyper: Any) -> dict[str, Any]:
        return {"lr": hyper.lr, "late": t > 2, "big": hyper.lr > 0.5}

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, a: Any, b: Any, same: Any, c: Any) -> Any:
        a = x / xp.sqrt(p * p + 1.0) / (1.5 + xp.abs(x)) + xp.sqrt(b * b + 0.3) * xp.sqrt(x * x)
        b = -(x * p) + xp.where((x > 0) & ~(p > 0), x * a, b * 0.3) - p * 0.7
        x = xp.where(xp.smallest_normal(x) > c.lr, x, xp.maximum(x, -0.5))
        return (c.lr * x if c.late else c.lr * x + 0.25 * p * c.lr), a, b, same


@pytest.mark.telling
def test_rules_that_xla_would_simplify(need: Callable[[str], Library]) -> None:
    """Every operation by itself, conditions of the host among them; a slot that a rule hands through stays."""
    lib = need("jax")
    rng = np.random.default_rng(2)
    params = {"w": lib.array(rng.normal(size=500)), "n": {"s": lib.array(0.5)}, "none": lib.array(np.zeros((0, 3)))}
    others: Any = optree.tree_map(lambda a: a, params)  # type: ignore[arg-type]
    one, two = Halved(lr=0.1), Halved(lr=0.1, engine="portable")
    for _ in range(6):
        g: Any = optree.tree_map(lambda a: lib.array(rng.normal(size=a.shape)), params)  # type: ignore[arg-type]
        one.update(params, g)
        two.update(others, g)
    assert one.state is not None
    assert two.state is not None
    assert all(map(same_bits, _values((params, one.state.slots)), _values((others, two.state.slots))))


def test_compiled_once(need: Callable[[str], Library]) -> None:
    """Whatever the step, lr, a schedule or a norm: nothing of it is compiled in."""
    lib = need("jax")
    params, grads = _problem(lib, steps=12)
    optimizer = ao.chain(
        ao.ClipGlobalNorm(lambda t: 1.0 / t),
        ao.AdamW(lr=0.1),
        ao.groups({"W": {"weight_decay": 0.0}, ...: {}}),
        ao.EMA(0.9),
    )
    twin = copy.deepcopy(optimizer)
    for g in grads[:2]:
        optimizer.update(params, g)
    assert optimizer.groups is not None
    names = _compiled()
    for k, g in enumerate(grads[2:]):
        optimizer.stages[1].lr = 0.01 * (k + 1)
        optimizer.groups["W"]["weight_decay"] = 0.1 * k
        optimizer.update(params, g)
    assert names == []
    # Not another optimizer either, and not after a rest.
    fresh, others = _problem(lib, steps=1)
    twin.update(fresh, others[0])
    assert [name for name in names if "step" in name or "rows_of_leaves" in name] == []
    optimizer.update(params, {**grads[0], "b": None})
    optimizer.update(params, grads[0])
    del names[:]
    optimizer.update(params, grads[0])
    assert names == []


def test_kinds_that_come_and_go_compile_nothing(need: Callable[[str], Library]) -> None:
    """A parameter that rested has a count of its own from then on, and the rest of the step knows nothing of it."""
    lib = need("jax")
    params, grads = _problem(lib)
    optimizer = ao.Adam(lr=0.1)
    for g in grads[:3]:
        optimizer.update(params, g)
    optimizer.update(params, {**grads[3], "b": None})
    names = _compiled()
    optimizer.update(params, grads[4])
    assert [name for name in names if "step" in name] == []
    assert optimizer.state is not None
    assert optimizer.state.t == {"W": 5, "b": 4, "s": 5}


def test_the_pure_form_of_arrays_bound_to_a_device(need: Callable[[str], Library]) -> None:
    """What `init` gives is bound to it as well, as what comes of a step: `jax.jit` compiles once."""
    lib = need("jax")
    import jax

    there = jax.devices()[1]
    params, grads = _problem(lib)
    p: Any = jax.device_put(params, there)
    optimizer = CHAINS["clip, Adam, EMA"](None)
    state, step, names = optimizer.init(p), jax.jit(optimizer.step), _compiled()
    for g in grads:
        p, state = step(p, jax.device_put(g, there), state)
    assert len(names) == 1
    assert {a.device for a in jax.tree.leaves((p, state))} == {there}


def test_slots_are_used_up_and_parameters_are_not(need: Callable[[str], Library]) -> None:
    """The user's other references stay, and the gradients; memory of the slots is taken for the new ones."""
    lib = need("jax")
    params, grads = _problem(lib)
    optimizer = ao.Adam()
    held = []
    for g in grads:
        held.append((dict(params), [np.array(a) for a in params.values()]))
        before = optimizer.state
        optimizer.update(params, g)
        if before is not None:
            assert all(a.is_deleted() for slot in before.slots.values() for a in slot.values())
    for old, values in held:
        assert all(map(same_bits, map(np.asarray, old.values()), values))
    assert not any(a.is_deleted() for g in grads for a in g.values())


def test_a_step_that_is_compiled_first_copies_the_slots(need: Callable[[str], Library]) -> None:
    """While XLA compiles, an exception may come: the slots of before are there until it has, at any step."""
    lib = need("jax")
    import jax

    params, grads = _problem(lib)
    optimizer = ao.Adam()
    for g in grads[:4]:
        optimizer.update(params, g)
    # Bound to a device, as the others are not.
    there, names = [jax.device_put(g, jax.devices()[0]) for g in grads], _compiled()
    for g, alive in ((grads[4], False), (there[5], True), (there[6], True), (there[7], False)):
        before = optimizer.state
        assert before is not None
        names.clear()
        optimizer.update(params, g)
        slots = [a for slot in before.slots.values() for a in slot.values()]
        assert {a.is_deleted() for a in slots} == {not alive}
        assert alive or names == []


def test_an_array_swapped_after_many_steps_alike(need: Callable[[str], Library]) -> None:
    """The next step has the bits of one that nothing was laid ready for, and keeps no array of before alive."""
    lib = need("jax")
    params, grads = _problem(lib)
    others, optimizer, afresh = dict(params), ao.Adam(lr=0.1), ao.Adam(lr=0.1)
    for k, g in enumerate(grads):
        old = weakref.ref(params["b"])
        if k == 5:
            params["b"] = params["b"] + 0
        optimizer.update(params, g)
        afresh = copy.deepcopy(afresh)
        afresh.update(others, g)
        gc.collect()
        assert k < 5 or old() is None
    assert all(map(same_bits, _values(params), _values(others)))


@pytest.mark.parametrize("lr", [1e-40, 0.0])
def test_small_numbers_at_a_replay(lr: float, need: Callable[[str], Library]) -> None:
    """XLA takes subnormal numbers for 0: a step like the last one, too, has the smallest that is none of them."""
    lib = need("jax")
    w, g = {"w": lib.array([0.0, 1.0])}, {"w": lib.array([2.0**100, 2.0**100])}
    optimizer = ao.SGD(lr=lambda t: lr if t > 3 else 1.0)
    for _ in range(3):
        optimizer.update(w, {"w": lib.array([0.0, 0.0])})
    optimizer.update(w, g)
    assert np.asarray(w["w"]).tolist() == [-(2.0**-26) if lr else 0.0, np.float32(1 - (2.0**-26 if lr else 0))]


def test_numbers_kept_and_one_array_of_two_names(need: Callable[[str], Library]) -> None:
    """Steps laid ready keep a method's numbers, which depend on sums over all arrays; both names have the new array."""
    lib = need("jax")
    params, grads = _problem(lib, names="bs")
    params["tied"] = params["b"]
    others, optimizer, afresh = dict(params), ao.Prodigy(), ao.Prodigy()
    for g in grads:
        optimizer.update(params, {**g, "tied": None})
        afresh = copy.deepcopy(afresh)
        afresh.update(others, {**g, "tied": None})
        assert params["tied"] is params["b"]
        assert optimizer.state is not None
        assert afresh.state is not None
        assert optimizer.state.scalars == afresh.state.scalars
    assert optimizer.state is not None
    assert afresh.state is not None
    assert all(map(same_bits, _values((params, optimizer.state.slots)), _values((others, afresh.state.slots))))


class Resting(ao.Optimizer):
    """A method whose second slot stays as it is where a group says so."""

    lr: ao.Nonnegative = 0.1
    still: ao.Nonnegative = 0.0
    slots = ("m", "v")

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"lr": hyper.lr, "rests": hyper.still > 0}

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, m: Any, v: Any, c: Any) -> tuple[Any, ...]:
        m = m + x
        return c.lr * (m + v), m, v if c.rests else v + x * x


def test_some_leaves_change_as_a_whole(need: Callable[[str], Library]) -> None:
    """One has a slot that stays, others have none; each reads an array of its own beside them."""
    lib = need("jax")
    params, grads = _problem(lib)
    lrs = {k: np.full(np.shape(a), 0.25 + i, np.float32) for i, (k, a) in enumerate(params.items())}
    both = []
    for of in (lib, need("numpy")):
        own = {k: of.array(np.asarray(a), "float32") for k, a in params.items()}
        rates = {k: of.array(a, "float32") for k, a in lrs.items()}
        optimizer = ao.chain(Resting(lr=rates), ao.groups({"W": {"still": 1.0}, ...: {}}))
        for g in grads:
            optimizer.update(own, {k: of.array(np.asarray(a), "float32") for k, a in g.items()})
        assert optimizer.state is not None
        both.append(_values((own, optimizer.state.slots)))
    assert all(map(same_bits, *both))


class Shared(ao.Momentum):
    """Slots that start as an array of somebody else's."""

    start: Any = None

    def init_slots(self, xp: Any, p: Any) -> tuple[Any, ...]:
        return (Shared.start,)


def test_slots_of_other_hands_are_copied_first(need: Callable[[str], Library]) -> None:
    """Those that a method starts with may be kept elsewhere, or be one array for several parameters."""
    lib = need("jax")
    Shared.start = lib.array([1.0, 2.0])
    params = {"a": lib.array([1.0, 1.0]), "b": lib.array([1.0, 1.0])}
    optimizer = Shared()
    for _ in range(3):
        optimizer.update(params, dict(params))
    assert Shared.start.tolist() == [1.0, 2.0]


def test_memory_of_numpy_is_not_written_to(need: Callable[[str], Library]) -> None:
    """JAX takes a NumPy array of a good address as it is: as a slot, it would be donated with what NumPy sees."""
    need("jax")
    import jax.numpy as jnp

    for n in (16, 4096, 100_000):
        raw = np.ones(n, np.float32)
        Shared.start = jnp.asarray(raw)
        params = {"a": jnp.zeros(n, jnp.float32)}
        optimizer = Shared()
        for _ in range(2):
            optimizer.update(params, {"a": jnp.ones(n, jnp.float32)})
        assert raw.min() == raw.max() == 1


def test_nothing_is_kept_alive(need: Callable[[str], Library]) -> None:
    """After several steps, too: no gradient, and no parameter of before."""
    lib = need("jax")
    params = {"w": lib.array([1.0, 2.0]), "layers": [{"b": lib.array([1.0])}]}
    optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam())
    for _ in range(3):
        g = {"w": lib.array([1.0, 1.0]), "layers": [{"b": lib.array([1.0])}]}
        old = [weakref.ref(a) for a in (g["w"], params["w"], params["layers"][0]["b"])]
        optimizer.update(params, g)
        del g
        gc.collect()
        assert [ref() for ref in old] == [None] * 3


def test_parameters_that_the_user_changes_between_steps(need: Callable[[str], Library]) -> None:
    """An array that was replaced, one whose gradient is elsewhere in dtype, and one with a new shape: all are seen."""
    lib = need("jax")
    params = {"w": lib.array([1.0, 2.0]), "b": lib.array([3.0])}
    numpy = {k: np.array(a) for k, a in params.items()}
    one, two = ao.Momentum(lr=0.1), ao.Momentum(lr=0.1)
    for k in range(6):
        if k % 2:
            params["w"], numpy["w"] = params["w"] * 2, numpy["w"] * 2
        g = {"w": lib.array([1.0, 0.5], "float16" if k == 4 else "float32"), "b": None if k == 3 else lib.array([1.0])}
        one.update(params, g)
        two.update(numpy, {n: None if a is None else np.array(a) for n, a in g.items()})
    for n, a in numpy.items():
        assert same_bits(np.asarray(params[n]), a)
    with pytest.raises(ValueError, match=r"params\['w'\] has shape \(2,\) but grads\['w'\] has shape \(3,\)"):
        one.update(params, {"w": lib.array([1.0, 2.0, 3.0]), "b": None})
    params["w"] = lib.array([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"params\['w'\] is a jax array of shape \(3,\)"):
        one.update(params, {"w": lib.array([1.0, 2.0, 3.0]), "b": None})


def test_accumulated_gradients(need: Callable[[str], Library]) -> None:
    """Totals are made between steps, and a step takes those of now; so does one after a step that was called off."""
    lib = need("jax")
    params, grads = _problem(lib, steps=14)
    grads[6]["W"] = grads[6]["W"].at[0, 0].set(np.nan)
    others = dict(params)

    def make(engine: ao.EngineName | None) -> ao.Optimizer:
        return ao.chain(ao.Accumulate(2), ao.SkipNonFinite(), ao.Adam(lr=0.1), ao.EMA(0.9), engine=engine)

    one, two = make(None), make("portable")
    for g in grads:
        one.update(params, g)
        two.update(others, g)
    assert one.state is not None
    assert two.state is not None
    assert all(map(same_bits, _values((params, one.state.slots)), _values((others, two.state.slots))))
    assert one.state.scalars == two.state.scalars
    assert one.state.scalars[1]["skipped"] == 1


def test_beside_other_libraries(need: Callable[[str], Library]) -> None:
    """JAX, NumPy, a number and Dask in one container, clipped by one norm: each by its engine."""
    lib, dask = need("jax"), need("dask")
    rng = np.random.default_rng(8)

    def draw() -> dict[str, Any]:
        a, b, c = (rng.normal(size=3).astype(np.float32) for _ in range(3))
        return {"j": lib.array(a), "n": b, "f": float(c[0]), "d": dask.array(c)}

    params = draw()
    numpy = {k: np.asarray(v.compute() if k == "d" else v).copy() for k, v in params.items()}
    one = ao.chain(ao.ClipGlobalNorm(0.5), ao.Momentum(lr=0.1))
    two = ao.chain(ao.ClipGlobalNorm(0.5), ao.Momentum(lr=0.1))
    for _ in range(4):
        g = draw()
        one.update(params, g)
        two.update(numpy, {k: np.asarray(v.compute() if k == "d" else v) for k, v in g.items()})
    found = {share.parameters: share.engine for share in one.explain(params, params)}
    assert found[("j",)] == "jax"
    for k, a in numpy.items():
        np.testing.assert_allclose(params[k], a, rtol=1e-6)


@pytest.mark.parametrize("name", WHOLE)
def test_reasons(name: str, need: Callable[[str], Library]) -> None:
    """Why not this engine: what is asked for, rules of whole arrays, and what is traced."""
    lib = need("jax")
    import jax

    p = {"w": lib.array([[1.0, 2.0]])}
    (share,) = DISCOVERED[name]().explain(p, p)
    assert (share.engine, share.reason) == ("portable", f"{name} works on whole arrays")
    (share,) = ao.SGD(engine="portable").explain(p, p)
    assert (share.engine, share.reason) == ("portable", "engine='portable'")
    (share,) = ao.SGD(engine="jax").explain({"w": np.ones(2)}, {"w": np.ones(2)})
    assert (share.engine, share.reason) == ("portable", "engine='jax'")
    seen: list[ao.Share] = []

    def look(p: Any) -> Any:
        seen.extend(ao.SGD().explain(p, p))
        return p

    jax.jit(look)(p)
    assert [(s.engine, s.reason) for s in seen] == [("portable", "it is traced")]


def test_a_rule_that_no_kernel_can_do(need: Callable[[str], Library]) -> None:
    """Refused by name before anything moves."""
    lib = need("jax")

    class Branching(ao.SGD):
        @staticmethod
        def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
            return x if c.lr > 0.5 else c.lr * x

    optimizer, params = Branching(lr=0.1), {"w": lib.array([1.0])}
    with pytest.raises(TypeError, match=r"Branching.rule does what no kernel can: it branches"):
        optimizer.update(params, dict(params))
    assert optimizer.state is None
    assert params["w"].tolist() == [1.0]


def test_devices_and_divided_arrays(need: Callable[[str], Library]) -> None:
    """Of several devices, divided or not, in one container: each stays where it is, with its slots."""
    lib = need("jax")
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    one, two = jax.devices()[:2]
    mesh = Mesh(np.array([one, two]), ("d",))
    rng = np.random.default_rng(4)
    places = {
        "free": None,
        "first": one,
        "second": two,
        "rows": NamedSharding(mesh, PartitionSpec("d")),
        "columns": NamedSharding(mesh, PartitionSpec(None, "d")),
        "copies": NamedSharding(mesh, PartitionSpec()),
    }

    def draw() -> tuple[Any, Any]:
        arrays = {k: rng.normal(size=(4, 6)).astype(np.float32) for k in places}
        return {k: a if places[k] is None else jax.device_put(a, places[k]) for k, a in arrays.items()}, arrays

    params, numpy = draw()
    params["free"] = lib.asarray(params["free"])
    make = CHAINS["clip, Adam, EMA"]
    ours, theirs = make(None), make("portable")
    for _ in range(4):
        g, h = draw()
        g["free"] = lib.asarray(g["free"])
        ours.update(params, g)
        theirs.update(numpy, h)
    assert ours.state is not None
    for k, where in places.items():
        for a in (params[k], *(s[k] for of in ours.state.slots for s in of.values())):
            if isinstance(where, NamedSharding):
                assert a.sharding.is_equivalent_to(where, a.ndim), k
            else:
                assert a.committed == (where is not None), k
                assert where is None or a.devices() == {where}, k
        np.testing.assert_allclose(params[k], numpy[k], rtol=1e-5, atol=1e-6)
    assert {s.engine for s in ours.explain(params, g)} == {"jax"}


def test_compile_passes_its_arrays_over(need: Callable[[str], Library], monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA compiles at the first step: no loop is compiled that could not take them, and Numba is not asked for."""
    p = need("jax").asarray(np.ones(3, np.float32))
    monkeypatch.setattr(ENGINES["compiled"], "precompile", None)
    monkeypatch.setattr(ENGINES["compiled"], "missing", lambda: "there is none")
    ao.SGD().compile({"w": p})
