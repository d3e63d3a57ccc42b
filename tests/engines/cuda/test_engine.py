"""The CUDA engine on a device that is none: bits, launches, memory, and what it leaves to others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import optree
import pytest

import anyoptim as ao
from anyoptim._engines import Dispatch
from anyoptim._engines.cuda._source import CHUNK
from tests.support import shim
from tests.support.chains import CHAINS, agree, matrices, run
from tests.support.internals import checks
from tests.support.layouts import hostile
from tests.support.libraries import COMPLEX, HALF, METHODS, REAL, Library, numpy_dtype, same_bits

Arrays = dict[str, Any]
PORTABLE: ao.EngineName = "portable"
Make = Callable[[ao.EngineName | None], ao.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    **{name: lambda e, method=method: method(lr=0.1, engine=e) for name, method in METHODS.items()},  # type: ignore[misc]
    **CHAINS,
}
KINDS = [*{len(method.slots): name for name, method in reversed(METHODS.items())}.values(), *CHAINS]
"""For what the engine does alike for all rules: a method of each number of slots, and the chains."""
PASSES = {name: len(make(None)._pipeline.branch.program.reductions) for name, make in OPTIMIZERS.items()}
ASKED = {name: [of for s in make(None).stages for of in s.reductions.values()] for name, make in OPTIMIZERS.items()}
ON_HOST = {
    name: sum(bool(of.functions) and not (isinstance(of, ao.Norm) and of.over == "all") for of in asked)
    for name, asked in ASKED.items()
}
"""How many of these the host makes of the sums of blocks: all but norms of all parameters."""
QUICK = [name for name in KINDS if not ON_HOST[name]]
"""Those of which nobody waits for the device."""
FEW = ["SGD", "Adan", "two slots of one name", "LAMB", "Prodigy"]
"""For what takes long: a rule without slots and one of many; a norm of all, of each array, and sums."""
KINDS_IN_TURN = [pytest.param(name, marks=() if name in FEW else pytest.mark.product) for name in KINDS]
"""Those few each time, and all among the products."""
SHAPES: dict[str, tuple[int, ...]] = {"W": (7, 9), "b": (1023,), "n.b": (1025,), "s": (), "none": (0,), "empty": (3, 0)}


@pytest.fixture(autouse=True)
def machine(need: Callable[[str], Library], monkeypatch: pytest.MonkeyPatch) -> Iterator[shim.Machine]:
    """A device, which is none, of this test's own."""
    need("cuda-shim")
    # As for libraries of devices: NumPy's arrays are not theirs.
    monkeypatch.setattr(shim.Library, "is_plain_gradient", lambda self, x, p: False)
    yield shim.install(shim.Machine())
    shim.install(shim.Machine())


@pytest.fixture
def lazy() -> shim.Machine:
    """One whose work waits."""
    return shim.install(shim.Machine(eager=False))


def placed(a: Any, offset: int = 0) -> Any:
    """The values on the device, so many real numbers behind a multiple of 16 bytes, with others' memory around."""
    a = np.asarray(a)
    words = np.full(a.nbytes + 128, 0x5A, np.uint8).view(shim.Array)
    start = -words.ctypes.data % 16 + 32 + offset * a.real.itemsize
    found = words[start : start + a.nbytes].view(a.dtype).reshape(a.shape, order="F" if a.flags.fnc else "C")
    found[...] = a
    return found


def whole(a: Any) -> bool:
    """Whether what lies around a placed array is as it was."""
    words = a
    while words.base is not None and (words.dtype != np.uint8 or isinstance(words.base, shim.Array)):
        words = words.base
    words = np.array(words).view(np.uint8)
    return bool((words == 0x5A).sum() >= words.size - a.nbytes)


def _leaves(*trees: Any) -> list[Any]:
    return [leaf for tree in trees for leaf in optree.tree_leaves(tree)]


def there(tree: Any, offset: int = 0) -> Any:
    return optree.tree_map(lambda a: placed(a, offset), tree)


def back(tree: Any) -> Any:
    return optree.tree_map(shim.tonumpy, tree)


Shapes = Mapping[str, tuple[int, ...]]


def drawn(rng: np.random.Generator, dtype: str, shapes: Shapes, scale: float = 1.0) -> Arrays:
    with np.errstate(all="ignore"):
        parts = {k: np.asarray(rng.normal(size=s) + 1j * rng.normal(size=s)) * scale for k, s in shapes.items()}
        return {k: np.asarray(a if "complex" in dtype else a.real).astype(numpy_dtype(dtype)) for k, a in parts.items()}


def hostile_tree(rng: np.random.Generator, dtype: str) -> Arrays:
    """Zeros of both signs, subnormals, infinities, NaN, and magnitudes from 1e-38 to 1e38."""
    of = "float32" if dtype == "bfloat16" else dtype
    with np.errstate(all="ignore"):
        return {k: hostile(rng, s, of).astype(numpy_dtype(dtype)) for k, s in SHAPES.items()}


