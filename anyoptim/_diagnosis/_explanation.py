"""Which engine runs what, and why: as data, and as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

from anyoptim._arrays import Array, slot_dtype
from anyoptim._engines import Leaf, choices
from anyoptim._trace._program import Program

__all__ = ["Explanation", "Share"]

_WIDTH = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16}
_WIDTH |= {"bool": 1, **{f"{u}int{8 * n}": n for u in ("", "u") for n in (1, 2, 4, 8)}}
_HEADINGS = ("engine", "parameters", "elements", "MB a step", "next step", "why not faster")
_SHOWN = 3


class Share(NamedTuple):
    """The parameters that one engine takes for one reason.

    >>> (share,) = ao.Adam(engine="blocked").explain({"W": np.ones(1000)}, {"W": np.ones(1000)})
    >>> share.engine, share.parameters, share.elements, share.bytes
    ('blocked', ('W',), 1000, 56000)
    """

    engine: str
    parameters: tuple[str, ...]
    """Their keys, joined by dots."""
    elements: int
    bytes: int
    """What a step must read and write: p, gradient, slots and what is given for each element once each, and what every
    reduction reads beside that."""
    reason: str | None
    """Why no faster engine; None for the fastest that there is."""
    guard: str | None
    """What keeps the next step from being replayed, that is from being taken like the last one without its checks: a
    name of `Explanation.guards`, which says what each means. None if it will be replayed."""


class Explanation(list[Share]):
    """The shares of a step, largest first; prints as a table, and below it what each guard in it means.

    >>> optimizer = ao.Adam(engine="blocked")
    >>> print(optimizer.explain({"W": np.ones(1000)}, {"W": np.ones(1000)}))
    engine   parameters  elements  MB a step  next step            why not faster
    blocked           1      1000      0.056  planned: first step  engine='blocked' (W)
    first step: no step has been taken yet with these arrays, this engine and this state
    """

    guards: ClassVar[Mapping[str, str]] = {
        "first step": "no step has been taken yet with these arrays, this engine and this state",
        "graph": "updates were captured in a CUDA graph, which counts the steps",
        "ranks": "ranks agree on each step anew",
        "gathering": "gradients are gathered, and this update is no step, or one of parameters without a gradient",
        "part": "the last step was one of parts of parameters, or rows have step counts of their own",
        "engine": "its engine, or another parameter's, makes each step anew",
        "compiling": "enough elements have been updated for compiling to pay, which the next step does",
        "hyperparameter": "another array or number is given for some elements, or the array lies elsewhere",
        "container": "the parameters or gradients are in a container of another kind, or there is none",
        "array": "another array stands in its place",
        "gradient": "it has a gradient and had none, or has none and had one",
        "form": "its gradient has another dtype or memory order, or is in memory that the step writes to",
        "another": "the guard of another parameter fails",
    }
    """What it means if the guard of that name fails. Those before `array` are of all parameters together."""

    @classmethod
    def of(
        cls,
        engine: str | None,
        programs: Sequence[Program],
        reductions: Sequence[Sequence[Sequence[int]]],
        names: Sequence[str],
        guards: Sequence[str | None],
        leaves: Sequence[Leaf],
        xs: Sequence[Array],
    ) -> Self:
        """The shares that these leaves make, and what each reduction of each reads."""
        shares: dict[Any, Share] = {}
        chosen = choices(engine, programs, leaves, xs)
        of_each = zip(names, programs, reductions, guards, leaves, xs, chosen, strict=True)
        for name, program, of, guard, leaf, x, choice in of_each:
            old = shares.get((choice, guard), Share(choice.engine, (), 0, 0, choice.reason, guard))
            n = math.prod(leaf.p.shape)
            shares[choice, guard] = old._replace(
                parameters=(*old.parameters, name),
                elements=old.elements + n,
                bytes=old.bytes + n * _traffic(program, of, leaf, x),
            )
        return cls(sorted(shares.values(), key=lambda share: -share.bytes))

    def __str__(self) -> str:
        rows = [_HEADINGS]
        for share in self:
            shown = ", ".join(share.parameters[:_SHOWN]) + (", ..." if len(share.parameters) > _SHOWN else "")
            why = "" if share.reason is None else f"{share.reason} ({shown})" if shown else share.reason
            size = f"{share.bytes / 1e6:.3g}"
            step = "replayed" if share.guard is None else f"planned: {share.guard}"
            rows.append((share.engine, str(len(share.parameters)), str(share.elements), size, step, why))
        widths = [max(len(row[k]) for row in rows) for k in range(len(_HEADINGS) - 1)]
        lines = []
        for engine, *numbers, step, why in rows:
            right = [n.rjust(w) for n, w in zip(numbers, widths[1:-1], strict=True)]
            cells = [engine.ljust(widths[0]), *right, step.ljust(widths[-1]), why]
            lines.append("  ".join(cells).rstrip())
        lines += [f"{guard}: {self.guards[guard]}" for guard in dict.fromkeys(share.guard for share in self) if guard]
        return "\n".join(lines)


def _traffic(program: Program, reductions: Sequence[Sequence[int]], leaf: Leaf, x: Array) -> int:
    """Bytes for each element."""
    dtype = leaf.library.dtype(leaf.p)
    slots = [_WIDTH[slot_dtype(dtype, real)] for _, real in program.arrays[2 : 2 + program.slots]]
    reads = [_WIDTH[leaf.library.dtype(a)] for a in leaf.reads]
    widths = [_WIDTH[dtype], _WIDTH[leaf.library.dtype(x)], *slots, *reads]
    return widths[0] + sum(widths) + sum(slots) + sum(widths[i] for read in reductions for i in read)
