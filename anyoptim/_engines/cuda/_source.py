"""Graphs as CUDA C: one launch for all arrays of a device and dtype.

For Adam in float32, `kernel` writes::

    __device__ __forceinline__ void Adam_rule_of(real &p, const real x, real &m, real &v, const real a1, ...)
    {
        const real n0 = x - m;
        const real n1 = a1 * n0;
        const real n2 = m + n1;
        ...
        p = n11;
        m = n2;
        v = n6;
    }

and a kernel that calls it for each element of a chunk, a stretch of one array: a block of threads for a chunk, four
elements of float32 at a time where all arrays lie at multiples of 16 bytes.

The text is also C++ for a host compiler, given what the language of CUDA adds to it: so that its arithmetic can be
proven on machines without a device.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from anyoptim._machine._c_elements import ELEMENTS
from anyoptim._trace._c_text import CALLS, OPERATIONS, coefficients_text
from anyoptim._trace._exact_sum import Kind
from anyoptim._trace._exact_sum_text import KERNELS, REDUCTION
from anyoptim._trace._exact_sum_text import pieces as rows
from anyoptim._trace._expressions import Scalars
from anyoptim._trace._graph import Graph
from anyoptim._trace._operations import LOGICAL
from anyoptim._trace._symbols import Scalar
from anyoptim._trace._text import Writer, filled

__all__ = ["BLOCK", "CHUNK", "REDUCTION", "THREADS", "Kernel", "coefficients", "kernel", "kernel_reduction"]

THREADS = 256
"""The threads in a block."""

BLOCK = 1024
"""The elements of which a warp makes a row of the reduction."""

CHUNK = THREADS // 32 * BLOCK
"""The elements in a chunk, of which each warp takes a block."""

_REAL = {"float32": "float", "float64": "double"}
_WORDS = """
alignas alignof asm auto bool case catch char char16_t char32_t compl concept const const_cast constexpr decltype
default delete do double dynamic_cast enum explicit export extern false float friend goto inline int long mutable
namespace new noexcept nullptr operator private protected public register reinterpret_cast requires short signed
sizeof static static_assert static_cast struct switch template this thread_local throw true try typedef typeid
typename union unsigned using virtual void volatile wchar_t and_eq bitand bitor not_eq or_eq xor xor_eq
NULL NAN INFINITY CUDART_VERSION CUDA_VERSION
real Element Elements Vector Chunk wide narrow sqrtf fabsf fabs pow fmod blockIdx blockDim threadIdx gridDim warpSize
frexp ldexp exp log expf logf powf
"""

_MEANS = frozenset(_WORDS.split())
"""The words that mean something in C, and so can't be names of a rule, beside those of Python."""


class Kernel(NamedTuple):
    """The text of a module with one kernel."""

    name: str
    body: str
    scalars: Scalars = Scalars(())
    """The scalars in a row of coefficients."""
    types: str = ""
    """The types that the body uses, which are the same for all kernels of a dtype."""

    @property
    def text(self) -> str:
        """The whole module."""
        return f"{self.types}\n{self.body}" if self.types else self.body


def kernel(graph: Graph, dtype: str, taken: Collection[str] = ()) -> Kernel:
    """The step: p and the slots are read and written, x is read, all in place. Its name is none of those taken."""
    return _KernelWriter(graph, "rule", dtype, taken).step()


def kernel_reduction(graph: Graph, kind: Kind, dtype: str, taken: Collection[str] = ()) -> Kernel:
    """The rows of a reduction, one for each block; all arrays are read."""
    return _KernelWriter(graph, "reduction", dtype, taken).reduction(kind)


_TYPES = """\
{types}
struct alignas(16) Vector {{ real at[{width}]; }};
struct Chunk {{ long long begin; int leaf, count; }};
"""

_REALS = """\
struct alignas(8) {name}_reals {{ real at[{width}]; }};

"""
"""What as many complex elements as a vector has have in a real slot."""

_RULE = """\
__device__ __forceinline__ {returns} {name}_of({formals})
{{
    {body}
}}

"""

