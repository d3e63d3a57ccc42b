"""What a rule may use, and what it takes to add a method."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import ENGINES, Library, same_bits

NAN, INF = np.nan, np.inf
EDGES = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, INF, -INF, NAN, 3e38]


def _evaluate(lib: Library, cases: dict[str, Callable[[Any, Any, Any], Any]], p: Any, x: Any) -> dict[str, Any]:
    """The value of each case for every element, by the engine that the library has by default."""

    class Probe(ao.Optimizer):
        slots = tuple(cases)

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, *_: Any) -> Any:
            return x, *(f(xp, p, x) for f in cases.values())

    probe = Probe()
    probe.update({"p": lib.array(p)}, {"p": lib.array(x)})
    assert probe.state is not None
    return {name: lib.tonumpy(slot["p"]) for name, slot in probe.state.slots.items()}


def _sign(a: np.float32) -> np.float32:
    return np.float32(1) if a > 0 else np.float32(-1) if a < 0 else a


def _least(a: np.float32, b: np.float32) -> np.float32:
    return a if a < b or a != a else b


def _greatest(a: np.float32, b: np.float32) -> np.float32:
    return a if a > b or a != a else b


# Dask computes in threads of its own, whose floating-point warnings no caller can turn off.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_operations_on_the_edges(lib: Library) -> None:
    """Sign, minimum, maximum, abs and where agree everywhere on signed zeros, infinities and NaN.

    Subnormals are left out on JAX and CuPy, which flush them.
    """
    edges = [e for e in EDGES if lib.exact or lib.name.startswith("torch") or e == 0 or not abs(e) < 1e-38]
    a, b = (np.array(m, np.float32).ravel() for m in np.meshgrid(edges, edges))
    cases: dict[str, tuple[Any, list[np.float32]]] = {
        "sign": (lambda xp, p, x: xp.sign(p), [_sign(v) for v in a]),
        "minimum": (lambda xp, p, x: xp.minimum(p, x), [_least(v, w) for v, w in zip(a, b, strict=True)]),
        "maximum": (lambda xp, p, x: xp.maximum(p, x), [_greatest(v, w) for v, w in zip(a, b, strict=True)]),
        "with_a_number": (lambda xp, p, x: xp.maximum(p, 0.5), [_greatest(v, np.float32(0.5)) for v in a]),
        "two_numbers": (
            lambda xp, p, x: xp.where((p > x) & ~(p == 1.0), 2.0, -3.0),
            [np.float32(2 if v > w and v != 1 else -3) for v, w in zip(a, b, strict=True)],
        ),
        "abs": (lambda xp, p, x: xp.abs(p), list(np.abs(a))),
        "negation": (lambda xp, p, x: -p, list(-a)),
    }
    found = _evaluate(lib, {name: f for name, (f, _) in cases.items()}, a, b)
    for name, (_, expected) in cases.items():
        assert same_bits(found[name], np.array(expected, np.float32)), name


def test_what_is_done_to_coefficients_alone_is_float64(lib: Library) -> None:
    """Operations on coefficients give Python's floats, and only the result, rounded once, meets an array."""
    seen: list[Any] = []

    class Scaled(ao.Optimizer):
        lr: ao.Nonnegative
        decay: ao.Nonnegative

        @staticmethod
        def coefficients(t: int, hyper: Any) -> dict[str, Any]:
            return {"lr": np.float64(hyper.lr), "decay": hyper.decay, "doubled": True}

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
            factor = xp.maximum(xp.sqrt(c.lr), c.decay) * xp.sign(-c.lr) * xp.minimum(c.lr, 1.0) * xp.abs(-0.1)
            if isinstance(factor, float):  # and not what stands for one in a trace
                seen.append((factor, c.doubled))
            return (2.0 if c.doubled else 1.0) * factor * x

    p = Scaled(lr=0.3, decay=0.1, engine="portable").update({"p": lib.array([1.0])}, {"p": lib.array([1.0])})["p"]
    factor = np.sqrt(0.3) * -1.0 * 0.3 * 0.1
    assert seen == [(factor, True)]
    assert lib.tonumpy(p)[0] == np.float32(1) - np.float32(2 * factor)
    other = Scaled(lr=0.3, decay=0.1).update({"p": lib.array([1.0])}, {"p": lib.array([1.0])})["p"]
    assert same_bits(lib.tonumpy(p), lib.tonumpy(other))


