"""The text of the CUDA engine: what NVRTC makes of it, without a device; its names; its tables, by brute force."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import anyoptim as ao
from anyoptim._engines.cuda import _plan as cuda
from anyoptim._engines.cuda._plan import chunk_map, kernel_of
from anyoptim._engines.cuda._source import BLOCK, CHUNK, REDUCTION, Kernel, coefficients
from tests.support import libraries, shim
from tests.support.chains import CHAINS, agree
from tests.support.internals import (
    ELEMENTS,
    LOGICAL,
    Coefficients,
    Graph,
    Range,
    Scalar,
    Symbol,
    cuda_device,
    evaluate,
    range_of,
    reduction,
    rows_of,
    static_options,
    symbol,
    trace,
    trace_reduction,
)
from tests.support.libraries import METHODS, Library, same_bits

OPTIMIZERS: dict[str, Callable[[], ao.Optimizer]] = {
    **{name: lambda method=method: method() for name, method in METHODS.items()},  # type: ignore[misc]
    **{name: lambda make=make: make(None) for name, make in CHAINS.items()},  # type: ignore[misc]
}
ARCHITECTURES = (75, 80, 90, 100, 120)
JOINT = "whole, joint Adam, clip, EMA"
SWEPT = ("Adam", "clip, Adam, EMA")
"""What is compiled for all of these; the others for the oldest or the newest, because only arithmetic differs."""
STEPS = (1, 2, 1000)


@pytest.fixture
def machine(need: Callable[[str], Library]) -> Iterator[shim.Machine]:
    """A device, which is none, of this test's own."""
    need("cuda-shim")
    yield shim.install(shim.Machine())
    shim.install(shim.Machine())


def _row(optimizer: ao.Optimizer, t: int, norm: Any) -> Coefficients:
    """The coefficients of step `t`, with a norm that may be known on the device alone."""
    pipeline = optimizer._pipeline
    return pipeline.sample(pipeline.branch, t, norm)


def _passes(optimizer: ao.Optimizer, dtype: str) -> Iterator[tuple[Kernel, Graph, str]]:
    """Each kernel of a rule, its graph and, of a reduction, the kind."""
    program = optimizer._pipeline.branch.program
    for k in (*program.reductions, None):
        for static in dict.fromkeys(static_options(_row(optimizer, t, 0.5)[:k]) for t in STEPS):
            joint = dtype in libraries.COMPLEX
            if k is None:
                graph = trace(program, static, of_complex=joint)
            else:
                graph = trace_reduction(program, k, static, of_complex=joint)
            yield kernel_of(program, k, static, dtype), graph, "" if k is None else program.reduction(k).kind


def _coefficients(optimizer: ao.Optimizer, dtype: str) -> list[Kernel]:
    """The kernels of what is known on the device alone."""
    found = []
    for kernel, _, _ in _passes(optimizer, dtype):
        for t in STEPS:
            row = _row(optimizer, t, symbol(0))
            _, expressions = rows_of(kernel.scalars, [row], dtype)
            found += [coefficients(expressions)] if expressions else []
    return list(dict.fromkeys(found))


@pytest.mark.covering(1)  # what a dtype and a rule have in common is compiled below
@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize("name", SWEPT)
def test_nvrtc_compiles_it_for_every_generation(name: str, dtype: str, nvrtc: Any) -> None:
    """Machine code of each of its kernels, which bears the name that the engine asks for."""
    _compiles([kernel for kernel, _, _ in _passes(OPTIMIZERS[name](), dtype)], ARCHITECTURES, nvrtc)


def _compiles(kernels: list[Kernel], architectures: Sequence[int], nvrtc: Any) -> None:
    for kernel, architecture in itertools.product(kernels, architectures):
        made = nvrtc.code(kernel.text, architecture)
        assert made.startswith(b"\x7fELF")
        assert kernel.name.encode() in made


