"""A step as one function of an element: the rules of all stages in turn, and `p <- p - x` among them."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from anyoptim._trace._operations import ALLOWED, OPERATORS, Inexact
from anyoptim._trace._reductions import Reduction

__all__ = [
    "MOVE",
    "Coefficients",
    "Elementwise",
    "MisuseError",
    "Part",
    "Program",
    "Rule",
    "RuleError",
    "Static",
    "StaticOptions",
    "Values",
    "all_floats",
    "check_numbers",
    "on_gradient",
    "on_nothing",
    "on_parameter",
    "on_slots",
    "on_value",
    "rule_error",
    "rule_signature",
    "static_options",
]

Rule = Callable[..., Any]
"""The equation of a stage: a function of a namespace, arrays and coefficients that gives new arrays."""

Coefficients = Sequence[Mapping[str, Any]]
"""The coefficients of one parameter at one step, for each part by name: floats, static options (a bool, a string, or
how elements are made of arrays), or 0-d arrays under a tracing transformation such as `jax.jit`."""


class Elementwise(NamedTuple):
    """A coefficient of which arrays are a part: how each of its elements is made, by the engine, in its own dtype.

    An operation on others, a `number`, by its name among the coefficients, or an `element`, by the place of its array
    among those that are read.
    """

    op: str
    arguments: tuple[Any, ...]

    def computed(self, xp: Any, numbers: Mapping[str, Any], reads: Sequence[Any]) -> Any:
        """Its value, of values for the numbers and the arrays, in a namespace that a rule is given."""
        if self.op == "element":
            return reads[self.arguments[0]]
        if self.op == "number":
            return numbers[self.arguments[0]]
        operands = [a.computed(xp, numbers, reads) for a in self.arguments]
        truths = {"and": 2, "or": 2, "where": 1}.get(self.op, 0)
        # A truth value of the host is a number here.
        operands[:truths] = [
            v != 0 if a.op == "number" and isinstance(v, float) else v
            for a, v in zip(self.arguments[:truths], operands, strict=False)
        ]
        call = _OPERATORS.get(self.op) or getattr(xp, self.op)
        return call(*operands)


_OPERATORS: Mapping[str, Callable[..., Any]] = {**OPERATORS, "and": operator.and_, "or": operator.or_}

Static = bool | str | Elementwise
"""What a coefficient may be that is no number."""

StaticOptions = tuple[tuple[tuple[str, ...], tuple[tuple[str, Static], ...]], ...]
"""What of the coefficients is compiled into a kernel: for each part the names of all, and the static options."""

Flow = tuple[Any, Any, list[Any], Any]
"""The parameter, the value that started as its gradient, the slots of the parts so far, and the gradient itself."""

Act = Callable[..., Flow]
"""A way to apply a rule: `on_value`, `on_gradient`, `on_parameter`, `on_slots` or `on_nothing`."""


_new = object.__new__


class _Namespace:
    """An object whose attributes are those of its `__dict__`."""


_dict: Any = vars(_Namespace)["__dict__"]


class Values(_Namespace):
    """Values by name, as attributes: what a rule reads as `c.lr`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        _dict.__set__(self, values)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Values:
        """`Values(values)` in half the time."""
        made: Values = _new(cls)
        _dict.__set__(made, values)
        return made

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override] # a copy: the values are other steps' too
        return {**_dict.__get__(self)}

    def __reduce__(self) -> tuple[type[Values], tuple[dict[str, Any]]]:
        return Values, (self.__dict__,)

    def __setattr__(self, name: str, value: Any) -> None:
        raise MisuseError(f"it writes to what it was given, in {name!r}")

    def __repr__(self) -> str:
        return f"Values({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


class RuleError(TypeError):
    """A rule can't be run as it is written; the message names it."""


class MisuseError(TypeError):
    """A rule does something that can't be recorded; the message says what, and what is wanted instead."""


