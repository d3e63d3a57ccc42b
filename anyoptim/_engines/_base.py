"""What an engine is, what it is given and what it gives back."""

from __future__ import annotations

import functools
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from anyoptim._arrays import Array, Library
from anyoptim._arrays._memory import MemoryLayout
from anyoptim._arrays._quiet import quiet
from anyoptim._trace._coefficients import CoefficientTable, Replay, all_known
from anyoptim._trace._program import Coefficients, Program
from anyoptim._trace._reductions import Reduction

__all__ = [
    "Commit",
    "Engine",
    "HostEngine",
    "Leaf",
    "NDArray",
    "Pass",
    "Plan",
    "Replayed",
    "Result",
    "Written",
    "host_view",
    "real",
    "value_of",
]


NDArray = np.ndarray[Any, Any]


class Leaf(NamedTuple):
    """One parameter."""

    library: Library
    p: Array
    slots: tuple[Array, ...]
    """In the compute dtype of `p`."""
    destination: Array | None = None
    """The user's own array over the memory of `p`, where the new parameter is to be written; None if it isn't."""
    group: int = 0
    """The number of its group. Leaves of one group nearly always have equal coefficients."""
    reads: tuple[Array, ...] = ()
    """Arrays of the shape of `p`, of any real dtype, that are read and not written."""

    @property
    def of_complex(self) -> bool:
        """Whether its elements are complex."""
        return self.library.dtype(self.p).startswith("complex")


class Result(NamedTuple):
    """The new parameter, in its own dtype, and the new slots, in the compute dtype."""

    p: Array
    slots: tuple[Array, ...]


Commit = Callable[[], Sequence[Result]]
"""A function that writes what was prepared: each new parameter to its destination, if it has one. Nothing that it
does is known to fail.

Called again after an exception came in its middle, from the handler of a signal, say, it goes on with what is left; and
once it is through, it gives the same results and does nothing.
"""


Replayed = Callable[[], Sequence[Result] | None]
"""A commit that may find that the gradients are others than expected: then it gives None, and nothing is written."""


class Written(NamedTuple):
    """What the commit of an engine writes to while it may still read gradients."""

    host: Sequence[NDArray] = ()
    """Arrays in this machine's memory."""
    device: Sequence[MemoryLayout] = ()
    """Stretches of devices' memory."""


