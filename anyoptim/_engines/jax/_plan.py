"""The plans of the jax engine: traced rules as one function of all leaves, compiled by XLA once, with slots donated."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import COMPUTE, Array, Library
from anyoptim._arrays._jax import loaded
from anyoptim._arrays._quiet import quiet
from anyoptim._engines._base import Commit, Leaf, NDArray, Plan, Result, real
from anyoptim._trace._coefficients import CoefficientTable
from anyoptim._trace._exact_sum import rows as reduced
from anyoptim._trace._expressions import Scalars, range_of
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

_ZERO = np.array([-0.0])

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

_KIND = operator.attrgetter("aval", "committed", "sharding")
"""What JAX compiles a function anew for: shape, dtype, weakness of that, and its place, if an array is bound to it."""


class _Made(NamedTuple):
    """The function of a step, compiled by XLA once it is called."""

    call: Callable[..., Any]
    changes: Sequence[tuple[bool, ...]]
    """For each leaf whether p and each slot changes. What doesn't is neither donated nor given back."""
    all_change: bool


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
        # Without these, XLA would divide results of several devices as it likes.
        several = leaves[0].p.sharding.num_devices > 1
        self._place = library.replicated_sharding(leaves[0].p) if several else None
        self._shardings = tuple(leaf.p.sharding for leaf in leaves) if several else None
        self._reads = [leaf.reads for leaf in leaves]
        self._own: Sequence[Sequence[Array | None]] = [(None,) * program.slots for _ in leaves]
        """The slots that a step of this plan made, which nobody else has. All others may have other owners, too."""
        self._known: tuple[Any, ...] | None = None
        """The function of the last step, and the kinds of its arguments, for which it is compiled."""
        # What is remembered by whole programs takes longer to find.
        self._steps: dict[Any, _Made] = {}
        self._reductions: dict[Any, Callable[..., Any]] = {}
        self._scalars: dict[Any, Scalars] = {}

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
        library, forms = self.leaves[0].library, [self._forms(k, rows.before(k)) for k in ks]
        asked = tuple((k, *_kinds(*of)) for k, of in zip(ks, forms, strict=True))
        key = asked, self._cuts(gathered)
        call = self._reductions.get(key)
        if call is None:
            call = self._reductions[key] = _reduced(library, self.program, *key)
        # To hand slots over costs time; p and x are the arrays 0 and 1.
        graphs = (graph_of(self.program, k, *kind) for k, kinds, _ in asked for kind in kinds)
        reads = any(i >= 2 for graph in graphs for i in graph.arrays_read)
        slots = [leaf.slots if reads else () for leaf in self.leaves]
        ps = [leaf.p for leaf in self.leaves]
        numbers = self._numbers([(k, rows, *of) for k, of in zip(ks, forms, strict=True)])
        found = {kind: iter(np.asarray(a)) for kind, a in call(slots, numbers, ps, gathered, self._reads).items()}
        each = [itertools.islice(found[self.program.reduction(k).kind], len(ps)) for k in ks]
        return [[row[None] for row in of_leaves] for of_leaves in each]

    def prepare_anew(self, gathered: Sequence[Array], rows: CoefficientTable) -> Commit:
        forms = self._forms(None, rows)
        kinds = _kinds(*forms)
        made = self._steps.get(kinds)
        if made is None:
            made = self._steps[kinds] = self._made(*kinds)
        numbers, ps = self._numbers([(None, rows, *forms)]), [leaf.p for leaf in self.leaves]
        # Where it is compiled first, Python code runs, in which an exception may arrive when the slots are gone.
        arrays = (*ps, *gathered, *(leaf.slots[0] for leaf in self.leaves if leaf.slots))
        kind = made.call, *map(_KIND, arrays)
        known = kind == self._known
        kept: list[Sequence[Array]] = [] if made.all_change else [*map(_kept, self.leaves, made.changes)]
        given: list[Any] = []

        def commit() -> Sequence[Result]:
            if not given:  # a list that is extended has what JAX gave, also where an exception comes after it
                donated = [
                    [a if known and a is mine else _copied(leaf, a) for a, mine, new in zip(*of, strict=True) if new]
                    for leaf, own, (_, *news) in zip(self.leaves, self._own, made.changes, strict=True)
                    for of in [(leaf.slots, own, news)]
                ]
                beside = [(*a, *b) for a, b in zip(kept, self._reads, strict=True)] if kept else self._reads
                given.extend(itertools.starmap(made.call, [(donated, numbers, ps, gathered, beside)]))
            ((slots, moved),) = given
            self._known = kind
            if made.all_change:
                self._own, results = slots, [Result(p, tuple(own)) for (p,), own in zip(moved, slots, strict=True)]
            else:
                each = [*zip(self.leaves, made.changes, slots, kept, moved, strict=True)]
                results = [Result(p[0] if p else leaf.p, _merged(of[1:], new, old)) for leaf, of, new, old, p in each]
                nothing = [[None] * len(old) for old in kept]
                self._own = [_merged(of[1:], new, old) for (_, of, new, *_), old in zip(each, nothing, strict=True)]
            # Else the old arrays would be kept alive.
            both = zip(self.leaves, results, strict=True)
            self.leaves = [Leaf(leaf.library, *result, reads=leaf.reads) for leaf, result in both]
            return results

        return commit

    def _made(self, kinds: Sequence[_Kind], kind_of_leaf: Sequence[int]) -> _Made:
        of_kinds = [_changes(graph_of(self.program, None, *kind), self.program.slots) for kind in kinds]
        changes = [of_kinds[k] for k in kind_of_leaf or [0] * len(self.leaves)]
        call = _step(self.leaves[0].library, self.program, kinds, kind_of_leaf, self._shardings)
        return _Made(call, changes, all(map(all, changes)))

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
        self, asked: Sequence[tuple[int | None, CoefficientTable, Sequence[_Form], Sequence[int]]]
    ) -> Sequence[Array]:
        """An array of -0.0; and for each leaf, at each number of a part, one of that and the numbers its graph takes.

        Leaves whose graphs take none have none. Each is an array by itself: so XLA compiles what leaves of one shape do
        only once, whichever rows they have. None is written to again: JAX may read it where it lies.
        """
        arrays = [_ZERO.astype(self._dtype)]
        within = range_of(self._dtype, normal=True)  # the rest is flushed to 0
        with quiet():
            for k, rows, forms, form_of_leaf in asked:
                of_forms = []
                for row, *kind in forms:
                    key = k, *kind
                    scalars = self._scalars.get(key)
                    if scalars is None:
                        scalars = self._scalars[key] = graph_of(self.program, *key).scalars
                    values = scalars.values(rows.distinct[row], self._dtype, within)
                    of_forms.append([np.array([-0.0, *values], self._dtype)] if values else [])
                arrays += [array for of in form_of_leaf for array in of_forms[of]]
        place = self._place
        return arrays if place is None else self.leaves[0].library.device_put(arrays, place)