_KERNEL = """\
extern "C" __global__ void __launch_bounds__({threads})
{name}(const unsigned long long *_leaves, const Chunk *_chunks,
    const unsigned long long *_step, const double *_rows{more})
{{
    const Chunk _chunk = _chunks[blockIdx.x];
    const unsigned long long *_leaf = _leaves + {words} * _chunk.leaf;
    const unsigned long long *_now = _step + 2 * _chunk.leaf;
    const double *_row = _rows + {columns} * _now[1];
    {coefficients}
    {arrays}
"""

_STEP = """\
    int _done = 0;
    if (({addresses}) % 16 == 0) {{
        _done = {count} / {width} * {width};
        for (int _i = {width} * threadIdx.x; _i < _done; _i += {width} * blockDim.x) {{
            {loads}
            #pragma unroll
            for (int _k = 0; _k < {width}; ++_k)
                {name}_of({lanes});
            {stores}
        }}
    }}
    for (int _i = _done + threadIdx.x; _i < {count}; _i += blockDim.x)
        {name}_of({elements});
}}
"""


class _KernelWriter(Writer):
    def __init__(self, graph: Graph, what: str, dtype: str, taken_names: Collection[str]) -> None:
        super().__init__(graph, what)
        self.dtype, self.real = dtype, ELEMENTS[dtype].real
        self.operations = OPERATIONS | CALLS[self.real]
        self.name = _unused(self.name, [*taken_names])
        taken = [self.name, f"{self.name}_of"]
        self.inputs = [_unused(name, taken) for name in self.inputs]
        self.scalars = {scalar: _unused(name, taken) for scalar, name in self.scalars.items()}
        # Names that begin with an underscore are the templates' own.
        self.pointers = [_unused(f"{name}_at", taken) for name in self.inputs]
        self.elements = [_unused(f"{name}_element", taken) for name in self.inputs]
        self.width = {"float32": 4, "float64": 2}[self.real]
        self.joint = graph.joint

    def step(self) -> Kernel:
        moved, first = self.moved, len(self.inputs)
        opened = sorted({*self.graph.read, *moved})
        # All new values are there before the first is stored, because a slot may become what another was.
        body = [f"const real _new{i} = {self.value(o)};" for i, o in moved.items() if o < first]
        for i, o in moved.items():
            value = f"_new{i}" if o < first else self.value(o)
            body.append(f"{self.formal(i)} = {f'narrow({value})' if self.cast(i) else value};")
        name, at, scalars = self.inputs, self.pointers, "".join(f", {s}" for s in self.scalars.values())
        arrays, written = self.arrays(opened), self.arrays(moved)
        places = [f"({self.vector(i)} *)({at[i]} + {self.place(i, '_i')})" for i in range(first)]
        pieces: dict[str, str | list[str]] = {
            "addresses": " | ".join(f"(unsigned long long){at[i]}" for i in arrays),
            "loads": [f"{self.vector(i)} {name[i]} = *(const {places[i][1:]};" for i in arrays],
            "stores": [f"*{places[i]} = {name[i]};" for i in written],
            "lanes": ", ".join(f"{name[self.graph.first(i)]}.at[{self.place(i, '_k')}]" for i in opened) + scalars,
            "elements": ", ".join(f"{at[self.graph.first(i)]}[{self.place(i, '_i')}]" for i in opened) + scalars,
            "count": "_chunk.count / 2" if self.joint else "_chunk.count",  # of reals
            "width": str(self.width // (1 + self.joint)),
        }
        return self.module("void", body, opened, {*moved}, "", _STEP, pieces)

    def reduction(self, kind: Kind) -> Kernel:
        # The elements of a joint graph are read for each of its reals, which is what the rows count.
        read, at = self.graph.read, "(_i / 2)" if self.joint else "_i"
        elements = [f"{self.pointers[self.graph.first(i)]}[{self.place(i, at)}]" for i in read]
        part = ["_i % 2"] * self.joint
        values = [" * ".join(f"double({self.value(o)})" for o in terms) for terms in self.graph.terms]
        if self.joint and len(values) < 2:  # one number for both
            values.append("-ldexp(1.0, 2000)" if kind == "largest" else "0.0")
        body = [f"return {f'_part ? {values[1]} : ' if self.joint else ''}{values[0]};"]
        pieces = {**rows(self.real, kind), "elements": ", ".join([*elements, *self.scalars.values(), *part])}
        return self.module("double", body, read, set(), ", long long *_rows_at", KERNELS[kind], pieces)

    def arrays(self, inputs: Iterable[int]) -> list[int]:
        """The first inputs of the arrays that these are of."""
        return sorted({self.graph.first(i) for i in inputs})

    def place(self, i: int, element: str) -> str:
        """Where in its array an input is, of an element: of a complex one it is a part."""
        part = self.graph.inputs[i].part
        return element if part is None else f"2 * {element} + {part}" if part else f"2 * {element}"

    def cast(self, i: int) -> bool:
        """Whether an array's elements are not of the arithmetic's dtype: those of p and x, in half precision."""
        return i < 2 and self.dtype != self.real

    def formal(self, i: int) -> str:
        return self.elements[i] if self.cast(i) else self.inputs[i]

    def parameter(self, i: int, moved: bool) -> str:
        return f"{self.kind(i)} &{self.formal(i)}" if moved else f"const {self.kind(i)} {self.formal(i)}"

    def kind(self, i: int) -> str:
        return "Element" if self.cast(i) else "real"

    def vector(self, i: int) -> str:
        real_slot = self.joint and self.graph.inputs[i].part is None
        return "Elements" if self.cast(i) else f"{self.name}_reals" if real_slot else "Vector"

    def module(
        self,
        returns: str,
        body: Sequence[str],
        opened: Sequence[int],
        moved: set[int],
        more: str,
        template: str,
        pieces: Mapping[str, str | list[str]],
    ) -> Kernel:
        written = self.arrays(moved)

        def array(i: int) -> str:
            kind = self.kind(i) if i in written else f"const {self.kind(i)}"
            _, k, part = self.graph.inputs[i]
            at = "_now[0]" if k == 1 else f"_leaf[{1 + k - (k > 1)}]"
            begin = "_chunk.begin / 2" if self.joint and part is None else "_chunk.begin"
            return f"{kind} *__restrict__ {self.pointers[i]} = ({kind} *){at} + {begin};"

        formals = [self.parameter(i, i in moved) for i in opened]
        last = ["const int _part"] * (self.joint and returns == "double")
        loads = [f"const real {self.inputs[i]} = wide({self.formal(i)});" for i in opened if self.cast(i)]
        text = filled(
            (_REALS if self.joint and moved else "") + _RULE + _KERNEL + template,
            name=self.name,
            threads=str(THREADS),
            block=str(BLOCK),
            # The first block of the reduction, p and the slots; x comes anew with each step.
            words=str(len({of.array for of in self.graph.inputs})),
            columns=str(len(self.scalars)),
            returns=returns,
            formals=", ".join([*formals, *(f"const real {s}" for s in self.scalars.values()), *last]),
            more=more,
            body=[*loads, *self.body(), *body],
            coefficients=[f"const real {s} = real(_row[{k}]);" for k, s in enumerate(self.scalars.values())],
            arrays=[array(i) for i in self.arrays(opened)],
            **pieces,
        )
        types = filled(_TYPES, types=self.types(), width=str(self.width))
        return Kernel(self.name, text, self.graph.scalars, types)

    def types(self) -> list[str]:
        if self.dtype == self.real:
            return [f"typedef {_REAL[self.real]} real;"]
        elements = f"struct alignas({self.width} * sizeof(Element)) Elements {{ Element at[{self.width}]; }};"
        return [*ELEMENTS[self.dtype].text.splitlines(), "", elements]

    def body(self) -> list[str]:
        kinds = {i: "bool" for i, node in enumerate(self.graph.nodes) if node.op in LOGICAL}
        return [
            f"const {kinds.get(i, 'real')} n{i} = {self.expression(node)};" for i, node in enumerate(self.graph.nodes)
        ]


def _ascii(name: str) -> str:
    """The name in letters that a C compiler takes: `u_3b2` for `uβ`."""
    return re.sub(r"[^\x00-\x7f]", lambda letter: f"_{ord(letter[0]):x}", name)


def _unused(name: str, taken: list[str]) -> str:
    """The name, or one like it that means nothing else. It counts as taken from now on."""
    name = _ascii(name)
    while name in _MEANS or name in taken:
        name += "_"
    taken.append(name)
    return name


@functools.lru_cache(maxsize=256)
def coefficients(places: tuple[tuple[int, Scalar], ...]) -> Kernel:
    """The kernel that computes what the device alone knows, for these places of the rows."""
    return Kernel("coefficients", coefficients_text(places))