class Plan(ABC):
    """What an engine has laid ready for some leaves, which holds for as long as these stay where they are."""

    in_place: ClassVar[bool] = False
    """Whether a step writes its results to the leaves, which so are the same arrays afterwards."""

    rebindable: ClassVar[bool] = False
    """Whether `rebind` makes it the plan of other arrays of the same kind."""

    on_host: ClassVar[bool] = False
    """Whether `value` gives numbers of the host, whatever the leaves are."""

    symbolic_norms: ClassVar[bool] = False
    """Whether `value` gives a symbol for a `Norm`, which stays on the device until `fetch_norm` is called."""

    last_step: Replay | None
    """The last step, if it can be replayed."""

    def __init__(self, program: Program, leaves: Sequence[Leaf]) -> None:
        self.program = program
        self.leaves = leaves
        self.last_step: Replay | None = None
        libraries = {leaf.library for leaf in leaves if type(leaf.library).mark_written is not Library.mark_written}
        self._touched = [(one, [leaf.destination for leaf in leaves if leaf.library is one]) for one in libraries]

    @property
    def written(self) -> Written:
        """What the commit writes to while it may still read gradients."""
        return Written()

    def rebind(self, leaves: Sequence[Leaf]) -> None:
        """Take other leaves, of the same kind, in the place of those before."""
        raise NotImplementedError

    def avoid_aliasing(self, written: Written) -> None:
        """From now on, copy gradients that lie in memory which any engine of the step writes to."""
        self._forbidden = written.host

    def touch(self) -> None:
        """Tell the libraries that have to know it that NumPy's views of their arrays were written to."""
        for library, destinations in self._touched:
            library.mark_written(destinations)

    def regather(self, xs: Sequence[Array]) -> Any:
        """What `gather` gives, if the leaves and gradients are without doubt such as they were; else None."""
        return None

    def doubtful(self, xs: Sequence[Array]) -> list[bool]:
        """For each leaf whether it, or its gradient, makes `regather` give None; for all, where that can't be told."""
        return [self.regather(xs) is None] * len(xs)

    def replay(self, xs: Sequence[Array], rows: CoefficientTable) -> Replayed | None:
        """What takes a step again, with other coefficients for the same leaves; None where anything is in doubt."""
        gathered = self.regather(xs)
        if gathered is None:
            return None
        if self.last_step is not None and self.last_step.set(rows):
            return self.again(gathered)
        return self.prepare_known(gathered, rows)

    def prepare(self, gathered: Any, rows: CoefficientTable) -> Commit:
        """Do all of the step that may fail, and write nothing."""
        same = self.last_step is not None and self.last_step.set(rows)
        return self.again(gathered) if same else self.prepare_anew(gathered, rows)

    def prepare_known(self, gathered: Any, rows: CoefficientTable) -> Commit | None:
        """The same, but None where a coefficient is no number that is known."""
        if self.last_step is not None and self.last_step.set(rows):
            return self.again(gathered)
        if not all_known(rows.distinct):
            return None
        with quiet():
            return self.prepare_anew(gathered, rows)

    def again(self, gathered: Any) -> Commit:
        """The commit of a step with the numbers that `last_step` was set to, for other gradients."""
        raise NotImplementedError

    @abstractmethod
    def gather(self, xs: Sequence[Array]) -> Any:
        """The gradients, which passed all checks, for `reduced` and `prepare`: copies of those that would be lost."""

    @abstractmethod
    def reduced(self, k: int, gathered: Any, rows: CoefficientTable) -> list[Array]:
        """For each leaf the rows of the reduction that is part `k` of the program.

        As `_trace/_exact_sum.py` says: a NumPy array, or a traced one. The rows need not go further than part `k`.
        """

    def reduced_all(self, ks: Sequence[int], gathered: Any, rows: CoefficientTable) -> list[list[Array]]:
        """What `reduced` gives for each of these parts; where it pays, each array is read from memory once for all."""
        return [self.reduced(k, gathered, rows.before(k)) for k in ks]

    def values(self, ks: Sequence[int], gathered: Any, rows: CoefficientTable) -> list[Any]:
        """The values over all leaves of these parts. NumPy does not warn."""
        with quiet():
            each = zip(ks, self.reduced_all(ks, gathered, rows), strict=True)
            return [value_of(self.program.reduction(k), found, self.leaves) for k, found in each]

    def value(self, k: int, gathered: Any, rows: CoefficientTable) -> Any:
        """The value over all leaves of the reduction that is part `k`: a float, a 0-d array, or a symbol."""
        return value_of(self.program.reduction(k), self.reduced(k, gathered, rows), self.leaves)

    def fetch_norm(self, k: int) -> float:
        """The number for which the symbol that `value` gave for part `k` stands. Waits for the device."""
        raise NotImplementedError

    @abstractmethod
    def prepare_anew(self, gathered: Any, rows: CoefficientTable) -> Commit:
        """Prepare a step that need not be like the last one, and note whether it can be taken again."""


Pass = tuple[Program, int | None, Coefficients]
"""A pass over all elements: a program, the number of a reduction's part or None for the step, and a row for it."""