def _copied(leaf: Leaf, slot: Array) -> Array:
    """A copy of a slot, which nobody else has."""
    return leaf.library.copied(leaf.library.sharded_like(slot, leaf.p))


def _kept(leaf: Leaf, changes: tuple[bool, ...]) -> list[Array]:
    """The slots that do not change."""
    both = zip(leaf.slots, changes[1:], strict=True)
    return [leaf.library.sharded_like(a, leaf.p) for a, new in both if not new]


def _merged(changes: Sequence[bool], made: Sequence[Any], kept: Sequence[Any]) -> tuple[Any, ...]:
    """The slots in their order: those that change, and the others."""
    new, old = iter(made), iter(kept)
    return tuple(next(new if changing else old) for changing in changes)


def _changes(graph: Graph, slots: int) -> tuple[bool, ...]:
    """Whether p, and each slot, becomes anything but itself in a step."""
    changed = {graph.inputs[i].array for i, o in zip(graph.homes, graph.outputs, strict=True) if i != o}
    return tuple(k in changed for k in (0, *range(2, 2 + slots)))


def _kinds(forms: Sequence[_Form], form_of_leaf: Sequence[int]) -> tuple[tuple[_Kind, ...], tuple[int, ...]]:
    """The kinds of graphs, and for each leaf the number of its kind; no numbers where there is one kind."""
    kinds = [(static, joint) for _, static, joint in forms]
    distinct = tuple(dict.fromkeys(kinds))
    return distinct, () if len(distinct) == 1 else tuple(distinct.index(kinds[r]) for r in form_of_leaf)


