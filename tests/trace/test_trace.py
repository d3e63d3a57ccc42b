"""Rules as graphs, and graphs as source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim._trace._expressions import evaluate
from anyoptim._trace._graph import Graph, Input, Node, trace
from anyoptim._trace._program import MOVE, Part, Program, Values, on_value, static_options
from anyoptim._trace._symbols import Scalar
from tests.support.internals import blocked
from tests.support.libraries import METHODS

pytestmark = pytest.mark.telling


def _given(name: str) -> Scalar:
    return Scalar("coefficient", (0, name))


def _trace(rule: Callable[..., Any], slots: tuple[str, ...], coefficients: dict[str, Any]) -> Graph:
    return trace(Program((Part(on_value, rule, slots), MOVE)), static_options((coefficients, {})))


def _number(value: float) -> Scalar:
    return Scalar("number", (value.hex(),))


def test_a_graph_is_the_rule_operation_by_operation() -> None:
    """Momentum: each operation as it stands in the rule, and the engine's own subtraction last."""
    assert _trace(ao.Momentum.rule, ("v",), {"lr": 0.1, "momentum": 0.9}) == Graph(
        "Momentum.rule",
        (Input("p", 0), Input("x", 1), Input("v", 2)),
        (
            Node("multiply", (_given("momentum"), 2)),
            Node("multiply", (_given("lr"), 1)),
            Node("subtract", (3, 4)),
            Node("negative", (5,)),
            Node("subtract", (0, 6)),
        ),
        (7, 5),
    )


def test_common_operations_once_and_unused_ones_never() -> None:
    """x*x twice is one node; what no result needs is none."""

    def rule(xp: Any, p: Any, x: Any, h: Any, c: Any) -> Any:
        xp.sqrt(h * 3.0)  # unused
        return c.lr * (x * x) / xp.sqrt(x * x), h + x * x

    graph = _trace(rule, ("h",), {"lr": 0.1})
    assert [node.op for node in graph.nodes] == ["multiply", "multiply", "sqrt", "divide", "add", "subtract"]


def test_nothing_is_reassociated_and_zeros_keep_their_signs() -> None:
    """(a + b) + c and a + (b + c) are two graphs, and so are x + 0.0 and x + -0.0."""

    def rule(xp: Any, p: Any, x: Any, a: Any, b: Any, c: Any) -> Any:
        return (p + x) + a, p + (x + a), (x + 0.0) * (x + -0.0)

    graph = _trace(rule, ("a", "b"), {})
    assert [node.op for node in graph.nodes].count("add") == 6


def test_scalars_fold_on_the_host_in_float64() -> None:
    """lr*decay*p is one multiplication by one number, rounded once."""

    def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return xp.maximum(-c.lr, xp.sqrt(c.decay) / 3.0) * c.decay * p

    graph = _trace(rule, (), {"lr": 0.1, "decay": 0.2})
    assert [node.op for node in graph.nodes] == ["multiply", "subtract"]
    (scalar,) = graph.scalars
    assert evaluate(scalar, ({"lr": 0.1, "decay": 0.2}, {}), "float64") == 0.2**0.5 / 3.0 * 0.2
    assert evaluate(scalar, ({"lr": -5.0, "decay": 0.2}, {}), "float64") == 5.0 * 0.2


def test_static_options_are_branches() -> None:
    """A bool or a string is handed to the rule as it is, and another value is another graph."""

    def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
        if c.nesterov:
            x = x + x
        return c.lr * x if c.kind == "plain" else x

    lengths = {
        (n, k): len(_trace(rule, (), {"lr": 0.1, "nesterov": n, "kind": k}).nodes)
        for n in (True, False)
        for k in ("plain", "bare")
    }
    assert lengths == {(True, "plain"): 3, (True, "bare"): 2, (False, "plain"): 2, (False, "bare"): 1}


LEAKED: list[Any] = []


