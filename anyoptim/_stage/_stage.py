"""Stages: the classes that declare an equation, with its hyperparameters, slots and coefficients."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, ClassVar, Self, dataclass_transform

import numpy as np

from anyoptim._arrays import Array, is_scalar
from anyoptim._arrays._quiet import quiet
from anyoptim._stage._elements import by_element, check_elements, spelled
from anyoptim._stage._fields import (
    ClassSignature,
    Field,
    declared,
    given_parameters,
    misfit,
    signature_of,
)
from anyoptim._stage._reduced import check_names, reduced_parts
from anyoptim._stage._starts import check_starts, first_slots
from anyoptim._trace._elementwise import elements_of, separated
from anyoptim._trace._hyperparameters import Domain, Hyper, scheduled
from anyoptim._trace._other_names import attribute_hint
from anyoptim._trace._program import (
    Part,
    Values,
    all_floats,
    on_gradient,
    on_parameter,
    on_slots,
    on_value,
    rule_signature,
)
from anyoptim._trace._reductions import Count, Norm, Reduction
from anyoptim._trace._symbols import Symbol, element

__all__ = [
    "Gate",
    "GradientStage",
    "ParameterStage",
    "SlotStage",
    "Stage",
    "itself",
    "nonfinite",
    "parameter",
    "told",
    "watch",
]


_WATCHED: weakref.WeakKeyDictionary[Any, list[Callable[[str, Any], None]]] = weakref.WeakKeyDictionary()
"""Who is to be told before a hyperparameter is set. It is no part of the stage, so that copies begin without."""


def watch(of: Any, tell: Callable[[str, Any], None]) -> None:
    """Have `tell(name, value)` called before a hyperparameter of a stage or a group is set, which it may refuse."""
    _WATCHED.setdefault(of, []).append(tell)


def told(of: Any, name: str, value: Any) -> None:
    """Tell those who watch a stage or a group that a hyperparameter is about to be set."""
    for tell in _WATCHED.get(of, ()):
        tell(name, value)


class Fixed(dict[str, Any]):
    """The values of hyperparameters, none of which is a schedule, and the same as attributes."""

    hyper: Values | None = None


def parameter(xp: Any, p: Array, x: Array, *_: Array) -> Array:
    """The parameter."""
    return p


def itself(xp: Any, p: Array, x: Array, *_: Array) -> Array:
    """The value that flows through."""
    return x


def nonfinite(xp: Any, p: Array, x: Array, *_: Array) -> Array:
    """Whether that is not finite."""
    return ~(x - x == 0)


_KEPT = 4096
"""About so many groups have fixed values that a stage keeps, those of former plans, too."""


@dataclass_transform(eq_default=False)
class Stage:
    """One stage of a chain, between the gradient and the step.

    A value x flows through a chain: it starts as the gradient, and each stage makes another of it. A subclass gives
    its rule and, where it has them, its hyperparameters, slots and coefficients:

    >>> class Signed(ao.Stage):
    ...     share: ao.Fraction = 0.5
    ...
    ...     @staticmethod
    ...     def rule(xp, p, x, c):
    ...         return c.share * x + (1 - c.share) * xp.sign(x)
    >>> ao.chain(Signed(), ao.SGD(lr=1.0)).update(np.zeros(2), np.array([3.0, -0.5]))
    array([-2.  ,  0.75])

    `rule(xp, p, x, *slots, c)` gives the new x, or a tuple of it and the new slots, for one element; `c` has the
    coefficients as attributes. It computes new values and writes to nothing that it is given (`m = c.beta*m`, not
    `m *= c.beta`). An engine may call it once, with values that only record what is done to them, and run the record
    ever after: so it has no side effects, reads nothing but its arguments, and branches on nothing but coefficients
    that are bools or strings, or are there or not (`hasattr(c, "decay")`). What is done to a complex element is done to
    its real and its imaginary part, each by itself: `xp.abs` is the magnitude of a part. `xp.modulus` and
    `xp.squared_modulus` give one real number for the whole, and `modulus * x` scales both parts by it.

    The body of the class declares the arguments of its constructor as that of a dataclass does, with a default or
    without, and those after `_: KW_ONLY` are given by keyword. `Annotated[ao.Hyper, ao.Domain(...)]`, for which
    `ao.Nonnegative`, `ao.Fraction` and others are short, is a hyperparameter: a plain attribute, which is read at every
    step. It is a number or a schedule, a function of the step number, which counts from 1; that may be called more than
    once for a step, and remembers nothing. Or it is an array of the shape of the parameter, or a container of arrays
    and numbers with the keys of the parameters: then the coefficients that are made of it are arrays to the rule.
    `Final[...]` is a constant, which can't be set again; `InitVar[...]` is only handed to `__post_init__`, which is
    called last.

    What else a subclass may give, of which none is needed::

        slots = ("m",)                        arrays that are kept for each parameter, by name
        real_slots = ("v",)                   those that have one real number for a complex element
        starts = {"m": 1.0}                   what these start as, if not zeros: a number, a constant's name, or "p"
        coefficients(t, hyper)                the numbers of step t that the rule gets as c
        reductions = {"norm": ao.Norm(f)}     norms, sums, maxima over all parameters or each, for coefficients
        borrows = ("lr",)                     hyperparameters of the method before it, for coefficients
        scalars = {"name": 0.0}               numbers that are kept for all parameters together
        ranges = {"name": ao.Domain(...)}     what these may be in a state that is restored
        update_scalars(step, hyper)           the scalars of a step
        metrics = {"norm": ao.Norm(f, "each")}    reductions for record_metrics and `last_metrics`
        exact = False                         the rule may use xp.exp, xp.log and xp.power
        array_rule = True                     the rule is one of whole arrays, such as a matrix product
        complex_arrays = True                 and complex ones are given to it as they are, not part by part
        evaluate(xp, p, *slots, hyper)        the parameter that `eval_params` gives
        is_step(hyper)                        whether an update is a step, of the first stage of a chain
        get_loss_scale, set_loss_scale        by what losses are to be multiplied
        init_slots, slot_shapes               how slots begin otherwise, and of which shape
        refusal(p), overrides(path, p)        which parameters it can't take; hyperparameters for some

    The ways to write each are shown in the guide, docs/guide/own-methods.md.
    """

    hyperparameters: ClassVar[Mapping[str, Domain]] = {}
    """The attributes that are read at every step, and the domain of each: as they are declared."""

    slots: ClassVar[tuple[str, ...]] = ()
    """The names of the arrays kept for each parameter."""

    real_slots: ClassVar[tuple[str, ...]] = ()
    """The slots that have one real number for each element of a complex parameter, as `xp.modulus` gives it."""

    starts: ClassVar[Mapping[str, float | str]] = {}
    """What slots start as, by name, where not as zeros.

    A number, the name of a constant that is one, or None for zeros; or "p": the parameter, in its compute dtype.
    """

    scalars: ClassVar[Mapping[str, float]] = {}
    """The numbers that are kept for all parameters together, by name, and the values that they start with."""

    ranges: ClassVar[Mapping[str, Domain]] = {}
    """The domains of scalars in a state that is restored; any number, where there is none."""

    update_scalars: ClassVar[Callable[..., Mapping[str, Any]]] = staticmethod(lambda step, hyper: {})
    """`update_scalars(step, hyper)`: the scalars of this step, which its coefficients then get.

    step counts all steps, from 1. `hyper` has the scalars of the step before, the hyperparameters of this one, and the
    `reductions` over all parameters. The hyperparameters are the stage's own, whatever groups have.
    """

    coefficients: ClassVar[Callable[..., dict[str, Any]]] = staticmethod(lambda t, hyper: hyper.__dict__)
    """`coefficients(t, hyper)`: a dict of what the rule needs beside arrays, in float64 on the host.

    t is the parameter's own count of steps, from 1; `hyper` has the hyperparameters' values at this step. As it stands
    here, the coefficients are the hyperparameters. Beside these `hyper` has the stage's `scalars` and `reductions`.
    Under `jax.jit` t, schedules, scalars and reductions are traced and have no value yet: `ao.scalars` has what takes
    them, instead of `if`, `min`, `float`, `math` and NumPy.
    """

    rule: Callable[..., Any]
    """`rule(xp, p, x, *slots, c)`: the new x, or a tuple of it and the new slots, for one element."""

    reductions: ClassVar[Mapping[str, Reduction]] = {}
    """What `coefficients` get to know of all parameters or of each, by name: `{"norm": ao.Norm(lambda xp, p, x: x)}`.

    Numbers of all elements, as `Norm`, `Dot`, `Sum`, `Max`, `Count` and `Size` explain.
    """

    borrows: ClassVar[tuple[str, ...]] = ()
    """Hyperparameters that `coefficients` get of another stage: of the last one before this that has them.

    `borrows = ("lr",)` of a stage behind a method gives it the learning rate of this step, with the schedule and the
    group of each parameter. A chain in which no stage before it has them is refused.
    """

    metrics: ClassVar[Mapping[str, Reduction]] = {}
    """What `record_metrics` gets to know of each parameter at an `update`: reductions over each.

    One named `nonfinite` is taken as 0 where all norms before it are finite.
    """

    exact: ClassVar[bool] = True
    """Whether the rule has the same bits on all engines; where not, it may use `xp.exp`, `xp.log` and `xp.power`."""

    array_rule: ClassVar[bool] = False
    """Whether the rule is one of whole arrays, and not of one element by itself.

    Its `xp` is then the library's own array API namespace, p and x have the shape of the parameter and at least
    float32, and it is run by `portable`, with all stages of its chain.
    """

    complex_arrays: ClassVar[bool] = False
    """Whether a rule of whole arrays is given complex ones as they are, and gives such; else it is given the real parts
    and then, in another call, the imaginary ones."""

    evaluate: ClassVar[Callable[..., Any] | None] = None
    """`evaluate(xp, p, *slots, hyper)`: the parameter that `eval_params` gives, for one element."""

    get_loss_scale: ClassVar[Callable[..., Any] | None] = None
    """`get_loss_scale(**scalars)`: by what losses are to be multiplied, where the stage undoes it."""

    set_loss_scale: ClassVar[Callable[..., Mapping[str, Any]] | None] = None
    """`set_loss_scale(scale, **scalars)`: the numbers with which losses are to be multiplied by another."""

    is_step: ClassVar[Callable[..., Any] | None] = None
    """`is_step(hyper)`, of the first stage of a chain: whether an update is a step."""

    name: str = ""
    """Under which name `last_metrics` has what the stage measures for it."""

    last: Mapping[str, Any] = {}
    """What it measured for that at the last update, by the paths of parameters."""

    offender: str | None = None
    """The path of the first parameter for which `update` last called a step off: of a `Gate`."""

    _act: ClassVar[Callable[..., Any]] = staticmethod(on_value)
    _fields: ClassVar[Mapping[str, Field]] = {}
    __signature__: ClassVar[ClassSignature] = ClassSignature()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._fields = declared(cls)
        cls.hyperparameters = {
            name: field.check
            for name, field in cls._fields.items()
            if field.role == "hyperparameter" and isinstance(field.check, Domain)
        }
        check_starts(cls)
        check_names(cls)

    _derived: ClassVar[frozenset[str]] = frozenset({"_fixed"})
    """What is made anew from the rest, and not copied or saved."""

    def __init__(self, *args: Any, **options: Any) -> None:
        cls = type(self)
        values = self._arguments(args, options)
        if len({*self.slots}) < len(self.slots):
            raise TypeError(f"{cls.__name__} has the slots {self.slots}; wanted each name once")
        if getattr(getattr(self, "rule", None), "__self__", None) is self:
            raise TypeError(f"{cls.__name__}.rule reads self; wanted a staticmethod, of its arguments alone")
        last = []
        for name, value in values.items():
            role, check, *_ = self._fields[name]
            if role == "constant":
                vars(self)[f"_{name}"] = value if check is None else check.value(name, value)
            elif role == "argument":
                last.append(value)
            else:
                setattr(self, name, value)
        self.__post_init__(*last)

    def _arguments(self, args: tuple[Any, ...], options: Mapping[str, Any]) -> dict[str, Any]:
        """The values of all fields by name. Raises TypeError for other arguments than there are."""
        fields = signature_of(self._fields)
        try:
            if given_parameters(fields, args, options):
                raise TypeError
            arguments = fields.bind(*args, **options)
        except TypeError:
            raise TypeError(f"{type(self).__name__} was {misfit(fields, args, options)}") from None
        arguments.apply_defaults()
        return arguments.arguments

    def __post_init__(self, *arguments: Any) -> None:
        """Check or prepare more, after all fields are set. `arguments` are those declared as `InitVar`."""

    def _has(self, name: str) -> bool:
        """Whether there is such an attribute, to be set or to be refused as a constant."""
        field = self._fields.get(name)
        return hasattr(type(self), name) if field is None else field.role != "argument"

    if not TYPE_CHECKING:  # it would hide misspelt names from those who check types

        def __setattr__(self, name: str, value: Any) -> None:
            domain = self.hyperparameters.get(name)
            if domain is not None and not callable(value):
                if type(value) is float or not self._takes_elements(name, value):
                    domain.value(name, value)
            elif domain is not None:
                scheduled(name, value)
            elif not (name.startswith("_") or self._has(name)):
                # A misspelt hyperparameter would be ignored in silence.
                simple = type(value) in {bool, int, float, str}
                declaration = f"{type(value).__name__} = {value!r}" if simple else "Any = None"
                otherwise = f"; wanted one of these, or declared in the class body: {name}: {declaration}"
                raise AttributeError(
                    f"{type(self).__name__} has no {name!r}; its hyperparameters are "
                    f"{', '.join(self.hyperparameters) or 'none'}{self._hint(name) or otherwise}"
                )
            self.__dict__.pop("_fixed", None)
            if domain is not None:
                told(self, name, value)
            super().__setattr__(name, value)
            self.__dict__.pop("_fixed", None)  # again: somebody may have asked in between

    def _takes_elements(self, name: str, value: Any) -> bool:
        """Whether a value is given element by element. Raises TypeError or ValueError for one that can't be."""
        if not by_element(value):
            return False
        if isinstance(self, Gate) or self.is_step is not None:
            raise TypeError(
                f"{name} of {type(self).__name__} is {spelled(value)}; wanted a number: it decides for all together"
            )
        check_elements(name, self.hyperparameters[name], value)
        return True

    def _hint(self, name: str) -> str:
        """What is meant by an attribute that there is not: a part of an error, or nothing."""
        cls: Any = type(self)
        return attribute_hint(cls, name)

    def __dir__(self) -> list[str]:
        """What is for users: without what a class declares to say how it works, which `dir` of the class has."""
        public = {name for name in (*vars(Stage), *Stage.__annotations__) if not name.startswith("_")}
        return [name for name in super().__dir__() if name not in public - _TOLD]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in self._derived}

    def __copy__(self) -> Self:
        return deepcopy(self)  # two optimizers over the same slots would be one

    def __repr__(self) -> str:
        """The call that makes the stage again, of keyword-only arguments with those that are not at their defaults."""
        cls, arguments = type(self), signature(type(self)).parameters
        optional = {name: a.default for name, a in arguments.items() if a.kind is a.KEYWORD_ONLY}
        texts = []
        for name in sorted({*self.hyperparameters, *self.constants}, key=[*arguments, *self._fields].index):
            value = getattr(self, name)
            if not (name in optional and isinstance(value, int | float) and value == optional[name]):
                texts.append(f"{name}={spelled(value)}")
        return f"{cls.__name__}({', '.join(texts)})"

    @property
    def constants(self) -> dict[str, Any]:
        """The arguments of the constructor that can't be changed later."""
        return {name: getattr(self, name) for name, field in self._fields.items() if field.role == "constant"}

    @property
    def _saved_constants(self) -> dict[str, Any]:
        """Those that a state to be restored must have been made with."""
        return self.constants

    def init_slots(self, xp: Any, p: Array) -> tuple[Array, ...]:
        """The slots of one real parameter, given in its compute dtype, as `starts` says; a method may say otherwise.

        A tuple of arrays of that dtype, and of the shapes of `slot_shapes`, one for each name in `slots`. They are
        copied, so that a slot may be the parameter itself, which a method of yours must not write to.
        """
        return first_slots(self, xp, p)

    def slot_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """The shapes of the slots of a parameter of this shape: the same, but where the rule is one of whole arrays."""
        return (shape,) * len(self.slots)

    def refusal(self, p: Array) -> str | None:
        """Why the stage can't take a parameter, None for those that it can: the end of a sentence that its name begins.

        `"is complex; Disc wants real parameters"` is raised as `ValueError: params['z'] is complex; Disc wants real
        parameters`, before anything is written. p is the parameter's own array.
        """
        return None

    def overrides(self, path: str, p: Array) -> Mapping[str, Hyper]:
        """The hyperparameters that are others for one parameter: `{"decay": 0.0}`. Says the same whenever it is asked.

        `path` is its keys, joined by dots: `encoder.0.bias`; empty for a bare array.
        """
        return {}

    def record_metrics(self, paths: Sequence[str], values: Mapping[str, Sequence[float]]) -> None:
        """Keep what was measured of the parameters with these paths."""

    @property
    def _parts(self) -> dict[str, Part]:
        """The parts of the stage's program: one for each reduction, by its name, and its rule's without a name."""
        cls = type(self)
        if getattr(self, "rule", None) is None:
            raise TypeError(f"{cls.__name__} has no rule; wanted a staticmethod {rule_signature(cls._act, self.slots)}")
        parts = reduced_parts(cls, {**cls.reductions, **cls.metrics}, cls._act, len(self.slots))
        undeclared = tuple(cls._undeclared())
        own = Part(
            cls._act,
            self.rule,
            self.slots,
            array_rule=cls.array_rule,
            complex_arrays=cls.complex_arrays,
            exact=cls.exact,
            real_slots=self.real_slots,
            undeclared=undeclared,
        )
        return {**parts, "": own}

    @classmethod
    def _undeclared(cls) -> Iterator[tuple[str, str]]:
        """The numbers and functions in the body of the class that are no hyperparameters, and the error to read one."""
        values = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
        plain = {name: value for name, value in values.items() if type(value) in {int, float} and name[0] != "_"}
        fields = {name: field.default for name, field in cls._fields.items() if field.role == "attribute"}
        for name, value in {**plain, **fields}.items():
            if type(value) in {int, float} or value is Parameter.empty or callable(value):
                default = "" if value is Parameter.empty else f" = {value!r}"
                yield (
                    name,
                    f"{name} is no hyperparameter of {cls.__name__}; wanted it declared as one: "
                    f"`{name}: ao.Nonnegative{default}`",
                )

    def _updated_scalars(self, step: Any, scalars: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
        """The scalars of this step."""
        hyper = {**scalars, **self._values(step, {}), **found}
        try:
            new = self.update_scalars(step, Values(hyper))
        except AttributeError as error:
            self._check_given("update_scalars", error, hyper)
            raise
        except TypeError as error:
            self._check_known("update_scalars", error, (step, *hyper.values()))
            raise
        if not isinstance(new, Mapping) or set(new) != set(scalars):
            given = [*new] if isinstance(new, Mapping) else repr(new)
            raise TypeError(f"update_scalars of {self!r} gave {given}; wanted {sorted(scalars)}")
        for name in scalars:
            if isinstance(new[name], Symbol) and (of := elements_of(new[name].scalar)):
                raise TypeError(
                    f"update_scalars of {self!r} makes {name!r} of {of[0]}, which is no single number; wanted one"
                )
        return {name: self._number("update_scalars", name, new[name]) for name in scalars}

    def _values(self, step: Any, given: Mapping[str, Hyper]) -> dict[str, Any]:
        """The values of the hyperparameters at this step, schedules called; `given` replace the stage's own."""
        own = self.__dict__
        # What is given, or all that its group has now: another dict once one of its values is set. None for a mixture.
        raw = given if type(given) is dict else getattr(given, "raw", None)
        kept = own["_fixed"] if "_fixed" in own else own.setdefault("_fixed", {})  # until an attribute is set
        key = id(given) if raw else None
        if raw is not None and key in kept and (not raw or kept[key][0] is raw):
            known: Fixed = kept[key][1]
            return known
        values, fixed = Fixed(), raw is not None
        for name, domain in self.hyperparameters.items():
            value = given[name] if name in given else own[name]
            if type(value) is float and not raw:
                values[name] = value  # it was checked when it was set
            elif callable(value):
                fixed = False
                with quiet():  # whatever the engine
                    try:
                        value = value(step)
                    except TypeError as error:
                        self._check_known(f"the schedule {name}", error, (step,))
                        raise
                values[name] = domain.value(f"{name}, from its schedule at step {step},", value)
            elif by_element(value):
                values[name] = element(-1, name)  # of no parameter in particular
            else:
                values[name] = domain.value(name, value)
                fixed = fixed and isinstance(value, int | float | np.generic | Symbol)  # arrays can be written to
        if fixed:
            values.hyper = Values(values)
            if len(kept) > _KEPT:
                kept.clear()
            kept[key] = raw, values, given  # which so keeps its id
        return values

    def _coefficients(self, t: Any, values: Mapping[str, Any]) -> dict[str, Any]:
        hyper = values.hyper if type(values) is Fixed and values.hyper else Values.of(values)
        try:
            found = self.coefficients(t, hyper)
        except AttributeError as error:
            self._check_given("coefficients", error, values)
            raise
        except TypeError as error:
            self._check_known("coefficients", error, (t, *values.values()))
            raise
        try:
            if all_floats(found):
                return found
        except (AttributeError, RuntimeError, TypeError):  # of other types
            raise TypeError(f"coefficients of {self!r} gave {found!r}; wanted a dict of numbers by name") from None
        made = {name: self._number("coefficients", name, c) for name, c in found.items()}
        if Symbol not in map(type, made.values()):
            return made
        return separated(self, made)

    def _check_given(self, of: str, error: AttributeError, given: Mapping[str, Any]) -> None:
        """Raise a TypeError that names the stage, where `error` came of a number that it is not given."""
        if isinstance(error.obj, Values):
            if error.name in (undeclared := dict(self._undeclared())):
                raise TypeError(undeclared[error.name]) from error
            each = of == "update_scalars" and error.name in self.reductions
            wanted = (
                "one over='all'" if each else f"{error.name!r} declared among reductions, scalars or hyperparameters"
            )
            raise TypeError(
                f"{of} of {self!r} reads {error.name!r}, but is given {[*given]}; wanted one of these, or {wanted}"
            ) from error

    def _check_known(self, of: str, error: TypeError, given: Iterable[Any]) -> None:
        """Raise a TypeError that names the stage, where `error` came of a number that has no value yet."""
        why = str(error).partition("\n")[0].rstrip(".")
        symbols = [v.scalar for v in given if isinstance(v, Symbol)]
        if symbols:
            names = [name for scalar in symbols for name in elements_of(scalar)]
            place, why = (
                f"of {names[0]}, which is given as an array" if names else "on a device",
                why.partition("; wanted")[0],
            )  # which is what a rule is to use
        elif type(error).__module__ == "jax.errors":  # any other is a mistake whatever is traced
            place = "under jax.jit, where t, schedules and reductions are traced"
        else:
            return
        raise TypeError(
            f"{of} of {self!r} can't be computed {place}: {why}; "
            "wanted where, minimum, power, sqrt and others of ao.scalars instead of if, min, **, float, math and NumPy"
        ) from error

    def _number(self, of: str, name: str, c: Any) -> Any:
        # A NumPy float64 scalar would turn float32 arrays into float64. A bool or a string is a static option.
        if isinstance(c, bool | np.bool_ | str):
            return c if isinstance(c, str) else bool(c)
        if isinstance(c, Symbol):
            return c
        if hasattr(c, "dtype") and not is_scalar(c):
            if math.prod(c.shape) == 1 and (not isinstance(c, np.ndarray) or c.dtype.kind in "biuf"):
                return c
        else:
            try:
                return float(c)
            except (OverflowError, TypeError, ValueError):
                pass
        raise TypeError(f"{of} of {self!r} gave {c!r} for {name!r}; wanted a real number, a bool or a string")


class GradientStage(Stage):
    """A stage that is also shown the gradient with which the chain began.

    `rule(xp, p, x, g, *slots, c)`; its reductions are of functions of xp, p, x, g and the slots.

    >>> class Agree(ao.GradientStage):
    ...     @staticmethod
    ...     def rule(xp, p, x, g, c):
    ...         return xp.where(x * g > 0, x, 0 * x)
    >>> optimizer, w = ao.chain(ao.Momentum(lr=1.0), Agree()), np.zeros(1)
    >>> [float(optimizer.update(w, np.array([g]))[0]) for g in (1.0, -0.1)]
    [-1.0, -1.0]
    """

    _act = staticmethod(on_gradient)


_TOLD = frozenset({"hyperparameters", "constants", "name", "last", "offender"})
"""The public names of `Stage` that a stage tells, and does not declare."""


class Gate(Stage):
    """A stage that calls a step off if what it makes of the gradient is not finite everywhere.

    Parameters, slots and counts of all stages then stay as they are. Its coefficients get its `scalars` of before the
    step; these advance in any case, and `update_scalars` is given `allowed`: whether the step is taken.

    >>> issubclass(ao.SkipNonFinite, ao.Gate), issubclass(ao.LossScale, ao.Gate)
    (True, True)
    """

    looks: ClassVar[Mapping[str, Reduction]] = {"norm": Norm(itself), "nonfinite": Count(nonfinite, "each")}
    """What it asks of what it makes of the gradient: the norm, and how many elements are not finite."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.reductions or cls.metrics:
            raise TypeError(f"{cls.__name__} has reductions or metrics; wanted none: a Gate looks at norms of its own")

    def exhausted(self, step: Any, scalars: Mapping[str, Any]) -> dict[str, Any] | None:
        """Whether the step that was just called off, with these numbers after it, is one too many: then an error.

        If so, the numbers to go on with for those who catch it; else None.
        """
        return None

    @property
    def _parts(self) -> dict[str, Part]:
        own = Part(type(self)._act, self.rule, self.slots, exact=self.exact, real_slots=self.real_slots)
        return {"": own, **reduced_parts(type(self), self.looks, on_value, 0)}


class ParameterStage(Stage):
    """A stage that sees the parameter after its step: averages, projections.

    `rule(xp, p, *slots, c)` gives p, as it is or another, or a tuple of it and the new slots.

    >>> class Round(ao.ParameterStage):
    ...     @staticmethod
    ...     def rule(xp, p, c):
    ...         return xp.where(p < 0.5, 0 * p, 0 * p + 1)
    >>> ao.chain(ao.SGD(lr=1.0), Round()).update(np.zeros(2), np.array([-0.4, -0.7]))
    array([0., 1.])
    """

    _act = staticmethod(on_parameter)


class SlotStage(Stage):
    """A stage that acts on the slots of all stages before it: `rule(xp, s, c)` gives the new s.

    >>> class Fade(ao.SlotStage):
    ...     @staticmethod
    ...     def rule(xp, s, c):
    ...         return 0.5 * s
    >>> optimizer = ao.chain(ao.Momentum(lr=1.0), Fade())
    >>> params = optimizer.update(np.zeros(1), np.ones(1))
    >>> optimizer.state.slots[0]["v"]
    array([-0.5])
    """

    _act = staticmethod(on_slots)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.slots:
            raise TypeError(f"{cls.__name__} has slots = {cls.slots!r}; wanted none: the stages before it have some")
