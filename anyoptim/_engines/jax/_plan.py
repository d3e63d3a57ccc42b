"""The plans of the jax engine: traced rules as one function of all leaves, compiled by XLA once, with slots donated."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import COMPUTE, Array, Library
from anyoptim._arrays._jax import loaded
from anyoptim._arrays._quiet import quiet
from anyoptim._engines._base import Commit, Leaf, NDArray, Plan, Result, real
from anyoptim._trace._coefficients import CoefficientTable, Replay, lasting
from anyoptim._trace._exact_sum import rows as reduced
from anyoptim._trace._expressions import Scalars, range_of
from anyoptim._trace._graph import Graph, graph_of
from anyoptim._trace._program import Program, StaticOptions, static_options
from anyoptim._trace._xla_arrays import joined, parts_of

__all__ = ["JaxPlan"]

_NONE = np.zeros((0, 0))

_FEW = 8
"""For how many leaves JAX takes rows of NumPy's in less time than a call that gives it a table."""

_Form = tuple[int, StaticOptions, bool]
"""The number of a row, its static options, and whether its graph is joint."""

_Kind = tuple[StaticOptions, bool]
"""A form without the number."""

_KIND = operator.attrgetter("aval", "committed", "sharding")
"""What JAX compiles a function anew for: shape, dtype, weakness of that, and its place, if an array is bound to it."""

_Slots = Sequence[Array | None]
"""Slots of a leaf, with None in the place of the others."""


class _Gradients(NamedTuple):
    """Gradients, and what JAX compiles a function anew for of each."""

    arrays: Sequence[Array]
    kinds: Sequence[Any]


class _Made(NamedTuple):
    """The function of a step, compiled by XLA once it is called."""

    call: Callable[..., Any]
    forms: Sequence[_Form]
    form_of_leaf: Sequence[int]
    changes: Sequence[tuple[bool, ...]]
    """For each leaf whether p and each slot changes. What doesn't is neither donated nor given back."""
    all_change: bool


class _Asked(NamedTuple):
    """The function of some reductions, compiled by XLA once it is called."""

    call: Callable[..., Any]
    forms: Sequence[tuple[Sequence[_Form], Sequence[int]]]
    """For each of them the forms of rows, and the number of that of each leaf."""
    reads_slots: bool


class _Numbers(NamedTuple):
    """The numbers that graphs take."""

    table: NDArray
    """Rows of numbers, behind a -0.0 each."""
    places: Sequence[Sequence[int | None]]
    """For each part the row of each leaf, or None where its graph takes no numbers."""


class _Taken(NamedTuple):
    """The last step."""

    call: Callable[..., Any]
    kinds: tuple[Sequence[Any], Sequence[Any]]
    """Those of the gradients and of the other arrays that it was called with, for which it is compiled."""
    steady: bool
    """Whether the leaves after it are of the kinds of those before it, for then the next call's will be, too."""


