"""What `explain` and `kernel_source` say."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import optree
import pytest

import anyoptim as ao
from anyoptim._core._training import Training
from tests.reference.methods import wanted
from tests.support.engines import LATER, forget, look_again
from tests.support.libraries import Library, same_bits


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not updated anything yet."""
    forget(monkeypatch)


def _locked(a: Any) -> Any:
    a.flags.writeable = False
    return a


def _rows(explanation: ao.Explanation) -> dict[str, tuple[str, int, str]]:
    """For each parameter the engine, the bytes of its share and the reason."""
    return {name: (share.engine, share.bytes, share.reason or "") for share in explanation for name in share.parameters}


MIXED: dict[str, tuple[Callable[[], Any], str, int, str]] = {
    # Bytes of Adam for each: p twice, g, and m and v twice.
    "plain": (lambda: np.ones((10, 3), "f4"), "compiled", 30 * (8 + 4 + 16), ""),
    "double": (lambda: np.ones(5), "compiled", 5 * (16 + 8 + 32), ""),
    "complex": (lambda: np.ones(7, "c8"), "compiled", 7 * (16 + 8 + 32), ""),
    "Fortran": (lambda: np.asfortranarray(np.ones((4, 3))), "compiled", 12 * 56, ""),
    "strided": (lambda: np.ones((6, 2), "f4")[:, 0], "blocked", 6 * 28, "it isn't contiguous"),
    "half": (lambda: np.ones(9, "f2"), "blocked", 9 * (4 + 2 + 16), "float16 is cast on load"),
    "foreign": (lambda: np.ones(2, ">f4"), "blocked", 2 * 28, ">f4 is cast on load"),
    "locked": (lambda: _locked(np.ones(8, "f4")), "portable", 8 * 28, "it can't be written to"),
    "float": (lambda: 1.0, "portable", 56, "it can't be written to"),
}


def _mixed() -> dict[str, Any]:
    return {name: make() for name, (make, *_) in MIXED.items()}


def test_who_takes_what_and_why() -> None:
    """Engines, bytes and reasons of all kinds of parameters, which together are all parameters."""
    params = _mixed()
    explanation = ao.Adam(engine="compiled").explain(params, params)
    found = _rows(explanation)
    assert set(found) == set(MIXED)
    assert sum(len(share.parameters) for share in explanation) == len(MIXED)
    assert sum(share.elements for share in explanation) == sum(int(np.size(p)) for p in params.values())
    assert sum(share.bytes for share in explanation) == sum(row[2] for row in MIXED.values())
    for name, (_, engine, _, reason) in MIXED.items():
        assert found[name][0] == engine, name
        assert (reason in found[name][2]) if reason else not found[name][2], name
    for share in explanation:
        assert share.bytes == sum(MIXED[name][2] for name in share.parameters)
        assert share.elements == sum(int(np.size(params[name])) for name in share.parameters)
    sizes = [share.bytes for share in explanation]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", ["torch", "jax", "dask", "strict"])
def test_other_libraries(name: str, need: Callable[[str], Library]) -> None:
    """torch CPU tensors like NumPy's arrays; what NumPy can't write is portable, by the library's name or for that.

    JAX arrays have an engine of their own, whatever other was asked for.
    """
    lib = need(name)
    params = {"t": lib.array([1.0, 2.0], "float32"), "n": np.ones(3, "f4")}
    found = _rows(ao.Momentum(engine="compiled").explain(params, {k: v * 1 for k, v in params.items()}))
    assert found["n"][0] == "compiled"
    assert found["t"][0] == {"torch": "compiled", "jax": "jax"}.get(name, "portable")
    if name in {"torch", "jax"}:
        assert found["t"][2] == ""
    else:
        assert found["t"][2] in {
            "each of its chunks is a task, which chooses an engine of its own",
            "NumPy can't read and write array_api_strict arrays of dtype float32",
        }
    if "bfloat16" in lib.dtypes and name == "torch":
        params = {"h": lib.array([1.0, 2.0], "bfloat16")}
        (share,) = ao.SGD(engine="compiled").explain(params, params)
        reason = "NumPy can't read and write torch arrays of dtype bfloat16"
        assert share == ("portable", ("h",), 2, 2 * 3 * 2, reason, "first step")