class Part(NamedTuple):
    """What one stage does in a step: its rule, and what the rule is applied to."""

    act: Act
    rule: Rule
    slots: tuple[str, ...] = ()
    reduction: Reduction | None = None
    """What has to be known of all elements before later rules run. Its functions are given p, x, the gradient where
    their stage's rule is, and the first slots behind those of the parts before."""
    what: str = ""
    """What the reduction is called in errors."""
    seen: tuple[Act | None, int] = (None, 0)
    """The act of that rule, and the number of these slots."""
    array_rule: bool = False
    """Whether the rule is given whole arrays and the library's own namespace, instead of one element."""
    complex_arrays: bool = False
    """Whether such a rule is given complex arrays as they are, instead of one part after the other."""
    exact: bool = True
    """Whether the rule does only what has the same bits on all engines."""
    real_slots: tuple[str, ...] = ()
    """The slots that have one real number for an element, of a complex parameter, too."""
    undeclared: tuple[tuple[str, str], ...] = ()
    """The names that a rule may take for coefficients though they are none, and the error for each."""


class Program(NamedTuple):
    """The parts of a step, in order. Two programs of the same parts are equal, and have the same kernels."""

    parts: tuple[Part, ...]
    reads: tuple[str, ...] = ()
    """The names of the arrays of a parameter's shape that are read beside it, and not written."""

    @property
    def name(self) -> str:
        """The names of the rules."""
        return ", ".join(part.rule.__qualname__ for part in self.parts if part.act not in {_move, on_nothing})

    @property
    def slots(self) -> int:
        """The number of slots of all parts."""
        return sum(len(part.slots) for part in self.parts)

    @property
    def arrays(self) -> tuple[tuple[str, bool], ...]:
        """The names of p, x, the slots and what is read, and whether each is of one real number for every element."""
        slots = [(slot, slot in part.real_slots) for part in self.parts for slot in part.slots]
        return ("p", False), ("x", False), *slots, *((name, True) for name in self.reads)

    @property
    def reductions(self) -> tuple[int, ...]:
        """The numbers of the parts that are reductions. Each is a pass over all elements."""
        return tuple(k for k, part in enumerate(self.parts) if part.reduction is not None)

    @property
    def writes(self) -> bool:
        """Whether it changes anything: one of reductions alone does not."""
        return any(part.act is not on_nothing for part in self.parts)

    def reduction(self, k: int) -> Reduction:
        """That of part `k`."""
        reduction = self.parts[k].reduction
        assert reduction is not None  # noqa: S101 - k is one of `reductions`
        return reduction

    @property
    def array_rule(self) -> str | None:
        """The name of the first rule that works on whole arrays, which only `portable` can run; or None."""
        return next((part.rule.__qualname__.removesuffix(".rule") for part in self.parts if part.array_rule), None)

    @property
    def exact(self) -> bool:
        """Whether its bits are the same on all engines."""
        return all(part.exact for part in self.parts)

    def moved(self, xp: Any, p: Any, x: Any, slots: Sequence[Any], reads: Any, row: Coefficients) -> tuple[Any, ...]:
        """The new parameter and the new slots."""
        p, _, new, _ = self._run(len(self.parts), xp, p, x, slots, reads, row)
        return (p, *new)

    def terms(
        self, k: int, xp: Any, p: Any, x: Any, slots: Sequence[Any], reads: Sequence[Any], row: Coefficients
    ) -> tuple[Any, ...]:
        """What the reduction that is part `k` is of, after the parts before it: `row` need not go further than these.

        One value, or two that are to be multiplied.
        """
        p, x, _, g = self._run(k, xp, p, x, slots, reads, row)
        what, (act, n) = self.parts[k].what, self.parts[k].seen
        begin = sum(len(before.slots) for before in self.parts[:k])
        values, terms = ((p, x, g) if act is on_gradient else (p, x)), []
        for function in self.reduction(k).functions:
            try:
                terms.append(function(xp, *values, *slots[begin : begin + n]))
            except (AttributeError, TypeError) as error:
                if _misfits(function, len(values) + n + 1):
                    wanted = ", ".join([*("xp", "p", "x", "g")[: len(values) + 1], *["the slots"] * bool(n)])
                    raise RuleError(f"{what} is of a function of other arguments; wanted {wanted}") from error
                raise rule_error(what, error) from error
        return tuple(terms)

    def _run(
        self, stop: int, xp: Any, p: Any, x: Any, slots: Sequence[Any], reads: Sequence[Any], row: Coefficients
    ) -> Flow:
        rest = iter(slots)
        flow: Flow = (p, x, [], x)
        row = [_computed(of, xp, reads) for of in row] if reads else row
        for part, coefficients in zip(self.parts[:stop], row, strict=False):
            own_slots = tuple(islice(rest, len(part.slots)))
            rule, namespace = xp.of_arrays(part) if part.array_rule else (part.rule, xp)
            namespace = namespace if part.exact or part.array_rule else Inexact(namespace)
            try:
                flow = part.act(rule, namespace, flow, own_slots, coefficients)
            except (AttributeError, TypeError) as error:
                if part.act in _ARGUMENTS and not isinstance(error, RuleError):
                    _check_arguments(part, coefficients, error)
                    if not part.array_rule:
                        raise rule_error(f"the rule {part.rule.__qualname__}", error) from error
                raise
            if part.array_rule:
                _check_shapes(part.rule, flow[:2], p)
            elif any(len(getattr(a, "parts", "of a real")) == 1 for a in flow[:2]):
                name = part.rule.__qualname__
                raise RuleError(f"{name} gave one real number for a complex element; wanted both parts, scale*x, say")
        return flow


