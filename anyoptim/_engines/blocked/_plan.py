"""The plans of the blocked engine: the traced rules as NumPy calls over blocks that stay in the cache, in place."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, repeat, starmap
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import COMPUTE, Array, host_memory
from anyoptim._arrays._beside import Beside
from anyoptim._arrays._memory import cut, may_overlap, merged_ranges
from anyoptim._arrays._quiet import quiet_context
from anyoptim._engines._base import Commit, Leaf, NDArray, Plan, Result, Written, host_view, real
from anyoptim._engines.blocked._functions import BoundFunction, block_function
from anyoptim._engines.blocked._packs import packs
from anyoptim._engines.blocked._tiles import Squares, add_up, tiles
from anyoptim._machine import _threads
from anyoptim._machine._completed import exhaust
from anyoptim._machine._scratch import Scratch, give, scratch, taken
from anyoptim._machine._threads import Call, Pieces
from anyoptim._trace._coefficients import CoefficientTable, Replay, lasting
from anyoptim._trace._exact_sum import of_words
from anyoptim._trace._program import MOVE, Coefficients, Program, static_options

__all__ = ["BlockedPlan"]

BLOCK = 1 << 16
"""The elements in a block. With fewer the calls cost more than the arithmetic, with more scratch leaves the cache."""

THREADED = 32
"""The fewest blocks that threads share out. With fewer, waking the threads costs what they save."""

Arrays = Sequence[NDArray]

_ARRAYS = frozenset({np.ndarray})
_BASE = operator.attrgetter("base")
_FORM = operator.attrgetter("dtype", "shape", "strides")
_LAYOUT = operator.attrgetter("dtype", "shape", "strides", "flags.writeable")


class BlockedPlan(Plan):
    """A plan for arrays that NumPy can read and write, where the parameter is to be written where it lies."""

    in_place = True
    on_host = True

    def __init__(self, program: Program, leaves: Sequence[Leaf]) -> None:
        super().__init__(program, leaves)
        self.arrays = [[host_view(leaf.library, a) for a in (leaf.p, *leaf.slots)] for leaf in leaves]
        # The dtypes of the arithmetic: of complex arrays those of their parts.
        self.dtypes = [real(COMPUTE[leaf.library.dtype(leaf.p)]) for leaf in leaves]
        self.kind_of_leaf = [(d, leaf.of_complex) for d, leaf in zip(self.dtypes, leaves, strict=True)]
        self.kinds = list(dict.fromkeys(self.kind_of_leaf))
        self.functions: dict[Any, BoundFunction] = {}
        # Slots may lie elsewhere from now on only where they are a step's: vectors are several plans' at once.
        movable = MOVE in program.parts and not program.reads
        self.packs = packs(leaves, self.arrays, self.dtypes, BLOCK) if movable else []
        self.alone = [i for i, (p, *_) in enumerate(self.arrays) if p.size]
        slots = [leaf.slots for leaf in leaves]
        for pack in self.packs:
            for i, views in zip(pack.leaves, pack.views, strict=True):
                self.arrays[i][1:] = slots[i] = views
                self.alone.remove(i)
        self.laid: _Laid | None = None
        self.squares: dict[int, Squares] = {}  # by their parts
        self._quietly = quiet_context().run  # one step at a time is written
        self._forms: list[Any] = []
        """What `_FORM` gives of the last gradients."""
        self.latest: Sequence[BoundFunction] = ()
        """The functions of the leaves at the last step."""
        self.results = [Result(leaf.p, own) for leaf, own in zip(leaves, slots, strict=True)]
        given = [(leaf.library, leaf.destination) for leaf in leaves]
        self.places = [(library.memory(p), library.dtype(p)) for library, p in given]
        self._ps = [a[0] for a in self.arrays]
        self._layouts = [(*_FORM(p), True) for p in self._ps]
        reads = [leaf.reads for leaf in leaves]
        self.beside = Beside(leaves[0].library, reads, [p for p, *_ in self.arrays], self.dtypes)

    @property
    def written(self) -> Written:
        packed = [slot for pack in self.packs for slot in pack.slots]
        alone = (s for i in self.alone for s in self.arrays[i][1:][: self.program.slots])
        return Written([*(p for p, *_ in self.arrays), *alone, *packed])

    def avoid_aliasing(self, written: Written) -> None:
        super().avoid_aliasing(written)
        self._forbidden_ids = {id(a) for a in written.host}
        self._ranges = merged_ranges([host_memory(a) for a in written.host if a.size])
        # An array that owns its memory shares it with no other one that does.
        self._owners = all(a.base is None for a in written.host)
        self._user_arrays = all(leaf.destination is a[0] for leaf, a in zip(self.leaves, self.arrays, strict=True))
        self.beside.detach([leaf.reads for leaf in self.leaves], self._aliases)
        for arrays, reads in zip(self.arrays, self.beside.arrays, strict=True):
            arrays[1 + self.program.slots :] = reads

    def regather(self, xs: Sequence[Array]) -> Sequence[NDArray] | None:
        self.beside.load()
        views = xs if self._user_arrays else self._views(xs)
        return views if views is not None and self._alike(self._ps, self._layouts, self._forms, views) else None

    def _views(self, xs: Sequence[Array]) -> Sequence[NDArray] | None:
        """NumPy's views of gradients, if parameters lie where they did, and gradients are as simple as they."""
        views = []
        for leaf, (memory, dtype), x in zip(self.leaves, self.places, xs, strict=True):
            library, p = leaf.library, leaf.destination
            same = library.unchanged(p, memory) and library.dtype(p) == dtype and library.is_plain_gradient(x, p)
            view = library.numpy_view(x) if same else None
            if view is None:
                return None
            views.append(view)
        return views

    def doubtful(self, xs: Sequence[Array]) -> list[bool]:
        views = xs if self._user_arrays else self._views(xs)
        if views is None:
            return [True] * len(xs)
        leaves = zip(self._ps, self._layouts, self._forms, views, strict=True)
        return [not self._alike([p], [layout], [form], [x]) for p, layout, form, x in leaves]

    def _alike(self, ps: list[NDArray], layouts: list[Any], forms: list[Any], xs: Sequence[Array]) -> bool:
        """Whether leaves and their gradients are as they were, and the gradients apart from what is written."""
        same = _ARRAYS.issuperset(map(type, xs)) and [*map(_FORM, xs)] == forms and [*map(_LAYOUT, ps)] == layouts
        if not same or not self._forbidden_ids.isdisjoint(map(id, xs)):
            return False
        if self._owners and all(map(operator.is_, map(_BASE, xs), repeat(None))):
            return True
        return not any(self._aliases(x) for x in xs if x.base is not None or not self._owners)

    def gather(self, xs: Sequence[Array]) -> Sequence[NDArray]:
        self.beside.load()
        views = [host_view(leaf.library, x) for leaf, x in zip(self.leaves, xs, strict=True)]
        forms = [*map(_FORM, views)]
        if forms != self._forms:
            self.laid, self._forms = None, forms
        if all(x.base is None for x in views) and self._owners and self._forbidden_ids.isdisjoint(map(id, views)):
            return views
        # A step may change what another parameter's gradient reads before it is read.
        return [x.copy() if self._aliases(x) else x for x in views]

    def _aliases(self, x: NDArray) -> bool:
        """Whether a gradient may lie in memory that the step writes to."""
        return bool(x.size) and may_overlap(host_memory(x), self._ranges)

    def value(self, k: int, gathered: Sequence[NDArray], rows: CoefficientTable) -> Any:
        reduction, functions, row = self.program.reduction(k), self._functions(k, rows), None
        if reduction.kind == "squares" and all(f.dtype == np.float32 and not f.function.joint for f in functions):
            laid = self.squares.get(k)
            if laid is None or not all(map(operator.is_, functions, laid.functions)):
                laid = self.squares[k] = Squares(functions, self._ps)
            row = laid.row([(p, x, *slots) for (p, *slots), x in zip(self.arrays, gathered, strict=True)], THREADED)
        return super().value(k, gathered, rows) if row is None else reduction.value(np, [row])

    def reduced(self, k: int, gathered: Sequence[NDArray], rows: CoefficientTable) -> list[NDArray]:
        return self.reduced_all((k,), gathered, rows)[0]

    def reduced_all(
        self, ks: Sequence[int], gathered: Sequence[NDArray], rows: CoefficientTable
    ) -> list[list[NDArray]]:
        kinds = [self.program.reduction(k).kind for k in ks]
        functions = zip(*(self._functions(k, rows.before(k)) for k in ks), strict=True)
        leaves = zip(functions, self.arrays, gathered, strict=True)
        pieces, table, ends = tiles(kinds, [(each, (p, x, *slots)) for each, (p, *slots), x in leaves])
        _threads.spread(partial(add_up, table), pieces, THREADED)
        tables = [of_words(kind, table[i :: len(kinds)]) for i, kind in enumerate(kinds)]
        return [[of[a:b] for a, b in itertools.pairwise(ends)] for of in tables]

    def prepare_anew(self, gathered: Sequence[NDArray], rows: CoefficientTable) -> Commit:
        functions = self._functions(None, rows)
        self.last_step = None
        kept = len({*self.dtypes}) == 1 and len({id(f.function) for f in functions}) == 1
        if kept and lasting(rows.distinct):
            tables = [functions[rows.row_of_leaf.index(r)].table for r in range(len(rows.distinct))]
            self.last_step = Replay(rows, functions[0].function.scalars, self.dtypes[0], tables)
        if self.laid is not None and not all(map(operator.is_, functions, self.laid.functions)):
            self.laid = None
        self.latest = functions
        return self.again(gathered)

    def again(self, gathered: Sequence[NDArray]) -> Commit:
        laid = self.laid
        if laid is None or not taken(laid.scratch):
            laid = self.laid = self._lay(self.latest, scratch())
        # In loops of C, each of which, called again, goes on with what is left; scratch is given back once.
        alone: list[Sequence[Any]] = []
        for i, calls_of in laid.alone:
            alone += calls_of(gathered[i])
        todo: Iterator[object] = starmap(operator.call, chain(zip(laid.calls), alone, [(give, laid.scratch)]))
        if laid.packed:
            loads = map(operator.setitem, laid.places, repeat(...), map(gathered.__getitem__, laid.packed))  # type: ignore[arg-type]
            todo = chain(loads, todo)
        pieces, rooms = self._pieces(laid, gathered) if laid.rest else (None, ())
        back = map(give, rooms)

        def commit() -> Sequence[Result]:
            self._quietly(exhaust, todo)
            if pieces is not None:
                pieces()
                exhaust(back)
            if self._touched:
                self.touch()
            return self.results

        return commit

    def _lay(self, functions: Sequence[BoundFunction], temporary: Scratch) -> _Laid:
        """What a step with these functions does with each parameter of at most one block, once it has the gradient."""
        alone, rest = [], []
        for i in self.alone:
            p, *slots = self.arrays[i]
            if p.size > BLOCK or p.dtype.kind == "c":
                rest.append(i)
                continue
            alone.append((i, _reader(functions[i], temporary, self._forms[i][0], p, slots)))
        calls = [call for pack in self.packs for call in pack.calls(functions, temporary)]
        packed = [i for pack in self.packs for i in pack.leaves]
        places = [place for pack in self.packs for place in pack.gradients]
        return _Laid(functions, temporary, packed, places, calls, alone, rest)

    def _pieces(self, laid: _Laid, gathered: Sequence[NDArray]) -> tuple[Pieces, list[Scratch]]:
        """The blocks of larger parameters, and the scratch of the threads that share them out, if there are enough."""
        blocks = {i: list(_blocks(laid.functions[i], self.arrays[i], gathered[i])) for i in laid.rest}
        pieces: list[Any] = [(laid.functions[i], *block) for i, of_leaf in blocks.items() for block in of_leaf]
        rooms = [scratch() for _ in range(_threads.threads() if len(pieces) >= THREADED else 1)]
        # So that the scratch has its memory before anything is written.
        kinds: dict[Any, Any] = {(id(bound), *(a.dtype for a in block)): (bound, block) for bound, *block in pieces}
        for room, (bound, block) in itertools.product(rooms, kinds.values()):
            bound.reserve(room, *block)
        return Pieces(_block, pieces, [(room,) for room in rooms]), rooms

    def _functions(self, k: int | None, rows: CoefficientTable) -> list[BoundFunction]:
        """For each leaf the step, or what the reduction that is part `k` is of."""
        if len(rows.distinct) == 1 and len(self.kinds) == 1:
            return [self._function(k, 0, rows.distinct[0], *self.kinds[0])] * len(self.leaves)
        both = itertools.product(enumerate(rows.distinct), self.kinds)
        functions = {(i, kind): self._function(k, i, row, *kind) for (i, row), kind in both}
        return [functions[key] for key in zip(rows.row_of_leaf, self.kind_of_leaf, strict=True)]

    def _function(
        self, k: int | None, i: int, row: Coefficients, dtype: np.dtype[Any], of_complex: bool
    ) -> BoundFunction:
        """The function for row `i`, which is made once and given other numbers at every step."""
        key = k, static_options(row), i, dtype, of_complex
        bound = self.functions.get(key)
        if bound is None:
            function = block_function(self.program, k, key[1], of_complex)
            if of_complex and not function.joint:
                self.functions[key] = bound = self._function(k, i, row, dtype, False)
                return bound
            table = np.empty(len(function.scalars), dtype)
            # As arrays of no dimension, which NumPy takes in half the time of a Python or NumPy number.
            numbers = [table[j, ...] for j in range(len(table))]
            bound = self.functions[key] = BoundFunction(function, dtype, table, numbers)
        bound.table[...] = bound.function.scalars.values(row, dtype)
        return bound