def same(make: Make, params: Any, grads: list[Any], offsets: tuple[int, int] = (0, 0)) -> ao.Optimizer:
    """The engine's parameters and slots after these steps are those of portable on NumPy; all else is untouched."""
    expected = run(make("portable"), optree.tree_map(np.copy, params), grads)
    optimizer = make(None)
    p, gs = there(params, offsets[0]), [there(g, offsets[1]) for g in grads]
    found = run(optimizer, p, gs)
    shim.machine().finish()
    assert agree(back(found), expected)
    assert all(map(whole, _leaves(p, *gs)))
    assert all(agree(back(a), b) for a, b in zip(gs, grads, strict=True))
    return optimizer


EVERY = {"Adam", "Adan", "clip, Adam, EMA", "LAMB"}
"""Those with all kinds of operations, in each dtype: the others run in float32, and in the rest among the products."""


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=() if dtype == "float32" or name in EVERY else pytest.mark.product)
        for name in OPTIMIZERS
        for dtype in (*HALF, *REAL)
    ],
)
def test_bits(name: str, dtype: str, machine: shim.Machine) -> None:
    """From subnormal to huge gradients, and on hostile values; one launch for all arrays, one more for a reduction."""
    _bits(name, dtype, machine)


@pytest.mark.covering(1)  # the kernels are those of reals
@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in EVERY else pytest.mark.product) for name in OPTIMIZERS]
)
def test_bits_of_complex_arrays(name: str, dtype: str, machine: shim.Machine) -> None:
    """Which are reals, twice as many."""
    _bits(name, dtype, machine)


def _bits(name: str, dtype: str, machine: shim.Machine) -> None:
    rng, count = np.random.default_rng(40), 16  # past the last step at which a rule becomes another
    low, high = (-8, 4) if dtype == "float16" else (-44, 30)
    powers = [*np.linspace(low, high, count - 6), *rng.uniform(low, high, 6)]
    steps = [drawn(rng, dtype, SHAPES, 10.0**power) for power in powers]
    optimizer = same(OPTIMIZERS[name], drawn(rng, dtype, SHAPES), steps)
    kinds = Counter(kernel.rpartition("_")[2] for kernel, _ in machine.launches)
    assert kinds.pop("coefficients", 0) <= count * PASSES[name]
    together = PASSES[name] - ON_HOST[name]
    wanted = {"reduction": count * PASSES[name], "halve": count * together, "root": count * together}
    assert kinds == {"rule": count, **{kind: n for kind, n in wanted.items() if n}}
    start, *steps = [hostile_tree(rng, dtype) for _ in range(6)]
    same(OPTIMIZERS[name], start, steps)
    (share,) = optimizer.explain(there(start), there(start))
    assert (share.engine, share.reason) == ("cuda", None)


LENGTHS = [m + d for m in (4, 256, 1024, 2048, CHUNK, 2 * CHUNK) for d in (-1, 0, 1)]