def test_nvrtc_compiles_the_reduction(nvrtc: Any) -> None:
    for architecture in ARCHITECTURES:
        made = nvrtc.code(REDUCTION, architecture)
        assert all(name in made for name in (b"halve", b"root"))
    _only(nvrtc.ptx(REDUCTION, 90), {*_MOVED, "mul.rn.f64", "add.rn.f64", "sqrt.rn.f64", "cvt.rn.f64.s64"})


SOURCES: dict[str, Callable[[], ao.Optimizer]] = {
    **OPTIMIZERS,
    "two of a name": lambda: ao.partition(
        {"W": ao.chain(_named(["m"], ["lr"])(lr=1.0), ao.EMA()), "b": _named(["n"], ["lr"])(lr=1.0), ...: ao.Adam()}
    ),
    "three of another name": lambda: ao.partition(
        {k: _named([slot], ["lr"])(lr=1.0) for k, slot in zip("abc", "mnn", strict=True)}
    ),
    "two reductions of a name": lambda: ao.chain(ao.ClipGlobalNorm(1.0), ao.ClipGlobalNorm(2.0), ao.SGD()),
}


@pytest.mark.covering(1)  # of both dtypes it is one text but for the types
@pytest.mark.parametrize("dtype", libraries.REAL)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.product if name in OPTIMIZERS and name not in SWEPT else ())
        for name in SOURCES
    ],
)
def test_the_source_is_one_text_that_compiles(name: str, dtype: Literal["float32", "float64"], nvrtc: Any) -> None:
    """As it stands: each kernel by a name of its own, and what makes a norm of its rows."""
    optimizer = SOURCES[name]()
    text = optimizer.kernel_source("cuda", dtype)
    made = nvrtc.code(text, ARCHITECTURES[-(len(name) % 2)])
    names = re.findall(r"__global__ void(?: __launch_bounds__\(\d+\))?\s+(\w+)\(", text)
    assert len({*names}) == len(names) >= 1
    assert all(of.encode() in made for of in names)
    branches = optimizer._pipeline.branches.values()
    asked = [part.reduction for branch in branches for part in branch.program.parts]
    assert ("root" in names) == any(isinstance(of, ao.Norm) and of.over == "all" for of in asked)


_MOVED = {f"{op}.f{bits}" for op in ("ld", "st", "mov", "neg", "abs", "selp", "setp") for bits in (32, 64)}
_INFIX = {
    "add": ("add", "sub"),
    "subtract": ("add", "sub"),
    "multiply": ("mul",),
    "divide": ("div",),
    "sqrt": ("sqrt",),
}


def _instructions(ptx: str) -> list[str]:
    return re.findall(r"^\s+(?:@!?%p\d+ )?([a-z]\w*(?:\.\w+)*)[ \t]", ptx, re.MULTILINE)


def _short(instruction: str) -> str:
    """`ld.f32` for `ld.global.nc.v4.f32`: moves and comparisons by their operation and type alone."""
    op, *rest = instruction.split(".")
    return f"{op}.{rest[-1]}" if op in {"ld", "st", "selp", "setp", "mov", "abs", "neg"} and rest else instruction


def _only(ptx: str, allowed: set[str]) -> None:
    """Nothing but these is done with numbers: nothing contracted, approximate, or flushed to zero."""
    done = {_short(i) for i in _instructions(ptx) if re.search(r"\.[fb]?f(16|32|64)", i)}
    assert done, ptx
    assert done <= allowed, done - allowed
    assert not re.search(r"\b(fma|mad)\.r|\.ftz|\.approx|\.full|\.rz|\.ru|call", ptx)


@pytest.mark.telling
@pytest.mark.parametrize("dtype", libraries.REAL)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.covering(1)  # one text but for the types, and each is seen in float32 on half precision, too
def test_each_operation_is_rounded_as_it_is_written(name: str, dtype: str, nvrtc: Any) -> None:
    """In the PTX: those of the rule and no others, in the rule's dtype; vectors at a time; coefficients cast once."""
    _rounds(name, dtype, nvrtc)