class Rules:
    """Each entry is something that a rule may not do."""

    @staticmethod
    def branch_on_array(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return x if x > 0 else -x

    @staticmethod
    def branch_on_coefficient(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return x if c.lr else -x

    @staticmethod
    def foreign_array(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return np.ones(3) * x

    @staticmethod
    def power(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return x**2

    @staticmethod
    def too_many(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return x, x

    @staticmethod
    def sum_of_masks(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return ((x > 0) + (x > 1)) * x

    @staticmethod
    def mask_by_number(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return (x > 0) & x

    @staticmethod
    def number_for_a_mask(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return xp.where(x, p, x)

    @staticmethod
    def mask_as_result(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return x > 0

    @staticmethod
    def mask_as_slot(xp: Any, p: Any, x: Any, s: Any, c: Any) -> Any:
        return x, x > 0

    @staticmethod
    def not_of_coefficients(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return xp.where(~(c.lr > 3.0), x, -x)

    @staticmethod
    def leaked(xp: Any, p: Any, x: Any, c: Any) -> Any:
        LEAKED.append(x)
        return LEAKED[0] * x

    @staticmethod
    def as_float(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return float(c.lr) * x


SAYS = {
    "branch_on_array": "it branches on a value that is known only when it runs; wanted xp.where",
    "branch_on_coefficient": "it branches on a value",
    "foreign_array": "it uses array",
    "power": r"it uses \*\*; wanted x\*x",
    "too_many": "gave 2 arrays; wanted a tuple of 1",
    "sum_of_masks": "'add' mixes truth values and numbers",
    "mask_by_number": "'and' mixes truth values and numbers",
    "number_for_a_mask": "'where' mixes truth values and numbers",
    "mask_as_result": "'subtract' mixes truth values and numbers",
    "mask_as_slot": "wanted an array of numbers",
    "not_of_coefficients": "it uses ~ on coefficients alone",
    "leaked": "it uses <anyoptim",
    "as_float": "it branches on a value",
}


@pytest.mark.parametrize("name", SAYS)
def test_what_a_rule_may_not_do_is_said_with_its_name(name: str) -> None:
    """Every refusal names the rule."""
    slots = ("s",) if name == "mask_as_slot" else ()
    if name == "leaked":
        _trace(getattr(Rules, name), slots, {"lr": 0.1})  # the first time it is its own
    with pytest.raises(TypeError, match=rf"Rules\.{name}\b.*{SAYS[name]}"):
        _trace(getattr(Rules, name), slots, {"lr": 0.1})


def test_source_of_adam() -> None:
    """The emitted text is what a person would write."""
    hyper = {"lr": 1.0, "beta1": 0.9, "beta2": 0.9, "eps": 0.1, "eps_corrected": 0.0, "eps_root": 0.0}
    source = blocked(_trace(ao.Adam.rule, ("m", "v"), ao.Adam.coefficients(1, Values(hyper))))
    assert source.text.splitlines() == [
        "def Adam_rule(p, x, m, v, a1, a2, lr_t, eps, s4, s5, t0, t1):",
        "    return [",
        "        partial(clip, x, s4, s5, t0),",
        "        partial(subtract, t0, m, t1),",
        "        partial(multiply, a1, t1, t1),",
        "        partial(add, m, t1, m),",
        "        partial(multiply, t0, t0, t0),",
        "        partial(subtract, t0, v, t0),",
        "        partial(multiply, a2, t0, t0),",
        "        partial(add, v, t0, v),",
        "        partial(multiply, lr_t, m, t0),",
        "        partial(sqrt, v, t1),",
        "        partial(add, t1, eps, t1),",
        "        partial(divide, t0, t1, t1),",
        "        partial(subtract, p, t1, p),",
        "    ]",
    ]
    assert (source.temporaries, source.masks) == (2, 0)


def test_no_method_copies_or_takes_many_temporaries(method: type[Any]) -> None:
    """Results of the public methods go straight to their places, by way of four blocks of scratch at most.

    Copies are what `where` is made of, and gradients that are kept, as they are or bounded.
    """
    hyper = dict.fromkeys(method.hyperparameters, 0.5)
    graph = _trace(method.rule, method.slots, method.coefficients(1, Values(hyper)))
    source = blocked(graph)
    choices = [node for node in graph.nodes if node.op == "where"]
    nodes = enumerate(graph.nodes, len(graph.inputs))
    bounded = [i for i, node in nodes if node.op == "bound" and node.arguments[0] == 1]
    kept = sum(output in {1, *bounded} for output in graph.outputs)
    # A choice is one copy and one of some elements, and what is kept as it came one.
    assert source.text.count("positive") == len(choices)
    least = kept + len(choices)
    assert least <= source.text.count("setitem") <= least + len(choices)
    assert source.temporaries <= 4
    assert METHODS[method.__name__] is method


def test_names_never_clash() -> None:
    """A coefficient may be called like an array, a temporary, or one of NumPy's functions."""

    def add(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return xp.where(x > 0, c.t0 * x + c.add * x + c.s1 * x, c.k0 * x) * getattr(c, "lambda")

    source = blocked(_trace(add, (), {"t0": 1.0, "add": 2.0, "s1": 3.0, "k0": 4.0, "lambda": 5.0}))
    compile(source.text, "source", "exec")
    assert source.name != "add"
    arguments = source.text.partition("(")[2].partition(")")[0].split(", ")
    assert len(set(arguments)) == len(arguments)
    assert "add" not in arguments