@pytest.mark.parametrize("offsets", [(0, 0), (1, 0), (0, 1), (1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("name", ["Adam", "clip, Momentum, clip"])
def test_bits_around_chunks_and_at_any_address(name: str, dtype: str, offsets: tuple[int, int]) -> None:
    """Lengths beside those of vectors, blocks and chunks; views that begin anywhere, as `flat[1:]` does."""
    rng = np.random.default_rng(41)
    shapes: dict[str, tuple[int, ...]] = {str(n): (n,) for n in LENGTHS}
    same(OPTIMIZERS[name], drawn(rng, dtype, shapes), [drawn(rng, dtype, shapes) for _ in range(3)], offsets)


_ALIGNED = """
from tests.support import shim
shim.COMMAND = (*shim.COMMAND, "-fsanitize=alignment", "-fsanitize-undefined-trap-on-error")
from tests.engines.cuda import test_engine as t
shim.install()
for dtype in ("float16", "float32", "float64"):
    for offsets in [(0, 0), (1, 0), (0, 1), (1, 1), (2, 2)]:
        t.test_bits_around_chunks_and_at_any_address("Adam", dtype, offsets)
print("done")
"""


def test_vectors_lie_at_multiples_of_16_bytes() -> None:
    """Which a device asks for, and a sanitizer here: in a process of its own, which a fault would end."""
    found = subprocess.run([sys.executable, "-c", _ALIGNED], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "done\n"), found.stderr


@pytest.mark.parametrize("name", [FEW[0], *(pytest.param(name, marks=pytest.mark.product) for name in FEW[1:])])
def test_a_thousand_arrays_in_one_launch(name: str, machine: shim.Machine) -> None:
    rng = np.random.default_rng(42)
    shapes: Shapes = {f"{i}{'b' if i % 3 else ''}": (int(n),) for i, n in enumerate(rng.integers(0, 40, size=1000))}
    same(
        OPTIMIZERS[name],
        drawn(rng, "float32", shapes),
        [drawn(rng, "float32", shapes) for _ in range(2 - bool(PASSES[name]))],
    )
    rules = [blocks for kernel, blocks in machine.launches if kernel.endswith("_rule")]
    assert rules == [sum(0 not in shape for shape in shapes.values())] * (2 - bool(PASSES[name]))


@pytest.mark.parametrize("name", KINDS_IN_TURN)
def test_several_dtypes(name: str, machine: shim.Machine) -> None:
    """One launch each; the norm is that of all."""
    rng = np.random.default_rng(43)

    dtypes = (*HALF, *REAL, *COMPLEX)

    def draw() -> Any:
        return {dtype: drawn(rng, dtype, {"W": (5, 300), "b": (7,)}) for dtype in dtypes}

    optimizer = same(OPTIMIZERS[name], draw(), [draw() for _ in range(4)])
    rules = [kernel for kernel, _ in machine.launches if kernel.endswith("_rule")]
    assert len(rules) == 4 * len(dtypes)
    (share,) = optimizer.explain(there(draw()), there(draw()))
    assert share.engine == "cuda"


_ORDER = "its gradient isn't contiguous in the same order"
_GAPS = "it isn't contiguous"
_DTYPE = "its gradient has another dtype, float{}"
Change = Callable[[Any], Any]
LAYOUTS: dict[str, tuple[Change, Change, str | None, str | None]] = {
    # Of the parameter, of its gradient; why not, and why not where there is a reduction.
    "Fortran": (lambda a: a.copy(order="F"), lambda a: a.copy(order="F"), None, "it isn't contiguous in C order"),
    "another order": (np.copy, lambda a: a.copy(order="F"), _ORDER, _ORDER),
    "the other order": (lambda a: a.copy(order="F"), np.copy, _GAPS, _GAPS),  # for portable's slots are in C order
    "strided": (lambda a: np.repeat(a, 2, 1)[:, ::2], np.copy, _GAPS, _GAPS),
    "a strided gradient": (np.copy, lambda a: np.repeat(a, 2, 1)[:, ::2], _ORDER, _ORDER),
    "reversed": (np.copy, lambda a: a[::-1], _ORDER, _ORDER),
    "another dtype": (np.copy, lambda a: a.astype("f8"), _DTYPE.format(64), _DTYPE.format(64)),
    "half": (np.copy, lambda a: a.astype("f2"), _DTYPE.format(16), _DTYPE.format(16)),
    "a half": (lambda a: a.astype("f2"), np.copy, _DTYPE.format(32), _DTYPE.format(32)),
    "locked": (lambda a: _locked(a.copy()), np.copy, None, None),  # replaced by one that is not
}


def _locked(a: Any) -> Any:
    a.flags.writeable = False
    return a


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["Adam", "clip, Adam, EMA"])
def test_what_others_take(name: str, layout: str, first: bool, machine: shim.Machine) -> None:
    """From the first step, or after good ones: the same bits, the other parameters with the engine, and the reason."""
    of_p, of_x, *reasons = LAYOUTS[layout]
    reason = reasons[bool(PASSES[name])]
    rng = np.random.default_rng(44)
    shapes: dict[str, tuple[int, ...]] = {"W": (5, 7), "b": (7,)}
    start = drawn(rng, "float32", shapes)
    grads = [drawn(rng, "float32", shapes) for _ in range(6)]
    found = []
    kinds: list[tuple[ao.EngineName | None, Any]] = [("portable", np.ndarray), (None, shim.Array)]
    for engine, kind in kinds:

        def view(a: Any, kind: Any = kind) -> Any:
            return a.view(kind)

        optimizer = OPTIMIZERS[name](engine)
        params = {k: view(of_p(a.copy()) if k == "W" else a.copy()) for k, a in start.items()}
        for k, g in enumerate(grads):
            special = first or k > 2
            optimizer.update(params, {"W": view((of_x if special else of_p)(g["W"])), "b": view(g["b"])})
        assert optimizer.state is not None
        found.append(back((params, optimizer.state.slots)))
        last = {"W": view(of_x(grads[-1]["W"])), "b": view(grads[-1]["b"])}
        told = {name: s for s in optimizer.explain(params, last) for name in s.parameters}
    assert agree(*found)
    assert (told["b"].engine, told["b"].reason) == ("cuda", None)
    assert (told["W"].engine, told["W"].reason) == ("portable" if reason else "cuda", reason)


@pytest.mark.parametrize("name", KINDS_IN_TURN)
def test_gradients_that_are_none(name: str, machine: shim.Machine) -> None:
    """Each parameter has its own step count, and each count a row; static options that differ, a launch each."""
    rng = np.random.default_rng(45)
    params = drawn(rng, "float32", SHAPES)
    grads = []
    for k in range(12):
        g = drawn(rng, "float32", SHAPES)
        grads.append({key: None if k % (i + 2) == 0 else a for i, (key, a) in enumerate(g.items())})
    expected = run(OPTIMIZERS[name]("portable"), {k: a.copy() for k, a in params.items()}, grads)
    p, gs = there(params), [{k: g if g is None else placed(g) for k, g in of.items()} for of in grads]
    assert agree(back(run(OPTIMIZERS[name](None), p, gs)), expected)
    assert all(map(whole, p.values()))
    rules = [kernel for kernel, _ in machine.launches if kernel.endswith("_rule")]
    assert len(rules) == 11 if name != "two slots of one name" else 11 < len(rules) <= 22


def test_static_options_of_some_parameters_that_change(machine: shim.Machine) -> None:
    """Two launches while they differ, each for its own, with the parameters that move being the same all the time."""
    rng = np.random.default_rng(57)
    params = drawn(rng, "float32", SHAPES)
    grads = [
        {k: None if n < 2 and k in {"b", "s"} else a for k, a in drawn(rng, "float32", SHAPES).items()}
        for n in range(8)
    ]
    expected = run(CHAINS["two slots of one name"]("portable"), {k: a.copy() for k, a in params.items()}, grads)
    gs = [{k: g if g is None else placed(g) for k, g in of.items()} for of in grads]
    assert agree(back(run(CHAINS["two slots of one name"](None), there(params), gs)), expected)
    assert sum(kernel.endswith("_rule") for kernel, _ in machine.launches) == 2 + 1 + 2 * 2 + 3


def test_tables_have_room(machine: shim.Machine) -> None:
    """While one row becomes forty."""
    rng = np.random.default_rng(58)
    shapes: Shapes = {str(k): (3,) for k in range(40)}
    params = drawn(rng, "float32", shapes)
    draws = [drawn(rng, "float32", shapes) for _ in range(45)]
    grads = [{k: a if int(k) <= n else None for k, a in g.items()} for n, g in enumerate(draws)]
    gs = [{k: g if g is None else placed(g) for k, g in of.items()} for of in grads]
    found = back(run(ao.Adam(), there(params), gs))
    assert agree(found, run(ao.Adam(engine="portable"), params, grads))


TIES: dict[str, Callable[[Any, Any], Any]] = {
    "the same": lambda a, b: {"W": a, "b": b, "tied": a},
    "a view of all": lambda a, b: {"W": a, "b": b, "tied": a[:]},
}


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("name", KINDS)
def test_tied_parameters(name: str, tie: str) -> None:
    rng = np.random.default_rng(46)
    params = drawn(rng, "float64", {"W": (4, 5), "b": (3,)})
    grads = [{**drawn(rng, "float64", {"W": (4, 5), "b": (3,)}), "tied": None} for _ in range(5)]
    found = []
    for engine, put in ((PORTABLE, np.copy), (None, placed)):
        p = TIES[tie](put(params["W"]), put(params["b"]))
        gs = [{k: None if g is None else put(g) for k, g in of.items()} for of in grads]
        found.append(back(run(OPTIMIZERS[name](engine), p, gs)))
    assert agree(*found)


INSIDE: dict[str, Callable[[ao.State | None, Any], Any]] = {
    "itself": lambda state, base: base[:40],
    "the other": lambda state, base: base[60:100],
    "before and in it": lambda state, base: base[41:81],
    "its last element": lambda state, base: base[99:139],
    "the first's last element": lambda state, base: base[39:79],
    "its first element": lambda state, base: base[21:61],
    "a slot": lambda state, base: base[45:85] if state is None else state.slots["m"]["a"],
    "another's slot": lambda state, base: base[45:85] if state is None else state.slots["v"]["b"],
}


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("name", INSIDE)
def test_gradients_in_memory_that_is_written(name: str, before: int) -> None:
    """They are read before anything is written there, at the first step and after good ones."""
    rng = np.random.default_rng(47)
    start, good = rng.normal(size=150).astype("f4"), [rng.normal(size=(2, 40)).astype("f4") for _ in range(8)]
    found = []
    for engine, put in ((PORTABLE, np.copy), (None, shim.asarray)):
        base, optimizer = put(start), ao.Adam(lr=0.1, engine=engine)
        params = {"a": base[:40], "b": base[60:100]}
        for g in good[:before]:
            optimizer.update(params, dict(zip("ab", put(g), strict=True)))
        for g in good[before:5]:
            inside = INSIDE[name](optimizer.state, base)
            inside = inside.copy() if engine and "slot" in name and before else inside
            optimizer.update(params, {"a": put(g[0]), "b": inside if engine is None else inside.copy()})
            optimizer.update(params, {"a": INSIDE[name](optimizer.state, base), "b": put(g[1])})
        found.append(back((base, optimizer.state.slots)))  # type: ignore[union-attr]
    assert agree(*found)


def _overlap(a: Any, b: Any) -> bool:
    return bool(np.may_share_memory(a, b))


@pytest.mark.parametrize("before", [0, 3])
def test_gradients_are_copied_only_where_something_is_written(
    before: int, machine: shim.Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly those that share an element with a parameter or slot, of this dtype or of another."""
    base = np.zeros(200, "f4").view(shim.Array)
    params = {"a": base[:40], "b": base[80:120], "c": np.zeros(20).view(shim.Array)}
    copies: list[Any] = []
    real = shim.Library.copied

    def copied(self: Any, x: Any) -> Any:
        copies.append(x)
        return real(self, x)

    monkeypatch.setattr(shim.Library, "copied", copied)
    for at in range(161):
        optimizer = ao.Momentum(lr=0.0)
        for _ in range(before):
            optimizer.update(params, {k: shim.asarray(np.zeros(a.shape, a.dtype)) for k, a in params.items()})
        copies.clear()
        window = base[at : at + 40]
        wide = base[at // 2 * 2 :][:40].view("f8")
        optimizer.update(params, {"a": shim.asarray(np.zeros(40, "f4")), "b": window, "c": wide})
        wanted = [x for x in (window, wide) if any(_overlap(x, p) for p in params.values())]
        assert {id(x) for x in copies} == {id(x) for x in wanted}, at


def test_a_gradient_of_one_dtype_in_memory_of_another(machine: shim.Machine) -> None:
    """The launch for float32 comes first, and would write what the one for float64 reads."""
    found = []
    for engine, put in ((PORTABLE, np.copy), (None, shim.asarray)):
        params = {"a": put(np.linspace(1, 2, 40, dtype="f4")), "b": put(np.ones(20))}
        optimizer = ao.SGD(lr=0.5, engine=engine)
        for _ in range(3):
            optimizer.update(params, {"a": put(np.ones(40, "f4")), "b": params["a"].view("f8")})
        found.append(back(params))
    assert agree(*found)


@pytest.mark.parametrize("name", KINDS)
def test_the_pure_form_writes_nothing(name: str) -> None:
    """And gives what update gives, with the engine."""
    rng = np.random.default_rng(48)
    start, grads = drawn(rng, "complex64", SHAPES), [drawn(rng, "complex64", SHAPES) for _ in range(4)]
    expected = run(OPTIMIZERS[name]("portable"), {k: a.copy() for k, a in start.items()}, grads)
    optimizer = OPTIMIZERS[name](None)
    params: Any = there(start)
    state = optimizer.init(params)
    for g in grads:
        before = back((params, state, g))
        kept, given = (params, state), there(g)
        params, state = optimizer.step(params, given, state)
        assert agree(back((*kept, given)), before)
    assert agree(back((params, state.slots)), expected)
    assert len([k for k, _ in shim.machine().launches if k.endswith("_rule")]) == 4


def test_engines_by_name(machine: shim.Machine) -> None:
    """Those of this machine's memory take nothing of a device, and the device's nothing of this machine."""
    for engine in ("portable", "blocked", "compiled"):
        p, g = shim.asarray(np.ones(3)), shim.asarray(np.ones(3))
        (share,) = ao.SGD(engine=engine).explain(p, g)
        assert (share.engine, share.reason) == ("portable", f"engine={engine!r}")
        ao.SGD(lr=0.5, engine=engine).update(p, g)
        assert p.tolist() == [0.5] * 3
    assert not machine.launches
    for either in ("cuda", None):
        (share,) = ao.SGD(engine=either).explain(shim.asarray(np.ones(3)), shim.asarray(np.ones(3)))
        assert (share.engine, share.reason) == ("cuda", None)
    (share,) = ao.SGD(engine="cuda").explain(np.ones(3), np.ones(3))
    assert share == ao.SGD().explain(np.ones(3), np.ones(3))[0]
    assert share.engine != "cuda"
    assert ao.SGD(lr=0.5, engine="cuda").update(np.ones(3), np.ones(3)).tolist() == [0.5] * 3
    assert not machine.launches


def test_another_engine_in_mid_training() -> None:
    """Changes no bit."""
    rng = np.random.default_rng(49)
    start, grads = drawn(rng, "float32", SHAPES), [drawn(rng, "float32", SHAPES) for _ in range(6)]
    expected = run(ao.Adam(engine="portable"), {k: a.copy() for k, a in start.items()}, grads)
    p, optimizer = there(start), ao.Adam()
    engines: list[ao.EngineName | None] = ["cuda", "cuda", "portable", "portable", None, "cuda"]
    for g, engine in zip(grads, engines, strict=True):
        optimizer.engine = engine
        optimizer.update(p, there(g))
    assert agree(back((p, optimizer.state.slots)), expected)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", KINDS)
def test_compile_does_all_at_once(name: str, machine: shim.Machine) -> None:
    """After it a first step compiles nothing of the rules."""
    rng = np.random.default_rng(50)
    p, optimizer = there(drawn(rng, "float32", SHAPES)), OPTIMIZERS[name](None)
    optimizer.compile(p)
    machine.loaded.clear()
    optimizer.update(p, there(drawn(rng, "float32", SHAPES)))
    assert {*machine.loaded} <= {"coefficients"}


# Streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUICK)
def test_fifty_steps_that_wait(name: str, lazy: shim.Machine) -> None:
    """Nothing that the device still reads is written again, and nobody waits for it."""
    rng = np.random.default_rng(51)
    steps = [drawn(rng, "float32", SHAPES) for _ in range(50)]
    start = drawn(rng, "float32", SHAPES)
    expected = run(OPTIMIZERS[name]("portable"), {k: a.copy() for k, a in start.items()}, steps)
    p, gs, optimizer = there(start), [there(g) for g in steps], OPTIMIZERS[name](None)
    run(optimizer, p, gs)
    assert agree({k: np.array(a) for k, a in p.items()}, start), "nothing is done yet"
    assert not lazy.counts["wait"]
    assert agree(back((p, optimizer.state.slots)), expected)  # type: ignore[union-attr]


def _made(machine: shim.Machine) -> list[int]:
    """How much was asked for so far that is not to grow, and what of it is in use."""
    return [*(machine.counts[what] for what in ("allocate", "pinned", "create_event")), len(machine.live)]


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("name", QUICK)
def test_memory_does_not_grow(name: str, every: int, lazy: shim.Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 steps, with the device done from time to time: after the first few nothing is allocated."""
    p = there({"W": np.ones((2, 3)), "b": np.ones(3)})
    gs = [there({"W": np.ones((2, 3)), "b": np.ones(3)}) for _ in range(10)]
    optimizer, early = OPTIMIZERS[name](None), None
    monkeypatch.setattr(shim, "call", lambda *_: None)
    for k in range(300):
        optimizer.update(p, gs[k % 10])
        if k % every == 0:
            lazy.finish()
        if k == 4 * every + 20:
            early = _made(lazy)
    assert _made(lazy) == early


def test_what_a_dropped_plan_had_is_free_when_the_device_is_done(lazy: shim.Machine) -> None:
    """Then, and not before; and pinned memory is used again."""
    kept = []

    def train() -> None:
        p, optimizer = shim.asarray(np.ones(5)), ao.Adam()
        for _ in range(2):
            g = shim.asarray(np.ones(5))
            optimizer.update(p, g)
            kept.append((p, g, optimizer.state))

    for _ in range(3):  # while the steps before it wait
        train()
    allocated, pinned, _, live = _made(lazy)
    assert live == allocated + pinned
    lazy.finish()
    for _ in range(10):
        train()
        lazy.finish()
    assert len(lazy.live) < live
    assert lazy.counts["pinned"] == pinned
    assert len({p.tobytes() for p, *_ in kept}) == 1


@pytest.mark.parametrize("name", KINDS_IN_TURN)
def test_what_a_plan_has_is_its_own_until_its_last_step_is_done(name: str, lazy: shim.Machine) -> None:
    """With all checks or without: its event comes behind all work."""
    p, optimizer = {"W": shim.asarray(np.ones(5))}, OPTIMIZERS[name](None)
    kept = [{"W": shim.asarray(np.ones(5))} for _ in range(4)]
    for g in kept:
        optimizer.update(p, g)
        dispatch = optimizer._training.plan._dispatch  # type: ignore[union-attr]
        event = dispatch.assignments[0].plan.owned.event  # type: ignore[union-attr]
        while len(lazy.waiting) > 1:
            assert event.pending
            lazy.waiting.pop(0)()
        lazy.finish()
        assert not event.pending


@pytest.mark.parametrize("pure", [False, True])
def test_parameters_that_change_give_memory_back(pure: bool, lazy: shim.Machine) -> None:
    """Each new array needs a new plan, in place of the old one."""
    optimizer, early = ao.Adam(lr=0.1), 0
    p: Any = {"a": shim.asarray(np.ones(5))}
    state = optimizer.init(p)
    for k in range(50):
        g = {"a": shim.asarray(np.ones(5))}
        if pure:
            p, state = optimizer.step(p, g, state)
        else:
            p["a"] = shim.asarray(p["a"])
            optimizer.update(p, g)
        lazy.finish()
        early = len(lazy.live) if k == 5 else early
    assert len(lazy.live) == early
    assert lazy.counts["pinned"] < 10


def test_memory_waits_for_its_event(lazy: shim.Machine) -> None:
    """That of the device for the one that it came with, pinned memory for its own; one that waits holds up none."""
    device, stream = lazy.device, lazy.device.stream(lazy.stream)
    with device.scope():
        events, buffers = [lazy.create_event() for _ in range(3)], [[device.allocate(512)] for _ in range(4)]
        addresses = [of[0].handle for of in buffers]
        stream.record(events[0])
        for event, of in zip(events, buffers, strict=False):
            device.dropped.append((event, of[:]))
            of.clear()
        for _ in range(3):
            assert addresses[0] in lazy.live
            device.allocate(8)
        assert [a in lazy.live for a in addresses] == [True, False, False, True]
        for _ in range(3):
            device.send(buffers[3][0], np.arange(5, dtype=np.uint64), stream)
        assert lazy.counts["pinned"] == 3
        lazy.finish()
        device.send(buffers[3][0], np.arange(5, dtype=np.uint64), stream)
        device.allocate(8)
    assert lazy.counts["pinned"] == 3
    assert addresses[0] not in lazy.live


def test_a_step_that_fails_behind_its_reduction(lazy: shim.Machine) -> None:
    """What the reduction reads and writes is nobody else's until it is done, on whatever stream."""

    class Failing(ao.SGD):
        @staticmethod
        def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
            raise ValueError("no coefficients")

    optimizer = ao.chain(ao.ClipGlobalNorm(1.0), Failing())
    p, g = shim.asarray(np.ones(5)), shim.asarray(np.ones(5))
    with pytest.raises(ValueError, match="no coefficients"):
        optimizer.update(p, g)
    del optimizer
    assert lazy.waiting
    before = {**lazy.live}
    with lazy.device.scope():
        lazy.device.allocate(8)
        assert before.items() <= lazy.live.items()
        lazy.finish()
        lazy.device.allocate(8)
    assert len(lazy.live) < len(before)


def test_the_current_device_is_another_s_again(machine: shim.Machine) -> None:
    """And the mode of capture: after steps, good ones or not, and where no device was current."""
    p, optimizer = shim.asarray(np.ones(5)), ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam())
    for before in (0, 17, shim.CONTEXT):
        machine.current = before
        for _ in range(3):
            optimizer.update(p, shim.asarray(np.ones(5)))
        ao.dropout(p, 0.5, 3)
        assert (machine.current, machine.mode) == (before, "global")
    machine.current, launch = 17, machine.launch
    machine.launch = lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
    with pytest.raises(ZeroDivisionError):
        optimizer.update(p, shim.asarray(np.ones(5)))
    machine.launch = launch  # type: ignore[method-assign]
    assert (machine.current, machine.mode) == (17, "global")


# Steps like the last one -------------------------------------------------------------------------------------------


def _checked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counts: Counter[str] = Counter()
    for of, what in ((checks, "gradients"), (checks, "parameters"), (Dispatch, "__init__")):
        real = getattr(of, what)

        def counting(*arguments: Any, what: str = what, real: Any = real) -> Any:
            counts[what] += 1
            return real(*arguments)

        monkeypatch.setattr(of, what, counting)
    return counts


@pytest.mark.parametrize("resting", [False, True])
@pytest.mark.parametrize("name", KINDS_IN_TURN)
def test_a_step_like_the_last_one_has_no_checks(name: str, resting: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(52)
    start = drawn(rng, "float32", SHAPES)
    p, optimizer = there(start), OPTIMIZERS[name](None)
    counts = _checked(monkeypatch)
    grads = [drawn(rng, "float32", SHAPES) for _ in range(10)]
    grads = [{**g, "W": None} if resting else g for g in grads]
    for k, g in enumerate(grads):
        optimizer.update(p, {key: None if a is None else placed(a) for key, a in g.items()})
        assert counts == {"gradients": 1, "parameters": 1, "__init__": 1}, k
    expected = run(OPTIMIZERS[name]("portable"), start, grads)
    assert agree(back((p, optimizer.state.slots)), expected)  # type: ignore[union-attr]


BAD: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "shape": (lambda g: {**g, "W": placed(np.ones((9, 7), "f4"))}, ValueError, r"params\['W'\] has shape"),
    "longer": (lambda g: {**g, "b": placed(np.ones(1024, "f4"))}, ValueError, r"params\['b'\] has shape"),
    "a key less": (lambda g: {k: a for k, a in g.items() if k != "b"}, ValueError, "'b'"),
    "a key more": (lambda g: {**g, "z": g["b"]}, ValueError, "'z'"),
    "integers": (lambda g: {**g, "b": g["b"].view("i4")}, TypeError, "dtype int32"),
    "complex": (lambda g: {**g, "b": placed(np.ones(1023, "c8"))}, TypeError, "both real or both complex"),
    "of this machine": (lambda g: {**g, "b": np.ones(1023, "f4")}, TypeError, "wanted one library"),
    "a list": (lambda g: {**g, "b": [1.0]}, ValueError, "'b'"),
}


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ["Adam", "clip, Adam, EMA"])
def test_what_is_refused_changes_nothing(name: str, bad: str, before: int, machine: shim.Machine) -> None:
    """Before any launch, and the run goes on as if it had not been tried."""
    make, error, words = BAD[bad]
    rng = np.random.default_rng(53)
    start, grads = drawn(rng, "float32", SHAPES), [drawn(rng, "float32", SHAPES) for _ in range(before + 3)]
    p, optimizer = there(start), OPTIMIZERS[name](None)
    for k, g in enumerate(grads):
        if k == before:
            kept, launches = back((p, optimizer.state)), len(machine.launches)
            for _ in range(2):
                with pytest.raises(error, match=words):
                    optimizer.update(p, make(there(g)))
            assert len(machine.launches) == launches
            assert agree(back((p, optimizer.state)), kept)
        optimizer.update(p, there(g))
    expected = run(OPTIMIZERS[name]("portable"), start, grads)
    assert agree(back((p, optimizer.state.slots)), expected)  # type: ignore[union-attr]


def _moved(p: Arrays) -> None:
    shape = p["a"].shape
    p["a"].resize((100_000,), refcheck=False)
    p["a"].resize(shape, refcheck=False)


CHANGES: dict[str, Callable[[Arrays], object]] = {
    "moved": _moved,
    "swapped": lambda p: p.update(a=p["b"], b=p["a"]),
    "another": lambda p: p.update(a=p["a"].copy()),
    "locked": lambda p: _locked(p["a"]),
    "Fortran": lambda p: p.update(a=p["a"].copy(order="F")),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", KINDS)
def test_parameters_that_changed(name: str, change: str) -> None:
    """Under the same object, or in the same place: what stands there now is what is written."""
    rng = np.random.default_rng(54)
    found = []
    start, grads = (rng.normal(size=(k, 2, 4, 6)) for k in (1, 8))
    for engine, kind in ((PORTABLE, np.ndarray), (None, shim.Array)):
        p = {k: np.ndarray.__new__(kind, (4, 6)) for k in "ab"}
        p["a"][...], p["b"][...] = start[0]
        optimizer = OPTIMIZERS[name](engine)
        seen = []
        for k, g in enumerate(grads):
            if k == 4:
                CHANGES[change](p)
            optimizer.update(p, dict(zip("ab", g.copy().view(kind), strict=True)))
            seen.append(back({k: np.array(a) for k, a in p.items()}))
        found.append(seen)
    assert agree(*found)


def test_another_stream(machine: shim.Machine) -> None:
    """Each step goes to the stream that is the library's at that time."""
    p, optimizer = shim.asarray(np.ones(5)), ao.Adam(lr=0.1)
    here, reference = np.ones(5), ao.Adam(lr=0.1, engine="portable")
    for k in range(6):
        machine.stream = 7 + k // 2  # which the machine insists on
        optimizer.update(p, shim.asarray(np.full(5, k + 1.0)))
        reference.update(here, np.full(5, k + 1.0))
    assert same_bits(shim.tonumpy(p), here)


def test_where_decay_is_a_parameter_s_own(machine: shim.Machine) -> None:
    """Two rows in one launch, told apart by path and by shape; and a schedule that changes both."""
    rng = np.random.default_rng(55)

    def make(engine: ao.EngineName | None) -> ao.Optimizer:
        decay = ao.WeightDecay(lambda t: 0.1 / t, where=matrices)
        return ao.chain(
            decay, ao.Adam(lr=lambda t: 0.1 / t), ao.WeightDecay(0.5, lambda _, p: p.ndim > 1), engine=engine
        )

    steps = [drawn(rng, "float64", SHAPES) for _ in range(5)]
    same(make, drawn(rng, "float64", SHAPES), steps)
    assert len(machine.launches) == 5


class Swap(ao.Optimizer):
    """Whose slots change places, and become what p and x were."""

    lr: ao.Nonnegative
    slots = ("one", "two", "of_p", "of_x", "kept")

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, one: Any, two: Any, of_p: Any, of_x: Any, kept: Any, c: Any) -> Any:
        return c.lr * (x + one - of_x * of_p), two + x, one, p, x, kept


@pytest.mark.parametrize("offset", [0, 1])
def test_slots_that_change_places(offset: int) -> None:
    """All are read before the first is written, at aligned addresses and others."""
    rng = np.random.default_rng(56)
    steps = [drawn(rng, "float32", SHAPES) for _ in range(5)]
    same(lambda e: Swap(lr=0.5, engine=e), drawn(rng, "float32", SHAPES), steps, (offset, offset))


def test_hyperparameters_are_live() -> None:
    """At steps that are like the last one, too."""
    found = []
    for engine, put in ((PORTABLE, np.copy), (None, shim.asarray)):
        p, optimizer = put(np.ones(5)), ao.Adam(lr=0.1, engine=engine)
        for k in range(8):
            optimizer.lr = 0.1 * k
            optimizer.beta1 = 0.5 + 0.05 * k
            optimizer.update(p, put(np.full(5, 1.0 + k)))
        found.append(shim.tonumpy(p))
    assert same_bits(*found)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("dtype", "of"), [("float32", "float32"), ("float16", "float32"), ("complex64", "float64")])