@pytest.mark.covering(1)  # what is done between casts is the same as in float32
@pytest.mark.parametrize("dtype", libraries.HALF)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SWEPT else pytest.mark.product) for name in OPTIMIZERS]
)
def test_each_operation_on_half_precision(name: str, dtype: str, nvrtc: Any) -> None:
    """Is of float32, with a cast before and one behind."""
    _rounds(name, dtype, nvrtc)


@pytest.mark.parametrize("dtype", ["complex64", pytest.param("complex128", marks=pytest.mark.product)])
def test_complex_elements_as_a_whole(dtype: str, nvrtc: Any) -> None:
    """The kernels of joint rules round as they are written, vectors at a time."""
    _rounds(JOINT, dtype, nvrtc)


@pytest.mark.product  # many seconds of compiling
@pytest.mark.parametrize("dtype", libraries.COMPLEX)
def test_complex_elements_on_every_generation(dtype: str, nvrtc: Any) -> None:
    """The kernels of joint rules compile."""
    architectures = ARCHITECTURES[:: 1 if dtype == "complex64" else 4]  # of both it is one text but for the types
    _compiles([kernel for kernel, _, _ in _passes(OPTIMIZERS[JOINT](), dtype)], architectures, nvrtc)


def _rounds(name: str, dtype: str, nvrtc: Any) -> None:
    of_parts = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    real, width = {"float32": ("f32", 4), "float64": ("f64", 2)}[ELEMENTS[of_parts].real]
    width //= 1 + (dtype != of_parts)
    for kernel, graph, kind in _passes(OPTIMIZERS[name](), dtype):
        ptx = nvrtc.ptx(kernel.text, 100 if dtype == "float32" else 75)
        assert f".entry {kernel.name}(" in ptx
        instructions = _instructions(ptx)
        rounded = {f"{op}.rn.{real}" for node in graph.nodes for op in _INFIX.get(node.op, ())}
        casts = {"cvt.rn.f32.f64"} if real == "f32" and kernel.scalars else set()
        halves = {"cvt.f32.f16", "cvt.rn.f16.f32"} if dtype == "float16" else set()
        more = {"mul.rn.f64", "add.rn.f64", "sub.rn.f64", "cvt.f64.f32"} if kind else set()
        _only(ptx, {*_MOVED, *rounded, *casts, *halves, *more})
        # A vector's and the last elements'; of a maximum one after the other.
        lanes = {"": width + 1, "largest": 1}.get(kind, 32)
        for op in ("divide", "sqrt") if kind else ("multiply", "divide", "sqrt"):
            (of,) = _INFIX[op]
            wanted = lanes * sum(node.op == op for node in graph.nodes) // graph.parts  # of which each lane takes one
            assert instructions.count(f"{of}.rn.{real}") >= wanted, op
        if real == "f32":
            casts_of_scalars = instructions.count("cvt.rn.f32.f64")
            # Of a reduction the compiler may do it anew in each branch that needs one.
            assert casts_of_scalars == len(kernel.scalars) or (kind and casts_of_scalars > len(kernel.scalars))
        if not kind:
            # Beside complex elements, real slots have half a vector.
            whole = {i: of.array for i, of in enumerate(graph.inputs) if of.part is not None or not graph.joint}
            homes = zip(graph.homes, graph.outputs, strict=True)
            moved = {whole[i] for i, o in homes if o != i and i in whole}
            used = {a for node in graph.nodes for a in node.arguments if isinstance(a, int)}
            vector = re.compile(r"(ld|st)(?:\.\w+)*\.(?:v4\.[fbu](?:16|32)|v2\.[fbu]64)")
            found = [match[1] for match in map(vector.fullmatch, instructions) if match]
            assert found.count("ld") >= len({whole[a] for a in used & whole.keys()})
            # Of a choice by a coefficient the compiler may make two loops.
            choices = [node for node in graph.nodes if node.op == "where" and isinstance(node.arguments[0], Scalar)]
            assert found.count("st") == len(moved) or (choices and found.count("st") > len(moved))
            assert re.search(r"and\.b64\s+\S+ \S+ 15;", ptx), "whether all begin at multiples of 16 bytes"


