"""Fields: the arguments of a stage's constructor, as the bodies of its class and of its bases declare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, InitVar
from inspect import Parameter, Signature, get_annotations, signature
from itertools import pairwise
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, get_args, get_origin

from anyoptim._trace._hyperparameters import Check, Domain

__all__ = ["ClassSignature", "Field", "declared", "names", "signature_of"]

Role = Literal["hyperparameter", "constant", "attribute", "argument"]


class Field(NamedTuple):
    """One argument of a constructor."""

    parameter: Parameter
    role: Role
    """A hyperparameter is read at every step, a constant can't be set again, an attribute is kept as it comes, and an
    argument is only handed to `__post_init__`."""
    check: Check | None
    """What says which values it may have."""


def declared(cls: type[Any]) -> Mapping[str, Field]:
    """The fields of a class, those of its bases first. Makes properties of the constants in its body.

    As `dataclasses` reads a body, but that only public names are fields: `Annotated[Hyper, domain]` is a
    hyperparameter, `Final` a constant, `InitVar` an argument, `ClassVar` no field, and what follows a `KW_ONLY` is
    given by keyword.
    """
    cls._declared = own = dict[str, Field]()
    annotations = {name: of for name, of in get_annotations(cls).items() if name == "_" or not name.startswith("_")}
    # They are evaluated in a class of nothing else, whose attributes hide no names of the module.
    body = type(cls.__name__, (), {"__annotations__": annotations, "__module__": cls.__module__})
    kind: Any = Parameter.POSITIONAL_OR_KEYWORD
    for name, hint in get_annotations(body, eval_str=True).items():
        if hint is KW_ONLY:
            kind = Parameter.KEYWORD_ONLY
        elif ClassVar not in (hint, get_origin(hint)):
            role, check = _read(hint)
            default = vars(cls).get(name, Parameter.empty)
            own[name] = Field(Parameter(name, kind, default=default, annotation=annotations[name]), role, check)
            if role == "constant":
                setattr(cls, name, property(attrgetter(f"_{name}")))
                vars(cls)[name].__set_name__(cls, name)
            elif role != "attribute" and name in vars(cls):
                delattr(cls, name)  # the default is no value of the class
    fields = dict[str, Field]()
    for base in reversed(cls.__mro__):
        fields |= vars(base).get("_declared", {})
    positional = [of for of, _, _ in fields.values() if of.kind is of.POSITIONAL_OR_KEYWORD]
    for before, of in pairwise(positional):
        if of.default is of.empty is not before.default:
            raise TypeError(
                f"{cls.__name__} has {of.name!r} without a default behind {before.name!r}, which has one; wanted a "
                "default, or _: KW_ONLY before it"
            )
    return fields


def _read(hint: Any) -> tuple[Role, Check | None]:
    if isinstance(hint, InitVar):
        return "argument", None
    final = hint is Final or get_origin(hint) is Final
    value = (*get_args(hint), Any)[0] if final else hint
    checks = [of for of in get_args(value) if isinstance(of, Check)] if get_origin(value) is Annotated else []
    check = checks[0] if checks else None
    return "constant" if final else "hyperparameter" if isinstance(check, Domain) else "attribute", check


def signature_of(fields: Mapping[str, Field]) -> Signature:
    """The signature of a constructor that takes these: the engine of an optimizer, which all have, is the last."""
    parameters = [field.parameter for field in fields.values()]
    return Signature(sorted(parameters, key=lambda of: (of.kind, of.name == "engine")))


def names(signature: Signature) -> str:
    """The names of its arguments, as they stand in a call."""
    bare = [of.replace(default=of.empty, annotation=of.empty) for of in signature.parameters.values()]
    return str(Signature(bare))[1:-1]


class ClassSignature:
    """What `inspect.signature` is told of a class: the signature of its fields, found when it is asked for.

    Nothing, where a constructor in between has a signature of its own, and does not hand on whatever it is given.
    """

    def __get__(self, stage: Any, cls: Any) -> Signature | None:
        constructor = next(vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base))
        kinds = [of.kind for of in signature(constructor).parameters.values()][1:]
        return signature_of(cls._fields) if kinds == [Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD] else None
