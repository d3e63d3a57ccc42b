"""What the body of a class declares is the constructor of a stage: as that of a dataclass."""

from __future__ import annotations

import inspect
import math
import pickle
import re
from copy import deepcopy
from dataclasses import KW_ONLY, InitVar
from itertools import product
from typing import Annotated, Any, ClassVar, Final

import numpy as np
import pytest

import anyoptim as ao

Half = Annotated[ao.Hyper, ao.Domain(lambda x: 0 <= x <= 0.5, "at least 0 and at most 0.5")]


class Method(ao.Optimizer):
    """Every kind of field."""

    lr: ao.Nonnegative
    share: Half = 0.25
    label: str = "plain"
    _: KW_ONLY
    start: Final[Annotated[float, ao.nonnegative]] = 1.0
    kind: Final[str] = "a"
    more: InitVar[int] = 0
    seen: ClassVar[list[int]] = []
    _inner: int = 3

    def __post_init__(self, more: int) -> None:
        self._more = more + 1

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return c.lr * c.share * x


class Longer(Method):
    """Its fields come after those of its base; a default that is declared again takes the place of the first."""

    share: Half = 0.5
    _: KW_ONLY
    last: Final[int]  # type: ignore[assignment, misc] # what it is called elsewhere is not its business


class Passing(Method):
    """A constructor of its own that passes on what it is given."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._passed = True


class Own(Method):
    """A constructor of its own, with its own signature, which is inherited."""

    def __init__(self, size: float) -> None:
        super().__init__(lr=size)


class Inheriting(Own):
    """No constructor of its own."""


class Starts(ao.Stage):
    """A field that a second base has, too."""

    start: Final[float] = 2.0

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return x


SIGNATURES = {
    Method: "lr, share=0.25, label='plain', *, start=1.0, kind='a', more=0, engine=None, comm=None",
    Longer: "lr, share=0.5, label='plain', *, start=1.0, kind='a', more=0, last, engine=None, comm=None",
    Passing: "lr, share=0.25, label='plain', *, start=1.0, kind='a', more=0, engine=None, comm=None",
    Own: "size",
    Inheriting: "size",
    Starts: "start=2.0",
    ao.Optimizer: "*, engine=None, comm=None",
    ao.Centralize: "",
    ao.LARS: "lr=0.1, momentum=0.9, weight_decay=0.0, trust=0.001, eps=0.0, *, engine=None, comm=None",
    ao.WeightDecay: "decay, where=None",
}


@pytest.mark.parametrize("cls", SIGNATURES, ids=lambda cls: cls.__name__)
def test_signatures(cls: type[Any]) -> None:
    """In the order of the declarations, what is given by keyword last, and of that the engine and the communicator."""
    found = inspect.signature(cls).parameters.values()
    assert str(inspect.Signature([of.replace(annotation=of.empty) for of in found])) == f"({SIGNATURES[cls]})"


def test_each_field_has_its_role() -> None:
    """Hyperparameters are read at every step, constants can't be set, an InitVar is handed on; there are no others."""
    made = Method(0.5, kind="b", more=4, engine="portable")
    assert (made.lr, made.share, made.label, made.start, made.kind) == (0.5, 0.25, "plain", 1.0, "b")
    assert dict(Method.hyperparameters) == {"lr": ao.nonnegative, "share": Method.hyperparameters["share"]}
    assert made.constants == {"start": 1.0, "kind": "b"}
    assert made._more == 5
    for one in (made, deepcopy(made), pickle.loads(pickle.dumps(made))):  # noqa: S301
        assert repr(one) == "Method(lr=0.5, share=0.25, kind='b')"
        one.label = "other"
        one.share = lambda t: 0.5 / t
        assert one.update(np.ones(1), np.ones(1)).tolist() == [0.75]
        for name in ("start", "kind"):
            with pytest.raises(AttributeError, match=f"property '{name}' of 'Method' object has no setter"):
                setattr(one, name, 1.0)
        for name in ("more", "sseen"):
            with pytest.raises(AttributeError, match=f"Method has no '{name}'; its hyperparameters are lr, share"):
                setattr(one, name, 1)
    assert not hasattr(Method, "lr")
    assert not hasattr(Method, "share")  # a default is no value of the class


def test_defaults_of_a_subclass() -> None:
    assert Longer(0.5, last=1).share == 0.5
    assert Method(0.5).share == 0.25
    assert Passing(0.5, kind="b").kind == "b"
    assert Inheriting(2.0).lr == 2.0