@pytest.mark.telling
@pytest.mark.parametrize("name", CHAINS)
def test_what_the_device_computes_is_rounded_as_on_the_host(name: str, nvrtc: Any) -> None:
    """Coefficients of a norm are of float64, for float32 parameters too."""
    optimizer = CHAINS[name](None)
    kernels = _coefficients(optimizer, "float32")
    # Scalars are the host's: of what they are made the device computes nothing.
    assert bool(kernels) == any(stage.reductions and not stage.scalars for stage in optimizer.stages)
    _compiles(kernels[:1], ARCHITECTURES[::4], nvrtc)
    for kernel in kernels:
        rounded = {f"{op}.rn.f64" for op in ("add", "sub", "mul", "div", "sqrt")}
        exact = {f"{op}.f64" for op in ("ld", "st", "mov", "selp", "setp", "neg", "abs", "copysign")}
        _only(nvrtc.ptx(kernel.text, 90), exact | rounded)


def test_the_graphs_of_all_optimizers_have_all_operations() -> None:
    """That the tests above look at each."""
    graphs = [graph for make in OPTIMIZERS.values() for _, graph, _ in _passes(make(), "float32")]
    nodes = {node.op for graph in graphs for node in graph.nodes}
    assert {*_INFIX, "negative", "abs", "where"} <= nodes
    assert LOGICAL & nodes


# Names -----------------------------------------------------------------------------------------------------------


def _named(slots: list[str], coefficients: list[str], cls: str = "Named") -> type[Any]:
    """A method with these names, which needs all of them for its step."""
    moved = "; ".join(f"{s} = {s} + x * _c.{c}" for s, c in zip(slots, itertools.cycle(coefficients), strict=False))
    text = f"""
class {cls}(ao.Optimizer):
    {"; ".join(f"{name}: ao.Nonnegative" for name in coefficients)}
    slots = {tuple(slots)}

    @staticmethod
    def rule(xp, p, x, {", ".join(slots)}, _c):
        {moved}
        return ({" + ".join(slots)}) * ({" + ".join(f"_c.{name}" for name in coefficients)}), {", ".join(slots)}
"""
    namespace: dict[str, Any] = {"ao": ao}
    exec(compile(text, "method", "exec", dont_inherit=True), namespace)  # noqa: S102 - names are what is tested
    found: type[Any] = namespace[cls]
    return found


WORDS = {
    "of the language": "new double signed this template typename union class_ register wchar_t char8_t and_eq",
    "of CUDA": "threadIdx blockIdx blockDim warpSize float4 half int32_t size_t dim3 clock max",
    "of the library": "sqrt sqrtf fabs fabsf pow printf main memcpy isnan linux",
    "of the kernels": "_leaf real Vector Chunk vector n0 s1 _new0 new0 at root halve k p_2 x_ name",
}
SLOTS = [
    " ".join(WORDS.values()),
    "leaf row now chunk done leaves chunks rows sums i lane b j one sum half",
    "a",
    "NULL",
    "p_at q q_at q_element q_at_",
    "Named_ClipGlobalNorm_rule_of",
    "β1 λ",
]
CLASSES = ["_x", "Named", "Ädam"]


@pytest.mark.parametrize("names", SLOTS)
def test_names_of_slots_that_mean_something_in_c(names: str, nvrtc: Any, machine: shim.Machine) -> None:
    """NVRTC compiles the step and a reduction behind it, and they run right."""
    _runs_right(_named(names.split(), ["lr"]), ["lr"], nvrtc)


@pytest.mark.parametrize("names", SLOTS)
def test_names_of_coefficients_that_mean_something_in_c(names: str, nvrtc: Any, machine: shim.Machine) -> None:
    """The same of what a row holds."""
    given = [name for name in names.split() if not name.startswith("_")]  # which no attribute may be
    _runs_right(_named(["m"], given), given, nvrtc)