class _Laid(NamedTuple):
    """The calls of a step, laid ready for as long as the functions of the leaves stay the same."""

    functions: Sequence[BoundFunction]
    scratch: Scratch
    """What the calls keep intermediate results in."""
    packed: Sequence[int]
    """The leaves in packs."""
    places: Sequence[NDArray]
    """Where the gradients of these are to be copied."""
    calls: Sequence[Call]
    """What is to be called then."""
    alone: Sequence[tuple[int, Callable[[NDArray], Sequence[Sequence[Any]]]]]
    """The leaves of at most one block, each with a function from its gradient to calls with their arguments."""
    rest: Sequence[int]
    """The leaves that are larger, or complex."""


def _reader(
    bound: BoundFunction, temporary: Scratch, dtype: np.dtype[Any], p: NDArray, slots: Arrays
) -> Callable[[NDArray], Sequence[Sequence[Any]]]:
    """A function from a gradient of a dtype to what is to be called, and with what; what doesn't read it lies ready."""
    turned = _turned(p)
    p, *slots = (a.T for a in (p, *slots)) if turned else (p, *slots)
    stand_in = np.broadcast_to(np.empty((), dtype), p.shape)
    laid: list[Sequence[Any]] = []
    readers: list[tuple[int, list[Any], list[int]]] = []
    for n, call in enumerate(bound.cast(temporary, p, stand_in, *slots)):
        of: Any = call  # a `partial`
        given = [partial(of.func, **of.keywords) if of.keywords else of.func, *of.args]
        places = [k for k, a in enumerate(given) if a is stand_in]
        if places:
            readers.append((n, given, places))
        laid.append(tuple(given))

    def calls_of(gradient: NDArray) -> Sequence[Sequence[Any]]:
        x, calls = gradient.T if turned else gradient, [*laid]
        for n, given, places in readers:
            calls[n] = call = [*given]
            for k in places:
                call[k] = x
        return calls

    return calls_of


def _turned(p: NDArray) -> bool:
    return p.flags.f_contiguous and not p.flags.c_contiguous


def _block(room: Scratch, bound: BoundFunction, *block: NDArray) -> Sequence[Call]:
    return bound.cast(room, *block)


def _blocks(bound: BoundFunction, leaf: Arrays, x: NDArray) -> Iterator[Arrays]:
    """Blocks of a parameter, its gradient and its slots, along the memory; complex ones by their parts."""
    p, *slots = leaf
    arrays = [p, x, *slots]
    if _turned(p):
        arrays = [a.T for a in arrays]
    if all(a.flags.c_contiguous for a in arrays):
        arrays = [a.reshape(-1) for a in arrays]
    if p.dtype.kind != "c" or bound.function.joint:
        yield from cut(bound.function.views(*arrays), BLOCK)
        return
    for parts in ([a.real for a in arrays], [a.imag for a in arrays]):  # as two reals
        yield from cut(parts, BLOCK)