class Fast(Method):
    """Values without annotations are the defaults of fields that a base declares."""

    share = 0.5
    label = "fast"
    start = 2.0  # type: ignore[misc]
    more = 3
    engine = "blocked"


class Keeping(Fast):
    """Nothing of its own."""


class Later(ao.Adam):
    """A schedule by default."""

    lr = staticmethod(lambda t: 1 / t)  # a schedule


class Looser(ao.ClipGlobalNorm):
    """A default for what had none."""

    max_norm = 2.0


class Decays(Method):
    """A property that takes the place of a field is none of its defaults."""

    @property  # type: ignore[misc]
    def label(self) -> str:
        """What it is called."""
        return "decays"

    @label.setter
    def label(self, value: str) -> None:
        pass


@pytest.mark.parametrize("cls", [Fast, Keeping])
def test_values_without_annotations_are_defaults(cls: Any) -> None:
    """Of every kind of field; the rest of the field is that of the base, which keeps its own."""
    made = cls(0.5)
    assert (made.lr, made.share, made.label, made.start, made.kind) == (0.5, 0.5, "fast", 2.0, "a")
    assert (made._more, made.engine) == (4, "blocked")
    assert cls(0.5, share=0.25, start=3.0).start == 3.0
    assert str(inspect.signature(cls)).endswith("engine: 'EngineName | None' = 'blocked', comm: 'Any' = None)")
    assert cls.hyperparameters == Method.hyperparameters
    assert not hasattr(cls, "share")
    assert Method(0.5).start == 1.0
    with pytest.raises(AttributeError, match="no setter"):
        made.start = 1.0
    assert made.update(np.ones(1), np.ones(1)).tolist() == [0.75]


def test_defaults_of_all_sorts() -> None:
    """Of stages, as schedules, and wrong ones, which are found out when an instance is made."""
    looser: Any = Looser
    assert looser().max_norm == 2.0
    later: Any = Later()
    assert later.lr(2) == 0.5
    assert Decays(0.5).label == "decays"
    with pytest.raises(ValueError, match=r"lr is -1\.0; wanted finite and at least 0"):
        type("Wrong", (ao.Adam,), {"lr": -1.0})()
    with pytest.raises(ValueError, match="engine"):
        type("Wrong", (ao.Adam,), {"engine": "blokked"})()


LOCAL = """
from __future__ import annotations
from typing import TYPE_CHECKING, ClassVar, Final
if TYPE_CHECKING:
    import anyoptim as checked
    from anyoptim import Nonnegative
    from elsewhere import Thing

def make():
    import anyoptim as aop
    from typing import Annotated

    class Made(aop.Optimizer):
        lr: aop.Nonnegative = 0.5
        share: Annotated[aop.Hyper, aop.Domain(lambda x: 0 <= x <= limit, "at most 2")] = 1.0
        one: Nonnegative = 1.0
        two: checked.UnitInterval = 1.0
        thing: Thing | None = None
        things: list[Thing] = ()
        more: Thing[int].other = 3
        every: Final[Thing] = 5
        seen: ClassVar[Thing] = []
        broken: "1 +" = 7
        own: Made | None = None

        @staticmethod
        def rule(xp, p, x, c):
            return c.lr * c.share * c.one * c.two * x

    return Made

limit = 2
"""


@pytest.mark.parametrize("name", ["no_such_module", "tests", None])
def test_annotations_that_are_strings(name: str | None) -> None:
    """They are read where the class is made; what can't be found there is an attribute, but for kinds of ours."""
    space: dict[str, Any] = {} if name is None else {"__name__": name}
    exec(LOCAL, space)  # noqa: S102
    cls = space["make"]()
    assert list(cls.hyperparameters) == ["lr", "share", "one", "two"]
    made = cls(0.25, share=2, things=[1])
    assert (made.thing, made.things, made.more, made.broken, made.own) == (None, [1], 3, 7, None)
    assert made.constants == {"every": 5}
    assert "seen" not in inspect.signature(cls).parameters
    assert made.update(np.ones(1), np.ones(1)).tolist() == [0.5]
    with pytest.raises(ValueError, match=r"share is 3\.0; wanted at most 2"):
        cls(share=3)
    with pytest.raises(ValueError, match=r"two is 2\.0; wanted at least 0 and at most 1"):
        cls(two=2.0)


HINTS: list[Any] = [float, ao.Hyper, ao.NonNegative, ao.nonnegative, "Unknown"]