def static_options(row: Coefficients) -> StaticOptions:
    """For each part the names of all coefficients, and the values of those that are bools or strings."""
    return tuple([(tuple(part), () if all_floats(part) else _static(part)) if part else _NOTHING for part in row])


def all_floats(part: Mapping[str, Any]) -> bool:
    """Whether these coefficients are floats, as they nearly always are, and nothing else."""
    return _FLOAT.issuperset(map(type, part.values()))


_FLOAT = frozenset({float})
_NOTHING: tuple[tuple[str, ...], tuple[tuple[str, Static], ...]] = ((), ())


def _static(part: Mapping[str, Any]) -> tuple[tuple[str, Static], ...]:
    return tuple((k, c) for k, c in part.items() if isinstance(c, Static))


def _computed(part: Mapping[str, Any], xp: Any, reads: Sequence[Any]) -> Mapping[str, Any]:
    """The coefficients of a part, those of which arrays are a part too, for an engine's arrays."""
    return {k: c.computed(xp, part, reads) if isinstance(c, Elementwise) else c for k, c in part.items()}


def on_value(rule: Rule, xp: Any, flow: Flow, slots: Sequence[Any], coefficients: Mapping[str, Any]) -> Flow:
    """`x, *slots <- rule(xp, p, x, *slots, c)`: from the gradient to the step."""
    p, x, before, g = flow
    x, *new = _results(rule, rule(xp, p, x, *slots, Values(coefficients)), 1 + len(slots))
    return p, x, [*before, *new], g


def on_gradient(rule: Rule, xp: Any, flow: Flow, slots: Sequence[Any], coefficients: Mapping[str, Any]) -> Flow:
    """`x, *slots <- rule(xp, p, x, g, *slots, c)`: to the step, from the gradient that the chain began with as well."""
    p, x, before, g = flow
    x, *new = _results(rule, rule(xp, p, x, g, *slots, Values(coefficients)), 1 + len(slots))
    return p, x, [*before, *new], g


def on_parameter(rule: Rule, xp: Any, flow: Flow, slots: Sequence[Any], coefficients: Mapping[str, Any]) -> Flow:
    """`p, *slots <- rule(xp, p, *slots, c)`: to another parameter, after the step."""
    p, x, before, g = flow
    p, *new = _results(rule, rule(xp, p, *slots, Values(coefficients)), 1 + len(slots))
    return p, x, [*before, *new], g


def on_slots(rule: Rule, xp: Any, flow: Flow, slots: Sequence[Any], coefficients: Mapping[str, Any]) -> Flow:
    """`s <- rule(xp, s, c)`, for every slot of the parts before this one."""
    p, x, before, g = flow
    return p, x, [_results(rule, rule(xp, s, Values(coefficients)), 1)[0] for s in before], g


def on_nothing(rule: Rule, xp: Any, flow: Flow, slots: Sequence[Any], coefficients: Mapping[str, Any]) -> Flow:
    """Nothing changes: the part is a reduction."""
    p, x, before, g = flow
    return p, x, [*before, *slots], g


