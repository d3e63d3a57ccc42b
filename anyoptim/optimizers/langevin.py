"""Gradient descent that samples."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Annotated, Any

from anyoptim import random
from anyoptim._arrays import Array
from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import KW_ONLY, Domain, Hyper, Nonnegative
from anyoptim._trace._scalars import sqrt
from anyoptim.stages.layers import is_complex

__all__ = ["SGLD"]

_Word = Annotated[Hyper, Domain(lambda x: 0 <= x < 2**32 and x == int(x), "a whole number, at least 0 and below 2**32")]

HALF = 1 << 16


class SGLD(Optimizer):
    """Gradient descent with noise, whose parameters in the end are samples: stochastic gradient Langevin dynamics.

    ::

        p <- p - lr*g + sqrt(2*lr*temperature) * noise

    With g the gradient of minus the logarithm of a density, small lr and temperature 1, p are samples of it. The noise
    is that of `anyoptim.random.normal`: it depends on the seed, the path of the parameter, the count of its steps and
    the element, and on nothing else. It works on whole arrays (`portable`). Complex parameters are refused.

    Args:
        lr: half of the paper's step size, finite and at least 0.
        temperature: of the noise, finite and at least 0.
        seed: of the noise, a whole number, at least 0 and below 2**32.
        stream: the same, for one parameter among others: what it is here, `overrides` replaces by a hash of the path.

    Source: Welling and Teh, Bayesian learning via stochastic gradient Langevin dynamics, 2011, equation 4.

    >>> w, sampler, samples = np.zeros(100), ao.SGLD(lr=0.1), []
    >>> for _ in range(1000):
    ...     samples.append(sampler.update(w, w).copy())  # minus the logarithm of a normal density is w @ w / 2
    >>> round(float(np.std(samples[100:])), 1)
    1.0
    """

    lr: Nonnegative = 0.01
    temperature: Nonnegative = 1.0
    _: KW_ONLY
    seed: _Word = 0
    stream: _Word = 0
    array_rule = True

    def overrides(self, path: str, p: Array) -> Mapping[str, Hyper]:
        """Give each parameter a stream of noise of its own."""
        return {"stream": zlib.crc32(path.encode())}

    def refusal(self, p: Array) -> str | None:
        """Refuse complex parameters, whose two parts would have the same noise."""
        return "is complex; SGLD wants real parameters" if is_complex(p) else None

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        # In halves, which the arithmetic of float32 holds exactly.
        size, halves = sqrt(2 * hyper.lr * hyper.temperature), {"low": t % HALF, "high": t // HALF}
        return {"lr": hyper.lr, "size": size, "seed": hyper.seed, "stream": hyper.stream, **halves}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        low, high = (int(n) if isinstance(n, float) else xp.astype(n, xp.uint32) for n in (c.low, c.high))
        call = low + high * HALF
        return c.lr * x - c.size * random.normal(p.shape, (int(c.seed) << 32) + int(c.stream), call, like=p)