@pytest.mark.parametrize(
    ("base", "hint"), [(ao.Optimizer, None), *product([ao.SGD, ao.Adam, ao.Optimizer, ao.Scale], HINTS)]
)
def test_what_is_no_hyperparameter_but_read_as_one(base: Any, hint: Any) -> None:
    """In the rule or in the coefficients: how it is to be declared."""
    name = "factor" if base is ao.Scale else "lr"
    body: dict[str, Any] = {name: 0.1} if hint is None else {name: 0.1, "__annotations__": {name: hint}}
    if base is ao.Optimizer:
        body["rule"] = staticmethod(lambda xp, p, x, c: c.lr * x)
    made = type("M", (base,), body)()
    optimizer = ao.chain(made, ao.SGD()) if base is ao.Scale else made
    says = f"^{name} is no hyperparameter of M; wanted it declared as one: `{name}: ao.Nonnegative = 0.1`$"
    for engine in ("portable", None):
        optimizer.engine = engine
        with pytest.raises(TypeError, match=says):
            optimizer.update(np.ones(3), np.ones(3))


def test_two_numbers_of_one_name() -> None:
    """Which `coefficients` could not tell apart, or a report of the stage's."""
    norm = {"n": ao.Norm(lambda xp, p, x: x, "each")}
    hyper: dict[str, Any] = {"n": 0.1, "__annotations__": {"n": ao.Nonnegative}}
    bodies: dict[str, dict[str, Any]] = {
        "hyperparameters and reductions": {**hyper, "reductions": norm},
        "hyperparameters and scalars": {**hyper, "scalars": {"n": 0.0}},
        "reductions and scalars": {"reductions": norm, "scalars": {"n": 0.0}},
        "reductions and metrics": {"reductions": norm, "metrics": norm},
    }
    for places, body in bodies.items():
        with pytest.raises(TypeError, match=f"M has 'n' among its {places}; wanted another name"):
            type("M", (ao.Stage,), body)


BODIES: list[tuple[dict[str, Any], str]] = [
    ({"slots": ["m"]}, r"slots = \['m'\]; wanted a tuple of names"),
    ({"slots": "m"}, "slots = 'm'; wanted a tuple of names"),
    ({"slots": (1,)}, r"slots = \(1,\); wanted a tuple of names"),
    ({"scalars": ("k",)}, r"scalars = \('k',\); wanted a dict of first values by name"),
    ({"reductions": ("n",)}, r"reductions = \('n',\); wanted a dict of reductions by name"),
    ({"reductions": {"n": abs}}, r"reductions = \{'n': <built-in function abs>\}; wanted a reduction, such as ao.Norm"),
    ({"reductions": property(lambda self: {})}, r"reductions = <property .*>; wanted a dict of reductions by name"),
    ({"reductions": {"": ao.Max(abs)}}, "reductions with the name ''; wanted that of an attribute"),
    ({"metrics": {"n": ao.Max(abs)}}, r"metrics = \{'n': Max\(.*\)\}; wanted it over='each'"),
    ({"slots": ("m",), "starts": ("m",)}, r"starts = \('m',\); wanted a dict of numbers and names by name"),
    ({"slots": ("m", "v"), "starts": {"u": 1.0}}, "a start of 'u'; its slots are m and v"),
    (
        {"slots": ("m",), "starts": {"m": "lr"}},
        "a start of 'm' as 'lr'; wanted a number, 'p' or the name",
    ),
    ({"slots": ("m",), "starts": {"m": True}}, "a start of 'm' as True; wanted a number"),
    ({"slots": ("m",), "starts": {"m": math.inf}}, "a start of 'm' as inf; wanted a number"),
    ({"slots": ("m",), "starts": {"m": [1.0]}}, r"a start of 'm' as \[1.0\]; wanted a number, 'p' or the name"),
]
TAKEN = ["update", "step", "init", "state", "stages", "rule", "reductions", "compile", "flush", "explain", "slots"]


@pytest.mark.parametrize(("body", "says"), BODIES)
def test_declarations_of_another_type(body: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=f"^M has {says}"):
        type("M", (ao.Optimizer,), body)