@functools.lru_cache(maxsize=64)
def _step(
    library: Library,
    program: Program,
    kinds: Sequence[_Kind],
    kind_of_leaf: Sequence[int],
    shardings: Sequence[Any] | None,
) -> Callable[..., Any]:
    """The step of all leaves as one function of slots that change, numbers, parameters, gradients, and what stays."""
    graphs = [graph_of(program, None, *kind) for kind in kinds]
    of_graphs = [(graph, _changes(graph, program.slots)) for graph in graphs]

    def step(slots: Any, numbers: Any, ps: Any, xs: Any, beside: Any) -> Any:
        made, all_moved = [], []
        zero, *rest = numbers
        rows = iter(rest)
        for i, (p, x, own, others) in enumerate(zip(ps, xs, slots, beside, strict=True)):
            graph, changes = of_graphs[kind_of_leaf[i] if kind_of_leaf else 0]
            kept = len(changes) - 1 - len(own)
            arrays = p, x, *_merged(changes[1:], own, others[:kept]), *others[kept:]
            moved, *new = _joined(graph, _parts(library, graph, arrays, _numbers_of(graph, rows, zero)))
            made.append([a for a, changing in zip(new, changes[1:], strict=True) if changing])
            all_moved.append([library.xp.astype(moved, p.dtype)] if changes[0] else [])
        # The slots come first, so that each goes to the buffer it comes from.
        return made, all_moved

    where = None if shardings is None else (list(shardings),) * 2
    return loaded().jit(step, donate_argnums=0, out_shardings=where)  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=64)
def _reduced(
    library: Library,
    program: Program,
    asked: Sequence[tuple[int, Sequence[_Kind], Sequence[int]]],
    shardings: Sequence[Any] | None,
) -> Callable[..., Any]:
    """The function that gives the rows of reductions, for each of these one for each leaf, by what is done in them.

    What is asked for is the number of the part, and the kinds of graphs for the leaves. `shardings` say how the leaves
    are cut, where they lie on a mesh of devices.
    """
    of_all = [([graph_of(program, k, *each) for each in kinds], of_leaf) for k, kinds, of_leaf in asked]

    def rows_of_all(slots: Any, numbers: Any, ps: Any, xs: Any, reads: Any) -> Any:
        by_kind: dict[Any, list[Any]] = {}
        zero, *rest = numbers
        rows = iter(rest)
        for (k, *_), (graphs, kind_of_leaf) in zip(asked, of_all, strict=True):
            leaves = by_kind.setdefault(program.reduction(k).kind, [])
            for i, (p, x, own, beside) in enumerate(zip(ps, xs, slots, reads, strict=True)):
                graph = graphs[kind_of_leaf[i] if kind_of_leaf else 0]
                parts = _parts(library, graph, (p, x, *own, *beside), _numbers_of(graph, rows, zero))
                count = len(parts[0]) // graph.parts
                leaves.append([some[j : j + count] for some in parts for j in range(0, len(some), count)])
        cuts = {kind: shardings and (*shardings,) * (len(of) // len(ps)) for kind, of in by_kind.items()}
        return {kind: reduced(library, kind, leaves, cuts[kind]) for kind, leaves in by_kind.items()}

    return loaded().jit(rows_of_all)  # type: ignore[no-any-return]


def _numbers_of(graph: Graph, numbers: Iterator[Array], zero: Array) -> Array:
    """The next of the arrays of numbers for a graph that takes any; else -0.0 alone."""
    return next(numbers) if graph.scalars else zero


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
