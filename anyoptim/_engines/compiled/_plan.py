"""The plans of the compiled engine: the traced rules as one Numba loop over all parameters, in place."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from anyoptim._arrays import Array, host_address, host_memory
from anyoptim._arrays._beside import Beside
from anyoptim._arrays._memory import may_overlap, merged_ranges
from anyoptim._engines._base import Commit, Leaf, NDArray, Plan, Replayed, Result, Written, host_view, real
from anyoptim._engines.compiled._reductions import Asked, NativeLoop, Reductions, side_by_side
from anyoptim._machine import _array_headers, _machine_code, _threads
from anyoptim._machine._array_headers import BYTES, FIRST, MIRROR, ORDER, PARAMETER
from anyoptim._machine._generated import Text
from anyoptim._machine._machine_code import Bound, Native
from anyoptim._machine._threads import Pieces
from anyoptim._trace._coefficients import CoefficientTable, Replay, lasting
from anyoptim._trace._graph import graph_of
from anyoptim._trace._program import Coefficients, Program, StaticOptions, static_options

if TYPE_CHECKING:
    from anyoptim._engines.compiled._source import Loop

__all__ = ["CompiledPlan", "intrinsic", "load", "memory_orders", "text"]

CHUNK = 1 << 16
"""The elements in a chunk, which has a row of the reduction: a sum of 64 bits holds the digits of 2**23."""

LEAST = 1 << 14
"""The fewest elements in a chunk of an array that has more."""

TILE = 1 << 10
"""A chunk is a multiple of so many elements, which a reduction takes at a time."""

PIECE = 1 << 19
"""The fewest elements that a thread is woken for."""

_KEPT = 32
"""The most kinds of steps and reductions of which a plan keeps the calls."""

PIECES = 4
"""The pieces that a thread's share is cut into, so that a slow thread leaves some to the others."""


def memory_orders(arrays: Sequence[Any]) -> list[str]:
    """The memory orders in which all of these are contiguous."""
    orders = []
    if all(a.flags.c_contiguous and a.flags.aligned for a in arrays):
        orders.append("C")
    if all(a.flags.f_contiguous and a.flags.aligned for a in arrays):
        orders.append("F")
    return orders


