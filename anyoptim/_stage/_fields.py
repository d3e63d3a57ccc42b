"""Fields: the arguments of a stage's constructor, as the bodies of its class and of its bases declare them."""

from __future__ import annotations

import builtins
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, MappingView, Sequence
from inspect import Parameter, Signature, get_annotations, signature
from itertools import pairwise
from operator import attrgetter
from sys import _getframe, modules
from types import FrameType
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple

from anyoptim._trace import _hyperparameters as hyperparameters
from anyoptim._trace._hyperparameters import Check, Domain
from anyoptim._trace._other_names import argument_hint

__all__ = [
    "ClassSignature",
    "Field",
    "declared",
    "given_parameters",
    "holds_parameters",
    "listed",
    "misfit",
    "signature_of",
]

Role = Literal["hyperparameter", "constant", "attribute", "argument"]


class Field(NamedTuple):
    """One argument of a constructor."""

    role: Role
    """A hyperparameter is read at every step, a constant can't be set again, an attribute is kept as it comes, and an
    argument is only handed to `__post_init__`."""
    check: Check | None
    """What says which values it may have."""
    default: Any
    """`Parameter.empty` for none."""
    annotation: Any
    keyword: bool
    """Whether it is given by keyword only."""


def declared(cls: type[Any]) -> Mapping[str, Field]:
    """The fields of a class, those of its bases first. Makes properties of the constants in its body.

    As `dataclasses` reads a body, but that only public names are fields: `Annotated[Hyper, domain]` is a
    hyperparameter, `Final` a constant, `InitVar` an argument, `ClassVar` no field, and what follows a `_: KW_ONLY` is
    given by keyword. A value without an annotation is a new default of the field that a base has by its name.
    """
    cls._declared = own = dict[str, Field]()
    inherited = _merged(cls.__mro__[1:])
    for name in inherited.keys() & vars(cls).keys() - get_annotations(cls).keys():
        if not hasattr(vars(cls)[name], "__set__"):  # a property takes the place of the field
            own[name] = inherited[name]._replace(default=getattr(cls, name))
            if inherited[name].role != "attribute":
                delattr(cls, name)
    keyword = False
    for name, annotation, hint in _evaluated(cls):
        if name == "_":
            keyword = True
        elif _origin(hint) is not ClassVar:
            role, check = _read(hint)
            own[name] = Field(role, check, vars(cls).get(name, Parameter.empty), annotation, keyword)
            if role == "constant":
                setattr(cls, name, property(attrgetter(f"_{name}")))
                vars(cls)[name].__set_name__(cls, name)
            elif role != "attribute" and name in vars(cls):
                delattr(cls, name)  # the default is no value of the class
    fields = inherited | own
    if not cls.__module__.startswith("anyoptim."):  # ours are right, and importing them would take longer
        _check_body(cls, own.keys() - inherited.keys())
    positional = [(name, field.default) for name, field in fields.items() if not field.keyword]
    for (before, default), (late, none) in pairwise(positional):
        if none is Parameter.empty is not default:
            raise TypeError(
                f"{cls.__name__} has {late!r} without a default behind {before!r}, which has one; wanted a default, or "
                "_: KW_ONLY before it"
            )
    return fields


def _check_body(cls: type[Any], new: Iterable[str]) -> None:
    """Raise TypeError for a new field with the name of something else of ours, or a declaration of another type."""
    for base in [
        base for base in cls.__mro__[1:] if base.__module__.startswith(("anyoptim._core.", "anyoptim._stage."))
    ]:
        annotations = get_annotations(base)
        for name in new:
            declared = annotations.get(name, "").startswith(("ClassVar", "Callable"))
            if declared or hasattr(vars(base).get(name), "__get__"):
                raise TypeError(
                    f"{cls.__name__} has a field {name!r}, which is a name of {base.__name__}; wanted another"
                )
    for place, such in (("slots", "m"), ("borrows", "lr")):
        names = vars(cls).get(place, ())
        if not hasattr(names, "__get__") and not (isinstance(names, tuple) and all(isinstance(n, str) for n in names)):
            raise TypeError(f"{cls.__name__} has {place} = {names!r}; wanted a tuple of names, such as ({such!r},)")
    for name, wanted in _MAPPINGS.items():
        value = vars(cls).get(name, {})
        if not (isinstance(value, Mapping) or hasattr(value, "__get__")):
            raise TypeError(f"{cls.__name__} has {name} = {value!r}; wanted a dict of {wanted} by name")


_MAPPINGS = {
    "starts": "numbers and names",
    "scalars": "first values",
    "reductions": "reductions",
    "metrics": "reductions",
}


def _merged(classes: Sequence[type[Any]]) -> dict[str, Field]:
    """The fields that these classes declare, those of the last first."""
    fields = dict[str, Field]()
    for base in reversed(classes):
        fields |= vars(base).get("_declared", {})
    return fields


def _evaluated(cls: type[Any]) -> Iterator[tuple[str, Any, Any]]:
    """The annotations of the public names in the body of a class, and of `_`: as they stand, and what they mean."""
    names: _Names | None = None
    for name, annotation in get_annotations(cls).items():
        if name == "_" or not (name.startswith("_") or isinstance(annotation, str)):
            yield name, annotation, annotation
        elif not name.startswith("_"):
            names = names or _Names.where_made(cls)
            yield name, annotation, names.evaluate(annotation)