def _results(rule: Rule, out: Any, wanted: int) -> tuple[Any, ...]:
    """What a rule gave, as a tuple. Raises RuleError unless it has the wanted length."""
    results = out if isinstance(out, tuple) else (out,)
    if len(results) != wanted:
        raise RuleError(f"{rule.__qualname__} gave {len(results)} arrays; wanted a tuple of {wanted}")
    return results


def check_numbers(what: str, result: Any, comparison: bool) -> None:
    """Raise RuleError for a result that is no array, or one of truth values."""
    if comparison or not hasattr(result, "dtype"):
        kind = "comparison" if comparison else type(result).__name__
        raise RuleError(f"{what} gave a {kind}; wanted an array of numbers made of p, x and its slots")


def rule_error(what: str, error: Exception) -> RuleError:
    """The error to raise where this, a rule, rules or a reduction, raised `error`."""
    more = "" if isinstance(error, MisuseError) else f"; {ALLOWED}"
    return RuleError(f"{what} does what no kernel can: {error}{more}")


def _check_arguments(part: Part, coefficients: Mapping[str, Any], error: Exception) -> None:
    """Raise RuleError if the rule takes other arguments, or reads other coefficients, than it is given."""
    rule, positional = part.rule.__qualname__, (*_ARGUMENTS[part.act], *part.slots, "c")
    arguments = list(inspect.signature(part.rule).parameters.values())
    first = [a for a in arguments if a.kind in {a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD}]
    more = any(a.kind is a.VAR_POSITIONAL for a in arguments)
    needed = [a for a in arguments if a.default is a.empty and a.kind not in {a.VAR_POSITIONAL, a.VAR_KEYWORD}]
    if (len(first) < len(positional) and not more) or len(needed) > len(positional):
        raise RuleError(
            f"{rule} takes {', '.join(a.name for a in arguments)}; wanted {', '.join(positional)}"
        ) from error
    if isinstance(error, AttributeError) and isinstance(error.obj, Values):
        if error.name in (undeclared := dict(part.undeclared)):
            raise RuleError(undeclared[error.name]) from error
        names = ", ".join(coefficients) or "none"
        raise RuleError(f"{rule} reads {error.name!r}, but its coefficients are {names}") from error


def _check_shapes(rule: Rule, results: Sequence[Any], p: Any) -> None:
    """Raise TypeError unless a rule of whole arrays gave the shape of the parameter: others would be broadcast."""
    shape = tuple(getattr(p, "parts", (p,))[0].shape)
    for a in [part for of in results for part in getattr(of, "parts", (of,))]:
        if tuple(a.shape) != shape:
            raise TypeError(
                f"{rule.__qualname__} gave a {type(a).__name__} of shape {tuple(a.shape)} and dtype {a.dtype}; "
                f"wanted the shape {shape} of its parameter"
            )


_ARGUMENTS: Mapping[Act, tuple[str, ...]] = {
    on_value: ("xp", "p", "x"),
    on_gradient: ("xp", "p", "x", "g"),
    on_parameter: ("xp", "p"),
    on_slots: ("xp", "s"),
}
"""The arguments of a rule by position, before its slots."""


def _misfits(function: Rule, given: int) -> bool:
    """Whether a function can't be called with so many arguments."""
    try:
        inspect.signature(function).bind(*[None] * given)
    except TypeError:
        return True
    except ValueError:  # of C
        return False
    return False


def rule_signature(act: Act, slots: Sequence[str]) -> str:
    """How a rule is written that is applied by this act: `rule(xp, p, x, m, c)`."""
    return f"rule({', '.join((*_ARGUMENTS[act], *slots, 'c'))})"


def _move(rule: Rule, xp: Any, flow: Flow, slots: Sequence[Any], coefficients: Mapping[str, Any]) -> Flow:
    p, x, before, g = flow
    return rule(xp, p, x), x, before, g


def _difference(xp: Any, p: Any, x: Any) -> Any:
    return p - x


MOVE = Part(_move, _difference)
"""The step itself, which is no stage's rule."""