@pytest.mark.parametrize("name", CLASSES)
def test_names_of_methods_that_mean_something_in_c(name: str, nvrtc: Any, machine: shim.Machine) -> None:
    """After which the kernels are called."""
    _runs_right(_named(["m"], ["lr"], name), ["lr"], nvrtc)


def test_names_that_would_be_one(nvrtc: Any, machine: shim.Machine) -> None:
    """`new`, which is a word of C, and `new_`, which it could become; a slot and a coefficient of one name."""
    for slot, coefficient in [*itertools.permutations(["new", "new_"]), ("new", "slot_new")]:
        _runs_right(_named([slot], [coefficient]), [coefficient], nvrtc)


def _runs_right(method: type[ao.Optimizer], names: list[str], nvrtc: Any) -> None:
    hyper: dict[str, Any] = {name: 0.25 + 0.125 * k for k, name in enumerate(names)}

    def make(engine: ao.EngineName | None) -> ao.Optimizer:
        return ao.chain(method(**hyper), ao.ClipGlobalNorm(0.25), engine=engine)

    for kernel, _, _ in _passes(make(None), "float32"):
        nvrtc.code(kernel.text, 90)
    rng = np.random.default_rng(0)
    here, gs = rng.normal(size=1500).astype("f4"), [rng.normal(size=1500).astype("f4") for _ in range(3)]
    there = shim.asarray(here)
    optimizer, reference = make("cuda"), make("portable")
    for g in gs:
        optimizer.update(there, shim.asarray(g))
        reference.update(here, g)
    assert same_bits(shim.tonumpy(there), here)
    assert agree(optimizer.state.slots, reference.state.slots)  # type: ignore[union-attr]


# Tables ----------------------------------------------------------------------------------------------------------

LENGTHS = st.integers(0, 3 * CHUNK) | st.sampled_from([m + d for m in (1024, CHUNK, 2 * CHUNK) for d in (-1, 0, 1)])


@given(st.lists(LENGTHS, min_size=1, max_size=40))
def test_chunk_map(lengths: list[int]) -> None:
    """Every element of every leaf once, in order, in chunks as long as may be; and blocks of the reduction counted."""
    chunks, firsts = chunk_map(lengths)
    expected = [(b, i, min(CHUNK, n - b)) for i, n in enumerate(lengths) for b in range(0, n, CHUNK)]
    assert chunks.tolist() == expected
    assert chunks.dtype.itemsize == 16  # as the kernel's
    assert firsts == [sum(math.ceil(m / BLOCK) for m in lengths[:i]) for i in range(len(lengths) + 1)]


def test_chunk_map_of_more_elements_than_an_int_counts() -> None:
    chunks, firsts = chunk_map([2**31 + 5, 3])
    assert chunks[-2].tolist() == (2**31, 0, 5)
    assert chunks[-1].tolist() == (0, 1, 3)
    assert firsts[-1] == 2**21 + 2


FLOATS = st.floats(allow_nan=False, width=64) | st.sampled_from([0.0, -0.0, 1.0, 0.5, 5e-324, math.inf])
_COMPARED = ["less", "less_equal", "greater", "greater_equal", "equal", "not_equal"]


def _scalars(leaf: st.SearchStrategy[Scalar]) -> st.SearchStrategy[Scalar]:
    """Numbers of these, by all operations; what is compared counts as 0 or 1 beside a number."""

    def of(op: str, *arguments: st.SearchStrategy[Scalar]) -> st.SearchStrategy[Scalar]:
        return st.tuples(*arguments).map(lambda found: Scalar(op, found))

    def more(a: st.SearchStrategy[Scalar]) -> st.SearchStrategy[Scalar]:
        compared = st.one_of(*(of(op, a, a) for op in _COMPARED))
        both = [of(op, compared | a, compared | a) for op in ("and", "or")]
        known = st.one_of(compared, *both)
        arithmetic = [of(op, a, a) for op in ("add", "subtract", "multiply", "divide")]
        mixed = [of("multiply", known, a), of("add", a, known), of("where", known | a, a, a)]
        return st.one_of(*arithmetic, *mixed, *(of(op, a) for op in ("negative", "sqrt", "abs")))

    return st.recursive(leaf, more, max_leaves=8)


