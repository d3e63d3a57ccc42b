"""Names that users bring from elsewhere: the error says what is meant here, and that is there."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import anyoptim as ao
from tests.support.internals import other_names

PUBLIC = {name: getattr(ao, name) for name in ao.__all__}
CLASSES = [cls for cls in PUBLIC.values() if isinstance(cls, type) and issubclass(cls, ao.Stage | ao.layers.Layer)]


class Parametrised(ao.Stage):
    """A stage with an argument of this name."""

    params: ao.Nonnegative = 1.0


class Warm(NamedTuple):
    """A schedule that is a tuple."""

    peak: float

    def __call__(self, t: int, /) -> float:
        return self.peak / t


def test_a_schedule_in_a_tuple_is_one() -> None:
    """By position and by name: it is called, and so no container of parameters."""
    warm: Any = Warm(0.5)
    for made in (ao.SGD(warm), ao.SGD(lr=warm), ao.compat.torch.SGD(warm)):
        assert made.update(1.0, 1.0) == 0.5


PEERS = [(place, name) for place, names in other_names.PEERS.items() for name in names]


@pytest.mark.parametrize(
    "module", ["torch", "torch.lr_scheduler", "optax", "optax.contrib", "keras", "keras.schedules"]
)
def test_names_of_compat_are_found(module: str) -> None:
    """Each that is not ours, too, is written in the table; and none that is not there."""
    names = {*importlib.import_module(f"anyoptim.compat.{module}").__all__}
    assert {name for at, name in PEERS if at == module} <= names
    own = {"contrib", "lr_scheduler", "schedules", "Epochs"}
    for name in names - own:
        if not name.startswith(("from_", "to_")):
            assert "did you mean" in other_names.public_hint(name, ao.__all__)


ANSWERS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "momentum": (lambda: ao.SGD(momentum=0.9), TypeError, "momentum is ao.Momentum, or torch's form ao.HeavyBall"),  # type: ignore[call-arg]
    "betas": (lambda: ao.Adam(betas=(0.9, 0.99)), TypeError, "betas is beta1 and beta2"),  # type: ignore[call-arg]
    "learning rate": (lambda: ao.Adam(learning_rate=0.1), TypeError, "learning_rate is lr$"),  # type: ignore[call-arg]
    "misspelt": (lambda: ao.Adam(learning_rat=0.1), TypeError, "learning_rate is lr$"),  # type: ignore[call-arg]
    "near": (lambda: ao.RAdam(bet1=0.1), TypeError, r"did you mean beta1\?"),  # type: ignore[call-arg]
    "decay": (lambda: ao.Adam(weight_decay=0.1), TypeError, "weight_decay is ao.AdamW"),  # type: ignore[call-arg]
    "wd": (lambda: ao.Adam(wd=0.1), TypeError, "here wd is ao.AdamW for Adam"),  # type: ignore[call-arg]
    "initial": (lambda: ao.RMSProp(initial=1.0), TypeError, r"for RMSProp ao\.compat\.optax\.rmsprop\("),  # type: ignore[call-arg]
    "renamed": (lambda: ao.AdaGrad(initial_accumulator_value=1.0), TypeError, "_value is initial$"),  # type: ignore[call-arg]
    "list": (lambda: ao.AdamW([np.zeros(1)], lr=0.1), TypeError, r"was given parameters; wanted them in update"),  # type: ignore[misc]
    "generator": (lambda: ao.SGD(iter([1])), TypeError, r"was given parameters; wanted them in update"),  # type: ignore[arg-type]
    "params": (lambda: ao.SGD(params={}), TypeError, r"was given parameters; wanted them in update"),  # type: ignore[call-arg]
    "p": (lambda: ao.Dropout(p=0.5), TypeError, "Dropout was given p; wanted .*; here p is dropout_ratio$"),  # type: ignore[call-arg]
    "rate": (lambda: ao.Zoneout(rate=0.5), TypeError, "Zoneout was given rate; .*; here rate is dropout_ratio$"),  # type: ignore[call-arg]
    "no optimizer": (lambda: ao.EMA(momentum=0.9), TypeError, "EMA was given momentum; wanted decay$"),  # type: ignore[call-arg]
    "Adagrad": (lambda: ao.Adagrad, AttributeError, r"'Adagrad'; did you mean AdaGrad\?"),  # type: ignore[attr-defined]
    "RMSprop": (lambda: ao.RMSprop, AttributeError, r"'RMSprop'; did you mean RMSProp\?"),  # type: ignore[attr-defined]
    "a peer's": (lambda: ao.cosine_decay_schedule, AttributeError, r"mean ao.compat.optax.cosine_decay_schedule\?"),  # type: ignore[attr-defined]
    "schedule": (lambda: ao.schedules.OneCycleLR, AttributeError, r"mean ao.compat.torch.lr_scheduler.OneCycleLR\?"),  # type: ignore[attr-defined]
    "nothing like it": (lambda: ao.xyz, AttributeError, "module 'anyoptim' has no attribute 'xyz'$"),  # type: ignore[attr-defined]
    "zero_grad": (lambda: ao.Adam().zero_grad(), AttributeError, "Adam has no 'zero_grad'; here zero_grad is nothing"),  # type: ignore[attr-defined]
    "in a chain": (lambda: ao.chain(ao.Adam()).zero_grad(), AttributeError, "here zero_grad is nothing to call"),  # type: ignore[attr-defined]
    "attribute": (lambda: ao.Adam().learning_rate, AttributeError, "Adam has no 'learning_rate'; here .* is lr$"),  # type: ignore[attr-defined]
    "eval": (lambda: ao.Dropout().eval(), AttributeError, r"here eval is forward\(x, training=False\)"),  # type: ignore[attr-defined]
    "set": (
        lambda: setattr(ao.Adam(), "learning_rate", 0.1),
        AttributeError,
        "are lr, .*; here learning_rate is lr$",
    ),
    "set on a layer": (
        lambda: setattr(ao.Dropout(), "p", 0.1),
        AttributeError,
        "are dropout_ratio, .*; here p is dropout_ratio$",
    ),
    "of a chain's stage": (
        lambda: ao.chain(ao.ClipNorm(1.0), ao.SGD()).lr,  # type: ignore[attr-defined]
        AttributeError,
        r"chain has no 'lr'; it is stages\[1\].lr of this chain$",
    ),
    "private": (lambda: ao.Adam().pipeline, AttributeError, "Adam has no 'pipeline'$"),  # type: ignore[attr-defined]
    "eval of averages": (lambda: ao.ScheduleFreeSGD().eval(), AttributeError, r"eval is eval_params\(params\)"),  # type: ignore[attr-defined]
    "beta": (lambda: ao.ScheduleFreeSGD(momentum=0.9), TypeError, "here momentum is beta$"),  # type: ignore[call-arg]
    "two faults": (lambda: Parametrised(params=1.0, foo=2), TypeError, "^Parametrised was given foo; wanted params$"),  # type: ignore[call-arg]
    "two flags": (lambda: ao.Dropout().forward(np.ones(1), False, train_flg=True), TypeError, "under two names"),
    "no flag": (
        lambda: ao.Dropout().forward(np.ones(1), train_flag="no"),  # type: ignore[arg-type]
        TypeError,
        "train_flag is 'no'; wanted True",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), ANSWERS.values(), ids=ANSWERS)
def test_what_is_meant_is_said(call: Callable[[], object], kind: type[Exception], message: str) -> None:
    """Where a constructor, a module or an object is asked for what it has not."""
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("name", other_names.RENAMED)
def test_what_has_another_name_is_there(name: str) -> None:
    """Each row of names is taken by some public class that does not take the name for which it stands."""
    taken = [{*inspect.signature(cls).parameters} for cls in CLASSES]
    for names in other_names.RENAMED[name]:
        having = [of for of in taken if {*names} <= of]

        assert any(name not in of for of in having)


TABLES = ("ARGUMENTS", "LAYER_ARGUMENTS", "ATTRIBUTES", "LAYER_ATTRIBUTES")


@pytest.mark.parametrize("text", [text for table in TABLES for text in getattr(other_names, table).values()])
def test_what_is_named_runs(text: str) -> None:
    """Every expression of `ao` in the answers, whole with its arguments; and every method and field is there."""
    for found in re.finditer(r"(?<![\w.(])ao\.[\w.]+", text):
        end = found.end()
        while text[end : end + 1] == "(" or text[found.start() : end].count("(") > text[found.start() : end].count(")"):
            end = text.index(")", end) + 1
        assert eval(text[found.start() : end], {"ao": ao}) is not None  # noqa: S307 - a text of ours
    for method in re.findall(r"(?<![\w.])(\w+)\((?:params|x|\))", text):
        assert hasattr(ao.Adam(), method) or hasattr(ao.Dropout(), method)
    for field in re.findall(r"(?<![\w.])state\.(\w+)", text):
        assert hasattr(ao.Adam().init(1.0), field)


@pytest.mark.parametrize("name", other_names.PUBLIC)
def test_public_names_are_public(name: str) -> None:
    """What is meant is public, and what it stands for is not."""
    assert other_names.PUBLIC[name] in PUBLIC
    assert name not in PUBLIC


LAYERS = [cls for cls in CLASSES if issubclass(cls, ao.layers.Layer)]


@pytest.mark.parametrize("spelling", ["train_flg", "train_flag"])
@pytest.mark.parametrize("cls", LAYERS)
def test_textbooks_call_it_a_flag(cls: type[Any], spelling: str) -> None:
    """Both spellings give what `training` gives, of every layer: in training, where it is counted, and outside it."""
    x = np.arange(1.0, 9.0).reshape(2, 2, 2)
    inputs = [x] * (2 if cls is ao.Zoneout else 1)
    for training in (True, False):
        one, two = cls(seed=3), cls(seed=3)
        expected = one.forward(*inputs, training=training)
        assert np.array_equal(two.forward(*inputs, **{spelling: training}), expected)
        assert one.calls == two.calls == (one.calls if training else 0)


def test_a_property_that_raises_says_itself_why() -> None:
    """Its AttributeError is not replaced by one that there is no such property."""

    class Broken(ao.SGD):
        @property
        def bare(self) -> Any:
            return self.nothing  # type: ignore[attr-defined]

    with pytest.raises(AttributeError, match="Broken has no 'nothing'"):
        _ = Broken().bare
    with pytest.raises(AttributeError, match="_hidden"):
        _ = Broken()._hidden  # type: ignore[attr-defined]