def test_a_new_method_is_a_short_class(lib: Library) -> None:
    """Signum, in a few lines: it has every library, state and check with no further code."""

    class Signum(ao.Optimizer):
        lr: ao.Nonnegative
        beta: ao.Fraction
        slots = ("m",)

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, m: Any, c: Any) -> Any:
            m = c.beta * m + (1 - c.beta) * x
            return c.lr * xp.sign(m), m

    optimizer = Signum(lr=0.5, beta=0.5)
    params = {"w": lib.array([1.0, 1.0, 1.0])}
    optimizer.update(params, {"w": lib.array([2.0, -1.0, 0.0])})
    optimizer.update(params, {"w": lib.array([-0.5, 2.0, 0.0])})
    assert lib.tonumpy(params["w"]).tolist() == [0.0, 1.0, 1.0]
    assert optimizer.state is not None
    assert lib.tonumpy(optimizer.state.slots["m"]["w"]).tolist() == [0.25, 0.75, 0.0]


def test_slots_may_start_elsewhere(lib: Library) -> None:
    """`init_slots` sees a parameter in its compute dtype, a complex one by parts; what it gives is the first state."""

    class Anchor(ao.Optimizer):
        slots = ("anchor",)

        @classmethod
        def init_slots(cls, xp: Any, p: Any) -> tuple[Any, ...]:
            return (p + 1.0,)

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, anchor: Any, c: Any) -> Any:
            return p - anchor, anchor  # p <- anchor

    optimizer = Anchor()
    p = optimizer.update({"z": lib.array([1 + 2j], "complex64")}, {"z": lib.array([0j], "complex64")})
    assert lib.tonumpy(p["z"]).tolist() == [2 + 3j]


def test_slots_start_as_declared(lib: Library) -> None:
    """As a number, a constant or the parameter, of each part of a complex one; the others with zeros."""

    class Sums(ao.Optimizer):
        first: Final[Annotated[float, ao.nonnegative]] = 0.25
        slots = ("zero", "one", "constant", "start")
        starts = {"one": 1, "constant": "first", "start": "p"}

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, *rest: Any) -> Any:
            return x, *(s + x for s in rest[:-1])

    optimizer, params = Sums(), {"r": lib.array([3.0], "float32"), "z": lib.array([1 + 2j], "complex64")}
    state = optimizer.init(params)
    found = {(s, k): lib.tonumpy(a).tolist() for s, kept in state.slots.items() for k, a in kept.items()}
    reals = {"zero": 0.0, "one": 1.0, "constant": 0.25, "start": 3.0}
    parts = {"zero": 0j, "one": 1 + 1j, "constant": 0.25 + 0.25j, "start": 1 + 2j}
    assert found == {(s, k): [of[s]] for k, of in (("r", reals), ("z", parts)) for s in Sums.slots}


def test_slots_of_other_names_than_their_starts() -> None:
    """A class that renames the slots of another says what they start as, too."""

    class Before(ao.Optimizer):
        slots = ("m",)
        starts: ClassVar[dict[str, Any]] = {"m": np.float32(1)}

    with pytest.raises(TypeError, match="After has a start of 'm'; its slots are n"):
        type("After", (Before,), {"slots": ("n",)})


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"starts": {"m": 1e300}}, r"the slot 'm' of Odd\(\) starts as 1e\+300; wanted a number that float32 holds"),
        ({"starts": {"m": 10**400}}, r"the slot 'm' of Odd\(\) starts as 10+; wanted a number that float32 holds"),
        (
            {"starts": {"m": "p"}, "slot_shapes": lambda self, shape: ((2,),)},
            r"the slot 'm' of Odd\(\) starts as the parameter, which has shape \(3,\), but slot_shapes gives \(2,\)",
        ),
    ],
)
def test_starts_that_a_parameter_can_not_have(body: dict[str, Any], says: str) -> None:
    """The first update names the slot."""
    rule = staticmethod(lambda xp, p, x, m, c: (x, m))
    made: Any = type("Odd", (ao.Optimizer,), {"slots": ("m",), "rule": rule, "array_rule": True, **body})
    with pytest.raises(ValueError, match=says):
        made().init(np.zeros(3, "f4"))


