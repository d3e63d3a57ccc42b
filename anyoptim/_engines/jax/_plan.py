"""The plans of the jax engine: traced rules as one function of all leaves, compiled by XLA once, with slots donated."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from anyoptim._arrays import COMPUTE, Array, Library
from anyoptim._arrays._jax import loaded
from anyoptim._arrays._quiet import quiet
from anyoptim._engines._base import Commit, Leaf, NDArray, Plan, Result, real
from anyoptim._trace._coefficients import CoefficientTable
from anyoptim._trace._exact_sum import rows as reduced
from anyoptim._trace._expressions import range_of
from anyoptim._trace._graph import Graph, graph_of
from anyoptim._trace._operations import OPERATORS
from anyoptim._trace._program import Program, StaticOptions, static_options

__all__ = ["JaxPlan"]

_OPERATIONS: Mapping[str, Callable[..., Any]] = {
    **OPERATORS,
    "and": operator.and_,
    "or": operator.or_,
    "not": operator.invert,
}

_FUNCTIONS = ("sqrt", "where", "exp", "log", "power")
"""The operations that are functions of the same name."""

_MELTS: Mapping[str, frozenset[str]] = {
    "multiply": frozenset(_OPERATIONS) - {"multiply", "divide"} | {"where", "bound"},
    "sqrt": frozenset({"multiply", "divide"}),
    "divide": frozenset({"divide"}),
}
"""The operations whose results XLA melts into one of these, with another rounding: a product and a sum become one
operation, a quotient by a root becomes a product with its inverse, and two quotients become one."""


_Form = tuple[int, StaticOptions, bool]
"""The number of a row, its static options, and whether its graph is joint."""

_Kind = tuple[StaticOptions, bool]
"""A form without the number."""

_KIND = operator.attrgetter("aval", "committed")
"""What JAX compiles a function anew for: shape, dtype, weakness of that, and whether an array is bound to its place."""


class JaxPlan(Plan):
    """A plan for JAX arrays whose values are known, of one place and one compute dtype.

    Coefficients are computed on the host in float64, as for every engine, and are an argument: nothing that changes
    from step to step is compiled in. The parameters are the user's, who may have them under other names, and stay.
    """

    rebindable = True

    def __init__(self, program: Program, leaves: Sequence[Leaf]) -> None:
        super().__init__(program, leaves)
        library = leaves[0].library
        self._dtype = real(COMPUTE[library.dtype(leaves[0].p)])
        self._any_complex = any(leaf.of_complex for leaf in leaves)
        self._place = library.replicated_sharding(leaves[0].p)
        # Without these, XLA would divide results of several devices as it likes.
        several = leaves[0].p.sharding.num_devices > 1
        self._shardings = tuple(leaf.p.sharding for leaf in leaves) if several else None
        self._reads = [leaf.reads for leaf in leaves]
        self._own: Sequence[tuple[Array, ...]] = [(None,) * program.slots for _ in leaves]
        """The slots of the last step, which nobody else has. All other slots may have other owners, too."""
        self._known: tuple[Any, ...] | None = None
        """The function of the last step, and the kinds of its arguments, for which it is compiled."""

    def rebind(self, leaves: Sequence[Leaf]) -> None:
        self.leaves = leaves

    def regather(self, xs: Sequence[Array]) -> Sequence[Array] | None:
        plain = self.leaves[0].library.is_plain_gradient
        return xs if all(plain(x, leaf.p) for x, leaf in zip(xs, self.leaves, strict=True)) else None

    def gather(self, xs: Sequence[Array]) -> Sequence[Array]:
        return xs

    def reduced(self, k: int, gathered: Sequence[Array], rows: CoefficientTable) -> list[NDArray]:
        return self.reduced_all((k,), gathered, rows)[0]

    def reduced_all(self, ks: Sequence[int], gathered: Sequence[Array], rows: CoefficientTable) -> list[list[NDArray]]:
        forms = [self._forms(k, rows.before(k)) for k in ks]
        asked = tuple((k, *_kinds(*of)) for k, of in zip(ks, forms, strict=True))
        call = _reduced(self.leaves[0].library, self.program, asked, self._cuts(gathered))
        # To hand slots over costs time; p and x are the arrays 0 and 1.
        graphs = (graph_of(self.program, k, *kind) for k, kinds, _ in asked for kind in kinds)
        reads = any(i >= 2 for graph in graphs for i in graph.arrays_read)
        slots = [leaf.slots if reads else () for leaf in self.leaves]
        ps = [leaf.p for leaf in self.leaves]
        numbers = [self._numbers(k, rows, *of) for k, of in zip(ks, forms, strict=True)]
        found = call(slots, numbers, ps, gathered, self._reads)
        return [[*np.asarray(table).reshape(len(ps), 1, -1)] for table in found]

    def prepare_anew(self, gathered: Sequence[Array], rows: CoefficientTable) -> Commit:
        forms = self._forms(None, rows)
        call = _step(self.leaves[0].library, self.program, *_kinds(*forms), self._shardings)
        numbers, ps = self._numbers(None, rows, *forms), [leaf.p for leaf in self.leaves]
        # Where it is compiled first, Python code runs, in which an exception may arrive when the slots are gone.
        arrays = (*ps, *gathered, *(leaf.slots[0] for leaf in self.leaves if leaf.slots))
        kind = call, *map(_KIND, arrays)
        known = kind == self._known
        own = [
            known and all(map(operator.is_, *pair))
            for pair in zip((leaf.slots for leaf in self.leaves), self._own, strict=True)
        ]
        given: list[Any] = []

        def commit() -> Sequence[Result]:
            if not given:  # a list that is extended has what JAX gave, also where an exception comes after it
                slots = [leaf.slots if mine else _copied(leaf) for leaf, mine in zip(self.leaves, own, strict=True)]
                given.extend(itertools.starmap(call, [(slots, numbers, ps, gathered, self._reads)]))
            ((self._own, moved),) = given
            self._known = kind
            results = list(map(Result, moved, self._own))
            # Else the old arrays would be kept alive.
            both = zip(self.leaves, results, strict=True)
            self.leaves = [Leaf(leaf.library, *result, reads=leaf.reads) for leaf, result in both]
            return results

        return commit

    def _cuts(self, xs: Sequence[Array]) -> tuple[Any, ...] | None:
        """How the leaves, or rather their gradients, are cut among the devices of their mesh, if they lie on one."""
        mesh = getattr(self.leaves[0].p.sharding, "mesh", None)
        if self._shardings is None or mesh is None:
            return None
        both = zip((x.sharding for x in xs), self._shardings, strict=True)
        return tuple(of_x if getattr(of_x, "mesh", None) == mesh else of_p for of_x, of_p in both)

    def _forms(self, k: int | None, rows: CoefficientTable) -> tuple[list[_Form], Sequence[int]]:
        """The forms of rows that leaves have, and the number of that of each leaf."""
        static = [static_options(row) for row in rows.distinct]
        joint = [self._any_complex and graph_of(self.program, k, each, of_complex=True).joint for each in static]
        if not any(joint):
            return [(row, each, False) for row, each in enumerate(static)], rows.row_of_leaf
        of_leaf = zip(rows.row_of_leaf, self.leaves, strict=True)
        forms = [(row, static[row], joint[row] and leaf.of_complex) for row, leaf in of_leaf]
        number = {form: i for i, form in enumerate(dict.fromkeys(forms))}
        return [*number], [number[form] for form in forms]

    def _numbers(
        self, k: int | None, rows: CoefficientTable, forms: Sequence[_Form], form_of_leaf: Sequence[int]
    ) -> list[Array]:
        """For each leaf an array of -0.0 and the numbers that its graph takes.

        Each is an array by itself: so XLA compiles what leaves of one shape do only once, whichever rows they have.
        """
        rows_of_numbers = []
        within = range_of(self._dtype, normal=True)  # the rest is flushed to 0
        for row, static, joint in forms:
            with quiet():
                scalars = graph_of(self.program, k, static, joint).scalars
                values = scalars.values(rows.distinct[row], self._dtype, within)
                rows_of_numbers.append(np.array([-0.0, *values], self._dtype))
        table = np.zeros((len(rows_of_numbers), max(map(len, rows_of_numbers))), self._dtype)
        for table_row, numbers in zip(table, rows_of_numbers, strict=True):
            table_row[: len(numbers)] = numbers
        arrays = _split()(table if self._place is None else self.leaves[0].library.device_put(table, self._place))
        return [arrays[r] for r in form_of_leaf]


def _copied(leaf: Leaf) -> tuple[Array, ...]:
    """Copies of the slots, which nobody else has."""
    return tuple(leaf.library.copied(leaf.library.sharded_like(s, leaf.p)) for s in leaf.slots)


def _kinds(forms: Sequence[_Form], form_of_leaf: Sequence[int]) -> tuple[tuple[_Kind, ...], tuple[int, ...]]:
    """The kinds of graphs, and for each leaf the number of its kind; no numbers where there is one kind."""
    kinds = [(static, joint) for _, static, joint in forms]
    distinct = tuple(dict.fromkeys(kinds))
    return distinct, () if len(distinct) == 1 else tuple(distinct.index(kinds[r]) for r in form_of_leaf)


@functools.cache
def _split() -> Callable[..., Any]:
    """A function that gives the rows of a table as arrays."""
    return loaded().jit(list)  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=64)
def _step(
    library: Library,
    program: Program,
    kinds: Sequence[_Kind],
    kind_of_leaf: Sequence[int],
    shardings: Sequence[Any] | None,
) -> Callable[..., Any]:
    """The step of all leaves as one function of slots, numbers, parameters and gradients."""
    graphs = [graph_of(program, None, *kind) for kind in kinds]

    def step(slots: Any, rows: Any, ps: Any, xs: Any, reads: Any) -> Any:
        results = []
        for i, (p, x, own, beside, numbers) in enumerate(zip(ps, xs, slots, reads, rows, strict=True)):
            graph = graphs[kind_of_leaf[i] if kind_of_leaf else 0]
            moved, *kept = _joined(graph, _parts(library, graph, (p, x, *own, *beside), numbers))
            results.append((*kept, library.xp.astype(moved, p.dtype)))
        # The slots come first, so that each goes to the buffer it comes from.
        return [new[:-1] for new in results], [new[-1] for new in results]

    where = None if shardings is None else (list(shardings),) * 2
    return loaded().jit(step, donate_argnums=0, out_shardings=where)  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=64)
def _reduced(
    library: Library,
    program: Program,
    asked: Sequence[tuple[int, Sequence[_Kind], Sequence[int]]],
    shardings: Sequence[Any] | None,
) -> Callable[..., Any]:
    """The function that gives the rows of reductions, for each of these one for each leaf.

    What is asked for is the number of the part, and the kinds of graphs for the leaves. `shardings` say how the leaves
    are cut, where they lie on a mesh of devices.
    """
    of_all = [([graph_of(program, k, *each) for each in kinds], of_leaf) for k, kinds, of_leaf in asked]

    def rows_of_all(slots: Any, rows: Any, ps: Any, xs: Any, reads: Any) -> Any:
        found = []
        for (k, *_), (graphs, kind_of_leaf), its_rows in zip(asked, of_all, rows, strict=True):
            leaves = []
            for i, (p, x, own, beside, numbers) in enumerate(zip(ps, xs, slots, reads, its_rows, strict=True)):
                graph = graphs[kind_of_leaf[i] if kind_of_leaf else 0]
                parts = _parts(library, graph, (p, x, *own, *beside), numbers)
                count = len(parts[0]) // graph.parts
                leaves.append([some[j : j + count] for some in parts for j in range(0, len(some), count)])
            found.append(reduced(library, program.reduction(k).kind, leaves, shardings))
        return found

    return loaded().jit(rows_of_all)  # type: ignore[no-any-return]


def _parts(library: Library, graph: Graph, arrays: Sequence[Array], numbers: Array) -> list[list[Array]]:
    """The results of a graph for p, x and the slots: for complex ones those of the real and of the imaginary parts.

    Of a joint graph those of both together.
    """
    xp, p = library.xp, arrays[0]
    if graph.joint:
        reals = [a if xp.iscomplexobj(a) else xp.astype(a, numbers.dtype) for a in arrays[2:]]
        given = [p, xp.astype(arrays[1], p.dtype), *reals]
        both = [(given[of.array], of.part) for of in graph.inputs if of.array < len(given)]
        return [_run(xp, graph, [a if part is None else (xp.real, xp.imag)[part](a) for a, part in both], numbers)]
    if xp.iscomplexobj(p):
        arrays = [xp.astype(a, p.dtype) for a in arrays]
        return [_run(xp, graph, [part(a) for a in arrays], numbers) for part in (xp.real, xp.imag)]
    return [_run(xp, graph, [xp.astype(a, numbers.dtype) for a in arrays], numbers)]


def _joined(graph: Graph, parts: list[list[Array]]) -> list[Array]:
    """The results of a step as arrays: complex ones of both parts."""
    join = loaded().lax.complex
    if not graph.joint:
        return parts[0] if len(parts) == 1 else [*map(join, *parts)]
    results, of_homes = iter(parts[0]), [graph.inputs[i].part for i in graph.homes]
    return [next(results) if part is None else join(next(results), next(results)) for part in of_homes if part != 1]


def _run(xp: Any, graph: Graph, arrays: Sequence[Array], numbers: Array) -> list[Array]:
    """Run each node as it was written: -0.0, which changes no number, separates those that would melt together."""
    zero, *rest = (numbers[j] for j in range(1 + len(graph.scalars)))
    scalars = dict(zip(graph.scalars, rest, strict=True))
    into: dict[int, set[str]] = {}  # for each array the operations that it is an operand of
    for node in graph.nodes:
        for a in node.arguments:
            if isinstance(a, int):
                into.setdefault(a, set()).add(node.op)
    of_node = {**_OPERATIONS, "bound": xp.clip, **{op: getattr(xp, op) for op in _FUNCTIONS}}
    values = [*arrays, *[None] * (len(graph.inputs) - len(arrays))]
    for node in graph.nodes:
        operands = [values[a] if isinstance(a, int) else scalars[a] for a in node.arguments]
        if node.op == "where" and not isinstance(node.arguments[0], int):
            operands[0] = operands[0] != 0  # a truth value of the host is a number here
        result = of_node[node.op](*operands)
        if into.get(len(values), frozenset()) & _MELTS.get(node.op, frozenset()):
            result = result + zero
        values.append(result)
    return [values[o] for o in graph.outputs]