def test_arrays_beside_parameters(dtype: str, of: str, order: Any) -> None:
    """Read where they lie, at any multiple of their size, or copied before each step; live; the parameter, too."""
    shapes = {"W": (7, 9), "b": (1023,)}

    def chain(rates: Arrays, mask: Any, bound: Any, engine: Any) -> ao.Optimizer:
        box, support = ao.Box({"W": -2.0, "b": bound}, 9.0), ao.Support({"W": mask, "b": 1.0})
        return ao.chain(ao.Momentum(lr=rates), box, support, engine=engine)

    found = []
    for on_device in (False, True):
        rng = np.random.default_rng(5)
        trees = [drawn(rng, dtype, shapes) for _ in range(5)]
        params, *grads = [{k: np.asarray(a, order=order) for k, a in tree.items()} for tree in trees]
        rates = {k: rng.random(s).astype(of) for k, s in shapes.items()}
        mask = rng.random((7, 9)) > 0.5
        if on_device:
            params, rates, grads = there(params), there(rates, 1), [there(g) for g in grads]
            mask = shim.asarray(mask)
        bound = 0 * rates["b"] if "complex" in dtype else params["b"]
        optimizer = chain(rates, mask, bound, None if on_device else "portable")
        run(optimizer, params, grads[:2])
        rates["W"][...] = rates["W"][::-1] * np.asarray(0.5, of)
        mask[0] = ~mask[0]
        found.append(back(run(optimizer, params, grads[2:])) if on_device else run(optimizer, params, grads[2:]))
        if on_device:
            shares = optimizer.explain(params, grads[0])
            assert {(share.engine, share.guard) for share in shares} == {("cuda", None)}
            assert all(map(whole, _leaves(rates)))
    assert agree(found[1], found[0])


def test_importing_it_imports_no_driver() -> None:
    """And neither do steps on this machine's arrays."""
    text = (
        "import sys, numpy as np, anyoptim as ao; ao.SGD().update(np.ones(2), np.ones(2)); "
        "print(sorted({'cuda', 'cuda.core', 'cuda.bindings'} & {*sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, env={**os.environ})
    assert found.stdout == "[]\n"