class CompiledPlan(Plan):
    """A plan for contiguous arrays of one dtype and one library that lie in this machine's memory."""

    in_place = True
    on_host = True

    def __init__(self, program: Program, leaves: Sequence[Leaf]) -> None:
        super().__init__(program, leaves)
        self.library = leaves[0].library
        # Arrays of our own over the same memory, which stay as they are whatever becomes of the user's.
        self.hosts = hosts = [[host_view(self.library, a).view() for a in (leaf.p, *leaf.slots)] for leaf in leaves]
        self.dtype, self.dtype_name = real(hosts[0][0].dtype), hosts[0][0].dtype.name
        self.results = [Result(leaf.p, leaf.slots) for leaf in leaves]
        self.destinations: list[Array] = [leaf.destination for leaf in leaves]
        self.memories = [self.library.memory(d) for d in self.destinations]
        self.dtypes = [d.dtype for d in self.destinations]
        self.mirrors = [arrays[0] for arrays in self.hosts]
        lengths = [arrays[0].size * (1 + leaves[0].of_complex) for arrays in hosts]
        inputs = 2 + program.slots + len(program.reads)
        self.table = table = np.zeros((len(leaves), FIRST + inputs), np.uint64)
        table[:, PARAMETER], table[:, MIRROR] = _ids(self.destinations), _ids(self.mirrors)
        # C order where an array has both: then a gradient in either order is in C order, too.
        c, f = _array_headers.C, _array_headers.F
        table[:, ORDER] = [c if "C" in memory_orders(arrays) else f for arrays in self.hosts]
        table[:, BYTES] = [n * self.dtype.itemsize for n in lengths]
        for i, (p, *slots) in enumerate(self.hosts):
            table[i, FIRST] = host_address(p)
            table[i, FIRST + 2 : FIRST + 2 + len(slots)] = [host_address(s) for s in slots]
        dtypes = [self.dtype] * len(leaves)
        self.beside = Beside(self.library, [leaf.reads for leaf in leaves], self.mirrors, dtypes)
        self.chunks, self.firsts = _chunks(lengths)
        self.pieces = _pieces(self.chunks)
        self.rooms: Sequence[tuple[()]] = [()] * (_threads.threads() if len(self.pieces) > 1 else 1)
        self.reductions: dict[Any, Reductions] = {}
        """Reductions that were taken together, by what distinguishes them."""
        self.laid: dict[Any, list[_Call]] = {}
        """Calls by what distinguishes them; the numbers in their tables are those of the last step."""
        self.checked: _OneCall | None = None
        """What takes the last step again, where it is one call."""
        self.first_row = np.zeros(len(leaves), np.int64)
        self.ids = np.zeros(len(leaves), np.uint64)
        self.put_ids = functools.partial(Struct(f"{len(leaves)}Q").pack_into, memoryview(self.ids.data).cast("B"), 0)
        self.by_header = _array_headers.reliable() and all(
            type(d) is np.ndarray and type(m) is np.ndarray
            for d, m in zip(self.destinations, self.mirrors, strict=True)
        )

    @property
    def written(self) -> Written:
        return Written([a for arrays in self.hosts for a in arrays])

    def avoid_aliasing(self, written: Written) -> None:
        super().avoid_aliasing(written)
        stretches = merged_ranges([host_memory(a) for a in written.host if a.size])
        self.forbidden = np.array(stretches, np.uint64).T.copy()
        if self.program.reads:
            self.beside.detach([leaf.reads for leaf in self.leaves], lambda a: may_overlap(host_memory(a), stretches))
            behind = FIRST + 2 + self.program.slots
            self.table[:, behind:] = [[host_address(a) for a in of] for of in self.beside.arrays]
            self.by_header = self.by_header and not self.beside  # copies are made before each step
        self.alike = intrinsic("alike").bind(self.table, self.ids, self.forbidden)
        self.no_overlap = intrinsic("no_overlap").bind(self.table, self.forbidden)

    def regather(self, xs: Sequence[Array]) -> Sequence[Array] | None:
        if self.beside:
            self.beside.load()
        if self.by_header:
            self.put_ids(*map(id, xs))
            return xs if self.alike() else None
        leaves = zip(self.destinations, self.memories, self.dtypes, self.table[:, ORDER], xs, strict=True)
        for i, (d, memory, dtype, order, x) in enumerate(leaves):
            same = d.dtype is dtype and self.library.unchanged(d, memory) and self.library.is_plain_gradient(x, d)
            same = same and order == _array_headers.C
            address = self.library.address(x) if same else None
            if address is None:
                return None
            self.table[i, FIRST + 1] = address
        return xs if self.no_overlap() else None

    def doubtful(self, xs: Sequence[Array]) -> list[bool]:
        if not self.by_header:
            kept = self.table.copy()  # a step may be prepared, in whose schedule a user asks
            try:
                return super().doubtful(xs)
            finally:
                self.table[:] = kept
        alike, table, ids = intrinsic("alike"), self.table.copy(), _ids(xs)
        return [not alike.bind(table[i : i + 1], ids[i : i + 1], self.forbidden)() for i in range(len(xs))]

    def replay(self, xs: Sequence[Array], rows: CoefficientTable) -> Replayed | None:
        last_step = self.last_step
        if not self.by_header or last_step is None or not last_step.set(rows):
            return super().replay(xs, rows)
        self.put_ids(*map(id, xs))  # the loop looks at these arrays itself, so that there is one call in all
        if self.checked is not None:
            self.checked.taken.clear()
            return self.checked
        (call,) = self.calls
        return self.again(xs) if call.checked() else None

    def gather(self, xs: Sequence[Array]) -> Sequence[NDArray]:
        self.beside.load()
        views = [host_view(self.library, x) for x in xs]
        self.table[:, FIRST + 1] = [host_address(x) for x in views]
        if not self.no_overlap():
            for i, x in enumerate(views):
                if not intrinsic("no_overlap").bind(self.table[i : i + 1], self.forbidden)():
                    views[i] = x.copy(order="K")
                    self.table[i, FIRST + 1] = host_address(views[i])
        return views

    def values(self, ks: Sequence[int], gathered: Sequence[Any], rows: CoefficientTable) -> list[Any]:
        return self._reductions_of(ks, rows).values(rows, self.dtype)

    def value(self, k: int, gathered: Sequence[Any], rows: CoefficientTable) -> Any:
        return self.values((k,), gathered, rows)[0]

    def reduced(self, k: int, gathered: Sequence[Any], rows: CoefficientTable) -> list[NDArray]:
        return self.reduced_all((k,), gathered, rows)[0]

    def reduced_all(self, ks: Sequence[int], gathered: Sequence[Any], rows: CoefficientTable) -> list[list[NDArray]]:
        return [[table[a:b] for a, b in itertools.pairwise(self.firsts)] for table in self._rows(ks, rows)]

    def _rows(self, ks: Sequence[int], rows: CoefficientTable) -> list[NDArray]:
        """For each of these parts the rows of the reduction of all chunks."""
        return self._reductions_of(ks, rows).rows(rows, self.dtype)

    def _reductions_of(self, ks: Sequence[int], rows: CoefficientTable) -> Reductions:
        """These parts, laid ready together."""
        static = [_static(row) for row in rows.distinct]
        key = len(ks), *ks, *static, *(rows.row_of_leaf if len(static) > 1 else ())
        laid = self.reductions.get(key)
        if laid is None:
            if len(self.reductions) > _KEPT:
                self.reductions.clear()
            asked = _asked(self.program, tuple(ks), tuple(map(static_options, rows.distinct)), self.dtype_name)
            loops = len({id(one.loop.native) for one in asked})
            chunks = side_by_side(self.chunks, self.table[:, FIRST:][:, asked[0].loop.arrays])
            # Where several loops take turns, what they share is to be in the cache.
            pieces = _pieces(chunks, len(ks), CHUNK if loops > 1 else None)
            threads = _threads.threads() if len(ks) * chunks[:, 2].sum() >= 2 * PIECE else 1
            reductions = [self.program.reduction(k) for k in ks]
            laid = self.reductions[key] = Reductions(reductions, asked, self.table, chunks, pieces, rows, threads)
        return laid

    def prepare_anew(self, gathered: Sequence[Any], rows: CoefficientTable) -> Commit:
        self.calls = calls = self._calls(rows)
        self.last_step = self.checked = None
        if len(calls) == 1 and lasting(rows.distinct):
            (call,) = calls
            self.last_step = Replay(rows, call.loop.scalars, self.dtype, [*call.coefficients])
            if len(call.pieces) == 1:
                self.checked = _OneCall(call.checked, self.results)
        return self.again(gathered)

    def again(self, gathered: Sequence[Any]) -> Commit:
        if self.checked is not None and not self._touched:
            (call,) = self.calls
            return cast("Commit", _OneCall(call.pieces[0], self.results, gathered))
        pieces = Pieces(_calls_of, [(piece,) for call in self.calls for piece in call.pieces], self.rooms)

        def commit(_: Any = gathered) -> Sequence[Result]:  # of which the table has the addresses alone
            pieces()
            self.touch()
            return self.results

        return commit

    def _calls(self, rows: CoefficientTable) -> list[_Call]:
        """The calls of the loops, one for each set of static options, with their part of the tables."""
        static = [static_options(row) for row in rows.distinct]
        key = *static, *(rows.row_of_leaf if len(static) > 1 else ())
        calls = self.laid.get(key)
        if calls is None:
            if len(self.laid) > _KEPT:
                self.laid.clear()
            calls = self.laid[key] = self._lay(static, rows)
        for call in calls:
            for i, row in enumerate(rows.distinct):
                if static[i] == call.static:  # the other rows keep the numbering, and are not read
                    call.coefficients[i] = call.loop.scalars.values(row, self.dtype)
        return calls

    def _lay(self, static: Sequence[StaticOptions], rows: CoefficientTable) -> list[_Call]:
        """The calls, without numbers in their tables."""
        which = np.array(rows.row_of_leaf, np.int64) if len(static) > 1 else self.first_row
        calls = []
        for key in dict.fromkeys(static):
            loop = load(self.program, None, key, self.dtype_name)
            chunks, pieces = self.chunks, self.pieces
            if static.count(key) < len(static):
                chunks = chunks[[static[which[leaf]] == key for leaf in chunks[:, 0]]]
                pieces = _pieces(chunks)
            coefficients = np.zeros((len(static), len(loop.scalars)))
            tables = self.table, chunks, which, coefficients
            # The loop looks at gradients that are given by id before it reads any.
            bound = [loop.native.bind(_NONE, self.forbidden, *tables, first=a, last=b) for a, b in pieces]
            alone = pieces[0] if len(pieces) == 1 else (0, 0)
            checked = loop.native.bind(self.ids, self.forbidden, *tables, first=alone[0], last=alone[1])
            calls.append(_Call(key, loop, coefficients, bound, checked))
        return calls