class JaxPlan(Plan):
    """A plan for JAX arrays whose values are known, of one place and one compute dtype.

    Coefficients are computed on the host in float64, as for every engine, and are an argument: nothing that changes
    from step to step is compiled in. The parameters are the user's, who may have them under other names, and stay.
    """

    rebindable = True
    on_host = True

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
        self._own: Sequence[_Slots] = [(None,) * program.slots for _ in leaves]
        """The slots that a step of this plan made, which nobody else has. All others may have other owners, too."""
        self._nobodys = self._own
        self._taken: _Taken | None = None
        self._left = False
        """Whether the leaves are those that the last step left."""
        self._plain: Sequence[Any] = ()
        """The kinds of gradients that were found to be plain, and their types."""
        self._types: set[type] = set()
        self._zero = _split()(self._put(np.array([[-0.0]], self._dtype)))[0]
        self._within = range_of(self._dtype, normal=True)  # the rest is flushed to 0
        self._again: tuple[_Made, _Numbers]
        """The function that takes `last_step` again, and the numbers to which that is set."""
        # What is remembered by whole programs takes longer to find.
        self._steps: dict[Any, _Made] = {}
        self._reductions: dict[Any, _Asked] = {}
        self._scalars: dict[Any, Scalars] = {}

    def rebind(self, leaves: Sequence[Leaf]) -> None:
        self.leaves, self._plain, self._left = leaves, (), False

    def regather(self, xs: Sequence[Array]) -> _Gradients | None:
        types = {*map(type, xs)}
        kinds = [*map(_KIND, xs)] if types == self._types else []
        if not kinds or kinds != self._plain:
            plain = self.leaves[0].library.is_plain_gradient
            if not all(plain(x, leaf.p) for x, leaf in zip(xs, self.leaves, strict=True)):
                return None
            kinds = self._plain = [*map(_KIND, xs)]
            self._types = types
        return _Gradients(xs, kinds)

    def gather(self, xs: Sequence[Array]) -> _Gradients:
        return _Gradients(xs, [*map(_KIND, xs)])

    def reduced(self, k: int, gathered: _Gradients, rows: CoefficientTable) -> list[NDArray]:
        return self.reduced_all((k,), gathered, rows)[0]

    def reduced_all(self, ks: Sequence[int], gathered: _Gradients, rows: CoefficientTable) -> list[list[NDArray]]:
        return [[row[None] for row in table] for table in self._tables(ks, gathered, rows)]

    def value(self, k: int, gathered: _Gradients, rows: CoefficientTable) -> Any:
        return self.program.reduction(k).value(np, self._tables((k,), gathered, rows))

    def _tables(self, ks: Sequence[int], gathered: _Gradients, rows: CoefficientTable) -> list[NDArray]:
        """The rows of each of these reductions, one for each leaf."""
        asked, leaves = self._asked(ks, gathered, rows), self.leaves
        slots = [leaf.slots if asked.reads_slots else () for leaf in leaves]
        numbers = self._arrays(self._numbers([(k, rows, *of) for k, of in zip(ks, asked.forms, strict=True)]))
        found = asked.call(slots, numbers, [leaf.p for leaf in leaves], gathered.arrays, self._reads)
        rows_of, n, tables = {kind: np.asarray(a) for kind, a in found.items()}, len(leaves), list[NDArray]()
        for k in ks:
            kind = self.program.reduction(k).kind
            tables.append(rows_of[kind][:n])
            rows_of[kind] = rows_of[kind][n:]
        return tables

    def _asked(self, ks: Sequence[int], gathered: _Gradients, rows: CoefficientTable) -> _Asked:
        """The function of these reductions for leaves with these rows."""
        before = [rows.before(k) for k in ks]
        static = tuple([tuple(map(static_options, of.distinct)) for of in before])
        key = *ks, static, tuple(rows.row_of_leaf) if len(rows.distinct) > 1 else (), self._cuts(gathered.arrays)
        asked = self._reductions.get(key)
        if asked is None:
            forms = [self._forms(k, of) for k, of in zip(ks, before, strict=True)]
            kinds = tuple((k, *_kinds(*of)) for k, of in zip(ks, forms, strict=True))
            # To hand slots over costs time; p and x are the arrays 0 and 1.
            graphs = (graph_of(self.program, k, *kind) for k, of, _ in kinds for kind in of)
            reads = any(i >= 2 for graph in graphs for i in graph.arrays_read)
            call = _reduced(self.leaves[0].library, self.program, kinds, key[-1])
            asked = self._reductions[key] = _Asked(call, forms, reads)
        return asked

    def prepare_anew(self, gathered: _Gradients, rows: CoefficientTable) -> Commit:
        made = self._made(rows)
        numbers = self._numbers([(None, rows, made.forms, made.form_of_leaf)])
        self.last_step, kinds, n = None, {(static, joint) for _, static, joint in made.forms}, len(rows.distinct)
        if len(kinds) == 1 and len(made.forms) == len(numbers.table) == n and lasting(rows.distinct):
            ((kind,),) = [kinds]
            scalars, self._again = self._scalars[None, *kind], (made, numbers)
            self.last_step = Replay(rows, scalars, self._dtype, [*numbers.table[:, 1:]], self._within)
        return self._commit(made, numbers, gathered)

    def again(self, gathered: _Gradients) -> Commit:
        return self._commit(*self._again, gathered)

    def _commit(self, made: _Made, numbers: _Numbers, gathered: _Gradients) -> Commit:
        """The commit of a step with these numbers."""
        leaves, taken, (arrays,) = self.leaves, self._taken, self._arrays(numbers)
        ps, (xs, grads) = [leaf.p for leaf in leaves], gathered
        same = taken if taken is not None and taken.call is made.call else None
        if same is not None and self._left and same.steady and grads == same.kinds[0]:
            kinds, known, steady = same.kinds, True, True
        else:
            kinds = grads, [*map(_KIND, ps), *(_KIND(leaf.slots[0]) for leaf in leaves if leaf.slots)]
            known = same is not None and kinds == same.kinds
            steady = known and self._left
        # Where it is compiled first, Python code runs, in which an exception may arrive when the slots are gone.
        owns = self._own if known else self._nobodys
        whole = made.all_change
        beside = self._reads if whole else [*map(_beside, leaves, made.changes)]
        given: list[Any] = []

        def commit() -> Sequence[Result]:
            if not given:  # a list that is extended has what JAX gave, also where an exception comes after it
                donated = owns if steady and whole else [*map(_donated, leaves, owns, made.changes)]
                given.extend(itertools.starmap(made.call, [(donated, arrays, ps, xs, beside)]))
            ((own, moved),) = given
            slots = own
            if not whole:
                slots = [_either(new, leaf.slots) for new, leaf in zip(own, leaves, strict=True)]
                moved = _either(moved, ps)
            # Else the old arrays would be kept alive.
            both = zip(leaves, moved, slots, strict=True)
            after = [Leaf(leaf.library, p, of, None, 0, leaf.reads) for leaf, p, of in both]
            self._own, self._taken, self._left = own, _Taken(made.call, kinds, steady), True
            self.leaves = after
            return [*map(Result, moved, slots)]

        return commit

    def _made(self, rows: CoefficientTable) -> _Made:
        """The function of a step for leaves with these rows."""
        static = tuple(map(static_options, rows.distinct))
        key = static, tuple(rows.row_of_leaf) if len(static) > 1 else ()
        made = self._steps.get(key)
        if made is None:
            forms = self._forms(None, rows)
            kinds, kind_of_leaf = _kinds(*forms)
            of_kinds = [_changes(graph_of(self.program, None, *kind), self.program.slots) for kind in kinds]
            changes = [of_kinds[k] for k in kind_of_leaf or [0] * len(self.leaves)]
            call = _step(self.leaves[0].library, self.program, kinds, kind_of_leaf, self._shardings)
            made = self._steps[key] = _Made(call, *forms, changes, all(map(all, changes)))
        return made

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
    ) -> _Numbers:
        """The numbers for some parts, given the forms of their rows, and the number of that of each leaf."""
        table: list[list[float]] = []
        places: list[list[int | None]] = []
        for k, rows, forms, form_of_leaf in asked:
            of_forms: list[int | None] = []
            for row, *kind in forms:
                key = k, *kind
                scalars = self._scalars.get(key)
                if scalars is None:
                    scalars = self._scalars[key] = graph_of(self.program, *key).scalars
                values = scalars.values(rows.distinct[row], self._dtype, self._within)
                of_forms.append(len(table) if values else None)
                if values:
                    table.append([-0.0, *values])
            places.append([of_forms[form] for form in form_of_leaf])
        if not table:
            return _Numbers(_NONE, places)
        width = max(map(len, table))
        with quiet():
            return _Numbers(np.array([row + [0.0] * (width - len(row)) for row in table], self._dtype), places)

    def _arrays(self, numbers: _Numbers) -> list[list[Array]]:
        """For each part, and each leaf, the row of its numbers; -0.0 alone where there are none.

        Each is an array by itself: so XLA compiles what leaves of one shape do only once, whichever rows they have.
        """
        rows: Sequence[Array] = ()
        if len(numbers.table):
            table = numbers.table.copy()  # which is not written to again: JAX may read it where it lies
            few = len(self.leaves) <= _FEW and self._place is None
            # What JAX has, it takes once more in a tenth of the time.
            rows = [*table] if few else _split()(self._put(table))
        return [[self._zero if row is None else rows[row] for row in of_leaves] for of_leaves in numbers.places]

    def _put(self, values: NDArray) -> Array:
        """The values on all devices of the leaves, if these are several."""
        return values if self._place is None else self.leaves[0].library.device_put(values, self._place)