def test_what_is_missing_or_too_much_in_a_body() -> None:
    """A rule, slots of what acts on those of others, and a start that is an array."""
    for base, arguments in ((ao.Stage, "xp, p, x, m, c"), (ao.ParameterStage, "xp, p, m, c")):
        ruleless: Any = type("M", (base,), {"slots": ("m",)})
        with pytest.raises(TypeError, match=rf"^M has no rule; wanted a staticmethod rule\({arguments}\)$"):
            ao.chain(*[ruleless(), ao.SGD()][:: 1 if base is ao.Stage else -1]).update(np.ones(3), np.ones(3))
    with pytest.raises(TypeError, match=r"^M has reductions or metrics; wanted none: a Gate looks"):
        type("M", (ao.Gate,), {"reductions": {"n": ao.Max(abs)}})
    with pytest.raises(TypeError, match=r"^M has slots = \('m',\); wanted none: the stages before it have some$"):
        type("M", (ao.SlotStage,), {"slots": ("m",)})
    body: dict[str, Any] = {"slots": ("m",), "starts": {"m": "k"}, "__annotations__": {"k": Final[Any]}}
    body["rule"] = staticmethod(lambda xp, p, x, m, c: (x, m))
    started: Any = type("M", (ao.Stage,), body)
    with pytest.raises(ValueError, match=r"^the slot 'm' of M\(.*\) starts as an array of shape \(2,\); wanted"):
        ao.chain(started(np.ones(2)), ao.SGD()).update(np.ones(3), np.ones(3))


@pytest.mark.parametrize("name", TAKEN)
def test_fields_with_names_of_ours(name: str) -> None:
    """A method's, a property's, or that of something else to declare."""
    with pytest.raises(TypeError, match=f"^M has a field '{name}', which is a name of (Stage|Optimizer);"):
        type("M", (ao.Optimizer,), {name: 0.1, "__annotations__": {name: ao.Nonnegative}})


ANY: list[Any] = [Method, ao.SGD]
WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "none": (ANY[0], TypeError, "^Method was not given lr$"),
    "two missing": (lambda: Longer(share=0.5), TypeError, "^Longer was not given lr and last$"),  # type: ignore[call-arg]
    "misspelt": (
        lambda: ANY[0](0.5, shar=1.0),
        TypeError,
        r"^Method was given shar; wanted lr, share, label, start, kind, more, engine and comm; did you mean share\?$",
    ),
    "another's": (
        lambda: ANY[1](0.1, momentum=0.9),
        TypeError,
        "^SGD was given momentum; wanted lr, engine and comm; here momentum is ao.Momentum, or torch's form "
        "ao.HeavyBall; ",
    ),
    "too many": (lambda: ao.SGD(*[0.5, 0.25]), TypeError, r"^SGD was given 0\.25; wanted lr, engine and comm$"),
    "twice": (lambda: ANY[1](0.5, lr=0.5), TypeError, "^SGD was given lr twice, by position and by name$"),
    "not declared": (
        lambda: setattr(ao.SGD(), "count", 0),
        AttributeError,
        "^SGD has no 'count'; its hyperparameters are lr; wanted one of these, or declared in the class body: "
        "count: int = 0$",
    ),
    "none wanted": (lambda: ao.Centralize(*[1]), TypeError, "Centralize was given 1; wanted none$"),
    "domain": (lambda: Method(0.5, 0.75), ValueError, "share is 0.75; wanted at least 0 and at most 0.5"),
    "constant": (lambda: Method(0.5, start=-1.0), ValueError, "start is -1.0; wanted finite and at least 0"),
    "scheduled constant": (
        lambda: Method(0.5, start=lambda t: 1.0),  # type: ignore[arg-type]
        TypeError,
        "start is <function .*; wanted a real number",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_refusals(name: str) -> None:
    """What came, and what was wanted."""
    make, error, says = WRONG[name]
    with pytest.raises(error, match=says):
        make()


def test_a_body_that_declares_no_constructor() -> None:
    """A field without a default after one that has one."""
    with pytest.raises(TypeError, match="Late has 'late' without a default behind 'lr', which has one; wanted a"):
        type("Late", (ao.SGD,), {"__annotations__": {"late": ao.Nonnegative}})


TOLD = {"hyperparameters", "constants", "name", "last", "offender"}
"""What a stage tells, and does not declare."""


def test_help_names_all_that_a_stage_may_declare() -> None:
    """`help` shows no docstrings of attributes, so that the class's own names them."""
    names = {name for name in vars(ao.Stage) if not name.startswith("_")} - TOLD
    words = set(re.findall(r"\w+", str(ao.Stage.__doc__)))
    assert len(names) > 15
    assert names - words == set()


def test_what_completes_behind_an_optimizer() -> None:
    """Hyperparameters, what it does and what it tells; of the class also what makers of stages declare."""
    made, own = ao.SGD(), {name for name in dir(ao.Optimizer) if not name.startswith("_") and name not in dir(ao.Stage)}
    assert {name for name in dir(made) if not name.startswith("_")} == own | TOLD | {"lr"}
    assert {"rule", "slots", "coefficients"} <= {*dir(ao.SGD)}
    assert {"max_norm", "last"} <= {*dir(ao.ClipNorm(1.0))}