def test_a_slot_does_not_start_as_the_callers_array(lib: Library) -> None:
    """`init_slots` may give the parameter itself, as an average does; the slot is a copy of it."""

    class Start(ao.Optimizer):
        lr: ao.Nonnegative
        slots = ("start",)

        @classmethod
        def init_slots(cls, xp: Any, p: Any) -> tuple[Any, ...]:
            return (p,)

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, start: Any, c: Any) -> Any:
            return c.lr * x, start

    optimizer, params = Start(lr=0.5), {"w": lib.array([1.0])}
    for _ in range(2):
        optimizer.update(params, {"w": lib.array([1.0])})
    assert lib.tonumpy(params["w"]).tolist() == [0.0]
    assert optimizer.state is not None
    assert lib.tonumpy(optimizer.state.slots["start"]["w"]).tolist() == [1.0]


def test_every_slot_is_an_array_of_its_own(lib: Library) -> None:
    """A slot shares no memory with another array, though the rule gives one twice, or one that it was given."""

    class Twice(ao.Optimizer):
        slots = ("a", "b", "c")

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, a: Any, b: Any, c: Any, _: Any) -> Any:
            a = a + x
            return x, a, a, p

    optimizer, params = Twice(), {"w": lib.array([1.0])}
    for _ in range(2):
        optimizer.update(params, {"w": lib.array([0.5])})
    assert optimizer.state is not None
    slots = [slot["w"] for slot in optimizer.state.slots.values()]
    if lib.writable:
        assert len({id(s) for s in (*slots, params["w"])}) == 4
    assert [lib.tonumpy(s).tolist() for s in slots] == [[1.0], [1.0], [0.5]]
    assert lib.tonumpy(params["w"]).tolist() == [0.0]


def test_a_result_of_another_dtype_is_refused(lib: Library) -> None:
    """Slots have the compute dtype, whatever a rule does to it."""
    if lib.name == "jax":
        pytest.skip("jax makes no float64 without x64, and warns of it")

    class Wide(ao.Optimizer):
        slots = ("s",)
        array_rule = True

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, s: Any, c: Any) -> Any:
            return x, xp.astype(x, xp.float64)

    with pytest.raises(TypeError, match=r"Wide.rule gave .*dtype .*float64; wanted .*float32"):
        Wide().update({"w": lib.array([1.0])}, {"w": lib.array([0.5])})


def test_a_slot_is_never_the_callers_array(lib: Library) -> None:
    """A rule may remember the gradient itself; the caller may then overwrite that gradient."""

    class Last(ao.Optimizer):
        slots = ("g",)

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, g: Any, c: Any) -> Any:
            return g, x

    if not lib.writable:
        pytest.skip(f"a {lib.name} array can't be overwritten")
    optimizer, p, g = Last(), lib.array([1.0]), lib.array([0.5])
    optimizer.update(p, g)
    g[...] = lib.array([100.0])
    optimizer.update(p, g)
    assert lib.tonumpy(p).tolist() == [0.5]


