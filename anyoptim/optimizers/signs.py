"""Methods that go by the signs of gradients, and not by their sizes."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from anyoptim._arrays import Array
from anyoptim._core._adaptive import Adaptive
from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import KW_ONLY, Fraction, Growth, Nonnegative, nonnegative
from anyoptim.optimizers._terms import decayed, decoupled, direction, mean

__all__ = ["Lion", "Rprop", "Signum"]


class Signum(Adaptive):
    """The sign of momentum: every element moves by lr.

    ::

        m <- momentum*m + (1-momentum)*g
        p <- p - lr*sign(m)

    A momentum of 0 is signSGD, in which m is the gradient. An element whose m is 0 stays. With decoupled decay:
    `chain(Signum(lr), WeightDecay(lr*decay))`.

    Args:
        lr: learning rate.
        momentum: the share of m that is kept.
        joint: take a complex m as a whole, m/|m| for its sign, as optax does, and not the signs of both parts.

    Source: Bernstein et al., signSGD: compressed optimisation for non-convex problems, 2018, algorithm 2; algorithm 1
    is signSGD.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.Signum(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.7, -1.7])
    """

    lr: Nonnegative = 1e-4
    momentum: Fraction = 0.9
    slots: ClassVar[tuple[str, ...]] = ("m",)
    squares: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, c: Any) -> tuple[Array, ...]:
        m = mean(m, x, c.momentum)
        return c.lr * direction(xp, m, c), m


class Lion(Adaptive):
    """The sign of one mean of gradients, and a slower one to remember.

    ::

        c = beta1*m + (1-beta1)*g
        p <- p - lr*(sign(c) + weight_decay*p)
        m <- beta2*m + (1-beta2)*g

    Each element moves by lr, so that the paper has an lr 3 to 10 times smaller than for AdamW, and a weight_decay that
    much larger. The decay is decoupled and enters with lr, as in the paper, in optax (1e-3 unless it is told otherwise)
    and in Keras.

    Args:
        lr: learning rate.
        beta1, beta2: the share of m in the step's direction, and the share of m that is kept.
        weight_decay, joint: decoupled, in units of lr; as in `Signum`.

    Source: Chen et al., Symbolic discovery of optimization algorithms, 2023, algorithm 2.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.Lion(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.7, -1.7])
    """

    lr: Nonnegative = 1e-4
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    weight_decay: Nonnegative = 0.0
    slots: ClassVar[tuple[str, ...]] = ("m",)
    squares: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"lr": hyper.lr, "beta1": hyper.beta1, "beta2": hyper.beta2, **decoupled(hyper)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, c: Any) -> tuple[Array, ...]:
        step = c.lr * direction(xp, mean(m, x, c.beta1), c)
        m = mean(m, x, c.beta2)
        return decayed(p, step, c), m


class Rprop(Optimizer):
    """A step for each element, longer while its gradient keeps its sign, shorter when that turns: for whole batches.

    ::

        s <- s*eta_plus  where g*d > 0,  s*eta_minus  where g*d < 0,  else s
        s <- min(max(s, step_min), step_max)
        d <- 0  where g*d < 0,  else sign(g)
        p <- p - lr*s*d

    d is the direction of the last step, and s its length, which starts at `initial`. This is iRprop-, as in torch:
    where the sign turns, the element rests for a step, and the step before is not taken back. Optax, up to 0.2.8,
    computes the same steps and takes each one update late.

    What torch and optax call lr is `initial` here, a constant that only starts s: `Rprop(initial=0.01)` is torch's
    `Rprop(lr=0.01)`. The lr here is a factor to all steps, which they and the paper do not have (1), to be changed and
    scheduled like any other. Where a product of two gradients underflows they see no sign, and here there is one.

    Args:
        lr: a factor to the steps.
        eta_minus, eta_plus: what a step is multiplied by to shorten it, and to lengthen it (at least 1).
        step_min, step_max: the shortest step and the longest; if they contradict each other, the longest.
        initial: the first step, finite and at least 0; a number, which stays as it is.

    Source: Riedmiller and Braun, A direct adaptive method for faster backpropagation learning: the RPROP algorithm,
    1993; in this form Igel and Hüsken, Empirical evaluation of the improved Rprop learning algorithms, 2003, iRprop-.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.Rprop(initial=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.636, -1.636])
    """

    lr: Nonnegative = 1.0
    eta_minus: Fraction = 0.5
    eta_plus: Growth = 1.2
    step_min: Nonnegative = 1e-6
    step_max: Nonnegative = 50.0
    _: KW_ONLY
    initial: Final[Annotated[float, nonnegative]] = 0.01
    slots: ClassVar[tuple[str, ...]] = ("d", "s")
    starts: ClassVar[dict[str, Any]] = {"s": "initial"}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, d: Array, s: Array, c: Any) -> tuple[Array, ...]:
        same = x * d  # a product of two gradients might underflow
        s = s * xp.where(same > 0, c.eta_plus, xp.where(same < 0, c.eta_minus, 1.0))
        s = xp.minimum(xp.maximum(s, c.step_min), c.step_max)
        d = xp.where(same < 0, 0.0, xp.sign(x))
        return c.lr * (s * d), d, s