_NUMBER = FLOATS.map(lambda value: Scalar("number", (value.hex(),)))
_GIVEN = st.tuples(st.integers(0, 1), st.sampled_from("ab")).map(lambda at: Scalar("coefficient", at))
_DEVICE = st.integers(0, 2).map(lambda k: Scalar("device", (k,)))
EXPRESSIONS = _scalars(_NUMBER | _GIVEN | st.just(Scalar("smallest_normal", ())))


def _known_there(s: Scalar) -> bool:
    return s.op == "device" or any(isinstance(a, Scalar) and _known_there(a) for a in s.arguments)


VALUES = FLOATS | _scalars(_NUMBER | _DEVICE).filter(_known_there).map(lambda s: Symbol(symbol(0).tape, s))
ROWS = st.lists(st.fixed_dictionaries(dict.fromkeys("ab", VALUES)), min_size=2, max_size=2)


def _put(s: Scalar, row: Any, device: list[float], within: Range) -> Scalar:
    """With the numbers in place of what is given, as far as the dtype can hold it, and what the device knows."""
    if s.op == "device":
        return Scalar("number", (device[s.arguments[0]].hex(),))
    if s.op == "coefficient":
        value = row[s.arguments[0]][s.arguments[1]]
        found = _put(value.scalar, row, device, within) if isinstance(value, Symbol) else None
        number = value if found is None else float(evaluate(found, (), "float64"))
        return Scalar("number", (within.fitted(number).hex(),))
    return Scalar(s.op, tuple(_put(a, row, device, within) if isinstance(a, Scalar) else a for a in s.arguments))


DEVICE = st.lists(FLOATS, min_size=3, max_size=3)


@settings(max_examples=12)
@given(st.lists(EXPRESSIONS, min_size=10, max_size=40), st.lists(ROWS, min_size=1, max_size=3), DEVICE)
@pytest.mark.parametrize("dtype", libraries.REAL)
def test_rows_of_coefficients(
    dtype: str, machine: shim.Machine, scalars: list[Scalar], rows: list[Any], device: list[float]
) -> None:
    """What the host puts there and what the device computes is what Python computes, to the last bit."""
    kept, wanted = [], []
    for scalar in scalars:
        try:
            values = [float(evaluate(_put(scalar, row, device, range_of(dtype)), (), dtype)) for row in rows]
        except (ZeroDivisionError, ValueError):  # which refuse the step, where the host computes it
            continue
        kept.append(scalar)
        wanted.append(values)
    given_rows = [None, *map(tuple, rows)]
    numbers, expressions = rows_of(kept, given_rows, dtype)
    again = rows_of(kept, given_rows, dtype)
    assert (again[1], again[0].tobytes()) == (expressions, numbers.tobytes())
    computed = numbers.copy()
    width, known = len(kept), np.array(device)
    if expressions:
        behind = computed.ctypes.data + 8 * width * len(given_rows)
        text = coefficients(expressions).text
        shim.call("coefficients", text, 1, 1, (computed.ctypes.data, behind, known.ctypes.data))
    assert not computed[:width].any()
    expected = [[values[r] for values in wanted] for r in range(len(rows))]
    assert same_bits(computed[width : width * len(given_rows)], np.array(expected).ravel())
    assert {at for at, _ in expressions} == {
        width * (r + 1) + k for r, row in enumerate(rows) for k, s in enumerate(kept) if _unknown(s, row)
    }


def _unknown(s: Scalar, row: Any) -> bool:
    if s.op == "coefficient":
        value = row[s.arguments[0]][s.arguments[1]]
        return isinstance(value, Symbol) and _known_there(value.scalar)
    return any(isinstance(a, Scalar) and _unknown(a, row) for a in s.arguments)