GRADIENTS: dict[str, tuple[Callable[[Any], Any], str, int, str]] = {
    "plain": (lambda g: g, "compiled", 24, ""),
    "Fortran": (np.asfortranarray, "blocked", 24, "its gradient isn't contiguous in the same order"),
    "another dtype": (lambda g: g.astype("f2"), "blocked", 22, "its gradient has another dtype, float16"),
    "wider": (lambda g: g.astype("f8"), "blocked", 28, "its gradient has another dtype, float64"),
    "none": (lambda g: None, "", 0, ""),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_count_too(name: str) -> None:
    """Their dtype and order; a parameter without one is not moved, and in no share."""
    change, engine, each, reason = GRADIENTS[name]
    p = np.ones((4, 3), "f4")
    explanation = ao.chain(ao.SGD(), ao.EMA(), engine="compiled").explain({"p": p}, {"p": change(p)})
    assert _rows(explanation) == ({"p": (engine, 12 * (each - 4), reason)} if engine else {})
    assert str(explanation).splitlines()[0].split()[0] == "engine"


def _fresh(params: Any, grads: Any) -> Any:
    return params, {k: g + 1 for k, g in grads.items()}


CHANGES: dict[str, tuple[Callable[[Any, Any], Any], dict[str, str]]] = {
    "other gradients": (_fresh, {}),
    "views": (lambda p, g: (p, dict(zip(g, np.ones((2, 4, 3), "f4"), strict=True))), {}),
    "another order": (lambda p, g: (p, g | {"b": np.asfortranarray(g["b"])}), {"a": "another", "b": "form"}),
    "another dtype": (lambda p, g: (p, g | {"b": g["b"].astype("f2")}), {"a": "another", "b": "form"}),
    "the parameter itself": (lambda p, g: (p, g | {"b": p["a"]}), {"a": "another", "b": "form"}),
    "no gradient": (lambda p, g: (p, g | {"b": None}), {"a": "another"}),
    "another array": (lambda p, g: (p | {"b": p["b"].copy()}, g), {"a": "another", "b": "array"}),
    "another container": (lambda p, g: (OrderedDict(p), g), {"a": "container", "b": "container"}),
    "a list of gradients": (lambda p, g: (p, OrderedDict(g)), {"a": "container", "b": "container"}),
}


@pytest.mark.parametrize("maker", [ao.Adam, lambda engine: ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam(), engine=engine)])
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("engine", ["blocked", "compiled", "jax"])
def test_what_a_guard_says_is_so(
    engine: ao.EngineName, name: str, maker: Any, need: Callable[[str], Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step is taken with every check if a guard is said to fail, and only then."""
    change, expected = CHANGES[name]
    optimizer = maker(engine=engine)
    params, grads = ({k: np.ones((4, 3), "f4") for k in "ab"} for _ in range(2))
    array: Any = np.asarray
    if engine == "jax":
        array = need("jax").array
        if name in {"another order", "another dtype", "the parameter itself"}:
            expected = {}  # JAX's arrays have no order, nobody writes to them, and JAX casts as it compiles
    params = {k: array(p) for k, p in params.items()}
    for _ in range(3):
        first = {share.guard for share in optimizer.explain(params, {k: array(g) for k, g in grads.items()})}
        optimizer.update(params, {k: array(g) for k, g in grads.items()})
    assert first == {None}
    full, checked = list[Any](), Training._update

    def seen(*arguments: Any) -> Any:
        full.append(arguments)
        return checked(*arguments)

    monkeypatch.setattr(Training, "_update", seen)
    params, changed = change(params, grads)
    changed = type(changed)((k, None if g is None else g if g is params["a"] else array(g)) for k, g in changed.items())
    found = {k: share.guard for share in optimizer.explain(params, changed) for k in share.parameters}
    assert {k: guard for k, guard in found.items() if guard} == expected
    assert set(found.values()) - {None} <= set(ao.Explanation.guards)
    optimizer.update(params, changed)
    assert bool(full) == bool(expected)


@pytest.mark.parametrize("engine", ["blocked", "compiled"])
def test_steps_of_torch_are_replayed(engine: ao.EngineName, need: Callable[[str], Library]) -> None:
    """Of tensors that are simple, with gradients of their own at each step; and with the bits of NumPy's."""
    lib, rng = need("torch"), np.random.default_rng(0)
    one, two = ao.Adam(engine=engine), ao.Adam(engine="portable")
    p, q = ({k: np.ones((4, 3), "f4") for k in "ab"} for _ in range(2))
    t = {k: lib.array(a) for k, a in p.items()}
    for step in range(5):
        g = {k: rng.normal(size=a.shape).astype("f4") for k, a in q.items()}
        grads = {k: lib.array(a) for k, a in g.items()}
        guards = {share.guard for share in one.explain(t, grads)}
        assert guards == ({None} if step else {"first step"})
        one.update(t, grads)
        two.update(q, g)
    assert all(same_bits(lib.tonumpy(t[k]), q[k]) for k in q)


def test_guards_of_all_parameters_together() -> None:
    """The first step, the engine that plans none, gradients that are gathered, compiling that has come due."""
    p, g = {"a": np.ones(3)}, {"a": np.ones(3)}

    def guards(optimizer: ao.Optimizer, steps: int) -> set[str | None]:
        for _ in range(steps):
            optimizer.update(p, g)
        return {share.guard for share in optimizer.explain(p, g)}

    assert guards(ao.Adam(engine="blocked"), 0) == {"first step"}
    assert guards(ao.Adam(engine="portable"), 3) == {"engine"}
    assert guards(ao.chain(ao.Accumulate(2), ao.SGD(), engine="blocked"), 4) == {"gathering"}
    assert guards(ao.chain(ao.Accumulate(2), ao.SGD(), engine="blocked"), 5) == {None}
    optimizer = ao.Adam()
    assert guards(optimizer, 3) == {None}
    optimizer.compile(p)
    assert guards(optimizer, 0) == {"compiling"}
    assert guards(optimizer, 2) == {None}
    assert str(optimizer.explain(p, g)).splitlines()[1].split()[4] == "replayed"


def test_guards_that_are_shown_are_said() -> None:
    """Each once, below the table, in its order; none where the step is replayed."""
    p = {"a": np.ones((2, 3)), "b": np.ones((20, 3)), "c": np.ones(3)}
    optimizer = ao.Adam(engine="blocked")
    assert str(optimizer.explain(p, p)).splitlines()[2:] == [f"first step: {ao.Explanation.guards['first step']}"]
    for _ in range(3):
        optimizer.update(p, {k: w * 1 for k, w in p.items()})
    assert len(str(optimizer.explain(p, {k: w * 1 for k, w in p.items()})).splitlines()) == 2
    table = str(optimizer.explain(p, {k: np.asfortranarray(w * 1) for k, w in p.items()}))
    found = [line.partition(":") for line in table.splitlines()[3:]]
    assert [name for name, _, _ in found] == ["form", "another"]
    assert all(text.strip() == ao.Explanation.guards[name] for name, _, text in found)


@pytest.mark.parametrize("engine", ["blocked", "portable", None])
def test_reasons_of_a_choice(engine: ao.EngineName | None) -> None:
    """A chosen engine is its own reason; without a choice it is that not enough has been updated."""
    (share,) = ao.SGD(engine=engine).explain(np.ones(3), np.ones(3))
    assert share.engine == (engine or "blocked")
    assert share.reason == (f"engine={engine!r}" if engine else LATER)
    assert share.parameters == ("",)
    assert share.bytes == 3 * 24


def test_a_reduction_reads_once_more() -> None:
    """Clipping reads the gradients; after decay, whose stage it runs again, the parameters, too."""
    p, n = {"p": np.ones(5, "f4")}, 5
    clip, decay = ao.ClipGlobalNorm(1.0), ao.WeightDecay(0.1)
    assert ao.chain(clip, ao.SGD()).explain(p, p)[0].bytes == n * (12 + 4)
    assert ao.chain(decay, clip, ao.SGD()).explain(p, p)[0].bytes == n * (12 + 8)
    assert ao.chain(clip, ao.Adam(), ao.EMA()).explain(p, p)[0].bytes == n * (12 + 24 + 4)
    # Of one gradient all three want one norm; what is not finite is only counted where it is not.
    three = ao.chain(ao.SkipNonFinite(), ao.Metrics("gradient"), clip, ao.SGD())
    assert three.explain(p, p)[0].bytes == n * (12 + 4 + 4)
    # Both are of the same array here, and one text, which has no names; and the step.
    assert three.kernel_source("blocked").count("def array_reduction(a0):\n    return [a0]") == 1
    assert three.kernel_source("blocked").count("def ") == 3
    (share,) = ao.chain(clip, ao.SGD(), engine="compiled").explain(np.ones((3, 2)).T, np.ones((3, 2)).T)
    assert (share.engine, share.reason) == ("blocked", "it isn't contiguous in C order")


def test_a_tied_parameter_is_one() -> None:
    """Under its first name."""
    w = np.ones(4)
    (share,) = ao.SGD().explain({"a": w, "b": w}, {"a": None, "b": np.ones(4)})
    assert share.elements == 4
    assert share.parameters == ("a",)


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason says what to install; `engine` and `compile` raise it."""
    look_again(monkeypatch)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    params = _mixed()
    found = _rows(ao.Adam().explain(params, params))
    assert {name: row[0] for name, row in found.items()} == {
        name: "blocked" if row[1] == "compiled" else row[1] for name, row in MIXED.items()
    }
    assert all("pip install numba" in found[n][2] for n, row in MIXED.items() if row[1] == "compiled")
    for call in (lambda: ao.Adam(engine="compiled"), lambda: ao.Adam().compile(params)):
        with pytest.raises(ImportError, match="pip install numba"):
            call()


def test_it_prints_as_a_table() -> None:
    """A line of headings, a line for each share, columns that stand under each other, at most three names."""
    params: dict[str, Any] = {f"h{k}": np.ones(1000, "f2") for k in range(5)}
    params |= {"w": np.ones(1_000_000, "f4"), "layer": {"b": [1.0]}}
    explanation = ao.Adam(engine="compiled").explain(params, params)
    head, *lines, below = str(explanation).splitlines()
    assert below.startswith("first step: ")
    assert [line.split()[0] for line in lines] == ["compiled", "blocked", "portable"]
    assert lines[0].split() == ["compiled", "1", "1000000", "28", "planned:", "first", "step"]
    assert lines[1].split()[1:4] == ["5", "5000", "0.11"]
    assert lines[1].endswith("(h0, h1, h2, ...)")
    assert lines[2].endswith("(layer.b.0)")
    assert [h.strip() for h in head.split("  ") if h.strip()] == [
        "engine",
        "parameters",
        "elements",
        "MB a step",
        "next step",
        "why not faster",
    ]
    end = head.index("MB a step") + len("MB a step")
    assert all(line[:end].rstrip() == line[:end] for line in lines)
    assert all(line == line.rstrip() for line in lines)
    assert len(str(ao.SGD().explain({}, {})).splitlines()) == 1


@pytest.mark.covering(1)  # `explain` asks engines and not methods; the others are products
@pytest.mark.parametrize("engine", ["blocked", "compiled", "portable", None])
def test_it_changes_nothing(engine: ao.EngineName | None, method: type[Any]) -> None:
    """Neither before the first step, nor between steps: parameters, state and later bits are as without it."""

    def run(asked: bool) -> list[Any]:
        params, optimizer, rng = _mixed(), method(engine=engine), np.random.default_rng(0)
        for k in range(4):
            if asked:
                before = deepcopy(params), deepcopy(optimizer.state)
                optimizer.explain(params, {**params, "half": None} if k % 2 else params)
                leaves: Any = optree.tree_leaves
                after = leaves(params), leaves(optimizer.state)
                assert (optimizer.state is None) == (k == 0)
                for one, two in zip(before, after, strict=True):
                    assert all(map(same_bits, optree.tree_leaves(one), two))
            optimizer.update(
                params,
                {n: np.asarray(rng.normal(size=np.shape(p))).astype(np.asarray(p).dtype) for n, p in params.items()},
            )
        return [*optree.tree_leaves(params), *optree.tree_leaves(optimizer.state)]  # type: ignore[arg-type]

    assert all(map(same_bits, run(True), run(False)))


def test_it_raises_like_update() -> None:
    """The same words for the same mistakes, before and after a first step."""
    w = np.ones(3)
    cases: list[tuple[Any, Any]] = [
        ({"w": w}, {"w": np.ones(4)}),
        ({"w": w}, {"v": w}),
        ({"w": w}, {"w": np.ones(3, int)}),
        ({"w": np.ones(3, int)}, {"w": w}),
        ({"w": w, "v": w[1:]}, {"w": w, "v": w[1:]}),
        ((1.0,), (1.0,)),
        ({"w": "w"}, {"w": w}),
    ]
    for optimizer in (ao.Adam(), ao.Adam()):
        for params, grads in cases:
            with pytest.raises((TypeError, ValueError)) as one:
                optimizer.explain(params, grads)
            with pytest.raises((TypeError, ValueError)) as two:
                optimizer.update(params, grads)
            assert (one.type, str(one.value)) == (two.type, str(two.value))
        ao.Adam().update({"w": w}, {"w": w})
    optimizer = ao.Adam()
    optimizer.update({"w": w.copy()}, {"w": w})
    with pytest.raises(ValueError, match="at the first update"):
        optimizer.explain({"w": np.ones(4)}, {"w": np.ones(4)})


def _names(text: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)} | {
        node.arg for node in ast.walk(ast.parse(text)) if isinstance(node, ast.arg)
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", ["compiled", "blocked"])
def test_sources_of_every_method(engine: ao.EngineName, dtype: str, method: type[Any]) -> None:
    """Python in the letters of the equation, without a float literal, which would have a dtype of its own."""
    letters = wanted(method.__name__).letters.split()
    assert letters
    text = method().kernel_source(engine, dtype)
    assert {*letters, "p", "x"} <= _names(text)
    assert [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    literals = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    assert not [value for value in literals if isinstance(value, float)]
    if engine == "compiled":
        assert re.search(rf"^from numpy import .*\b{dtype}\b", text, re.MULTILINE)
        assert ("float32" in text) == (dtype == "float32")


@pytest.mark.parametrize("engine", ["compiled", "blocked"])
def test_sources_of_a_chain(engine: ao.EngineName) -> None:
    """A pass for each reduction, then the step, which has no float literal; the passes round in float64 alone."""
    optimizer = ao.chain(
        ao.ClipGlobalNorm(1.0), ao.WeightDecay(0.1), ao.ClipGlobalNorm(2.0), ao.Adam(), ao.EMA(), ao.FlushSubnormals()
    )
    text = optimizer.kernel_source(engine)
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert len(functions) == 3
    assert {"m", "v", "average", "lr_t", "decay", "new"} <= _names(text)
    literals = [node.value for node in ast.walk(functions[-1]) if isinstance(node, ast.Constant)]
    assert not [value for value in literals if isinstance(value, float)]


def test_sources_of_what_has_none() -> None:
    """Portable has no code of its own, and half precision is computed in float32."""
    for engine in ("portable", "numba", ""):
        with pytest.raises(ValueError, match=r"wanted 'cuda', 'compiled' or 'blocked'"):
            ao.SGD().kernel_source(engine)  # type: ignore[arg-type]
    for dtype in ("float16", "bfloat16", "int32"):
        with pytest.raises(ValueError, match=r"wanted 'float32', 'float64', 'complex64' or 'complex128'"):
            ao.SGD().kernel_source("compiled", dtype)  # type: ignore[arg-type]


def test_sources_need_no_numba() -> None:
    """And no parameters."""
    code = """
import sys
sys.modules["numba"] = None
import anyoptim as ao
for engine in ("compiled", "blocked"):
    assert "lr_t" in ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam()).kernel_source(engine, "float64")
"""
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_explained_in_the_schedule_of_a_step(need: Callable[[str], Library]) -> None:
    """With other gradients, and with none of the step's to be taken from where these lie."""
    lib = need("torch")

    def moved(engine: ao.EngineName) -> Any:
        p, other = (lib.asarray(np.full(5, a, np.float32)) for a in (1.0, 100.0))

        def rate(t: int) -> float:
            if t == 3:
                optimizer.explain({"p": p}, {"p": other})
            return 0.1

        optimizer = ao.chain(ao.SkipNonFinite(), ao.Momentum(lr=rate), engine=engine)
        for k in range(1, 5):
            optimizer.update({"p": p}, {"p": lib.asarray(np.full(5, 0.1 * k, np.float32))})
        return lib.values({"p": p})["p"]

    assert same_bits(moved("compiled"), moved("portable"))
