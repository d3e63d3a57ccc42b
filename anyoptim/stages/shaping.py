"""Stages that change the value that flows: its sign, scaling, momentum, decay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from anyoptim._arrays import Array
from anyoptim._stage._stage import Stage
from anyoptim._trace._hyperparameters import Fraction, Hyper, Nonnegative, Number

__all__ = ["Maximize", "Scale", "Trace", "WeightDecay"]


class Maximize(Stage):
    """Climb instead of descend: the first stage of a chain.

    ::

        x <- -x

    `chain(Maximize(), Adam())` moves as Adam does with the gradients of minus the function, as torch's `maximize`.
    Stages before it would see the gradients as they are: a `WeightDecay` there would make parameters grow.

    >>> optimizer = ao.chain(ao.Maximize(), ao.SGD(lr=1.0))
    >>> optimizer.update(np.zeros(2), np.array([0.5, 4.0]))
    array([0.5, 4. ])
    """

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        return -x


class Scale(Stage):
    """Multiply by a number: a learning rate behind stages that have none; or element by element: a preconditioner.

    ::

        x <- factor*x

    With an array beside each parameter this is a diagonal preconditioner. Behind the method it scales the step, which
    is what `lr` as an array does, too, but that proximal steps go by lr alone; before the method it scales the
    gradient, which momentum then gathers, but which such as `Adam` divides by its own size again.

    Args:
        factor: any number but NaN; or an array, or a tree of both.

    >>> optimizer = ao.chain(ao.SGD(lr=1.0), ao.Scale(0.1))
    >>> optimizer.update(np.zeros(2), np.array([0.5, 4.0]))
    array([-0.05, -0.4 ])
    >>> optimizer = ao.chain(ao.SGD(lr=1.0), ao.Scale(np.array([1.0, 0.125])))
    >>> optimizer.update(np.zeros(2), np.array([0.5, 4.0]))
    array([-0.5, -0.5])
    """

    factor: Number

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        return c.factor * x


class Trace(Stage):
    """Momentum as a stage: a sum of what flows through, in which the past fades.

    ::

        b <- momentum*b + x
        x <- b

    `chain(SGD(lr), Trace(0.9))` is `Momentum(lr, 0.9)`, `chain(Trace(0.9), SGD(lr))` is `HeavyBall(lr, 0.9)`.

    Args:
        momentum: the share of the sum that is kept, in [0, 1).

    Source: Polyak, Some methods of speeding up the convergence of iteration methods, 1964, equation 9.

    >>> w, optimizer = np.zeros(1), ao.chain(ao.Trace(0.9), ao.SGD(lr=1.0))
    >>> [round(float(optimizer.update(w, np.ones(1))[0]), 2) for _ in range(3)]
    [-1.0, -2.9, -5.61]
    """

    momentum: Fraction = 0.9
    slots: ClassVar[tuple[str, ...]] = ("b",)

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, b: Array, c: Any) -> tuple[Array, ...]:
        b = c.momentum * b + x
        return b, b


class WeightDecay(Stage):
    """Add a share of the parameter: before a method L2 regularisation, after it decay that is no part of the gradient.

    ::

        x <- x + decay*p

    `chain(WeightDecay(1e-4), SGD(0.1))` moves by `0.1*(g + 1e-4*p)`, the gradient of the loss plus `1e-4/2 * p*p`.
    `chain(Adam(1e-3), WeightDecay(1e-5))` moves by Adam's step and `1e-5*p`: decoupled decay, as in AdamW, whose
    `lr*weight_decay` is the decay here.

    Args:
        decay: finite and at least 0.
        where: which parameters decay, `where(path, p)`, whenever it is asked; None for all. `path` is their
            keys, joined by dots: `lambda path, p: p.ndim > 1` spares biases, as `not path.endswith("bias")` does.

    Source: Loshchilov and Hutter, Decoupled weight decay regularization, 2019, algorithms 1 and 2.

    >>> optimizer = ao.chain(ao.WeightDecay(0.5, where=lambda path, p: path == "W"), ao.SGD(lr=1.0))
    >>> optimizer.update({"W": np.ones(1), "b": np.ones(1)}, {"W": np.zeros(1), "b": np.zeros(1)})
    {'W': array([0.5]), 'b': array([1.])}
    """

    decay: Nonnegative
    where: Final[Callable[[str, Array], bool] | None] = None

    def __post_init__(self) -> None:
        if self.where is not None and not callable(self.where):
            raise TypeError(f"where is {self.where!r}; wanted a function of the path and the parameter, or None")

    @property
    def constants(self) -> dict[str, Any]:
        """None that could be saved: `where` is a function, which the program makes again."""
        return {}

    def overrides(self, path: str, p: Array) -> Mapping[str, Hyper]:
        """Take the decay from parameters that `where` leaves out."""
        return {} if self.where is None or self.where(path, p) else {"decay": 0.0}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        return x + c.decay * p