class Misdeeds:
    """Each entry is something that a rule of one element may not do."""

    @staticmethod
    def sum(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return c.lr * x.sum()

    @staticmethod
    def mean(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return x - x.mean()

    @staticmethod
    def item(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return c.lr * x[0]

    @staticmethod
    def shape(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return x / x.shape[0]

    @staticmethod
    def transposed(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return c.lr * x.T

    @staticmethod
    def numpy(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return np.exp(x)

    @staticmethod
    def namespace(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return xp.cbrt(x)

    @staticmethod
    def number(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return float(x) * c.lr

    @staticmethod
    def square(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return x**2

    @staticmethod
    def power(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return c.lr**0.5 * x

    @staticmethod
    def floor(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return x // 2

    @staticmethod
    def length(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return len(x) * x

    @staticmethod
    def branch(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return x if c.lr > 0 else -x

    @staticmethod
    def inside(xp: Any, p: Any, x: Any, c: Any) -> Any:
        x += 1
        return x

    @staticmethod
    def misspelt(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return c.lr_t * x

    @staticmethod
    def written(xp: Any, p: Any, x: Any, c: Any) -> Any:
        c.lr = 2.0 * c.lr
        return c.lr * x

    @staticmethod
    def lacking(xp: Any, p: Any, x: Any) -> Any:
        return x

    @staticmethod
    def more(xp: Any, p: Any, x: Any, lr: Any, decay: Any) -> Any:
        return lr * x + decay * p

    @staticmethod
    def fewer(xp: Any, x: Any, c: Any) -> Any:
        return c.lr * x


INSTEAD = r"a rule is of one element .*; wanted .* reductions for .* and array_rule = True for a rule .*"
SAYS = {
    "sum": rf"it uses \.sum; {INSTEAD}",
    "mean": rf"it uses \.mean; {INSTEAD}",
    "item": r"it takes \[0\] of an array; wanted a rule of one element",
    "shape": rf"it uses \.shape; {INSTEAD}",
    "transposed": rf"it uses \.T; {INSTEAD}",
    "numpy": rf"ufuncs.*; {INSTEAD}",
    "namespace": rf"it uses xp\.cbrt; {INSTEAD}",
    "number": r"it branches on a value that is known only when it runs",
    "square": r"it uses \*\*; wanted x\*x for x\*\*2",
    "power": r"it uses \*\*; .* or a coefficient that is the power of others",
    "floor": rf"//.*; {INSTEAD}",
    "length": rf"len.*; {INSTEAD}",
    "branch": r"it branches on a value .*; wanted xp.where",
    "inside": r"it writes to what it was given; wanted m = m \+ x",
    "misspelt": r"reads 'lr_t', but its coefficients are lr$",
    "written": r"it writes to what it was given",
    "lacking": r"takes xp, p, x; wanted xp, p, x, c$",
    "more": r"takes xp, p, x, lr, decay; wanted xp, p, x, c$",
    "fewer": r"takes xp, x, c; wanted xp, p, x, c$",
}


ARRAYS_DO = {
    "sum",
    "mean",
    "item",
    "shape",
    "transposed",
    "numpy",
    "square",
    "power",
    "floor",
    "length",
    "branch",
    "inside",
}
"""Each entry is something that a library's own arrays can do in a rule that is only run on them."""


@pytest.mark.covering(1)  # with NumPy each, on all engines; no library's arrays are asked before the rule is traced
@pytest.mark.parametrize("name", SAYS)
def test_what_a_rule_may_not_do_is_said_by_every_engine(lib: Library, name: str) -> None:
    """In the same words, which name the rule, wherever it would run; and nothing is written.

    But for what arrays do, where nothing traces the rule: there it runs.
    """

    class Bad(ao.Optimizer):
        lr: ao.Nonnegative
        rule = staticmethod(getattr(Misdeeds, name))

    engines = ENGINES if lib.name == "numpy" else (None, "portable")
    said = set()
    for engine in engines:
        params = {"w": lib.array([[1.0, 2.0], [3.0, 4.0]])}
        for chained in (False, True):
            bad = Bad(lr=0.5, engine=None if chained else engine)
            optimizer = ao.chain(ao.ClipGlobalNorm(1.0), bad, ao.EMA(), engine=engine) if chained else bad
            try:
                optimizer.update(params, {"w": lib.array([[1.0, 1.0], [1.0, 1.0]])})
            except TypeError as raised:
                said.add(str(raised))
                assert lib.tonumpy(params["w"]).tolist() == [[1.0, 2.0], [3.0, 4.0]]
            else:
                choices = optimizer.explain(params, {"w": lib.array([[1.0, 1.0], [1.0, 1.0]])})
                assert name in ARRAYS_DO
                assert {share.engine for share in choices} == {"portable"}
                params = {"w": lib.array([[1.0, 2.0], [3.0, 4.0]])}
    assert len(said) <= 1
    assert said or name in ARRAYS_DO
    assert all(re.search(rf"\bMisdeeds\.{name}\b.*{SAYS[name]}", text) for text in said)