class Engine(ABC):
    """A machine that runs programs: its answers before it is given leaves, and what makes its plans.

    Of all this only `broken` and the plans may import an optional package.
    """

    name: ClassVar[str]

    package: ClassVar[str | None] = None
    """The package that it can't do without."""

    without: ClassVar[str] = ""
    """What there is to say where that package can't be found."""

    array_rules: ClassVar[bool] = False
    """Whether it runs rules of whole arrays."""

    generates: ClassVar[bool] = False
    """Whether there is source text of what it runs."""

    commit_order: ClassVar[int] = 0
    """Engines with a lower one commit first."""

    def missing(self) -> str | None:
        """Why the engine can't be used, as far as can be told without importing anything; or None."""
        return None if self.package is None or installed(self.package) else self.without

    def broken(self) -> str | None:
        """Why the engine can't be used although nothing is missing, having tried it; or None."""
        return None

    def unavailable(self) -> str | None:
        """Why nobody can choose the engine by its name, or None."""
        return self.missing()

    @abstractmethod
    def reaches(self, leaf: Leaf) -> bool:
        """Whether the engine works on memory of this kind at all."""

    def refusal(self, program: Program, leaf: Leaf, x: Array) -> str | None:
        """Why the engine can't take a leaf that it reaches, with such a gradient; or None."""
        return None

    def premature(self, program: Program, leaf: Leaf) -> str | None:
        """Why the engine is not yet worth what it costs to begin with, unless somebody chose it; or None."""
        return None

    def why_not(self, program: Program, leaf: Leaf, x: Array, chosen: bool) -> str | None:
        """Why the engine does not run this leaf, chosen by its name or not; or None. What costs time is asked last."""
        why = self.missing() or self.refusal(program, leaf, x)
        return why or (None if chosen else self.premature(program, leaf)) or self.broken()

    def group(self, leaf: Leaf, x: Array) -> Hashable:
        """A key: leaves of one library and program for which it is equal go into one plan."""
        return None

    @abstractmethod
    def plan(self, program: Program, leaves: Sequence[Leaf]) -> Plan:
        """The plan for some leaves, which all have the same group."""

    def precompile(self, program: Program, row: Coefficients, library: Library, p: Array) -> None:
        """Compile at once what runs a program, with such a row, on arrays like this one."""
        return

    def begin(self, program: Program, rows: Sequence[Coefficients], dtype: str) -> Callable[[], bool]:
        """Begin to compile what runs a program with such rows, in a process of its own.

        Returns a function that says whether there is no more to wait for.
        """
        return lambda: True

    def kept(self, program: Program, rows: Sequence[Coefficients], dtype: str) -> bool:
        """Whether what runs a program with such rows was found in the cache folder, and so is loaded."""
        return True

    def source(self, passes: Sequence[Pass], dtype: str) -> str:
        """The text that an engine which generates any runs for these passes, in arithmetic of one dtype."""
        raise NotImplementedError


class HostEngine(Engine):
    """An engine that takes what NumPy can read and write, where the parameter is to be written where it lies."""

    def reaches(self, leaf: Leaf) -> bool:
        """Whether no other engine has been made for such arrays."""
        return leaf.library.cuda(leaf.p) is None and not leaf.library.compiled_by_xla

    def refusal(self, program: Program, leaf: Leaf, x: Array) -> str | None:
        if leaf.library.lazy:
            return "each of its chunks is a task, which chooses an engine of its own"
        if leaf.destination is None:
            return "it can't be written to"
        library = leaf.library
        p, g = library.numpy_view(leaf.p), library.numpy_view(x)
        if p is None or g is None:
            return f"NumPy can't read and write {library.name} arrays of dtype {library.dtype(leaf.p)}"
        return self.host_refusal(program, leaf, p, g)

    def host_refusal(self, program: Program, leaf: Leaf, p: NDArray, g: NDArray) -> str | None:
        """Why the engine can't take a leaf, of whose parameter and gradient these are the views; or None."""
        return None


@functools.cache
def installed(package: str) -> bool:
    """Whether a package can be found. It is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False


def real(dtype: Any) -> np.dtype[Any]:
    """The dtype of NumPy that the parts of a complex one have, and every other itself."""
    part: np.dtype[Any] = np.dtype(np.dtype(dtype).char.lower())
    return part


def value_of(reduction: Reduction, rows: Sequence[Array], leaves: Sequence[Leaf]) -> Any:
    """The value of a reduction from the rows of all leaves: on the host, where they are NumPy's."""
    elsewhere = (leaf.library for leaf, v in zip(leaves, rows, strict=True) if not isinstance(v, np.ndarray))
    library = next(elsewhere, None)
    return reduction.value(np, rows) if library is None else library.of_rows(reduction.value, rows)


def host_view(library: Library, x: Array) -> NDArray:
    """NumPy's view of an array that an engine did not refuse."""
    view = library.numpy_view(x)
    assert view is not None  # noqa: S101 - it was asked for then
    return view