def _donated(leaf: Leaf, own: _Slots, changes: tuple[bool, ...]) -> tuple[Array | None, ...]:
    """The slots that change: those that nobody else has, and copies of the others."""
    each = zip(leaf.slots, own, changes[1:], strict=True)
    return tuple([(a if a is mine else _copied(leaf, a)) if new else None for a, mine, new in each])


def _copied(leaf: Leaf, slot: Array) -> Array:
    """A copy of a slot, which nobody else has."""
    return leaf.library.copied(leaf.library.sharded_like(slot, leaf.p))


def _beside(leaf: Leaf, changes: tuple[bool, ...]) -> tuple[Array | None, ...]:
    """The slots that do not change, and the arrays that are read."""
    both = zip(leaf.slots, changes[1:], strict=True)
    return *[None if new else leaf.library.sharded_like(a, leaf.p) for a, new in both], *leaf.reads


def _either(some: Sequence[Array | None], others: Sequence[Array | None]) -> tuple[Any, ...]:
    """Some arrays, and in the place of each that is None the one of the others."""
    return tuple([b if a is None else a for a, b in zip(some, others, strict=True)])


def _changes(graph: Graph, slots: int) -> tuple[bool, ...]:
    """Whether p, and each slot, becomes anything but itself in a step."""
    changed = {graph.inputs[i].array for i, o in zip(graph.homes, graph.outputs, strict=True) if i != o}
    return tuple(k in changed for k in (0, *range(2, 2 + slots)))