class _Unknown:
    """What stands for a name that can't be found, such as one that is imported for type checkers alone.

    It is known by its last part only, if that is one of `_KNOWN`.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _KNOWN.get(name, self)

    def __getitem__(self, _: Any) -> Any:
        return self

    __or__ = __ror__ = __call__ = __getitem__
    __iter__ = None


_KNOWN: dict[str, Any] = {
    "Nonnegative": hyperparameters.Nonnegative,
    "Fraction": hyperparameters.Fraction,
    "Positive": hyperparameters.Positive,
    "UnitInterval": hyperparameters.UnitInterval,
    "Number": hyperparameters.Number,
    "Hyper": hyperparameters.Hyper,
    "Annotated": Annotated,
    "ClassVar": ClassVar,
    "Final": Final,
}
_UNKNOWN = _Unknown()


class _Names(ChainMap[str, Any]):
    """What names mean where a class is made, as Python looks them up; all others are unknown."""

    @classmethod
    def where_made(cls, made: type[Any]) -> _Names:
        """Those of the functions of its module that are running, the innermost first, and of the module."""
        found: list[Any] = []
        module = modules.get(made.__module__)  # which may be a text that was executed, and no module
        frame: FrameType | None = _getframe(1)
        while frame is not None:
            if frame.f_globals.get("__name__", "builtins") == made.__module__:
                found += [frame.f_globals] if frame.f_locals is frame.f_globals else [frame.f_locals, frame.f_globals]
                if frame.f_locals is frame.f_globals:
                    break
            frame = frame.f_back
        return cls(*found, vars(module) if module else {}, vars(builtins), _KNOWN)

    def __missing__(self, name: str) -> Any:
        return _UNKNOWN

    def evaluate(self, annotation: str) -> Any:
        """What it means, as far as that is known."""
        if annotation in self.maps[0]:  # most are a name, and to compile it takes longer
            return self.maps[0][annotation]
        if annotation.startswith("ClassVar["):  # no field, whatever it is a variable of
            return ClassVar
        try:
            return eval(annotation, self._globals, self)  # noqa: S307 # type: ignore[arg-type]
        except Exception:
            return _UNKNOWN

    @property
    def _globals(self) -> Any:
        """What functions within an annotation read."""
        return next((names for names in self.maps if "__builtins__" in names), {})


def _read(hint: Any) -> tuple[Role, Check | None]:
    if type(hint).__name__ == "InitVar":  # of `dataclasses`, which takes time to import
        return "argument", None
    final = _origin(hint) is Final
    value = hint.__args__[0] if final and hint is not Final else hint
    check = next((of for of in getattr(value, "__metadata__", ()) if isinstance(of, Check)), None)
    return "constant" if final else "hyperparameter" if isinstance(check, Domain) else "attribute", check


def _origin(hint: Any) -> Any:
    """What a hint is made of, as `typing.get_origin` says, which takes longer."""
    return getattr(hint, "__origin__", hint)


def signature_of(fields: Mapping[str, Field]) -> Signature:
    """The signature of a constructor that takes these, and last what all optimizers have: engine and communicator."""
    kinds = Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY
    found = [
        Parameter(name, kinds[field.keyword], default=field.default, annotation=field.annotation)
        for name, field in sorted(fields.items(), key=lambda item: (item[1].keyword, item[0] in {"engine", "comm"}))
    ]
    return Signature(found)


def holds_parameters(value: Any) -> bool:
    """Whether a first argument is parameters in their container, and no learning rate: no schedule, either."""
    return isinstance(value, Iterator | list | tuple | Mapping | MappingView) and not callable(value)


def given_parameters(signature: Signature, args: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Whether the constructor of an optimizer was given its parameters, as torch's are."""
    names = [*signature.parameters]
    first = bool(args) and names[:1] == ["lr"] and holds_parameters(args[0])
    return "engine" in names and (first or ("params" in options and "params" not in names))


def misfit(signature: Signature, args: Sequence[Any], options: Mapping[str, Any]) -> str:
    """What is wrong with these arguments, in words that follow "was"."""
    parameters = signature.parameters
    if given_parameters(signature, args, options):
        return "given parameters; wanted them in update(params, grads)"
    positional = [name for name, of in parameters.items() if of.kind is of.POSITIONAL_OR_KEYWORD]
    wrong = [*map(repr, args[len(positional) :]), *(name for name in options if name not in parameters)]
    twice = [name for name in positional[: len(args)] if name in options]
    if wrong:
        hint = next(filter(None, (argument_hint(name, parameters) for name in options if name in wrong)), "")
        return f"given {listed(wrong)}; wanted {listed([*parameters]) or 'none'}{hint}"
    if twice:
        return f"given {listed(twice)} twice, by position and by name"
    there = {*positional[: len(args)], *options}
    missing = [name for name, of in parameters.items() if of.default is of.empty and name not in there]
    return f"not given {listed(missing)}"


def listed(names: Sequence[str]) -> str:
    """The names in a row, with "and" before the last."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


class ClassSignature:
    """What `inspect.signature` is told of a class: the signature of its fields, found when it is asked for.

    Nothing, where a constructor in between has a signature of its own, and does not hand on whatever it is given.
    """

    def __get__(self, stage: Any, cls: Any) -> Signature | None:
        constructor = next(vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base))
        kinds = [of.kind for of in signature(constructor).parameters.values()][1:]
        return signature_of(cls._fields) if kinds == [Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD] else None