class _OneCall:
    """A step of one call: a commit, which gives None if the loop is given the gradients' arrays and refuses them.

    It knows the plan's arrays and not the plan, which it would keep alive.
    """

    __slots__ = ("_cell", "_gathered", "_results", "_runs", "taken")

    def __init__(self, loop: Bound, results: Sequence[Result], gathered: Any = None) -> None:
        self._cell, self._runs, self._results = loop.cell, (loop.run,), results
        self._gathered = gathered  # the gradients, of which the loop has the addresses alone
        self.taken: list[object] = []
        """Something, once the loop has run."""

    def __call__(self) -> Sequence[Result] | None:
        if not self.taken:  # a list that is extended has that the loop ran, also where an exception comes after that
            self.taken.extend(map(operator.call, self._runs))
        return self._results if self._cell.value else None


class _Call(NamedTuple):
    """A loop of a step and its arguments."""

    static: StaticOptions
    loop: NativeLoop
    coefficients: NDArray
    pieces: Sequence[Bound]
    """The loop with its arrays for some chunks each, which threads may share out."""
    checked: Bound
    """The loop with the ids of the gradients' arrays, at which it looks first."""


def _calls_of(piece: Bound) -> Sequence[Callable[[], object]]:
    return (piece.run,)


_NONE = np.zeros(0, np.uint64)


