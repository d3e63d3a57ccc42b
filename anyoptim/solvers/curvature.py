"""The largest curvature of a function, from its gradient alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from anyoptim import random
from anyoptim._arrays import Array
from anyoptim._arrays._checks import Parameter
from anyoptim._trace._hyperparameters import WholeNumber
from anyoptim.solvers._function import Function
from anyoptim.solvers._line import Line
from anyoptim.solvers._solver import Run
from anyoptim.solvers._vectors import Kernel, Space, Vector

__all__ = ["lipschitz"]


def _changed(xp: Any, x: Array, v: Array, g: Array, c: Any) -> tuple[Array, ...]:
    """`v <- x - g`."""
    return x - g, g


_CHANGE = Kernel(_changed, ("v", "g"))


def lipschitz(gradient: Callable[[Any], Any], params: Any, *, iterations: int = 30, key: int = 0) -> float:
    """Estimate how fast a gradient changes: the largest curvature L of a function, of which 1/L is a good step length.

    ::

        v <- (gradient(p + r*v/|v|) - gradient(p)) / r,  L = |v|        `iterations` times, from a random v

    That is the power iteration for the largest singular value of the second derivative, of which no matrix is needed.
    For a quadratic function, |A x - b|**2 / 2 say, it is the largest eigenvalue of A*A, from below: with 30 iterations
    and a random v it is 1 to 3 % too low at worst, as a rule, and less if one eigenvalue stands out. For any other
    function it is what is met near p, within r = max(|p|, |gradient(p)|/L). Each iteration calls `gradient` once.

    Args:
        gradient: a function of parameters, which gives gradients in a container like theirs. It need not be one of a
            function: of a linear map with adjoint, `lambda x: adjoint(forward(x))`, L is the square of its norm.
        params: the parameters p, of any library, as for `ao.minimize`. They are written to, so that a layer which holds
            them sees each point, and are what they were in the end, also after an exception.
        iterations: how many, at least 1.
        key: of the random v, the same on every library and for a dict as for one vector: 0 <= key < 2**64.

    Raises ValueError where the gradient is not finite, and what `Optimizer.update` raises for parameters and gradients.

    Source: Golub and Van Loan, Matrix computations, 2013, section 7.3.1.

    >>> curvature = np.array([1.0, 3.0, 10.0])
    >>> ao.lipschitz(lambda x: curvature * (x - 1), np.zeros(3))
    10.0
    """
    count = WholeNumber(1).value("iterations", iterations)
    function, run = Function(params, None), Run()
    function.value_and_grad = lambda container: (0.0, gradient(container))
    at_params = function()
    space = function.space
    origin, g, v = space.copied(space.params), space.copied(at_params.gradients), _random(space, key)
    run.function, run.vectors = function, {"origin": origin}
    p_norm, g_norm, v_norm = (math.sqrt(x) for x in space.products((origin, origin), (g, g), (v, v)))
    radius, found = p_norm or 1.0, 0.0
    line = Line(run, v, 0.0, slopes=False)
    try:
        for _ in range(count if space.size else 0):
            line.at(radius / v_norm)
            space.run(_CHANGE, line.point.gradients, [v, g])
            (squared,) = space.products((v, v))
            if not math.isfinite(squared):
                raise ValueError(f"gradient is not finite at a distance of {radius:.3g} from params; wanted numbers")
            v_norm = math.sqrt(squared)
            found = v_norm / radius
            if not found:
                break
            radius = max(p_norm, g_norm / found) or 1.0
    finally:
        line.move(0.0)
    return found


def _random(space: Space, key: int) -> Vector:
    """Normal numbers, each by its place among all."""
    found, offset = [], 0
    for p, like in zip(space.ps, space.zeros(), strict=True):
        found.append(_normal(p, like, key, offset))
        offset += math.prod(like.shape) * (2 if p.dtype.startswith("complex") else 1)
    return found


def _normal(p: Parameter, like: Array, key: int, offset: int) -> Array:
    """Those of one parameter; the parts of a complex element are two."""
    xp = p.library.xp
    with p.library.on_device_of(like):
        if not p.dtype.startswith("complex"):
            return random.normal(like.shape, key, offset=offset, like=like)
        parts = random.normal((*like.shape, 2), key, offset=offset, like=xp.real(like))
        return p.library.copied(xp.astype(parts[..., 0], like.dtype) + 1j * xp.astype(parts[..., 1], like.dtype))
