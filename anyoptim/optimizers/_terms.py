"""Terms that methods share: squares; means that neither a huge value nor a small beta spoils; roots; decay."""

from __future__ import annotations

from typing import Any

from anyoptim._arrays import Array

__all__ = ["decayed", "decoupled", "direction", "inside", "mean", "mean_square", "moments", "root"]
__all__ += ["squarable", "square", "unless_zero"]


def square(xp: Any, x: Array, c: Any, share: Any = None) -> Array:
    """`x*x`, or `(share*x)*x`, in torch's order, which overflows later; of a joint method of both parts, and finite."""
    products = x * x if share is None else (share * x) * x
    return xp.bound(xp._total(products), xp.largest(x)) if hasattr(c, "joint") else products


def squarable(xp: Any, x: Array, share: float = 1.0) -> Array:
    """`x`, but no further from 0 than `share` times the largest number whose square is finite.

    All means of a method take this x: were its square alone bounded, the step would be as huge as the gradient.
    """
    return xp.bound(x, share * xp.sqrt(xp.largest(x)))


def direction(xp: Any, x: Array, c: Any) -> Array:
    """`sign(x)`; of a joint method `x/|x|`."""
    return xp._direction(x) if hasattr(c, "joint") else xp.sign(x)


def mean(m: Array, x: Array, beta: Any) -> Array:
    """The mean of x that keeps a share beta: `m + (1-beta)*(x - m)` would lose a small x where beta is near 0."""
    return beta * m + (1 - beta) * x


def mean_square(xp: Any, v: Array, x: Array, beta: Any, c: Any) -> Array:
    """The same of squares; at most the largest finite number."""
    return xp.bound(beta * v + square(xp, x, c, 1 - beta), xp.largest(v))


def moments(xp: Any, x: Array, m: Array, v: Array, c: Any) -> tuple[Array, Array, Array]:
    """The part of x that `mean_square` can take, the new m and the new v."""
    x = squarable(xp, x, 1 / xp.sqrt(1 - c.beta2))
    return x, mean(m, x, c.beta1), mean_square(xp, v, x, c.beta2, c)


def unless_zero(**hyperparameters: Any) -> dict[str, Any]:
    """The hyperparameters that are not known to be 0: for the others, the kernel has no term."""
    return {name: value for name, value in hyperparameters.items() if not isinstance(value, float) or value}


def inside(eps_root: Any, correction: Any = 1.0) -> dict[str, Any]:
    """The coefficient of `root`: `eps_root` in units of an uncorrected v, whose corrected one is v/correction."""
    return {} if isinstance(eps_root, float) and not eps_root else {"eps_root": eps_root * correction}


def root(xp: Any, v: Array, c: Any) -> Array:
    """`sqrt(v + eps_root)`."""
    return xp.sqrt(v + c.eps_root if hasattr(c, "eps_root") else v)


def decoupled(hyper: Any) -> dict[str, Any]:
    """The coefficient of `decayed`, for weight decay that the gradients don't scale."""
    decay = hyper.weight_decay
    return {} if isinstance(decay, float) and not decay else {"decay": hyper.lr * decay}


def decayed(p: Array, step: Array, c: Any) -> Array:
    """`step + decay*p`."""
    return step + c.decay * p if hasattr(c, "decay") else step