INTRINSICS = {
    "alike": ("leaves, grads, written", "boolean(uint64[:, ::1], uint64[::1], uint64[:, ::1])"),
    "no_overlap": ("leaves, written", "boolean(uint64[:, ::1], uint64[:, ::1])"),
}
"""The functions that plans call beside loops: their arguments and signatures."""


@functools.cache
def intrinsic(name: str) -> Native:
    """A function of `_intrinsics` as machine code, from the cache like a loop."""
    return _machine_code.native(intrinsic_text(name))


def intrinsic_text(name: str) -> Text:
    """A module with a function of `_intrinsics`."""
    arguments, signature = INTRINSICS[name]
    text = f"from anyoptim._machine import _intrinsics\n\n\ndef {name}({arguments}):\n"
    return Text(name, f"{text}    return _intrinsics.{name}({arguments})\n", signature)


@functools.lru_cache(maxsize=256)
def load(program: Program, k: int | None, static: StaticOptions, dtype: str) -> NativeLoop:
    """The machine code of the step, or of the reduction that is part `k`, for arrays of a dtype."""
    if dtype != real(dtype).name and not graph_of(program, k, static, of_complex=True).joint:
        return load(program, k, static, real(dtype).name)
    loop = text(program, k, static, dtype)
    return NativeLoop(_machine_code.native(loop.module), loop.scalars, loop.arrays)


@functools.lru_cache(maxsize=64)
def _asked(program: Program, ks: Sequence[int], static: Sequence[StaticOptions], dtype: str) -> tuple[Asked, ...]:
    """The reductions that are these parts, by which rows of coefficients with these options are taken together."""
    asked = []
    for place, k in enumerate(ks):
        before = [of[:k] for of in static]
        for options in dict.fromkeys(before):
            rows = [i for i, of in enumerate(before) if of == options]
            asked.append(Asked(place, load(program, k, options, dtype), rows))
    return tuple(asked)


def text(program: Program, k: int | None, static: StaticOptions, dtype: str) -> Loop:
    """The text of the step, or of the reduction that is part `k`."""
    from anyoptim._engines.compiled._source import loop, loop_reduction  # noqa: PLC0415 - for those who compile

    arithmetic = real(dtype).name
    graph = graph_of(program, k, static, of_complex=dtype != arithmetic)
    return loop(graph, arithmetic) if k is None else loop_reduction(graph, program.reduction(k).kind, arithmetic)


def _static(row: Coefficients) -> StaticOptions:
    """The static options of a row; of one without coefficients, as solvers have, nothing for short."""
    return static_options(row) if any(row) else ()


def _ids(objects: Sequence[Any]) -> NDArray:
    return np.fromiter(map(id, objects), np.uint64, len(objects))


def _chunk(total: int) -> int:
    """The elements in a chunk of so many in all: fewer, where these would be too few chunks to share out evenly."""
    share = -(-total // (_threads.threads() * PIECES * TILE)) * TILE
    return min(CHUNK, max(share, LEAST))


def _chunks(lengths: Sequence[int]) -> tuple[NDArray, list[int]]:
    """A row for each chunk: leaf, first element, length, its number. And the first chunk of each leaf."""
    chunks: list[tuple[int, ...]] = []
    firsts, most = [0], _chunk(sum(lengths))
    for leaf, n in enumerate(lengths):
        chunks += [(leaf, begin, min(most, n - begin), firsts[-1] + begin // most) for begin in range(0, n, most)]
        firsts.append(len(chunks))
    return np.array(chunks, np.int64).reshape(-1, 4), firsts


def _pieces(chunks: NDArray, times: int = 1, most: int | None = None) -> list[tuple[int, int]]:
    """Runs of chunks for threads to take: a few for each thread, of about as many elements each.

    Each element is as much work as several `times` one; and where there is a `most`, runs are hardly longer.
    """
    ends = np.cumsum(chunks[:, 2])
    total = int(ends[-1]) if len(ends) else 0
    number = min(times * total // PIECE, _threads.threads() * PIECES) if _threads.threads() > 1 else 1
    if most is not None:
        number = max(number, -(-total // most))
    if number < 2:
        return [(0, len(chunks))]
    cuts = np.searchsorted(ends, np.arange(1, number) * (total / number)) + 1
    bounds = [0, *dict.fromkeys(cuts.tolist()), len(chunks)]
    return [(a, b) for a, b in itertools.pairwise(bounds) if a < b]