@given(st.lists(FLOATS, min_size=2, max_size=2), st.lists(FLOATS, min_size=2, max_size=2))
@example([1.0, 2.0], [3.0, 4.0])
def test_rows_with_other_numbers_have_the_same_kernel(one: list[float], two: list[float]) -> None:
    """Or else each step would compile its own."""
    scalars = [Scalar("coefficient", (0, "a"))]
    rows = [({"a": max_norm / (symbol(0) + more) * more},) for max_norm, more in (one, two)]
    first, second = (rows_of(scalars, [row], "float32") for row in rows)
    assert first[1] == second[1]


def test_what_is_compared_is_a_number(machine: shim.Machine) -> None:
    """As it is for Python: 1 / 2 is 0.5."""
    norm = symbol(0)
    share = (norm > 1) / ((norm > 2) + (norm > 3))
    numbers, expressions = rows_of([Scalar("coefficient", (0, "a"))], [({"a": share},)], "float32")
    at, known = numbers.ctypes.data, np.array([5.0])
    shim.call("coefficients", coefficients(expressions).text, 1, 1, (at, at + 8, known.ctypes.data))
    assert numbers[0] == 0.5


# The reduction ---------------------------------------------------------------------------------------------------


def _norm(machine: shim.Machine, table: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch) -> float:
    """What the engine's launches make of these rows."""
    plan: Any = object.__new__(cuda.CudaPlan)
    plan.device, plan.blocks, known, own = machine.device, [0, len(table)], np.zeros(3), table.copy()
    plan.program = ao.chain(ao.Scale(1.0), ao.Scale(1.0), ao.ClipGlobalNorm(1.0), ao.SGD())._pipeline.branch.program
    assert plan.program.reductions == (2,)
    plan.stream = plan.sending = plan.device.stream(7)
    plan.numbers, plan.sums = known.ctypes.data, own.ctypes.data
    with plan.device.scope():
        plan.owned = cuda_device.Owned(plan.device)
    monkeypatch.setattr(cuda.CudaPlan, "_launches", lambda *_: [])
    assert plan.value(2, None, None).scalar == Scalar("device", (2,))
    return float(known[2])


def _table(rng: np.random.Generator, n: int) -> np.ndarray[Any, Any]:
    """Rows with codes near to each other."""
    table = rng.integers(-(2**40), 2**40, (n, reduction.COLUMNS))
    table[:, 0], table[:, 1] = rng.integers(50, 55, n), rng.integers(2**41, 2**42, n)
    return table


@pytest.mark.parametrize(("blocks", "threads"), [(1, 32), (2, 16), (4, 4), (32, 1)])
def test_the_reduction_of_any_length(
    blocks: int, threads: int, machine: shim.Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By few threads, so that nearly all have several numbers, and two launches are needed early."""
    monkeypatch.setattr(cuda, "HALVERS", blocks)
    monkeypatch.setattr(cuda, "HALVING", threads)
    rng = np.random.default_rng(0)
    for n in (*range(1, 500), *(range(500, 5001, 45) if blocks == 2 else ())):
        table = _table(rng, n)
        assert _norm(machine, table, monkeypatch) == reduction.norm(np, [table]), n


def test_the_reduction_as_it_is_launched(machine: shim.Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Around powers of two, beyond what one block of threads halves, and of what no sum can repair."""
    rng = np.random.default_rng(1)
    lengths = [(1 << k) + d for k in (*range(1, 12), 15, 16, 17) for d in (-1, 0, 1)]
    for n in (*lengths, 32 * 1024 * 2 + 12345):
        machine.launches.clear()
        table = _table(rng, n)
        assert _norm(machine, table, monkeypatch) == reduction.norm(np, [table]), n
        stages = [("halve", 32)] if n > 1 << 16 else []
        assert machine.launches == [*stages, ("halve", 1), ("root", 1)]
    for code in (0, reduction.INFINITE, reduction.NAN):
        table = _table(rng, 3) if code else np.zeros((3, reduction.COLUMNS), np.int64)
        table[1, 0] = code
        assert same_bits(_norm(machine, table, monkeypatch), reduction.norm(np, [table]))