def _kinds(forms: Sequence[_Form], form_of_leaf: Sequence[int]) -> tuple[tuple[_Kind, ...], tuple[int, ...]]:
    """The kinds of graphs, and for each leaf the number of its kind; no numbers where there is one kind."""
    kinds = [(static, joint) for _, static, joint in forms]
    distinct = tuple(dict.fromkeys(kinds))
    return distinct, () if len(distinct) == 1 else tuple(distinct.index(kinds[r]) for r in form_of_leaf)


@functools.cache
def _split() -> Callable[..., Any]:
    """A function that gives the rows of a table as arrays, which takes less time than to put them there."""
    return loaded().jit(list)  # type: ignore[no-any-return]


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
    whole = all(all(of_graphs[k][1]) for k in kind_of_leaf or [0])

    def step(slots: Any, numbers: Any, ps: Any, xs: Any, beside: Any) -> Any:
        made, all_moved = [], []
        for i, (p, x, own, others, row) in enumerate(zip(ps, xs, slots, beside, numbers, strict=True)):
            graph, changes = of_graphs[kind_of_leaf[i] if kind_of_leaf else 0]
            before, reads = (own, others) if whole else (_either(own, others[: len(own)]), others[len(own) :])
            moved, *new = joined(graph, parts_of(library, graph, (p, x, *before, *reads), row))
            made.append(tuple([a if changing else None for a, changing in zip(new, changes[1:], strict=True)]))
            all_moved.append(library.xp.astype(moved, p.dtype) if changes[0] else None)
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
        for (k, *_), (graphs, kind_of_leaf), rows in zip(asked, of_all, numbers, strict=True):
            leaves = by_kind.setdefault(program.reduction(k).kind, [])
            for i, (p, x, own, beside, row) in enumerate(zip(ps, xs, slots, reads, rows, strict=True)):
                graph = graphs[kind_of_leaf[i] if kind_of_leaf else 0]
                parts = parts_of(library, graph, (p, x, *own, *beside), row)
                count = len(parts[0]) // graph.parts
                leaves.append([some[j : j + count] for some in parts for j in range(0, len(some), count)])
        cuts = {kind: shardings and (*shardings,) * (len(of) // len(ps)) for kind, of in by_kind.items()}
        return {kind: reduced(library, kind, leaves, cuts[kind]) for kind, leaves in by_kind.items()}

    return loaded().jit(rows_of_all)  # type: ignore[no-any-return]
