"""Proximal steps of penalties that are sums over elements."""

from __future__ import annotations

from typing import Any, ClassVar

from anyoptim._arrays import Array
from anyoptim._stage._stage import ParameterStage
from anyoptim._trace._hyperparameters import Nonnegative, UnitInterval

__all__ = ["L1", "L2", "ElasticNet"]


def _soft(xp: Any, p: Array, threshold: Any) -> Array:
    """Soft thresholding: p, nearer to 0 by the threshold. What is not finite stays."""
    size = xp.modulus(p)
    return xp.where(size <= threshold, 0.0, xp.where(size - size == 0, p / size * (size - threshold), p))


class L1(ParameterStage):
    """Shrink every element by `lr*sigma`, and set those to 0 that are no larger: few elements are left.

    ::

        p <- p/|p| * max(|p| - lr*sigma, 0)

    It is the proximal step of `sigma * sum of |p|`, known as soft thresholding: `chain(SGD(lr), prox.L1(sigma))` is
    ISTA. lr is the learning rate of the method before it in the chain, at this step and for this parameter: Adam's,
    say, is that of all elements, whatever it makes of it for each. |p| of a complex element is its modulus, so that
    3+4j goes towards 0 and not towards an axis. What is not finite stays as it is.

    Args:
        sigma: the weight of the penalty, finite and at least 0.

    Source: Daubechies, Defrise and De Mol, An iterative thresholding algorithm for linear inverse problems with a
    sparsity constraint, 2004; Parikh and Boyd, Proximal algorithms, 2014, section 6.5.

    >>> optimizer = ao.chain(ao.SGD(lr=0.5), ao.prox.L1(sigma=2.0))
    >>> optimizer.update(np.array([3.0, -0.5, -2.0]), np.zeros(3))
    array([ 2.,  0., -1.])
    """

    sigma: Nonnegative = 1.0
    borrows: ClassVar[tuple[str, ...]] = ("lr",)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"threshold": hyper.lr * hyper.sigma}

    @staticmethod
    def rule(xp: Any, p: Array, c: Any) -> Array:
        return _soft(xp, p, c.threshold)


class L2(ParameterStage):
    """Shrink the parameter by a share: decay that is exact for any learning rate.

    ::

        p <- p / (1 + lr*sigma)

    It is the proximal step of `sigma/2 * sum of |p|**2`, as in pyproximal; others may leave out the half. lr is that of
    the method before it in the chain. A decoupled `WeightDecay` takes `decay*p`, which is the same to first order for a
    decay of `lr*sigma`.

    Args:
        sigma: the weight of the penalty, finite and at least 0.

    Source: Parikh and Boyd, Proximal algorithms, 2014, section 6.1.

    >>> optimizer = ao.chain(ao.SGD(lr=0.5), ao.prox.L2(sigma=2.0))
    >>> optimizer.update(np.array([3.0, -0.5]), np.zeros(2))
    array([ 1.5 , -0.25])
    """

    sigma: Nonnegative = 1.0
    borrows: ClassVar[tuple[str, ...]] = ("lr",)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"divisor": 1 + hyper.lr * hyper.sigma}

    @staticmethod
    def rule(xp: Any, p: Array, c: Any) -> Array:
        return p / c.divisor


class ElasticNet(ParameterStage):
    """Shrink every element as `L1` does, and then by a share as `L2` does: few elements, and alike where they go alike.

    ::

        p <- p/|p| * max(|p| - lr*sigma*rho, 0) / (1 + lr*sigma*(1-rho))

    It is the proximal step of `sigma * sum of (rho*|p| + (1-rho)/2 * |p|**2)`. pyproximal has none; `rho` is what it
    calls the balance of two penalties, and scikit-learn `l1_ratio`. lr is that of the method before it in the chain. Of
    a complex element |p| is its modulus, and what is not finite stays as it is.

    Args:
        sigma: the weight of both penalties, finite and at least 0.
        rho: the share of `L1`, in [0, 1].

    Source: Zou and Hastie, Regularization and variable selection via the elastic net, 2005, section 2; Parikh and Boyd,
    Proximal algorithms, 2014, section 6.5.

    >>> optimizer = ao.chain(ao.SGD(lr=1.0), ao.prox.ElasticNet(sigma=2.0, rho=0.5))
    >>> optimizer.update(np.array([3.0, -0.5]), np.zeros(2))
    array([1., 0.])
    """

    sigma: Nonnegative = 1.0
    rho: UnitInterval = 0.5
    borrows: ClassVar[tuple[str, ...]] = ("lr",)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        scale = hyper.lr * hyper.sigma
        return {"threshold": scale * hyper.rho, "divisor": 1 + scale * (1 - hyper.rho)}

    @staticmethod
    def rule(xp: Any, p: Array, c: Any) -> Array:
        return _soft(xp, p, c.threshold) / c.divisor
